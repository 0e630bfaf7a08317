"use strict";
/* What the scripts of all live parts share: elements, numbers as people read them, tables, rows of tokens, and how a
   script that holds data is fetched. It knows nothing of any model or of what a page asks. */
function nextwordParts() {

  // --- 1. Elements --------------------------------------------------------------------------------------------------

  /** An element. Attributes that begin with "on" are listeners; null and false leave an attribute out. */
  function h(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
      else if (value !== null && value !== false) element.setAttribute(key, value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }

  /** Replace what a box holds. Its buttons with a data-key are one stop of the Tab key; arrow keys lead on from there.
      The one with the focus keeps it: the button with the same key, or else the one in the same place. */
  function fill(box, ...children) {
    const before = stops(box), active = before.indexOf(document.activeElement);
    const current = active >= 0 ? active : before.findIndex((button) => button.tabIndex === 0);
    const key = before[current]?.dataset.key;
    box.replaceChildren(...children.filter((child) => child !== null));
    const after = stops(box);
    if (!after.length) return;
    const same = after.find((button) => button.dataset.key === key);
    const stop = same ?? after[Math.min(Math.max(current, 0), after.length - 1)];
    for (const button of after) button.tabIndex = button === stop ? 0 : -1;
    if (active >= 0) stop.focus({ preventScroll: true });
  }

  /** Write a sentence, unless it stands there already: a screen reader would say it again. */
  function say(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  const stops = (box) => [...box.querySelectorAll("[data-key]")];

  /** Let arrow keys move among the buttons of a box; `columns()` says how many stand in a row. */
  function withArrows(box, columns = () => 1) {
    box.addEventListener("keydown", (event) => {
      const list = stops(box), at = list.indexOf(document.activeElement);
      const places = {
        ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + columns(), ArrowUp: at - columns(),
        Home: 0, End: list.length - 1,
      };
      const next = list[places[event.key]];
      if (at < 0 || !next) return;
      list[at].tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
      event.preventDefault();
    });
    return box;
  }

  /** Buttons of which one is chosen. `labels` maps values to what stands on the buttons; `choose(value)` is called when
      one is pressed, and the group's own `show(value)` marks it. */
  function radios(name, labels, choose) {
    const buttons = Object.entries(labels).map(([value, label]) => {
      const press = () => choose(value);
      return h("button", { type: "button", role: "radio", "data-value": value, onclick: press }, label, h("small"));
    });
    const group = h("div", { class: "lv-radios", role: "radiogroup", "aria-label": name }, ...buttons);
    group.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      const next = buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length];
      next.click();
      for (const button of buttons) button.tabIndex = button === next ? 0 : -1;  // at once, or Tab would lead back
      next.focus();
      event.preventDefault();
    });
    group.show = (value) => {
      for (const button of buttons) {
        const on = button.dataset.value === value;
        button.setAttribute("aria-checked", on);
        button.tabIndex = on ? 0 : -1;
      }
    };
    return group;
  }

  const labelled = (text, group) => (
    h("div", { class: "lv-row" }, h("span", { class: "lv-quiet", "aria-hidden": "true" }, text), group)
  );

  const quiet = (...children) => h("p", { class: "lv-quiet" }, ...children);
  const covering = (text) => h("p", { class: "lv-cover" }, text);

  const wordInput = () => h("input", { size: 12, maxlength: 40, autocomplete: "off", spellcheck: "false" });

  /** A function that has `write` called in the next frame, once, however often it is called until then. */
  function inNextFrame(write) {
    let waiting = false;
    return () => {
      if (waiting) return;
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        write();
      });
    };
  }

  /** Call `come` when a box comes near the window, or has the focus; perhaps more than once. */
  function whenNear(boxes, come, margin) {
    const near = new IntersectionObserver((entries) => {
      if (entries.some(({ isIntersecting }) => isIntersecting)) come();
    }, { rootMargin: `${margin} 0px` });
    for (const box of boxes) {
      near.observe(box);
      box.addEventListener("focusin", come, { once: true });
    }
  }

  // --- 2. Numbers and words -----------------------------------------------------------------------------------------

  const sum = (values) => values.reduce((total, value) => total + value, 0);

  /** The places of the n highest values; without sorting all, since that is done for every letter that is typed. */
  function highest(values, n) {
    const best = [];
    values.forEach((value, id) => {
      if (Number.isNaN(value) || (best.length === n && value <= values[best[n - 1]])) return;
      const at = best.findIndex((other) => value > values[other]);
      best.splice(at < 0 ? best.length : at, 0, id);
      best.length = Math.min(best.length, n);
    });
    return best;
  }

  function percent(p) {
    if (p === 0) return "0\u00a0%";
    if (p < 0.0005) return "<0.1\u00a0%";
    return `${(100 * p).toFixed(p < 0.0995 ? 1 : 0)}\u00a0%`;
  }

  /** A small probability in words that can be imagined. */
  function oneIn(p) {
    if (p >= 0.001) return percent(p);
    const times = 1 / p;
    if (times >= 1e7) return "under 1 in 10 million";
    return `1 in ${Number(times.toPrecision(2)).toLocaleString("en")}`;
  }

  /** With its sign; 0.00 without a sign is exactly nothing. */
  const signed = (x) => (x === 0 ? "0.00" : `${x > 0 ? "+" : "−"}${Math.abs(x).toFixed(2)}`);

  const listed = (words) => words.join(", ").replace(/, ([^,]*)$/, " and $1");
  const quoted = (text, longest = 60) => `“${text.length > longest ? `…${text.slice(-longest)}` : text}”`;

  async function toClipboard(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      return false;
    }
  }

  /** A text as a Python literal. JSON's is one; signs that hide or turn around others are spelled out. */
  function inQuotes(text) {
    const hidden = /[\u007f-\u009f\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff]/g;
    const code = (sign) => `\\u${sign.charCodeAt(0).toString(16).padStart(4, "0")}`;
    return JSON.stringify(text).replace(hidden, code);
  }

  // --- 3. Tables and bars -------------------------------------------------------------------------------------------

  /** A colour behind a number, which always stands there too. `kind` is cost, more or less; `share` is of 1. */
  function tinted(element, kind, share) {
    if (!(share > 0)) return element;
    element.dataset.tint = kind;
    element.style.setProperty("--lv-share", `${(42 * Math.min(share, 1)).toFixed(0)}%`);
    return element;
  }

  function table(caption, head, rows, kind = "") {
    const heads = head.map((cell) => (cell instanceof Node ? cell : h("th", { scope: "col" }, cell)));
    return h("table", { class: `lv-table ${kind}` }, h("caption", {}, caption), h("thead", {}, h("tr", {}, ...heads)),
      h("tbody", {}, ...rows));
  }

  /** The head of a model's column. */
  function column(name, small = null) {
    return h("th", { scope: "col" }, name, small === null ? null : h("small", {}, ...[small].flat()));
  }

  /** A share of 1 as a bar. `mark` is another share, drawn as a line across it. */
  function bar(share, mark = null) {
    const part = (kind, property, value) => {
      const element = h("span", { class: kind });
      element.style[property] = `${(100 * value).toFixed(1)}%`;
      return element;
    };
    return h("span", { class: "lv-track", "aria-hidden": "true" }, part("lv-bar", "width", share),
      mark === null ? null : part("lv-mark", "left", mark));
  }

  // --- 4. Tokens ----------------------------------------------------------------------------------------------------

  /** What a page shows of the ids of a tokenizer: {bytesIn, isWhole, isPart, sign, seen, spoken, chips}. */
  function tokensOf(bpe) {
    /** The bytes that these tokens stand for. */
    function bytesIn(ids) {
      return Uint8Array.from(ids.map((id) => bpe.tokens[id]).join(""), (character) => character.charCodeAt(0));
    }

    const strict = new TextDecoder("utf-8", { fatal: true });

    /** Whether the bytes of these tokens are whole characters. */
    function isWhole(ids) {
      try {
        strict.decode(bytesIn(ids));
        return true;
      } catch {
        return false;
      }
    }

    const sign = (text) => h("span", { class: "lv-sign", "aria-hidden": "true" }, text);
    const inHex = (id) => Array.from(bytesIn([id]), (byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const isPart = (id) => id !== bpe.end && !isWhole([id]);

    /** A token to be looked at: a dot for a space, an arrow for the end of a line, and hexadecimal for bytes that are
        no whole character. */
    function seen(id) {
      if (id === bpe.end) return [sign("▷"), "end"];
      if (isPart(id)) return [inHex(id)];
      const word = bpe.decode([id]), spaces = /^ */.exec(word)[0].length;
      const visible = word.slice(spaces).replaceAll("\n", "↵").replaceAll("\t", "⇥");
      const rest = visible.replace(/\p{Cc}/gu, () => inHex(id));
      return [...(spaces ? [sign("·".repeat(spaces))] : []), rest];
    }

    /** A token to be heard. */
    function spoken(id) {
      if (id === bpe.end) return "end of text";
      if (isPart(id)) return `part of a character, ${inHex(id)}`;
      const word = bpe.decode([id]);
      if (!word.trim()) return word.includes("\n") ? "line break" : "space";
      return word.startsWith(" ") ? word.trim() : `${word}, without a space before it`;
    }

    /** Tokens in a row. `look(t)` gives {number, tint, label, press, kind} for each; with `press` they are buttons, and
        `text` stands in place of the token.
        Tokens that are one character together stand under one bracket. */
    function chips(ids, look) {
      const chip = (id, t) => {
        const { number, tint = [], label, press = null, kind = "", on = null, text = null } = look(t);
        const word = text !== null ? [text] : t ? seen(id) : ["start"];
        const inside = [h("span", { class: "lv-token" }, ...word), h("small", {}, number)];
        const attributes = { class: `lv-chip ${kind}` };
        if (!press) return tinted(h("span", attributes, ...inside), ...tint);
        const button = { type: "button", "data-key": t, "aria-label": label, "aria-pressed": on, onclick: press };
        return tinted(h("button", { ...attributes, ...button }, ...inside), ...tint);
      };
      const row = [];
      for (let t = 0; t < ids.length; t++) {
        let ends = t + 1;
        if (t && isPart(ids[t])) while (ends < ids.length && isPart(ids[ends]) && !isWhole(ids.slice(t, ends))) ends++;
        if (ends === t + 1) {
          row.push(chip(ids[t], t));
          continue;
        }
        const character = isWhole(ids.slice(t, ends)) ? bpe.decode(ids.slice(t, ends)).trim() : "bytes";
        row.push(h("span", { class: "lv-bracket", role: "group", "aria-label": `the bytes of ${character}` },
          h("span", { class: "lv-character", "aria-hidden": "true" }, character),
          h("span", { class: "lv-chips" }, ...ids.slice(t, ends).map((id, i) => chip(id, t + i)))));
        t = ends - 1;
      }
      return row;
    }

    return { bytesIn, isWhole, isPart, sign, seen, spoken, chips };
  }

  // --- 5. Taking it along -------------------------------------------------------------------------------------------

  /** Buttons that copy a link to what a place shows, `toHash()`, and Python that prints it; `toPython()` is null while
      there is nothing to print. `show()` belongs to painting: what was copied may be of another state by now. */
  function copying(toHash, toPython) {
    const code = h("pre", { class: "lv-code", hidden: "" }), said = h("span", { class: "lv-quiet", role: "status" });
    const state = () => `${toHash()} ${toPython()}`;
    let copied = null;  // the state of which is told
    const copy = async (what, text, shows) => {
      copied = state();
      const done = await toClipboard(text);
      say(code, text);
      code.hidden = done && !shows;
      say(said, done ? `${what} copied.` : "The browser did not let it be copied; here it is:");
    };
    const link = () => copy("Link", location.href.split("#")[0] + toHash(), false);
    const buttons = [
      h("button", { type: "button", onclick: link }, "Copy link"),
      h("button", { type: "button", onclick: () => copy("Python", toPython(), true) }, "Copy as Python"), said,
    ];
    const show = () => {
      buttons[1].disabled = toPython() === null;
      if (copied === state()) return;
      code.hidden = true;
      say(said, "");
    };
    return { buttons, code, show };
  }

  /** Follow links to states of a place: now, and whenever the address changes. They begin with `prefix`, which has a
      colon, as no heading's anchor has. `take` is given what stands behind it, and says false if that is no state. */
  function followLinks(prefix, box, take) {
    const follow = () => {
      const { hash } = location;
      if (!hash.startsWith(prefix) || take(new URLSearchParams(hash.slice(prefix.length))) === false) return;
      box.scrollIntoView();
    };
    addEventListener("hashchange", follow);
    follow();
  }

  /** The number that a link gives to a setting, within bounds; null if it gives none. */
  function numberIn(link, name, low, high) {
    const value = Number(link.get(name) || NaN);
    return Number.isFinite(value) ? Math.min(Math.max(value, low), high) : null;
  }

  // --- 6. Scripts that hold data ------------------------------------------------------------------------------------

  const HERE = new URL(".", document.currentScript.src).href;

  /** Append a script that lies beside this one: a page that was opened from a folder can load scripts, and nothing
      else. A promise of whether it came. */
  const loadScript = (file) => new Promise((done) => {
    const over = (came) => () => done(came);
    document.head.append(h("script", { src: HERE + file, onload: over(true), onerror: over(false) }));
  });

  /** The content of a model that a script hands over, which is loaded if it is not there yet.
      Rejects where the script is missing or damaged. */
  async function contentOf(name, file) {
    if (!NEXTWORD.models[name]) await loadScript(file);
    if (!NEXTWORD.models[name]) throw new Error(`${file} is missing or damaged`);
    return NEXTWORD.models[name];
  }

  /** What the book's build stored in a place of the page, so that it shows something before any model is there. */
  const storedIn = (box) => JSON.parse(box.querySelector("script[type='application/json']").textContent);

  return {
    h, fill, stops, say, withArrows, radios, labelled, quiet, covering, wordInput, inNextFrame, whenNear, sum, highest,
    percent, oneIn, signed, listed, quoted, inQuotes, tinted, table, column, bar, tokensOf, copying, followLinks,
    numberIn, HERE, loadScript, contentOf, storedIn,
  };
}
