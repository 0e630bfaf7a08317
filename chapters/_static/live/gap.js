"use strict";
/* BERT beside GPT at the same gap: one network reads both sides of a hidden word, its twin the left side only.

   What the reader sets in a place of the page is in `state`; `paint` writes it, and what both networks say of it, into
   the box. To fill a gap takes some milliseconds, so no worker is needed. The weights are loaded once, when the reader
   comes near. Until then, what the library said of one sentence stands there. */
(function nextwordGap() {

  /** Buttons that set the part up. The tokens of `hide` are hidden where they first stand in the text. */
  const QUESTIONS = [
    {
      ask: "Taller than whom?", text: "Tom is much taller than his brother, who is still a child.", hide: " brother",
      task: "Who is still a child? Then write “woman” in place of “child”: has BERT read that word, or has it only " +
        "seen that the sentence goes on?",
    },
    {
      ask: "And the coat?", text: "She took her coat off and sat down.", hide: " took",
      task: "What does one do with a coat before one sits down? The other network has read “She”, and no more.",
    },
    {
      ask: "Please do what?", text: "We have no milk, so please buy some on your way home.", hide: " buy",
      task: "What is to be done? Which of the two networks knows that the sentence goes on?",
    },
    {
      ask: "What was the night like?", text: "It was so cold last night that the lake froze.", hide: " cold",
      task: "A lake froze. Does BERT know what that takes? Then end the sentence behind “night”: what has the lake " +
        "done to its answer?",
    },
    {
      ask: "Is or are?", text: "There are two books on the table.", hide: " are",
      task: "The answer stands on the right. Look at it, and then write “a book” in place of “two books”: which " +
        "column changes, and which one cannot?",
    },
    {
      ask: "Nothing on the right?", text: "We have no milk, so please buy some on your way home", hide: " home",
      task: "The gap is the end of the text, so both networks see the same. Which one answers better? Then add a " +
        "full stop: why does that mean so much to BERT?",
    },
    {
      ask: "Two at once?", text: "I want to go for a walk.", hide: " want to",
      task: "Two neighbours are hidden, and BERT fills each without knowing what it puts into the other. What could " +
        "go wrong?",
    },
  ];

  const NETWORKS = { both: "bert_both_ways", left: "bert_left_to_right" };
  const HEADS = { both: ["both sides", "BERT"], left: ["left side only", "GPT’s way"] };
  const STOOD_THERE = "stood there", BEST_OF_EACH = "best of each place";
  const MOST_TOKENS = 60;  // with the start of the text; the networks learnt from windows of 64
  const MOST_CHARACTERS = 600;
  const MOST_HIDDEN = 3;
  const BEST = 6;  // words of each network that stand in the table
  const FILLS = 4;  // pairs or triples of BERT's two best words that do
  const SHOULD_DIFFER_LESS = 1e-3;  // ln p here and in the library
  const AT_ONCE = 20;  // milliseconds of reading between two pictures
  const PREFIX = "#gap:";  // begins a link to a state

  const boxes = [...document.querySelectorAll('.nw-live[data-live="gap"]')];
  if (!boxes.length) return;
  const missing = Object.entries({
    "engine.js": typeof nextwordEngine, "parts.js": typeof nextwordParts, "encoder.js": typeof nextwordEncoder,
    "tokenizer.js": typeof NEXTWORD === "undefined" ? "undefined" : typeof NEXTWORD.tokenizer,
  }).filter(([, type]) => type === "undefined").map(([file]) => file);
  if (missing.length) {  // what was stored in the page stays where it is
    boxes[0].append(`The networks cannot run: a script of this page is missing (${missing.join(", ")}).`);
    return;
  }
  const engine = nextwordEngine(), { ByteBPE, bytesOf, readSafetensors, logSoftmax } = engine;
  const { MaskedLM } = nextwordEncoder(engine);
  const {
    h, fill, say, withArrows, quiet, covering, wordInput, inNextFrame, whenNear, sum, highest, percent, oneIn, signed,
    quoted, inQuotes, table, column, bar, tokensOf, copying, followLinks, contentOf, storedIn,
  } = nextwordParts();
  const bpe = new ByteBPE(NEXTWORD.tokenizer), { isWhole, sign, seen, spoken, chips } = tokensOf(bpe);
  const V = bpe.end + 1, MASK = V;  // [MASK] is the first id behind the words
  const example = storedIn(boxes[0]);

  // --- 1. The two networks ------------------------------------------------------------------------------------------

  const models = {};  // both and left, as soon as they are awake
  let trouble = "", difference = 0;

  /** Load both networks, and compare them with what is stored of the example. */
  async function wake() {
    for (const [side, name] of Object.entries(NETWORKS)) {
      const content = await contentOf(name, `weights_${name}.js`);
      models[side] = new MaskedLM(content.config, readSafetensors(bytesOf(content.base64)));
      delete content.base64;  // 2 MB that nobody needs any more
    }
    const { ids, hidden } = example, said = ask(ids, hidden);
    for (const side of Object.keys(NETWORKS)) {
      for (const [id, value] of Object.entries(example[side])) {
        difference = Math.max(difference, Math.abs(value - said[side][0][id]));
      }
    }
  }

  const awake = () => Boolean(models.both && models.left);

  /** ln p of every word at some places of a text, (V,) for each; no word is [MASK], [CLS] or [SEP]. */
  function logP(model, ids, places) {
    const scores = model.logits(model.read(ids), places), all = model.config.vocab_size;
    return places.map((_, i) => logSoftmax(scores.subarray(i * all, i * all + V)));
  }

  /** BERT reads the whole text, with [MASK] where something is hidden. */
  function fromBothSides(ids, hidden) {
    return logP(models.both, ids.map((id, t) => (hidden.includes(t) ? MASK : id)), hidden);
  }

  /** Its twin reads what stands before each place, and says what comes next. */
  function fromTheLeft(ids, hidden) {
    return logP(models.left, ids.slice(0, Math.max(...hidden)), hidden.map((t) => t - 1));
  }

  const ask = (ids, hidden) => ({ both: fromBothSides(ids, hidden), left: fromTheLeft(ids, hidden) });

  /** ln p of a hidden word for BERT where the text ends with it: BERT, too, with the left side only. */
  const cutOff = (ids, t) => fromBothSides(ids.slice(0, t + 1), [t])[0][ids[t]];

  /** What the library said of the example: of the best words only, and NaN of all others. */
  function stored() {
    const row = (side) => {
      const all = new Float32Array(V).fill(NaN);
      for (const [id, value] of Object.entries(example[side])) all[id] = value;
      return [all];
    };
    return { both: row("both"), left: row("left") };
  }

  /** Ways to fill several places, {words, from, both, inTurn, left}, with ln p by three rules: BERT fills each place
      for itself and multiplies; BERT is asked again after each word; its twin writes from the left. */
  function fills(ids, hidden, alone) {
    const put = (words) => ids.map((id, t) => words[hidden.indexOf(t)] ?? id), known = new Map();
    /** ln p for BERT at the place behind these words, while all later places are hidden. */
    const behind = (words) => {
      const key = words.join();
      if (!known.has(key)) known.set(key, fromBothSides(put(words), hidden.slice(words.length))[0]);
      return known.get(key);
    };
    const write = (next) => hidden.reduce((words) => [...words, highest(next(words), 1)[0]], []);
    let pairs = [[]];
    for (const row of alone) pairs = pairs.flatMap((words) => highest(row, 2).map((id) => [...words, id]));
    const product = (words) => sum(words.map((id, n) => alone[n][id]));
    pairs = pairs.sort((a, b) => product(b) - product(a)).slice(0, FILLS);
    const found = new Map();
    const add = (words, ...from) => {
      const before = found.get(words.join());
      if (before) return before.from.push(...from);
      return found.set(words.join(), {
        words, from, both: product(words),
        inTurn: sum(words.map((id, n) => behind(words.slice(0, n))[id])),
        left: sum(fromTheLeft(put(words), hidden).map((row, n) => row[words[n]])),
      });
    };
    add(hidden.map((t) => ids[t]), STOOD_THERE);
    add(pairs[0], BEST_OF_EACH);
    add(write(behind), "BERT, asked again");
    add(write((words) => fromTheLeft(put(words), [hidden[words.length]])[0]), "GPT’s way");
    for (const words of pairs.slice(1)) add(words);
    return [...found.values()];
  }

  // --- 2. Texts and tokens ------------------------------------------------------------------------------------------

  /** A text as the networks read it: {text, ids, unread}. Of a long one the last `unread` tokens are not read. */
  function reading(text) {
    const all = bpe.encode(text);
    let n = Math.min(all.length, MOST_TOKENS - 1);
    if (n < all.length) while (n > 0 && !isWhole(all.slice(0, n))) n--;
    const cut = n < all.length ? bpe.decode(all.slice(0, n)) : text;
    return { text: cut, ids: [bpe.end, ...bpe.encode(cut)], unread: all.length - n };
  }

  /** Where the tokens of `part` stand in ids. */
  function find(ids, part) {
    const wanted = bpe.encode(part), at = ids.findIndex((_, t) => wanted.every((id, i) => ids[t + i] === id));
    return wanted.map((_, i) => at + i);
  }

  /** The hidden places of a text after it was edited: those before and behind what has changed stay. */
  function carried(hidden, before, after) {
    const shorter = Math.min(before.length, after.length);
    let head = 0, tail = 0;
    while (head < shorter && before[head] === after[head]) head++;
    while (tail < shorter - head && before.at(-1 - tail) === after.at(-1 - tail)) tail++;
    return hidden.filter((t) => t < head || t >= before.length - tail)
      .map((t) => (t < head ? t : t + after.length - before.length));
  }

  const word = (id) => (id === bpe.end ? "the end of the text" : quoted(bpe.decode([id]).trim()));
  const together = (ids) => quoted(bpe.decode(ids).trim());

  /** Python that prints the numbers of this part. */
  function inPython(text, hidden) {
    return [
      "import torch", "from nextword.book import models", "",
      `both, bpe, _ = models.load("${NETWORKS.both}")`, `left, _, _ = models.load("${NETWORKS.left}")`,
      "V = bpe.vocab_size  # [MASK] is the first id behind the words",
      `ids = torch.tensor([[bpe.special_tokens["<|endoftext|>"], *bpe.encode_ordinary(${inQuotes(text)})]])`,
      "masked = ids.clone()", `masked[0, ${JSON.stringify(hidden)}] = V`,
      `for t in ${JSON.stringify(hidden)}:`,
      "    with torch.inference_mode():",
      "        said = {\"both sides\": both(masked).logits[0, t], \"left side\": left(ids[:, :t]).logits[0, -1]}",
      "    for name, scores in said.items():",
      "        ln_p = scores[:V].log_softmax(-1)",
      `        best = ln_p.topk(${BEST}).indices.tolist()`,
      "        for i in dict.fromkeys([int(ids[0, t]), *best]):  # what stood there, and the best words",
      "            print(f\"{t:2} {name:10} {bpe.decode([i])!r:16} {100 * ln_p[i].exp():.2f} %, ln p {ln_p[i]:.3f}\")",
    ].join("\n");
  }

  function toHash({ text, hidden, guess, covered }) {
    const link = new URLSearchParams({ text, hidden });
    if (guess) link.set("guess", guess);
    if (covered) link.set("covered", 1);
    return PREFIX + link;
  }

  // --- 3. One place of the page -------------------------------------------------------------------------------------

  function view(box) {
    /** What the reader set. `hidden` are places in `ids`; while `covered`, the answers wait for a guess. */
    const state = { ...reading(example.text), hidden: example.hidden, guess: "", covered: false, question: null };
    let answer = { key: "" };  // {key, said, cut or fills}
    let each = { key: "", both: [], left: [] };  // ln p of each token, hidden alone
    let note = "";

    const set = (changes) => {
      note = "";
      Object.assign(state, changes);
      paint();
    };

    function toggle(t) {
      const { hidden } = state, hides = !hidden.includes(t);
      if (hides && hidden.length === MOST_HIDDEN) {
        note = `At most ${MOST_HIDDEN} tokens can be hidden at once: choose one of them to show it again.`;
        return paint();
      }
      const others = hidden.filter((other) => other !== t);
      return set({ hidden: hides ? [...others, t].sort((a, b) => a - b) : others, guess: "", covered: false });
    }

    function choose(number) {
      const { text, hide } = QUESTIONS[number], fresh = reading(text);
      editor.hidden = true;
      set({ ...fresh, hidden: find(fresh.ids, hide), guess: "", covered: true, question: number });
    }

    /** Take over the state that a link asks for. */
    function take(link) {
      if (!link.has("text")) return false;
      textarea.value = link.get("text").slice(0, MOST_CHARACTERS);  // which writes all ends of lines alike
      editor.hidden = true;
      const fresh = reading(textarea.value), wanted = (link.get("hidden") ?? "").split(",");
      const hidden = fresh.ids.map((_, t) => t).slice(1).filter((t) => wanted.includes(`${t}`)).slice(0, MOST_HIDDEN);
      return set({
        ...fresh, hidden, covered: link.has("covered") && hidden.length > 0, question: null,
        guess: (link.get("guess") ?? "").slice(0, input.maxLength),
      });
    }

    function typed(text) {
      const fresh = reading(text);
      set({ ...fresh, hidden: carried(state.hidden, state.ids, fresh.ids), covered: false });
    }

    // Controls, built once

    const status = h("p", { class: "lv-status", role: "status" });
    const buttons = QUESTIONS.map(({ ask: label }, n) => (
      h("button", { type: "button", class: "lv-try", onclick: () => choose(n) }, label)
    ));
    const task = h("p", { class: "lv-task", "aria-live": "polite" });
    const tokens = withArrows(h("div", {
      class: "lv-chips", role: "toolbar", "aria-label": "Tokens of the sentence: choose one to hide it",
    }));
    const textarea = h("textarea", {
      rows: 2, maxlength: MOST_CHARACTERS, spellcheck: "false", oninput: () => typed(textarea.value),
    });
    const editor = h("label", { class: "lv-label", hidden: "" }, "Your sentence", textarea);
    const cut = h("p", { class: "lv-trouble" }), hint = h("p", { class: "lv-quiet", role: "status" });
    const edit = h("button", { type: "button", onclick: () => {
      editor.hidden = !editor.hidden;
      textarea.value = state.text;
      set({ covered: false });  // what is hidden stands in the box
      if (!editor.hidden) textarea.focus();
    } }, "Write your own sentence");
    const eachButton = h("button", { type: "button", onclick: () => hideEach() }, "Hide each in turn");
    const copies = copying(() => toHash(state), () => (
      state.hidden.length && !state.covered ? inPython(state.text, state.hidden) : null
    ));
    const input = wordInput();
    const uncover = h("button", { type: "button", onclick: () => {
      tokens.querySelector("[aria-pressed=true]").focus({ preventScroll: true });  // since this button goes
      set({ covered: false });
    } }, "Show the answers");
    const guessing = h("form", { onsubmit: (event) => {
      event.preventDefault();
      set({ guess: input.value.trim(), covered: false });
    } }, h("label", {}, "Your guess ", input), " ", h("button", {}, "Look it up"));
    const said = h("p", { class: "lv-said", "aria-live": "polite" }), answers = h("div", { class: "lv-answer" });
    const average = h("p", { class: "lv-said", "aria-live": "polite" });

    // Painting

    /** Write a number and what it means, unless they stand there already. */
    function tell(element, number, text) {
      if (element.textContent !== `${number} ${text}`) element.replaceChildren(h("b", {}, number), ` ${text}`);
    }

    const paint = inNextFrame(paintNow);

    function paintNow() {
      buttons.forEach((button, n) => button.setAttribute("aria-pressed", n === state.question));
      edit.setAttribute("aria-expanded", !editor.hidden);
      task.hidden = state.question === null;
      say(task, QUESTIONS[state.question]?.task ?? "");
      paintStatus();
      paintTokens();
      paintAnswers();
      copies.show();
    }

    function paintStatus() {
      const close = difference < SHOULD_DIFFER_LESS ? "" : ", which is more than it should be";
      status.classList.toggle("lv-trouble", trouble !== "");
      if (trouble) say(status, `${trouble} The numbers of the first sentence are stored.`);
      else if (!awake()) say(status, "These numbers are stored; the two networks are being loaded.");
      else say(status, "Both networks are awake and run in this browser. On the first sentence they differ from the " +
        `library by at most ${difference.toFixed(6)}${close}.`);
    }

    const isKnown = () => each.key === state.ids.join();

    function paintTokens() {
      const { ids, hidden, covered } = state, known = isKnown();
      fill(tokens, ...chips(ids, (t) => {
        const delta = known ? each.both[t] - each.left[t] : NaN, there = !Number.isNaN(delta);
        const number = there ? signed(delta) : known ? "\u00a0" : "";
        if (t === 0) return { number };
        const isHidden = hidden.includes(t), name = isHidden && covered ? "hidden" : spoken(ids[t]);
        return {
          number, tint: there ? [delta > 0 ? "more" : "less", Math.abs(delta) / 4] : [],
          text: isHidden ? "[MASK]" : null, kind: isHidden ? "lv-gap" : "", on: isHidden, press: () => toggle(t),
          label: there ? `${name}, Δ ${signed(delta)}` : name,
        };
      }));
      cut.hidden = !state.unread;
      say(cut, `The text is cut after ${ids.length - 1} tokens, since the networks learnt from windows of 64; the ` +
        `last ${state.unread} are not read.`);
      say(hint, note || (hidden.length ? "Choose a token to hide it, and a hidden one to show it again." :
        "Nothing is hidden. Choose a token to hide it."));
      eachButton.disabled = !awake() || ids.length === 1;
      if (known && each.done) tell(average, ...averageSentence());
      else say(average, "");
    }

    function paintAnswers() {
      const { ids, hidden, covered } = state, single = hidden.length === 1;
      guessing.hidden = !single;
      uncover.hidden = !covered;
      if (document.activeElement !== input) input.value = state.guess;
      if (covered || !hidden.length) say(said, "");
      if (!hidden.length) return fill(answers);
      if (covered) {
        return fill(answers, covering(single ? "Which token is hidden? Type your guess; then both networks answer." :
          "Which tokens are hidden? Make up your mind, and then let both networks answer."));
      }
      const key = `${ids}|${hidden}`;
      if (awake() && answer.key !== key) {
        const asked = ask(ids, hidden);
        answer = { key, said: asked };
        if (single) answer.cut = cutOff(ids, hidden[0]);
        else answer.fills = fills(ids, hidden, asked.both);
      }
      const isExample = key === `${example.ids}|${example.hidden}`;
      const now = answer.key === key ? answer : isExample ? { said: stored(), cut: example.cut } : null;
      if (!now) {
        say(said, "");
        return fill(answers, covering(trouble ? "Only of the first sentence there are numbers, which are stored." :
          "The numbers come as soon as both networks are awake."));
      }
      fill(answers, ...(single ? gapAnswer(now.said) : fillAnswer(now.said, now.fills)));
      return tell(said, ...(single ? deltaSentence(now.said, now.cut) : fillSentence(now.fills)));
    }

    // One gap

    function gapAnswer({ both: [both], left: [left] }) {
      const right = state.ids[state.hidden[0]], guess = state.guess ? guessed() : [];
      const rest = new Set([...highest(both, BEST), ...highest(left, BEST)]);
      const mean = (id) => Math.exp(both[id]) + Math.exp(left[id]), order = [...rest].sort((a, b) => mean(b) - mean(a));
      const cell = (row, id, bits) => {
        if (Number.isNaN(row[id])) return h("td", {}, "…");
        const p = Math.exp(row[id]), cost = h("small", {}, ` ${(-row[id] / Math.LN2).toFixed(1)}\u00a0bits`);
        return h("td", {}, bar(p), ...(bits ? [oneIn(p), cost] : [percent(p)]));
      };
      const line = (id, what = "") => h("tr", { class: what ? "lv-guess" : null },
        h("th", { scope: "row" }, h("span", { class: "lv-token" }, ...seen(id)), what ? h("small", {}, what) : null),
        cell(both, id, what !== ""), cell(left, id, what !== ""));
      const first = guess.length > 1 ? `your guess, the first of its ${guess.length} tokens` : "your guess";
      const above = [line(right, guess[0] === right ? `${STOOD_THERE}, as you guessed` : STOOD_THERE)];
      if (guess.length && guess[0] !== right) above.push(line(guess[0], first));
      const heads = Object.values(HEADS).map(([name, small]) => column(name, small));
      return [table("Probability of the hidden token", ["token", ...heads],
        [...above, ...order.filter((id) => id !== right).map((id) => line(id))], "lv-models")];
    }

    /** The ids of the guess, with a space before it where the hidden token has one. */
    function guessed() {
      const space = bpe.decode([state.ids[state.hidden[0]]]).startsWith(" ") ? " " : "";
      return bpe.encode(space + state.guess);
    }

    /** Δ ln p, and what it means. */
    function deltaSentence({ both: [both], left: [left] }, cut) {
      const [t] = state.hidden, id = state.ids[t], delta = both[id] - left[id];
      const times = Number(Math.exp(Math.abs(delta)).toPrecision(2)).toLocaleString("en");
      const means = () => {
        if (t === state.ids.length - 1) return "Nothing stands on the right, so this is how far the trainings differ.";
        const more = delta > 0 ? `${times} times as likely` : `less likely, by a factor of ${times}`;
        return `With the right side in sight, ${word(id)} is ${times === "1" ? "as likely as without" : more}. BERT ` +
          `itself gives it ${oneIn(Math.exp(cut))} when the right side is cut off.`;
      };
      return [`Δ ln p = ${signed(delta)}.`, means()];
    }

    // Several gaps

    function fillAnswer({ both }, ways) {
      const { hidden } = state;
      const best = both.map((row, n) => h("li", {}, `Place ${n + 1}: `, ...highest(row, 2).flatMap((id, i) => [
        i ? ", " : "", h("span", { class: "lv-token" }, ...seen(id)), ` ${percent(Math.exp(row[id]))}`,
      ])));
      const [right, ...others] = ways, cell = (ln) => h("td", {}, oneIn(Math.exp(ln)));
      const pieces = (words) => words.flatMap((id, n) => [...(n ? [sign("|")] : []), ...seen(id)]);
      const rows = [right, ...others.sort((a, b) => b.both - a.both)].map(({ words, from, ...ln }) => (
        h("tr", { class: from[0] === STOOD_THERE ? "lv-guess" : null },
          h("th", { scope: "row" }, h("span", { class: "lv-token" }, ...pieces(words)),
            h("small", {}, from.join("; "))),
          cell(ln.both), cell(ln.inTurn), cell(ln.left))
      ));
      const heads = [column("BERT", "each place for itself"), column("BERT", "asked again after each token"),
        column("GPT’s way", "one after the other")];
      return [
        quiet("BERT’s two best tokens for each place, while all are hidden:"), h("ul", {}, ...best),
        table(`Probability of ${hidden.length} tokens together`, ["tokens", ...heads], rows, "lv-models"),
      ];
    }

    function fillSentence(ways) {
      const [right] = ways, best = ways.find(({ from }) => from.includes(BEST_OF_EACH));
      const p = (ln) => oneIn(Math.exp(ln));
      return [`${together(best.words)}: ${p(best.both)}`, "by multiplying the best of each place, and " +
        `${p(best.inTurn)} when BERT is asked again after each token. For ${together(right.words)}, which stood ` +
        `there, ln p is ${signed(right.both)} by multiplying, ${signed(right.inTurn)} asked again, and ` +
        `${signed(right.left)} from the left.`];
    }

    // Each token in turn

    async function hideEach() {
      const { ids } = state, places = ids.map((_, t) => t).slice(1);
      const left = fromTheLeft(ids, places).map((row, i) => row[ids[i + 1]]);
      const mine = each = { key: ids.join(), both: [NaN], left: [NaN, ...left], done: false };
      let began = performance.now();
      for (const t of places) {
        mine.both[t] = fromBothSides(ids, [t])[0][ids[t]];
        if (performance.now() - began < AT_ONCE) continue;
        paint();
        await new Promise(requestAnimationFrame);
        if (each !== mine || !isKnown()) return;  // another text
        began = performance.now();
      }
      mine.done = true;
      paint();
    }

    function averageSentence() {
      const n = state.ids.length - 1, deltas = each.left.map((left, t) => each.both[t] - left).slice(1);
      const bits = (side) => (-sum(each[side].slice(1)) / n / Math.LN2).toFixed(1);
      const helped = deltas.filter((delta) => delta > 0).length;
      return [`Δ ln p = ${signed(sum(deltas) / n)} on average`, "when each token is hidden alone. The right side " +
        `helps at ${helped} of ${n}. A token costs ${bits("both")} bits with both sides in sight, ` +
        `${bits("left")} with the left one.`];
    }

    fill(box, status, h("div", { class: "lv-row" }, h("span", { class: "lv-quiet" }, "Try"), ...buttons), task, tokens,
      cut, hint, average, h("div", { class: "lv-row" }, edit, eachButton, ...copies.buttons), editor, copies.code,
      h("div", { class: "lv-row" }, guessing, uncover), said, answers);
    paintNow();
    return { paint, take };
  }

  // --- 4. Start: the stored example first, and the networks when the reader comes near ------------------------------

  const views = boxes.map(view);
  performance.mark("nextword gap stored");
  let asked = false;
  async function come() {
    if (asked) return;
    asked = true;
    try {
      await wake();
    } catch (error) {
      trouble = `The networks cannot run: ${error.message}.`;
    }
    for (const { paint } of views) paint();
    performance.mark("nextword gap awake");
  }
  whenNear(boxes, come, "1200px");
  followLinks(PREFIX, boxes[0], views[0].take);  // who follows one comes near
})();
