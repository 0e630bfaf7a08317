/* The page "The next word, live": what the reader sees of the models that engine.js runs.

   The chapter's own text stands in the page. Between its paragraphs are places, <div class="nw-live" data-live="text">,
   that this script fills; a page may have some of them only. What the reader sets is in `state`. `update` asks the
   models about it and puts what all of them said into `shown`, at once, so that nobody sees the answers to two texts
   mixed. `paint` writes `state` and `shown` into the places.

   Everything stands in one function, since the scripts of the book's theme share the global scope. */
(function nextwordLive() {
  "use strict";

  /** Buttons that set the page up. `part` says where the button stands, and `task` what is written below it. */
  const QUESTIONS = [
    {
      part: "next", ask: "Does a bigger model know more?", text: "The film received positive reviews from",
      task: "Who reviews films? Type your guess, and then compare the columns. (A word may be two tokens: then the " +
        "table shows the first, and your guess both.)",
    },
    {
      part: "next", ask: "Does it know facts?", text: "The capital of France is",
      task: "Type the answer as your guess. With 3.5 million parameters a model learns how a text goes on, and " +
        "hardly what is true.",
    },
    {
      part: "change", ask: "Mary or Tom?", text: "Mary said that", change: ["Mary", "Tom"],
      task: "She or he? Which model has hardly noticed the name? Then write Alice or Linda in place of Mary in the " +
        "text: have the models learnt that women are “she”, or something about Mary?",
    },
    {
      part: "change", ask: "A band or a team?", text: "The band released their first", change: ["band", "team"],
      task: "One word, four words back: what does it do to “released”, and what to the word after “first”? Why can " +
        "the counts not see it there?",
    },
    {
      part: "sampling", ask: "What does top-p do?", text: "I would like a cup of", topP: 0.8,
      task: "Top-p is at 0.8: which model keeps the most words, and why? Then set the temperature to 0.3 and to 2.",
    },
    {
      part: "heads", ask: "Who looks at the name?", text: "Mary said that", focus: "large", head: "4.0",
      mode: "favourite",
      task: "Before “she” or “he” is written, some heads look at Mary. Does that make them important? Mute each head " +
        "in turn and compare the two numbers of each cell. Then do the same for the small model.",
    },
    {
      part: "heads", ask: "Who looks at nothing?", text: "The city was founded in 1850 by a group of", focus: "large",
      head: "2.5", mode: "start",
      task: "Some heads put most of their attention on the start of the text, which says nothing. What happens to the next " +
        "word when they are muted?",
    },
  ];

  /** The models in the order of the columns, and the scripts that hold them. */
  const MODELS = {
    small: "weights_small.js", medium: "weights_medium.js", large: "weights_large.js", counts: "counts.js",
  };
  const NAMES = Object.keys(MODELS);
  const UNPACKED = ["small", "counts", "medium", "large"];  // the quick ones first
  const COUNTED_BACK = 3;  // how many tokens back the counts look

  const MOST_TOKENS = 200;  // with the start of the text; the models read 256, and writing needs some of them
  const MOST_CHARACTERS = 2000;
  const MOST_GUESSED = 40;  // tokens
  const CONTEXT = 256;
  const TO_WRITE = 40;
  const UNLIKELY = 0.03;
  const BEST = 6;  // next words of each model that stand in a table
  const STRONG = 0.5;  // Δ ln p of a muted head that is printed in bold
  const SHOULD_DIFFER_LESS = 1e-3;  // ln p here and in the library
  const TOP_KS = [1, 2, 5, 10, 20, 40, 100, 400, 0];  // what the slider offers; 0 keeps all words

  const places = document.querySelectorAll(".nw-live[data-live]");
  const mounts = new Map(Array.from(places, (box) => [box.dataset.live, box]));
  if (!mounts.size) return;
  const isThere = typeof NEXTWORD !== "undefined" && typeof nextwordParts !== "undefined";
  const [first] = mounts.values();
  if (!isThere || !NEXTWORD.tokenizer) {  // what was stored in the page stays where it is
    first.append("The models cannot run: a script of this page is missing (engine.js, parts.js or tokenizer.js).");
    return;
  }
  const { ByteBPE, bytesOf, filtered } = nextwordEngine();
  const {
    h, fill, say, withArrows, radios, labelled, quiet, covering, wordInput, inNextFrame, sum, highest, percent, oneIn,
    signed, listed, quoted, inQuotes, tinted, table, column, bar, tokensOf, copying, numberIn, HERE, loadScript,
    storedIn,
  } = nextwordParts();
  const bpe = new ByteBPE(NEXTWORD.tokenizer), example = storedIn(first);
  const { bytesIn, isWhole, isPart, sign, seen, spoken, chips } = tokensOf(bpe);

  // --- 1. State -----------------------------------------------------------------------------------------------------

  const AS_THE_MODEL_SAYS = { temperature: 1, topK: 0, topP: 1 };
  const START = {
    text: example.text, focus: "large", change: null, ...AS_THE_MODEL_SAYS, seed: 1, head: "4.0",
    mode: "favourite", from: null, guess: "", covered: false, question: null,
  };

  /** What the reader set. `change` is {at, from, to}: the word with the number `at` in the text, and the new one.
      `from` is the token from which attention is shown; null means the last. */
  const state = { ...START };

  /** What the models said to one state: {text, ids, left, key, focus, guess, change, models}, with
      models[name] = {logP, next, attention, guess, changed}. */
  let shown = { ...reading(state.text), key: "", focus: state.focus, guess: null, change: null, models: stored() };

  const minds = {};  // name -> {ask}, of the models that are awake
  const facts = {};  // name -> what the part "about" tells of a model
  const troubles = {};  // name -> a sentence
  let muted = null;  // {key, word, change: {"layer.head": Δ ln p}, done}
  let written = null;  // the text from which was written

  const controls = [];  // functions that bring a control in line with the state
  const painters = [];  // functions that write a part

  /** Take over what the reader set. Most of it needs new answers of the models; a slider does not. */
  function set(changes, asks = true) {
    Object.assign(state, changes);
    remember();
    paint();
    if (asks) update();
  }

  function setText(text) {
    set({ text: text.slice(0, MOST_CHARACTERS), change: null, from: null, covered: false });
  }

  /** While someone types, only answers are painted: the box itself shows what was typed. */
  function typed(text) {
    const { change } = state;
    const stays = change && wordsOf(text)[change.at]?.word === change.from;
    Object.assign(state, { text, change: stays ? change : null, from: null, covered: false });
    remember();
    update();
  }

  function choose(number) {
    const { part, ask: label, task, change, ...settings } = QUESTIONS[number];
    const at = change ? wordsOf(settings.text).findIndex(({ word }) => word === change[0]) : -1;
    set({
      ...AS_THE_MODEL_SAYS, from: null, guess: "", ...settings, covered: part === "next", question: number,
      change: change ? { at, from: change[0], to: change[1] } : null,
    });
  }

  // A link brings the state along, behind the #. Only what differs from the start stands there.

  const NUMBERS = { temperature: "temperature", "top-k": "topK", "top-p": "topP", seed: "seed" };

  function toHash() {
    const link = new URLSearchParams({ text: state.text });
    for (const key of ["focus", "head"]) if (state[key] !== START[key]) link.set(key, state[key]);
    for (const [key, name] of Object.entries(NUMBERS)) if (state[name] !== START[name]) link.set(key, state[name]);
    if (state.change) link.set("change", `${state.change.at},${state.change.to}`);
    if (state.guess) link.set("guess", state.guess);
    return `#${link}`;
  }

  /** The state that a link asks for, or null if what stands behind the # is something else, such as a heading. */
  function fromHash() {
    const link = new URLSearchParams(location.hash.slice(1));
    if (!link.has("text")) return null;
    const text = link.get("text").replace(/\r\n?/g, "\n").slice(0, MOST_CHARACTERS);  // as a box for text writes it
    const wanted = { ...START, text };
    wanted.temperature = numberIn(link, "temperature", 0, 2) ?? START.temperature;
    wanted.topP = numberIn(link, "top-p", 0.05, 1) ?? START.topP;
    wanted.seed = Math.round(numberIn(link, "seed", 0, 999999) ?? START.seed);
    if (TOP_KS.includes(Number(link.get("top-k")))) wanted.topK = Number(link.get("top-k"));
    if (NAMES.includes(link.get("focus"))) wanted.focus = link.get("focus");
    if (/^\d+\.\d+$/.test(link.get("head"))) wanted.head = link.get("head");
    const [, at, to] = /^(\d+),(.+)$/.exec(link.get("change") ?? "") ?? [];
    const found = wordsOf(wanted.text)[at];
    if (found) wanted.change = { at: Number(at), from: found.word, to };
    wanted.guess = (link.get("guess") ?? "").slice(0, 40);
    return wanted;
  }

  let timer;
  /** Write the state into the address; not at every step of a slider, since browsers allow it some times a second. */
  function remember() {
    clearTimeout(timer);
    timer = setTimeout(() => history.replaceState(history.state, "", toHash()), 250);
  }

  // --- 2. Texts and tokens ------------------------------------------------------------------------------------------

  /** A text as the models read it: {text, ids, left}. A long one is cut, and `left` tokens are not read. */
  function reading(text) {
    const all = bpe.encode(text);
    if (all.length < MOST_TOKENS) return { text, ids: [bpe.end, ...all], left: 0 };
    let n = MOST_TOKENS - 1;
    while (n > 0 && !isWhole(all.slice(0, n))) n--;
    const cut = bpe.decode(all.slice(0, n));
    return { text: cut, ids: [bpe.end, ...bpe.encode(cut)], left: all.length - n };
  }

  /** The words of a text, and signs between them, with their places. */
  function wordsOf(text) {
    const found = text.matchAll(/[\p{L}\p{M}\p{N}]+(?:['’-][\p{L}\p{M}\p{N}]+)*|[^\p{White_Space}\p{L}\p{M}\p{N}]+/gu);
    return Array.from(found, ({ 0: word, index }) => ({ word, begins: index, ends: index + word.length }));
  }

  /** The ids of the reader's guess, as it would stand behind this text. */
  function guessed(text) {
    if (!state.guess) return null;
    const space = text && !/\s$/u.test(text) && /^[\p{L}\p{N}]/u.test(state.guess) ? " " : "";
    return bpe.encode(space + state.guess).slice(0, MOST_GUESSED);
  }

  /** The text with the changed word: {ids, from, to}, or null. */
  function changed(text) {
    const { change } = state, found = change && wordsOf(text)[change.at];
    if (!found || found.word !== change.from) return null;
    const other = text.slice(0, found.begins) + change.to + text.slice(found.ends);
    return { ids: [bpe.end, ...bpe.encode(other)].slice(0, CONTEXT), from: change.from, to: change.to };
  }

  /** How two rows of ids agree: [tokens at the beginning, tokens at the end]. */
  function agreement(a, b) {
    const shorter = Math.min(a.length, b.length);
    let head = 0, tail = 0;
    while (head < shorter && a[head] === b[head]) head++;
    while (tail < shorter - head && a.at(-1 - tail) === b.at(-1 - tail)) tail++;
    return [head, tail];
  }

  // --- 3. Asking the models -----------------------------------------------------------------------------------------

  let round = 0;
  let settled = Promise.resolve();  // when the newest round is over

  function update() {
    settled = askAll();
    return settled;
  }

  async function askAll() {
    const mine = ++round, isNew = () => mine === round;
    const text = reading(state.text), guess = guessed(text.text), change = changed(text.text), { focus } = state;
    const wanted = { ...text, key: JSON.stringify([text.ids, guess, change]), guess, change, focus };
    for (const box of mounts.values()) box.setAttribute("aria-busy", "true");
    const models = text.ids.join() === example.ids.join() ? stored() : {};
    await Promise.all(Object.keys(minds).map(async (name) => {
      const answer = known(name, wanted) ?? await askOne(name, wanted, isNew);
      if (answer) models[name] = answer;
    }));
    if (!isNew()) return;  // someone typed on: the next round is under way
    shown = { ...wanted, models };
    for (const box of mounts.values()) box.removeAttribute("aria-busy");
    paint();
  }

  const wantsMaps = (name, focus) => mounts.has("heads") && name === focus;

  /** What a model has said to the same question already: to ask again would stop it if it writes just now. */
  function known(name, { key, focus }) {
    const answer = key === shown.key ? shown.models[name] : null;
    return answer && !answer.bound && (answer.attention || !wantsMaps(name, focus)) ? answer : null;
  }

  /** What one model says, or null if a newer round began: a worker that is asked again drops the older question. */
  async function askOne(name, { ids, guess, change, focus }, isNew) {
    const read = (all, maps = false) => (isNew() ? ask(name, "read", { ids: all, maps }) : null);
    const main = await read(ids, wantsMaps(name, focus));
    if (!main) return null;
    const answer = { logP: main.logP, next: main.next, attention: main.attention };
    if (guess) {
      const more = await read([...ids, ...guess]);
      if (!more) return null;
      answer.guess = sum(more.logP.slice(ids.length));
    }
    if (change) {
      answer.changed = await read(change.ids);
      if (!answer.changed) return null;
    }
    return answer;
  }

  /** A model's answer; null if it was asked something newer, or if it failed, which the status line then says. */
  async function ask(name, task, rest, each) {
    try {
      const answer = await minds[name].ask(task, rest, each);
      if (troubles[name]) {
        delete troubles[name];
        paintStatus();
      }
      return answer;
    } catch (error) {
      troubles[name] = `The model ${name} reported an error (${error.message}).`;
      paintStatus();
      return null;
    }
  }

  /** A model's script has come: start its worker, and compare it with the stored example. */
  async function wake(name) {
    const content = NEXTWORD.models[name], { kind, config, card, base64, sha256 } = content;
    facts[name] = { parameters: card?.parameters, card, sha256, size: base64.length * 0.75, onDisk: base64.length };
    const { ask: asks, worker } = startWorker();
    const stopped = new Promise((_, reject) => {
      worker.onerror = (event) => reject(new Error(event.message || "its worker stopped"));
    });
    stopped.catch(() => {});  // whoever asks is told
    const mind = { ask: (...question) => Promise.race([asks(...question), stopped]) };
    facts[name].quick = (await mind.ask("load", { kind, config, base64 })).quick;
    const answer = await mind.ask("read", { ids: example.ids });
    facts[name].difference = differenceTo(example.models[name], answer);
    minds[name] = mind;
    performance.mark(`nextword ${name} awake`);
    paintStatus();
    await update();
    performance.mark(`nextword ${name} answered`);
    if (mounts.has("about")) facts[name].hash = await hashOf(base64);
    delete content.base64;  // the worker has its own
    paint();
  }

  function differenceTo({ logP, next }, answer) {
    const ofTokens = logP.map((value, t) => Math.abs(value - answer.logP[t]));
    return Math.max(...ofTokens, ...next.map(([id, value]) => Math.abs(value - answer.next[id])));
  }

  /** SHA-256 in hexadecimal; null where the browser does not compute it, as on pages without a secure address. */
  async function hashOf(base64) {
    if (!globalThis.crypto?.subtle) return null;
    const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytesOf(base64)));
    return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  /** What the library said of the example. Only its best next words were stored; of others a bound is known. */
  function stored() {
    const models = {};
    for (const [name, { logP, next }] of Object.entries(example.models)) {
      const all = new Float32Array(bpe.tokens.length + 1).fill(NaN);
      for (const [id, value] of next) all[id] = value;
      models[name] = { logP, next: all, bound: next.at(-1)[1] };
    }
    return models;
  }

  // --- 4. Writing into the page -------------------------------------------------------------------------------------

  const paint = inNextFrame(paintNow);

  function paintNow() {
    for (const write of [...controls, ...painters]) write();
  }

  /** The choice of the model whose numbers are shown; every part that needs it has one, and they go together. */
  function focusRadios() {
    const names = Object.fromEntries(NAMES.map((name) => [name, name]));
    const group = radios("Model in focus", names, (focus) => set({ focus }));
    controls.push(() => {
      group.show(state.focus);
      for (const button of group.children) {
        const parameters = facts[button.dataset.value]?.parameters;
        button.lastChild.textContent = parameters ? ` ${(parameters / 1e6).toFixed(1)}M` : "";
      }
    });
    return labelled("Model in focus", group);
  }

  /** The buttons of QUESTIONS that belong to a part, with the task of the one that was pressed. */
  function tries(part) {
    const numbers = [...QUESTIONS.keys()].filter((n) => QUESTIONS[n].part === part);
    const buttons = numbers.map((n) => (
      h("button", { type: "button", class: "lv-try", value: n, onclick: () => choose(n) }, QUESTIONS[n].ask)
    ));
    const task = h("p", { class: "lv-task", "aria-live": "polite", hidden: "" });
    controls.push(() => {
      for (const button of buttons) button.setAttribute("aria-pressed", Number(button.value) === state.question);
      const chosen = state.question !== null && QUESTIONS[state.question].part === part;
      task.hidden = !chosen;
      say(task, chosen ? QUESTIONS[state.question].task : "");
    });
    const row = h("div", { class: "lv-row" }, h("span", { class: "lv-quiet" }, "Try"), ...buttons);
    return h("div", {}, row, task);
  }

  let textarea;  // where the text is typed, for all parts

  /** A line that repeats the text, since the box for it may be far above. */
  function textLine() {
    const text = h("q");
    const edit = () => textarea.focus();
    painters.push(() => say(text, quoted(shown.text, 90).slice(1, -1)));
    return h("p", { class: "lv-now" }, h("span", { class: "lv-quiet" }, "Text "), text, " ",
      h("button", { type: "button", class: "lv-small", onclick: edit }, "Edit the text"));
  }

  // --- 5. The parts: each builds its controls once, and gives a function that writes what the models said -----------

  const status = h("p", { class: "lv-status", role: "status" },
    "These numbers are stored; the models are being unpacked.");

  function paintStatus() {
    const well = NAMES.filter((name) => !troubles[name]);
    const awake = well.filter((name) => minds[name]), asleep = well.filter((name) => !minds[name]);
    const sentences = NAMES.filter((name) => troubles[name]).map((name) => troubles[name]);
    if (asleep.length) sentences.push(`Still being unpacked: ${listed(asleep)}.`);
    else if (awake.length === NAMES.length) sentences.push("All four models are awake; they run in this browser.");
    else if (awake.length) sentences.push(`${listed(awake)} ${awake.length > 1 ? "are" : "is"} awake.`);
    status.classList.toggle("lv-trouble", Object.keys(troubles).length > 0);
    say(status, sentences.join(" "));
  }

  /** The box for the text. It stands in the part "text"; on a page without that, above the first part. */
  function textBox() {
    textarea = h("textarea", {
      id: "nw-live-text", rows: 2, maxlength: MOST_CHARACTERS, spellcheck: "false",
      oninput: () => typed(textarea.value),
    });
    controls.push(() => { if (textarea.value !== state.text) textarea.value = state.text; });
    const cut = h("p", { class: "lv-trouble", hidden: "" });
    painters.push(() => {
      cut.hidden = shown.left === 0;
      say(cut, `The text is cut after ${shown.ids.length - 1} tokens; the last ${shown.left} are not read.`);
    });
    return [status, h("label", { for: "nw-live-text", class: "lv-label" }, "Your text"), textarea, cut];
  }

  const PARTS = {
    text(mount) {
      const offers = mounts.has("change");  // where a token leads to
      const tokens = withArrows(h("div", {
        class: "lv-chips lv-answer", role: offers ? "toolbar" : "group", "aria-label": "Tokens of the text",
      }));
      const bits = h("p", { class: "lv-quiet lv-answer" });
      const copies = copying(toHash, () => inPython(shown.focus, shown.text));
      fill(mount, ...textBox(), focusRadios(), tokens,
        quiet("Under each token stand the bits that it cost the model in focus: 1 bit where the model gave it one ",
          "half, 10 bits where it gave it a thousandth.",
          offers ? " Choose a token to change its word; arrow keys move along them." : ""),
        bits, h("div", { class: "lv-row" }, ...copies.buttons), copies.code);
      return () => {
        const answer = shown.models[shown.focus], cost = (t) => (answer && t ? -answer.logP[t] / Math.LN2 : 0);
        fill(tokens, ...chips(shown.ids, (t) => ({
          number: t && answer ? cost(t).toFixed(1) : "\u00a0", tint: ["cost", cost(t) / 16],
          label: `${spoken(shown.ids[t])}, ${cost(t).toFixed(1)} bits`, press: t && offers ? () => offer(t) : null,
        })));
        say(bits, bitsPerByte());
        copies.show();
      };
    },

    next(mount) {
      const input = guessInput(), answers = h("p", { class: "lv-said", "aria-live": "polite" });
      const box = withArrows(h("div", { class: "lv-answer" }));
      const show = () => set({ covered: false }, false);
      const uncover = h("button", { type: "button", onclick: show }, "Show without a guess");
      const form = h("form", { class: "lv-row", onsubmit: (event) => {
        event.preventDefault();
        set({ guess: input.value.trim(), covered: false });
      } }, h("label", {}, "Your guess ", input), h("button", {}, "Look it up"), uncover);
      fill(mount, textLine(), tries("next"), form, answers, box);
      return () => {
        uncover.hidden = !state.covered;
        if (state.covered) {
          say(answers, "");
          fill(box, covering("What comes next? Type your guess above; then the answers are shown."));
          return;
        }
        say(answers, guessSentence());
        if (!Object.keys(shown.models).length) {
          fill(box, covering("The numbers come as soon as a model is awake."));
          return;
        }
        const rows = commonWords(14).map((id) => h("tr", {}, wordHead(id), ...NAMES.map((name) => nextCell(name, id))));
        fill(box, nextTable("Probability of the next word", [...guessRow(), ...rows]));
      };
    },

    change(mount) {
      const which = h("select", { "aria-label": "word to change" });
      const to = wordInput();
      to.setAttribute("aria-label", "new word");
      const box = h("div", { class: "lv-answer" });
      const form = h("form", { class: "lv-row", onsubmit: (event) => {
        event.preventDefault();
        const at = Number(which.value), found = wordsOf(reading(state.text).text)[at], fresh = to.value.trim();
        set({ change: found && fresh && fresh !== found.word ? { at, from: found.word, to: fresh } : null });
      } }, h("span", {}, "Instead of "), which, h("span", {}, " read "), to, h("button", {}, "Compare"),
      h("button", { type: "button", onclick: () => set({ change: null }) }, "Clear"));
      offer = (t) => {
        const ends = bpe.decode(shown.ids.slice(1, t + 1)).length;
        const at = wordsOf(shown.text).findIndex((word) => word.ends >= ends);
        which.value = Math.max(at, 0);
        to.focus();
        to.select();
      };
      let before = null, offered = null;
      fill(mount, textLine(), tries("change"), focusRadios(), form, box);
      return () => {
        if (offered !== shown.text) {
          const words = wordsOf(offered = shown.text), chosen = which.value;
          which.replaceChildren(...words.map(({ word }, n) => h("option", { value: n }, word)));
          which.value = chosen in words ? chosen : 0;
        }
        if (state.change !== before) {  // what is being typed stays, unless the change itself was set anew
          before = state.change;
          if (before) which.value = before.at;
          to.value = before ? before.to : "";
        }
        fill(box, ...changeAnswer());
      };
    },

    sampling(mount) {
      const two = (value) => value.toFixed(2);
      const sliders = h("div", { class: "lv-sliders" },
        slider("Temperature", "temperature", { min: 0, max: 2, step: 0.05 }, Number, Number, two),
        slider("Top-k", "topK", { min: 0, max: TOP_KS.length - 1, step: 1 }, (at) => TOP_KS[at],
          (value) => TOP_KS.indexOf(value), (value) => (value ? String(value) : "all")),
        slider("Top-p", "topP", { min: 0.05, max: 1, step: 0.05 }, Number, Number, two),
        h("button", { type: "button", onclick: () => set(AS_THE_MODEL_SAYS, false) }, "Reset"));
      const box = withArrows(h("div", { class: "lv-answer" })), texts = h("div");
      const seed = h("input", { type: "number", min: 0, max: 999999, step: 1, id: "nw-live-seed", onchange: () => {
        set({ seed: Math.min(Math.max(Math.round(Number(seed.value)) || 0, 0), 999999) }, false);
      } });
      controls.push(() => { if (document.activeElement !== seed) seed.value = state.seed; });
      const rules = quiet("Choose a word to take the text over up to there. A wavy line marks words to which the ",
        `model gave less than ${100 * UNLIKELY}\u00a0%. A token repeats if it ends three tokens that stood in its `,
        "text before.");
      const stop = h("button", { type: "button", disabled: "", onclick: () => {
        for (const name of Object.keys(minds)) ask(name, "stop");
      } }, "Stop");
      const start = h("button", { type: "button", class: "lv-main", onclick: () => writeOn(texts, stop, start) },
        `Write ${TO_WRITE} tokens`);
      fill(mount, textLine(), tries("sampling"), sliders, box,
        quiet("A bar is what will be drawn from, and the line across it is what the model said. Words that may not be ",
          "drawn are struck through."),
        h("div", { class: "lv-row" }, start, stop, h("label", {}, "Seed ", seed)), rules, texts);
      return () => {
        if (written !== null && written !== shown.text) {
          written = null;
          fill(texts);
        }
        rules.hidden = written === null;
        fill(box, drawnTable());
      };
    },

    heads(mount) {
      const input = guessInput(), grid = withArrows(h("div", { class: "lv-answer" }), () => headsOf().columns);
      const title = h("p"), verdict = h("p", { class: "lv-said" }), note = quiet(), none = covering("");
      const tokens = withArrows(h("div", {
        class: "lv-chips lv-answer", role: "toolbar", "aria-label": "Tokens that the chosen head looks at",
      }));
      note.setAttribute("aria-live", "polite");
      input.addEventListener("change", () => set({ guess: input.value.trim() }));
      const form = h("form", { class: "lv-row", onsubmit: (event) => {
        event.preventDefault();
        muteAll();
      } }, h("button", { class: "lv-main" }, "Mute each head in turn"), h("label", {}, "and watch the word ", input),
      h("span", { class: "lv-quiet" }, "(empty: the likeliest)"));
      const modes = Object.fromEntries(Object.entries(MODES).map(([mode, { label }]) => [mode, label]));
      const shows = radios("What a cell shows", modes, (mode) => set({ mode }, false));
      controls.push(() => shows.show(state.mode));
      const choice = labelled("A cell shows", shows);
      const all = [choice, form, note, grid, verdict, title, tokens];
      fill(mount, textLine(), tries("heads"), focusRadios(), none, ...all);
      return () => {
        const { columns } = headsOf();
        none.hidden = columns > 0;
        for (const element of all) element.hidden = columns === 0;
        if (!columns) {
          say(none, shown.focus === "counts" ? "Counts have no heads: choose small, medium or large." :
            `The heads are shown as soon as ${shown.focus} is awake.`);
          return;
        }
        fill(grid, headTable());
        say(note, mutedNote());
        say(verdict, mutedVerdict());
        paintLook(title, tokens);
      };
    },

    about(mount) {
      const check = h("p"), how = h("p"), files = h("div"), data = h("div");
      let told = null;
      fill(mount, check, how, files, data);
      return () => {
        const awake = NAMES.filter((name) => minds[name]), news = awake.map((name) => name + facts[name].hash).join();
        if (told === news) return;  // nothing of it depends on what the reader sets
        told = news;
        say(check, checkSentence(awake));
        how.replaceChildren(...howSentence(awake));
        fill(files, filesTable(awake));
        fill(data, ...dataSentences(awake));
      };
    },
  };

  let offer = () => {};  // the part "change" says what to do with a token that was chosen

  // Text

  function bitsPerByte() {
    if (shown.ids.length === 1) return "The text is empty: the models say how a text begins.";
    const bytes = bytesIn(shown.ids.slice(1)).length;
    const said = NAMES.filter((name) => shown.models[name]).map((name) => (
      `${name} ${(-sum(shown.models[name].logP) / Math.LN2 / bytes).toFixed(2)}`
    ));
    return said.length ? `Bits per byte of the whole text: ${said.join(", ")}.` : "";
  }

  /** Python that prints the next words that this page shows. */
  function inPython(name, text) {
    const counts = name === "counts", bundled = counts ? "nextword-small" : `nextword-${name}`;
    return [
      "import torch", "from nextword import checkpoints",
      ...(counts ? ["from nextword.book import counts"] : []), "",
      `model, bpe, _ = checkpoints.load("${bundled}")${counts ? "  # for its tokenizer" : ""}`,
      `ids = [bpe.special_tokens["<|endoftext|>"], *bpe.encode_ordinary(${inQuotes(text)})]`,
      counts ? "p = torch.tensor(counts.load().distribution(ids))" :
        "p = model(torch.tensor([ids])).logits[0, -1].softmax(-1).detach()",
      `for i in p.topk(${BEST}).indices.tolist():`,
      "    print(f\"{bpe.decode([i])!r:16} {100 * p[i]:.2f} %\")",
    ].join("\n");
  }

  // Next word

  function guessInput() {
    const input = wordInput();
    controls.push(() => { if (document.activeElement !== input) input.value = state.guess; });
    return input;
  }

  /** Words among the best of any model, by their mean probability. */
  function commonWords(most) {
    const said = NAMES.map((name) => shown.models[name]).filter(Boolean), rows = new Set();
    for (const { next } of said) for (const id of highest(next, BEST)) rows.add(id);
    const total = (id) => sum(said.map(({ next }) => Math.exp(next[id]) || 0));
    return [...rows].sort((a, b) => total(b) - total(a)).slice(0, most);
  }

  /** A word at the beginning of its row. A press writes it into the text, if it is a whole one. */
  function wordHead(id) {
    if (id === bpe.end || isPart(id)) return h("th", { scope: "row" }, h("span", { class: "lv-token" }, ...seen(id)));
    const write = () => setText(shown.text + bpe.decode([id]));
    return h("th", { scope: "row" }, h("button", {
      type: "button", class: "lv-word lv-token", "data-key": id, "aria-label": `Write: ${spoken(id)}`, onclick: write,
    }, ...seen(id)));
  }

  function nextTable(caption, rows, small = (name) => (shown.models[name]?.bound ? "stored" : "")) {
    return table(caption, ["next word", ...NAMES.map((name) => column(name, small(name)))], rows, "lv-models");
  }

  function nextCell(name, id) {
    const answer = shown.models[name];
    if (!answer) return h("td", {}, "…");
    if (Number.isNaN(answer.next[id])) return h("td", {}, bar(0), `<${percent(Math.exp(answer.bound))}`);
    const p = Math.exp(answer.next[id]);
    return h("td", {}, bar(p), percent(p));
  }

  function guessRow() {
    if (!shown.guess) return [];
    const cells = NAMES.map((name) => {
      const p = Math.exp(shown.models[name]?.guess);
      return Number.isNaN(p) ? h("td", {}, "…") : h("td", {}, bar(p), oneIn(p));
    });
    const pieces = shown.guess.flatMap((id, n) => [...(n ? [sign("|")] : []), ...seen(id)]);
    const word = h("span", { class: "lv-token" }, ...pieces);
    return [h("tr", { class: "lv-guess" }, h("th", { scope: "row" }, word, h("small", {}, "your guess")), ...cells)];
  }

  function guessSentence() {
    const said = NAMES.filter((name) => shown.models[name]?.guess !== undefined);
    if (!shown.guess || !said.length) return "";
    const parts = said.map((name) => `${name} ${oneIn(Math.exp(shown.models[name].guess))}`);
    const tokens = shown.guess.length > 1 ? ` (${shown.guess.length} tokens)` : "";
    return `Your guess ${quoted(bpe.decode(shown.guess).trim())}${tokens}: ${parts.join(", ")}.`;
  }

  // A changed word

  function changeAnswer() {
    const a = shown.models[shown.focus], { change } = shown;
    if (!change) return [covering("Choose a word and type another in its place.")];
    if (!a?.changed) return [covering(`The comparison is shown as soon as ${shown.focus} is awake.`)];
    const [head, tail] = agreement(shown.ids, change.ids), shift = change.ids.length - shown.ids.length;
    const behind = change.ids.length - tail;  // where the text goes on as before
    const row = chips(change.ids, (t) => {
      if (t < behind) return { number: t < head ? "\u00a0" : "new", kind: t < head ? "" : "lv-new" };
      const delta = a.changed.logP[t] - a.logP[t - shift];
      return { number: signed(delta), tint: tintOf(delta) };
    });
    const awake = NAMES.filter((name) => shown.models[name]?.changed);
    const best = new Set([...highest(a.next, 7), ...highest(a.changed.next, 7)]);
    const delta = (name, id) => shown.models[name].changed.next[id] - shown.models[name].next[id];
    const order = [...best].sort((x, y) => delta(shown.focus, y) - delta(shown.focus, x));
    const rows = order.map((id) => h("tr", {}, h("th", { scope: "row" }, h("span", { class: "lv-token" }, ...seen(id))),
      h("td", {}, percent(Math.exp(a.next[id]))), h("td", {}, percent(Math.exp(a.changed.next[id]))),
      ...NAMES.map((name) => {
        if (!awake.includes(name)) return h("td", {}, "…");
        return tinted(h("td", {}, signed(delta(name, id))), ...tintOf(delta(name, id)));
      })));
    const blind = tail >= COUNTED_BACK && awake.includes("counts");
    return [
      quiet(`Under each later token stands Δ ln p for ${shown.focus}: above 0 the new word made it likelier, below 0 `,
        "less likely; 0.69 is a factor of two."),
      h("div", { class: "lv-chips", role: "group", "aria-label": "Tokens of the changed text" }, ...row),
      table(`The next word for ${shown.focus}, before and after, and Δ ln p for all models`,
        ["next word", column("before", quoted(change.from, 12)), column("after", quoted(change.to, 12)),
          ...NAMES.map((name) => column("Δ", name))], rows, "lv-deltas"),
      blind ? h("p", { class: "lv-said" }, `The changed word stands more than ${tail} tokens back, and counts look ` +
        `${COUNTED_BACK} tokens back: nothing changes for them, exactly.`) : null,
    ];
  }

  const tintOf = (delta) => [delta > 0 ? "more" : "less", Math.abs(delta) / 4];

  // Sampling

  /** A slider for state[key]. `from` and `to` translate between its position and the value. */
  function slider(label, key, range, from, to, spell) {
    const value = h("b"), change = () => set({ [key]: from(input.value) }, false);
    const input = h("input", { type: "range", ...range, "aria-label": label, oninput: change });
    controls.push(() => {
      input.value = to(state[key]);
      input.setAttribute("aria-valuetext", spell(state[key]));
      say(value, spell(state[key]));
    });
    return h("label", {}, label, " ", value, input);
  }

  function drawnTable() {
    const drawn = {}, asTheModelSays = state.temperature === 1 && state.topK === 0 && state.topP === 1;
    for (const name of NAMES) {
      const { next, bound } = shown.models[name] ?? {};
      if (next && !bound) drawn[name] = asTheModelSays ? next.map(Math.exp) : filtered(next, state);
    }
    if (!Object.keys(drawn).length) return covering("The sliders work as soon as a model is awake.");
    const cell = (name, id) => {
      if (!drawn[name]) return h("td", {}, "…");
      const said = Math.exp(shown.models[name].next[id]), p = drawn[name][id];
      if (p) return h("td", {}, bar(p, said), percent(p));
      return h("td", {}, bar(0, said), h("s", {}, percent(said)));
    };
    const rows = commonWords(10).map((id) => h("tr", {}, wordHead(id), ...NAMES.map((name) => cell(name, id))));
    return nextTable("What will be drawn, and how many words are left to draw from", rows, (name) => (
      drawn[name] ? leftOver(drawn[name]) : "…"
    ));
  }

  /** How many words may be drawn, and the entropy. */
  function leftOver(p) {
    let words = 0, bits = 0;
    for (const share of p) {
      if (share === 0) continue;
      words++;
      bits -= share * Math.log2(share);
    }
    const amount = words === p.length ? `all ${words.toLocaleString("en")}` : words.toLocaleString("en");
    return [`${amount} ${words === 1 ? "word" : "words"}`, h("br"), `${Math.abs(bits).toFixed(1)} bits`];
  }

  let pens = 0;
  /** Let all models write on with the same seed. */
  async function writeOn(box, stop, start) {
    const mine = ++pens;
    await settled;  // else the writing would take the place of a reading that is under way
    const { temperature, topK, topP, seed } = state, { ids, text } = shown;
    written = text;
    stop.disabled = false;
    const order = { ids, n: TO_WRITE, seed, end: bpe.end, longest: CONTEXT, temperature, topK, topP };
    paint();
    const awake = NAMES.filter((name) => minds[name]), papers = awake.map((name) => paper(name, ids, text));
    fill(box, ...papers.map(({ element }) => element));
    await Promise.all(papers.map(async ({ add, finish }, n) => finish(await ask(awake[n], "write", order, add))));
    if (mine !== pens) return;
    if (document.activeElement === stop) start.focus();
    stop.disabled = true;
  }

  /** What one model writes: words that can be pressed to take over the text up to there, and how much of it repeats. */
  function paper(name, before, text) {
    const words = withArrows(h("span", { class: "lv-words" })), note = h("p", { class: "lv-quiet" });
    const element = h("div", { class: "lv-paper", role: "group", "aria-label": `Written by ${name}` }, h("b", {}, name),
      h("p", {}, h("span", { class: "lv-quiet" }, quoted(text, 90).slice(1, -1)), words), note);
    const ids = before.slice(), triples = new Set();
    const triple = (t) => ids.slice(t - 2, t + 1).join();
    for (let t = 2; t < ids.length; t++) triples.add(triple(t));
    let waiting = [], again = 0;
    const word = (logP) => {
      const upTo = bpe.decode(ids.slice(1)), p = Math.exp(logP), take = () => { setText(upTo); textarea.focus(); };
      const spelled = bpe.decode(waiting);
      waiting = [];
      words.append(h("span", {
        role: "button", tabindex: words.childElementCount ? -1 : 0, "data-key": ids.length,
        class: p < UNLIKELY ? "lv-unlikely" : null, title: `${percent(p)}: take the text over up to here`,
        "aria-label": `${spelled.trim() || "space"}, ${percent(p)}`, onclick: take,
        onkeydown: (event) => {
          if (event.key !== "Enter" && event.key !== " ") return;
          event.preventDefault();
          take();
        },
      }, spelled));
    };
    const add = ({ token, logP }) => {
      ids.push(token);
      if (triples.has(triple(ids.length - 1))) again++;
      triples.add(triple(ids.length - 1));
      if (token === bpe.end) {
        words.append(h("span", { class: "lv-end" }, "end of text"));
        return;
      }
      waiting.push(token);
      if (isWhole(waiting) || waiting.length > 3) word(logP);
    };
    const finish = (result) => {
      if (waiting.length) word(0);  // the last character is not whole
      const n = ids.length - before.length;
      if (!n) return;
      const time = result ? ` in ${(result.ms / 1000).toFixed(2)} s` : ", then stopped";
      note.textContent = `${n} token${n === 1 ? "" : "s"}${time}; ${percent(again / n)} of them repeat.`;
    };
    return { element, add, finish };
  }

  // Attention heads

  /** What a cell can show of a head, from its rows of attention and the number of tokens. */
  const MODES = {
    favourite: {
      label: "favourite", says: "how much the last token looks at its favourite, the start left out",
      value: (rows, n) => Math.max(0, ...rows[n - 1].slice(1)),
    },
    before: {
      label: "token before", says: "how much a token looks at the one before it, on average",
      value: (rows, n) => meanOf(rows, n, (row, t) => row[t - 1]),
    },
    start: {
      label: "start", says: "how much a token looks at the start, on average",
      value: (rows, n) => meanOf(rows, n, (row) => row[0]),
    },
    muted: { label: "Δ when muted", says: "Δ ln p of the watched word without that head", value: null },
  };

  function meanOf(rows, n, share) {
    let total = 0;
    for (let t = 1; t < n; t++) total += share(rows[t], t);
    return n > 1 ? total / (n - 1) : 0;
  }

  /** The attention maps of the model in focus: {maps, layers, columns}; no columns where there are none. */
  function headsOf() {
    const maps = shown.models[shown.focus]?.attention;
    return maps ? { maps, layers: maps.length, columns: maps[0].length } : { maps: [], layers: 0, columns: 0 };
  }

  /** The chosen head; a smaller model may not have it. */
  function chosenHead() {
    const { layers, columns } = headsOf(), [layer, head] = state.head.split(".").map(Number);
    return [Math.min(layer, layers - 1), Math.min(head, columns - 1)];
  }

  /** The token that muting is measured by: the first of the guess, or the likeliest. */
  const watched = () => shown.guess?.[0] ?? highest(shown.models[shown.focus].next, 1)[0];
  const mutedKey = () => `${shown.focus} ${watched()} ${shown.ids}`;
  const mutedChanges = () => (muted?.key === mutedKey() ? muted.change : {});

  async function muteAll() {
    await settled;
    if (!headsOf().columns) return;
    const name = shown.focus, mine = { key: mutedKey(), word: watched(), change: {}, done: false };
    muted = mine;
    paint();
    const result = await ask(name, "muteEach", { ids: shown.ids, word: mine.word }, ({ layer, head, change }) => {
      mine.change[`${layer}.${head}`] = change;
      paint();
    });
    mine.done = result !== null;
    paint();
  }

  function headTable() {
    const { maps, columns } = headsOf(), { value, says } = MODES[state.mode], changes = mutedChanges();
    const chosen = chosenHead().join(".");
    const cell = (rows, name) => {
      const share = value ? value(rows, shown.ids.length) : null, change = changes[name];
      const delta = change === undefined ? "·" : signed(change), strong = Math.abs(change) >= STRONG ? "lv-strong" : "";
      const button = h("button", {
        type: "button", "data-key": name, "aria-pressed": name === chosen, onclick: () => set({ head: name }, false),
        "aria-label": `head ${name}: ${value ? `${share.toFixed(2)}, ` : ""}without it ${delta}`,
      });
      if (value) button.append(share.toFixed(2), ...(delta === "·" ? [] : [h("small", { class: strong }, delta)]));
      else button.append(h("span", { class: strong }, delta));
      return tinted(button, ...(value ? ["more", share] : tintOf(change ?? 0)));
    };
    const heads = Array.from({ length: columns }, (_, head) => h("th", { scope: "col" }, `head ${head}`));
    const rows = maps.map((layer, l) => h("tr", {}, h("th", { scope: "row" }, `layer ${l}`),
      ...layer.map((rowsOfHead, head) => h("td", {}, cell(rowsOfHead, `${l}.${head}`)))));
    const both = value && Object.keys(changes).length > 0;
    const second = both ? "; below it Δ ln p of the watched word without that head" : "";
    return table(`Heads of ${shown.focus}: ${says}${second}`, [h("td"), ...heads], rows, "lv-heads");
  }

  function mutedNote() {
    const word = quoted(bpe.decode([watched()]).trim());
    const which = !shown.guess ? "the likeliest next word" : shown.guess.length > 1 ? "the first token of your word" :
      "your word";
    if (muted?.key !== mutedKey()) return `Muting is measured by ${word}, ${which}.`;
    return `Δ is how much ln p of ${word}, ${which}, changes without that head. Below 0 the head helps this word.`;
  }

  /** Compare the head that looks hardest with the one that matters most. */
  function mutedVerdict() {
    if (muted?.key !== mutedKey() || !muted.done) return "";
    const { maps } = headsOf(), names = Object.keys(muted.change);
    const share = (name) => {
      const [layer, head] = name.split(".");
      return MODES.favourite.value(maps[layer][head], shown.ids.length);
    };
    const best = (value) => names.reduce((a, b) => (value(b) > value(a) ? b : a));
    const told = (name) => `${name} (${share(name).toFixed(2)} on its favourite, Δ ${signed(muted.change[name])})`;
    const looks = best(share), matters = best((name) => Math.abs(muted.change[name]));
    if (looks === matters) return `The head that looks hardest also matters most: ${told(looks)}.`;
    return `The head that looks hardest is ${told(looks)}; the one that matters most is ${told(matters)}.`;
  }

  function paintLook(title, tokens) {
    const { maps } = headsOf(), [layer, head] = chosenHead(), last = shown.ids.length - 1;
    const from = Math.min(state.from ?? last, last), row = maps[layer][head][from];
    const word = from ? quoted(bpe.decode([shown.ids[from]]).trim()) : "the start";
    say(title, `Head ${layer}.${head} of ${shown.focus}: where it looks from ${word}. ` +
      "Choose another token to look from there.");
    fill(tokens, ...chips(shown.ids, (t) => {
      const sees = t <= from, share = sees ? row[t].toFixed(2) : "";
      const name = t ? spoken(shown.ids[t]) : "start of the text";
      return {
        number: sees ? share : "\u00a0", tint: ["more", sees ? row[t] : 0], kind: sees ? "" : "lv-later",
        label: `${name}: ${sees ? share : "comes later"}`, on: t === from, press: () => set({ from: t }, false),
      };
    }));
  }

  // About

  function checkSentence(awake) {
    if (!awake.length) return "The check follows as soon as a model is awake.";
    const worst = Math.max(...awake.map((name) => facts[name].difference));
    const models = awake.length === NAMES.length ? "All four models" : listed(awake);
    const end = worst < SHOULD_DIFFER_LESS ? "." : ", which is more than it should be.";
    return `The check of this page: the library computed, in Python, ln p of the tokens of ${quoted(example.text)} ` +
      "and of the best next words; they are stored with four decimals. " +
      `${models} were asked the same here, and the largest difference is ${worst.toFixed(6)}${end}`;
  }

  function howSentence(awake) {
    const slow = awake.filter((name) => !facts[name].quick);
    const way = slow.length ? `Plain JavaScript multiplies for ${listed(slow)}, as WebAssembly does not run here. ` :
      "WebAssembly multiplies the matrices. ";
    const engine = h("a", { href: `${HERE}engine.js` }, "engine.js");
    return [awake.length ? way : "", "The whole engine is one file: ", engine, "."];
  }

  function filesTable(awake) {
    const rows = awake.map((name) => {
      const { parameters, size, sha256, hash } = facts[name];
      const verdict = { [sha256]: "matches", null: "not computed by this browser", undefined: "…" }[hash] ?? "DIFFERS";
      const spelled = sha256.match(/.{16}/g).flatMap((piece) => [piece, h("wbr")]);
      const cells = [
        parameters?.toLocaleString("en") ?? "–", `${(size / 1e6).toFixed(1)}\u00a0MB`, h("code", {}, ...spelled),
        verdict,
      ];
      return h("tr", {}, h("th", { scope: "row" }, name), ...cells.map((cell) => h("td", {}, cell)));
    });
    const total = (kind) => (sum(awake.map((name) => facts[name][kind])) / 1e6).toFixed(1);
    const caption = `The models take ${total("size")} MB, and ${total("onDisk")} MB on disk, where scripts spell ` +
      "them in base64. Their SHA-256 is stored there, and computed again here.";
    return table(caption, ["model", "parameters", "size", "SHA-256", "check"], rows, "lv-files");
  }

  function dataSentences(awake) {
    const card = facts[awake.find((name) => facts[name].card)]?.card;
    if (!card) return [];
    const list = (text, where) => h("ul", {}, ...text.split(where).map((item) => h("li", {}, item)));
    return [h("p", {}, "The models and the counts come from the same texts:"), list(card.data, /; /),
      h("p", {}, "Licences and attributions:"), list(card.licence, /; (?=CC )/)];
  }

  // --- 6. Start: the stored example first, and then the models ------------------------------------------------------

  for (const [name, mount] of mounts) {
    if (!PARTS[name]) continue;
    painters.push(PARTS[name](mount));
    if (textarea || mounts.has("text")) continue;
    mount.prepend(...textBox());
    mount.querySelector(".lv-now")?.remove();  // the line that repeats the text from above
  }
  Object.assign(state, fromHash());
  if (state.text !== example.text) shown = { ...shown, ...reading(state.text), models: {} };  // nothing is stored of it
  paintNow();
  performance.mark("nextword stored");

  addEventListener("hashchange", () => {
    const wanted = fromHash();
    if (wanted) set(wanted);
  });

  NEXTWORD.arrived = (name) => wake(name).catch((error) => {
    troubles[name] = `The model ${name} could not be unpacked (${error.message}).`;
    paintStatus();
  });

  /** Load a model's script; it calls `arrived`. */
  async function loaded(name) {
    await loadScript(MODELS[name]);
    if (NEXTWORD.models[name]) return;
    troubles[name] = `${MODELS[name]} is missing or damaged, so that the model ${name} stays asleep.`;
    paintStatus();
  }

  requestAnimationFrame(() => setTimeout(async () => {  // after the first picture
    for (const name of UNPACKED) await loaded(name);
  }));
})();
