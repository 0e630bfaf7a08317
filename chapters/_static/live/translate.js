/* The book's translators in the chapters on GNMT and on the Transformer: a reader types an English sentence, sees where
   each Spanish word looks, forces another word, and mutes heads.

   A place is <div class="nw-live" data-live="gnmt"> or "transformer", after the model that answers there first. What
   the reader sets is in `state`. `update` asks the models, which answer within milliseconds, and puts what they said
   into `shown`; `paint` writes both into the place. Until the weights are there, `shown` is what the library has
   stored. */
(function nextwordTranslate() {
  "use strict";

  const MODELS = {
    gnmt: { file: "gnmt_en_es", kind: "GNMT", name: "LSTM with attention", label: "LSTM with attention (GNMT's kind)" },
    transformer: { file: "transformer_en_es", kind: "Transformer", name: "Transformer", label: "Transformer" },
  };
  const NAMES = Object.keys(MODELS);

  /** Buttons that set a place up, with the task that is then written below them. `word` is offered for forcing. */
  const QUESTIONS = [
    {
      places: NAMES, ask: "Does attention cross?", text: "I want a black cat.", at: 2,
      task: "“Black” stands before “cat”, and “negro” behind “gato”. Where will the pieces of “gato” look, and where " +
        "those of “negro”? Make your guess, and then choose them one after the other.",
    },
    {
      places: NAMES, ask: "What does one word decide?", text: "The teacher is tired.", at: 0, word: "La",
      task: "In Spanish the teacher must be a man or a woman; the English does not say which. Guess which words " +
        "change when the first one is “La”, and force it. Does the ending of the adjective follow the noun, with " +
        "your word and without it? Ask the other model too.",
    },
    {
      places: ["gnmt"], ask: "Is it the likeliest?", text: "The red house is old.", at: 0, word: "La",
      task: "Each word is the likeliest at its place. Is the whole translation then the likeliest? Note its ln p, " +
        "force “La” in place of “El”, and compare.",
    },
    {
      places: ["transformer"], ask: "Which head matters?", text: "I want a black cat.", at: 0,
      task: "Eight heads look at the English sentence before “Quiero” is written. Which would be missed most? Make " +
        "your guess from where they look, and then mute each head in turn.",
    },
    {
      places: NAMES, ask: "A name it never saw?", text: "Blorkin is my friend.", at: 0, word: "Blorkin",
      task: "No sentence of the training has a Blorkin, but each of its pieces is in the vocabulary. Does the model " +
        "copy them? Then force the name: how likely was each piece, and how does the sentence go on?",
    },
  ];

  const MOST_CHARACTERS = 300;
  const MOST_READ = 40;  // tokens of the English sentence
  const EXTRA = 20;  // so many tokens longer may the translation be, as in the library
  const BEST = 5;  // rivals of a word
  const STRONG = 0.5;  // Δ ln p of a muted head that is printed in bold

  const boxes = [...document.querySelectorAll(".nw-live[data-live]")].filter((box) => box.dataset.live in MODELS);
  if (!boxes.length) return;
  const needed = [typeof NEXTWORD, typeof nextwordParts, typeof nextwordTranslators];
  if (needed.includes("undefined") || !NEXTWORD.models.tokenizer_en_es) {  // what was stored in the page stays there
    boxes[0].append("The models cannot run: a script of this page is missing (engine.js, parts.js, translators.js or " +
      "tokenizer_en_es.js).");
    return;
  }
  const engine = nextwordEngine(), translators = nextwordTranslators(engine);
  const { translate, score, meanOf } = translators;
  const {
    h, fill, stops, say, withArrows, radios, labelled, quiet, covering, wordInput, inNextFrame, whenNear, sum, highest,
    percent, oneIn, signed, quoted, inQuotes, tinted, table, column, bar, tokensOf, copying, followLinks, numberIn,
    contentOf, storedIn,
  } = nextwordParts();

  const { special_tokens: special } = NEXTWORD.models.tokenizer_en_es;
  const start = special["<start>"], end = special["<end>"];
  const bpe = new engine.ByteBPE(NEXTWORD.models.tokenizer_en_es);
  bpe.end = end;  // what ends a translation is shown as what ends a text
  const { isPart, seen, spoken } = tokensOf(bpe);
  const stored = storedIn(boxes.find((box) => box.querySelector("script")));

  // --- 1. Models, sentences and words -------------------------------------------------------------------------------

  const minds = {};  // name -> model, of those that are awake
  const waking = {};  // name -> promise
  const facts = {};  // name -> how far the model is from what the library stored

  /** Load a model once for all places. Rejects where its script is missing. */
  function wake(name) {
    return waking[name] ??= (async () => {
      const { file, kind } = MODELS[name], content = await contentOf(file, `weights_${file}.js`);
      const mind = new translators[kind](content.config, engine.readSafetensors(engine.bytesOf(content.base64)));
      delete content.base64;  // the model has its own
      const { ids, best } = stored.models[name], { next } = score(mind, stored.source, ids, { start });
      facts[name] = Math.max(...best.flatMap((words, t) => words.map(([id, value]) => Math.abs(value - next[t][id]))));
      minds[name] = mind;
      performance.mark(`nextword ${name} awake`);
    })();
  }

  /** A sentence as the models read it: {text, source, left}. Of a long one `left` tokens are not read. */
  function reading(typed) {
    const text = typed.trim(), ids = text ? bpe.encode(` ${text}`) : [];
    return { text, source: ids.slice(0, MOST_READ), left: Math.max(0, ids.length - MOST_READ) };
  }

  /** What a model says to a sentence: the ids that it writes, ln p and the likeliest words of each place, and where it
      looked: maps, and their mean. */
  function answer(name, source, conditions = {}) {
    const { ids, next, maps } = translate(minds[name], source, {
      start, end, longest: source.length + EXTRA, ...conditions,
    });
    const isWord = (id) => id < bpe.tokens.length || id === end;
    const best = next.map((row) => highest(row, BEST + 2).filter(isWord).slice(0, BEST).map((id) => [id, row[id]]));
    return { ids, logP: ids.map((id, t) => next[t][id]), best, maps, mean: meanOf(maps) };
  }

  const spelled = (ids) => bpe.decode(ids.filter((id) => id < bpe.tokens.length)).trim();

  /** A token within a sentence of the page. */
  const named = (id) => (id === end ? "the end" : isPart(id) ? `byte ${seen(id)}` : quoted(spelled([id])));

  /** Whether a token goes on with the word before it. */
  const goesOn = (id) => id !== end && !/^[\s.,;:!?]/u.test(bpe.decode([id]));

  /** Tokens in a row, the pieces of a word under one bracket. `look(t)` gives {number, tint, kind, button}, with what
      makes a token a button. */
  function wordChips(ids, look) {
    const chip = (t) => {
      const { number, tint, kind = "", button = null } = look(t), attributes = { class: `lv-chip ${kind}` };
      const inside = [h("span", { class: "lv-token" }, ...seen(ids[t])), h("small", {}, number)];
      const pressed = { type: "button", "data-key": t, ...attributes, ...button };
      return tinted(button ? h("button", pressed, ...inside) : h("span", attributes, ...inside), ...tint);
    };
    const row = [];
    for (let t = 0, ends; t < ids.length; t = ends) {
      for (ends = t + 1; ends < ids.length && goesOn(ids[ends]);) ends++;
      const chips = Array.from({ length: ends - t }, (_, i) => chip(t + i)), word = spelled(ids.slice(t, ends));
      if (chips.length === 1) row.push(...chips);
      else row.push(h("span", { class: "lv-bracket lv-pieces", role: "group", "aria-label": word },
        h("span", { class: "lv-quiet", "aria-hidden": "true" }, word), h("span", { class: "lv-chips" }, ...chips)));
    }
    return row;
  }

  const favourite = (row) => highest(row, 1)[0];

  /** Fill a box of buttons. Whoever comes with the Tab key comes to the one that is pressed. */
  function refill(box, ...children) {
    fill(box, ...children);
    const pressed = stops(box).find((button) => button.getAttribute("aria-pressed") === "true");
    if (!pressed || box.contains(document.activeElement)) return;
    for (const button of stops(box)) button.tabIndex = button === pressed ? 0 : -1;
  }

  // --- 2. A place: its state, and what the models say to it ---------------------------------------------------------

  function open(box) {
    const home = box.dataset.live, questions = QUESTIONS.filter(({ places }) => places.includes(home));

    /** What the reader set. `at` is the chosen place of the translation; `forced` maps places to ids; `head` is a
        "layer.head", or null for the mean; heads in `mute` are silent; `each`: every head is muted in turn. */
    const NOTHING = { forced: new Map(), head: null, mute: new Set(), each: false };
    const state = { text: stored.text, model: home, at: stored.at, question: null, ...NOTHING };

    /** What the models said: {text, source, left, free: {name: answer}, now, at, change}. `now` is the chosen model's
        answer with forced words and silent heads, and null if there is none; `change` maps heads to Δ ln p. */
    let shown, trouble = null, hovered = null;

    function set(changes) {
      Object.assign(state, changes);
      if ("model" in changes) load();
      soon();
    }

    const choose = ({ text, at, word = "" }, question) => {
      own.value = word;
      set({ ...NOTHING, text, at, question, model: home });  // of which the task speaks
    };

    /** Write these ids at place t, and forget what was forced behind it: what stands there will be other words. */
    function force(t, ids) {
      const kept = [...state.forced].filter(([place]) => place < t);
      set({ forced: new Map([...kept, ...ids.map((id, i) => [t + i, id])]), at: t });
    }

    /** The ids of a word as it would stand at the chosen place: within a word no space comes before it. */
    function typedIds(word) {
      const { now, at } = shown, inside = now.ids[at] !== end && /^\p{L}/u.test(bpe.decode([now.ids[at]]));
      return bpe.encode(/^[\p{L}\p{N}¿¡]/u.test(word) && !inside ? ` ${word}` : word);
    }

    async function load() {
      const name = state.model;
      trouble = null;
      try {
        await wake(name);
        if (name === state.model) forgetForeignHeads();
      } catch (error) {
        if (name === state.model) trouble = `The ${MODELS[name].name} stays asleep (${error.message}).`;
      }
      soon();
    }

    // A link brings the state along; it begins with the name of the place, and a colon.

    function toHash() {
      const { text, model, at, forced, head, mute, each } = state, link = new URLSearchParams({ text, model, at });
      if (forced.size) link.set("forced", Array.from(forced, (pair) => pair.join(":")));
      if (head) link.set("head", head);
      if (mute.size) link.set("mute", [...mute]);
      if (each) link.set("each", 1);
      return `#${home}:${link}`;
    }

    /** Drop heads that the model does not have: a link may name any. */
    function forgetForeignHeads() {
      const has = (head) => heads().some(({ name }) => name === head);
      if (!has(state.head)) state.head = null;
      state.mute = new Set([...state.mute].filter(has));
    }

    /** Take over the state that a link asks for. */
    function take(link) {
      if (!link.has("text")) return false;
      const list = (name) => (link.get(name) ?? "").split(",").filter(Boolean);
      const last = MOST_READ + EXTRA - 1, fits = ([t, id]) => t <= last && (id in bpe.tokens || id === end);
      const pairs = list("forced").filter((pair) => /^\d+:\d+$/.test(pair)).map((pair) => pair.split(":").map(Number));
      input.value = link.get("text").slice(0, MOST_CHARACTERS);  // it has one line only
      return set({
        text: input.value, model: NAMES.includes(link.get("model")) ? link.get("model") : home, question: null,
        at: Math.round(numberIn(link, "at", 0, last) ?? 0), each: link.has("each"), head: link.get("head"),
        forced: new Map(pairs.filter(fits)), mute: new Set(list("mute")),
      });
    }

    function update() {
      const read = reading(state.text), { source } = read, free = {}, { model, forced, mute } = state;
      for (const name of NAMES) {
        if (minds[name] && source.length) free[name] = answer(name, source);
        else if (source.join() === stored.source.join()) free[name] = { ...stored.models[name], maps: null };
      }
      const conditions = minds[model] && source.length && (forced.size || mute.size);
      const now = conditions ? answer(model, source, { forced, mute }) : free[model] ?? null;
      const at = now ? Math.min(state.at, now.ids.length - 1) : 0;
      const change = state.each && now?.maps ? changes(source, now.ids.slice(0, at + 1)) : {};
      shown = { ...read, free, now, at, change };
    }

    /** How much ln p of the last of these ids changes when one more head is silent, for each head. */
    function changes(source, ids) {
      const mind = minds[state.model];
      const logP = (mute) => score(mind, source, ids, { start, mute }).next.at(-1)[ids.at(-1)];
      const whole = logP(state.mute);
      return Object.fromEntries(heads().filter(({ name }) => !state.mute.has(name)).map(({ name }) => (
        [name, logP(new Set([...state.mute, name])) - whole]
      )));
    }

    /** The heads that look at the source: {name, layer, head}; none where the model has only one. */
    function heads() {
      if (state.model !== "transformer" || !minds.transformer) return [];
      const { n_layers, n_heads } = minds.transformer.config;
      return Array.from({ length: n_layers * n_heads }, (_, i) => {
        const layer = Math.floor(i / n_heads), head = i % n_heads;
        return { name: `${layer}.${head}`, layer, head };
      });
    }

    const looker = () => (
      state.head ? `head ${state.head}` : state.model === "transformer" ? "the mean of all heads" : "the decoder"
    );

    /** Where each word looked, of the chosen head or as a mean. */
    function looks() {
      const [layer, head] = (state.head ?? "").split(".");
      return state.head && shown.now.maps?.[layer]?.[head] ? shown.now.maps[layer][head] : shown.now.mean;
    }

    // --- 3. Writing into the place ----------------------------------------------------------------------------------

    const soon = inNextFrame(paint);

    /** Ask the models and write everything. */
    function paint() {
      update();
      if (hovered >= (shown.now?.ids.length ?? 0)) hovered = null;
      paintStatus();
      paintControls();
      const { now, source } = shown;
      none.hidden = now !== null;
      answers.hidden = now === null;
      if (!now) {
        say(none, source.length ? `The translation follows as soon as the ${MODELS[state.model].name} is awake.` :
          "There is nothing to translate: type an English sentence.");
        return;
      }
      paintTranslation();
      fill(matrix, matrixTable());
      paintLook();
      paintForce();
      fill(scores, scoreTable());
      paintHeads();
    }

    function paintStatus() {
      const { name } = MODELS[state.model], far = facts[state.model];
      status.classList.toggle("lv-trouble", trouble !== null);
      say(status, trouble ?? (far === undefined ? `These numbers are stored; the ${name} is loaded as you come near.` :
        `The ${name} runs in this browser. For ${quoted(stored.text)} its ln p are within ${far.toFixed(5)} of those ` +
        "that the library computed, which are stored with four decimals."));
    }

    function paintControls() {
      if (input.value !== state.text) input.value = state.text;
      models.show(state.model);
      tries.forEach((button, n) => button.setAttribute("aria-pressed", n === state.question));
      task.hidden = state.question === null;
      say(task, questions[state.question]?.task ?? "");
      cut.hidden = shown.left === 0;
      say(cut, `The sentence is cut after ${MOST_READ} tokens; the last ${shown.left} are not read.`);
      copies.show();
    }

    function paintTranslation() {
      const { now, at } = shown, stopped = now.ids.at(-1) === end ? "" :
        ` (stopped after ${now.ids.length} tokens: it had not come to an end)`;
      say(translation, spelled(now.ids) + stopped);
      refill(written, ...wordChips(now.ids, (t) => {
        const id = now.ids[t], yours = state.forced.get(t) === id ? "yours " : "", p = percent(Math.exp(now.logP[t]));
        const row = looks()[t], most = favourite(row), look = `${named(shown.source[most])}, ${percent(row[most])}`;
        return {
          number: yours + p, tint: ["cost", -now.logP[t] / 8], kind: yours ? "lv-new" : "", button: {
            "aria-label": `${spoken(id)}, ${yours}${p}; looks most at ${look}`, "aria-pressed": t === at,
            onclick: () => set({ at: t }),
          },
        };
      }));
    }

    /** The source, glowing where the word looks that is hovered, focused or chosen. */
    function paintLook() {
      const { now, source, at } = shown, t = hovered ?? at, row = looks()[t];
      say(looking, `Where ${looker()} looks before ${named(now.ids[t])} is written:`);
      fill(read, ...wordChips(source, (s) => ({ number: percent(row[s]), tint: ["more", row[s]] })));
      matrix.querySelectorAll("tbody tr").forEach((line, i) => line.classList.toggle("lv-row-on", i === t));
    }

    function paintForce() {
      const { now, at } = shown;
      say(instead, `Place ${at + 1} of ${now.ids.length}: what else could stand there?`);
      const rows = now.best[at].map(([id, value], n) => {
        const here = id === now.ids[at], p = percent(Math.exp(value));
        const button = h("button", {
          type: "button", class: "lv-word", "data-key": id, "aria-label": `${spoken(id)}, ${p}`, "aria-pressed": here,
          onclick: () => force(at, n ? [id] : []),  // the likeliest would stand there anyway
        }, h("span", { class: "lv-token" }, ...seen(id)));
        return h("tr", {}, h("th", { scope: "row" }, button), h("td", {}, bar(Math.exp(value))),
          h("td", {}, p), h("td", {}, here ? "written" : ""));
      });
      refill(likeliest, table("The five likeliest, after the words before them; choose one to force it", [
        column("word"), h("td"), column("probability"), h("td"),
      ], rows, "lv-rivals"));
      back.hidden = !state.forced.has(at);
      allBack.hidden = !state.forced.size;
      say(back, `Take ${named(now.ids[at])} back`);
    }

    function scoreTable() {
      const row = (name, what, said) => {
        const total = said && sum(said.logP);
        const numbers = said ? [signed(total).replace("+", ""), oneIn(Math.exp(total))] : ["", ""];
        const text = said ? h("span", { lang: "es" }, spelled(said.ids)) : "is loaded when you choose it above";
        return h("tr", {}, h("th", { scope: "row" }, MODELS[name].name, h("small", {}, what)), h("td", {}, text),
          ...numbers.map((number) => h("td", {}, number)));
      };
      const { free, now } = shown, differs = now !== free[state.model];
      const what = [state.forced.size && "with your words", state.mute.size && "with silent heads"].filter(Boolean);
      return table("The whole translation, its log-probability ln p, and its probability p", [
        h("td"), column("translation"), column("ln p"), column("p"),
      ], [
        ...NAMES.map((name) => row(name, "", free[name])),
        ...(differs ? [row(state.model, what.join(" and "), now)] : []),
      ], "lv-scores");
    }

    function matrixTable() {
      const { now, source } = shown, shares = looks();
      const corner = h("td", {}, h("span", { class: "lv-quiet" }, "written ↓ read →"));
      const heads = source.map((id) => h("th", { scope: "col" }, h("span", { class: "lv-upright" }, ...seen(id))));
      const cell = (share) => tinted(h("td", {}, (100 * share).toFixed(0)), "more", share);
      const rows = now.ids.map((id, t) => (
        h("tr", { "data-t": t }, h("th", { scope: "row" }, ...seen(id)), ...Array.from(shares[t], cell))
      ));
      const caption = `Attention of ${looker()} in percent: before each written token (row), how it is shared among ` +
        "the tokens read (columns)";
      return table(caption, [corner, ...heads], rows, "lv-matrix");
    }

    function paintHeads() {
      const { now, at, source, change } = shown, there = now.maps && heads().length > 0;
      headBox.hidden = state.model !== "transformer";
      asleep.hidden = there;
      for (const element of [headRow, grid, verdict, headNote]) element.hidden = !there;
      if (!there) return;
      /** Where each head looks most while the chosen word is written, and what is known of muting it. */
      const found = heads().map(({ name, layer, head }) => {
        const row = now.maps[layer][head][at], most = favourite(row);
        return { name, layer, id: source[most], share: row[most], delta: change[name] };
      });
      refill(grid, headTable(found));
      muteOne.disabled = state.head === null;
      say(muteOne, state.head === null ? "Mute a head: choose it first" :
        state.mute.has(state.head) ? `Let head ${state.head} speak` : `Mute head ${state.head}`);
      noneMuted.hidden = !state.mute.size;
      say(verdict, verdictOn(found.filter(({ delta }) => delta !== undefined)));
    }

    function headTable(found) {
      const { n_layers, n_heads } = minds.transformer.config;
      const cell = ({ name, id, share, delta }) => {
        const told = state.mute.has(name) ? "silent" : delta === undefined ? "" : `Δ ${signed(delta)}`;
        const button = h("button", {
          type: "button", "data-key": name, "aria-pressed": name === state.head,
          "aria-label": `head ${name}: ${percent(share)} on ${named(id)}${told && `, ${told}`}`,
          onclick: () => set({ head: state.head === name ? null : name }),
        }, h("span", { class: "lv-token" }, ...seen(id)), ` ${percent(share)}`,
        h("small", { class: Math.abs(delta) >= STRONG ? "lv-strong" : "" }, told || "\u00a0"));
        return h("td", {}, tinted(button, "more", share));
      };
      const names = Array.from({ length: n_heads }, (_, head) => column(`head ${head}`));
      const rows = Array.from({ length: n_layers }, (_, l) => h("tr", {}, h("th", { scope: "row" }, `layer ${l}`),
        ...found.filter(({ layer }) => layer === l).map(cell)));
      const caption = `Where each head looks most before ${named(shown.now.ids[shown.at])} is written, and with how ` +
        "much of its attention";
      return table(caption, [h("td"), ...names], rows, "lv-heads");
    }

    /** Compare the head that looks hardest with the one that is missed most. */
    function verdictOn(found) {
      if (!found.length) return "";
      const best = (value) => found.reduce((a, b) => (value(b) > value(a) ? b : a));
      const told = ({ name, id, share, delta }) => `${name} (${percent(share)} on ${named(id)}, Δ ${signed(delta)})`;
      const looks = best(({ share }) => share), missed = best(({ delta }) => -delta);
      if (looks === missed) return `The head that looks hardest is also missed most: ${told(looks)}.`;
      return `The head that looks hardest is ${told(looks)}; the one that is missed most is ${told(missed)}.`;
    }

    /** Python that prints what this place shows. */
    function inPython() {
      const { text, left } = shown, { file } = MODELS[state.model];
      const forced = [...state.forced].map(([place, id]) => `${place}: ${id}`).join(", ");
      const silent = heads().filter(({ name }) => state.mute.has(name)).map(({ name, layer, head }) => {
        const { d_model, n_heads } = minds.transformer.config, D = d_model / n_heads;
        const matrix = `model.decoder[${layer}].cross_attention.out.weight`;  // which mixes what the heads found
        return `${matrix}.data[:, ${head * D}:${(head + 1) * D}] = 0  # head ${name}`;
      });
      return [
        "import torch", "from nextword import checkpoints", "from nextword.translation import TranslationTokenizer", "",
        `model, bpe, _ = checkpoints.load("${file}")`, "tokenizer = TranslationTokenizer.from_bpe(bpe)", ...silent,
        `source = tokenizer.encode(${inQuotes(text)})${left ? `[:${MOST_READ}]` : ""}`,
        `forced = {${forced}}  # place: id`, "",
        "step, ids, total = model.step(torch.tensor([source])), [tokenizer.bos_id], 0.0",
        `while ids[-1] != tokenizer.eos_id and len(ids) <= len(source) + ${EXTRA}:`,
        "    log_p, attention = step(torch.tensor([ids]))  # (1, V), (1, S)",
        "    word = forced.get(len(ids) - 1, int(log_p.argmax()))",
        "    ids, total = [*ids, word], total + log_p[0, word].item()",
        "    looks = (100 * attention[0]).round().int().tolist()",
        '    print(f"{bpe.decode([word])!r:12} {log_p[0, word].exp():7.1%}", looks)',
        'print(tokenizer.decode(ids), f"ln p {total:.2f}")',
      ].join("\n");
    }

    // --- 4. The elements of the place -------------------------------------------------------------------------------

    const status = h("p", { class: "lv-status", role: "status" });
    const input = h("input", {
      class: "lv-wide", maxlength: MOST_CHARACTERS, autocomplete: "off", spellcheck: "false", lang: "en",
      oninput: () => set({ ...NOTHING, text: input.value.slice(0, MOST_CHARACTERS), at: 0, question: null }),
    });
    const cut = h("p", { class: "lv-trouble", hidden: "" });
    const tries = questions.map((question, n) => (
      h("button", { type: "button", class: "lv-try", onclick: () => choose(question, n) }, question.ask)
    ));
    const task = h("p", { class: "lv-task", "aria-live": "polite", hidden: "" });
    const labels = Object.fromEntries(NAMES.map((name) => [name, MODELS[name].label]));
    const models = radios("Model", labels, (model) => set({ model, head: null, mute: new Set(), each: false }));

    const none = covering(""), translation = h("q", { lang: "es", "aria-live": "polite" });
    const chips = (role, name) => h("div", { class: "lv-chips", role, "aria-label": name });
    const written = withArrows(chips("toolbar", "Tokens of the translation"));
    const looking = quiet(), read = chips("group", "Tokens of your sentence");
    const matrix = h("div", { class: "lv-scroll", role: "region", tabindex: 0, "aria-label": "Attention" });

    const instead = h("p", { class: "lv-label" }), likeliest = withArrows(h("div"));
    const own = wordInput();
    const ownForm = h("form", { class: "lv-row", onsubmit: (event) => {
      event.preventDefault();
      const ids = own.value.trim() ? typedIds(own.value.trim()) : [];
      if (ids.length) force(shown.at, ids);
    } }, h("label", {}, "or your own: ", own), h("button", {}, "Force it"));
    /** A button that vanishes when it is pressed, and leaves the focus to another. */
    const vanishing = (press, heir, ...label) => (
      h("button", { type: "button", onclick: () => { press(); heir()?.focus(); } }, ...label)
    );
    const rival = () => stops(likeliest).find((button) => button.tabIndex === 0);
    const back = vanishing(() => force(shown.at, []), rival);
    const allBack = vanishing(() => set({ forced: new Map() }), rival, "Take all back");

    const scores = h("div");
    const headTitle = h("p", { class: "lv-label" }, "Looking and mattering: the heads of the cross-attention");
    const asleep = covering("The heads are shown as soon as the Transformer is awake.");
    const muteEach = () => set({ each: true });
    const each = h("button", { type: "button", class: "lv-main", onclick: muteEach }, "Mute each head in turn");
    const muteOne = h("button", { type: "button", onclick: () => {
      const mute = new Set(state.mute);
      if (!mute.delete(state.head)) mute.add(state.head);
      set({ mute });
    } });
    const noneMuted = vanishing(() => set({ mute: new Set() }), () => each, "Let all heads speak");
    const headRow = h("div", { class: "lv-row" }, each, muteOne, noneMuted);
    const grid = withArrows(h("div"), () => minds.transformer.config.n_heads);
    const verdict = h("p", { class: "lv-said", "aria-live": "polite" });
    const headNote = quiet("Choose a head, and the glow and the table above show it alone; choose it again for the ",
      "mean. A muted head still looks, but what it found is replaced by zeros. Δ is how much ln p of the chosen word ",
      "changes without that head: below 0 the head helps this word.");
    const headBox = h("div", {}, headTitle, asleep, headRow, grid, verdict, headNote);

    const copies = copying(toHash, inPython);
    const answers = h("div", {},
      h("p", { class: "lv-now" }, h("span", { class: "lv-quiet" }, "Translation "), translation),
      written, looking, read,
      quiet("Under each token of the translation stands the probability that the model gave it. Choose one with a ",
        "click or with the arrow keys to see where the model looked, and what else could stand there."),
      h("div", { class: "lv-pair" }, matrix, h("div", {}, instead, likeliest, ownForm,
        h("div", { class: "lv-row" }, back, allBack))),
      scores, headBox, h("div", { class: "lv-row" }, ...copies.buttons), copies.code);
    fill(box, status, h("label", { class: "lv-label" }, "Your English sentence", input), cut,
      h("div", { class: "lv-row" }, h("span", { class: "lv-quiet" }, "Try"), ...tries), task,
      labelled("Model", models), none, answers);

    // The word under the mouse or with the focus shows its look at once; what is chosen shows it otherwise.
    const hover = (element) => (event) => {
      const found = event.type === "focusout" || event.type === "mouseleave" ? null : event.target.closest(element);
      const t = found ? Number(found.dataset.key ?? found.dataset.t) : null;
      if (t === hovered || !shown.now || t >= shown.now.ids.length) return;
      hovered = t;
      paintLook();
    };
    for (const type of ["mouseover", "mouseleave", "focusin", "focusout"]) {
      written.addEventListener(type, hover("[data-key]"));
      matrix.addEventListener(type, hover("tr[data-t]"));
    }

    paint();
    whenNear([box], load, "1000px");
    if (box === boxes.find(({ dataset }) => dataset.live === home)) followLinks(`#${home}:`, box, take);
  }

  boxes.forEach(open);
  performance.mark("nextword stored");
})();
