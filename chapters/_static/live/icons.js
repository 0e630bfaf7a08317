/* Words find pictures, and pictures find names: the place <div class="nw-live" data-live="icons">, which this script
   fills.

   What the reader sets is in `state`; `paint` writes it, with what the model says to it. The model reads a text within
   some milliseconds, so that it needs no worker. Its script is loaded when the place comes near, and until then what
   the book's build stored of one text stands there.

   Everything stands in one function, since the scripts of the book's theme share the global scope. */
(function nextwordIcons() {
  "use strict";

  /** Buttons that set the part up. `part` says for which direction, and `task` what is written below it. With `guess`
      the answer stays covered until the reader has guessed; `lot` draws a name or an icon. */
  const QUESTIONS = [
    {
      part: "words", ask: "A name by lot", lot: true, guess: true,
      task: "One of the icons is called so. Guess at which place it comes, and then draw another.",
    },
    {
      part: "words", ask: "Music, or weather?", text: "music",
      task: "Both words stand in training texts, and no icon here is called so. How many of the twelve would you " +
        "accept for music? Then type weather.",
    },
    {
      part: "words", ask: "What does it go by?", text: "lock",
      task: "Bags among the locks, with nearly the same cosine: what have they in common? Then type clock, and mail.",
    },
    {
      part: "words", ask: "Does a word of style count?", text: "compass", guess: true,
      task: "The model has learnt this name from other designers. Guess where the compass of this one comes; then " +
        "type outline behind the name, which is how this designer draws, and then fill in its place.",
    },
    {
      part: "words", ask: "Does the order count?", text: "heart arrow",
      task: "Both words are known, and no icon here is called so. Guess what changes when you swap them, and do it.",
    },
    {
      part: "words", ask: "Does it notice nonsense?", text: "blorp",
      task: "The model does not know this word. Compare the highest cosine with that for rocket, a word that it " +
        "knows: does a high cosine mean that the model is sure?",
    },
    {
      part: "names", ask: "An icon by lot", lot: true, guess: true, list: "seen",
      task: "What would you call it? Guess at which place its designer's name comes, and then draw another.",
    },
    {
      part: "names", ask: "What if no name fits?", icon: "camera", list: "own", own: "pizza, dog, hammer",
      task: "None of the three is right, but the softmax gives all of its 100\u00a0% to them. Which one wins, and " +
        "with which cosine? Then add camera to the list.",
    },
  ];
  /** The answers to choose from, and what they say of a place. `k` is how many icons or names are shown. */
  const GUESSES = [
    { label: () => "first", fits: (place) => place === 1 },
    { label: (k) => `second to ${k}th`, fits: (place, k) => place > 1 && place <= k },
    { label: () => "further back", fits: (place, k) => place > k },
  ];
  const STYLES = ["bold", "duotone", "fill", "light", "line", "outline", "regular", "solid", "thin"];
  const PROMPTS = ["{}", ...STYLES.map((style) => `{} ${style}`)];

  const FOUND = 12;  // icons
  const NAMED = 10;  // names
  const MOST_CHARACTERS = 200;
  const MOST_NAMES = 50;  // of the reader's own list
  const SLICE = 12;  // milliseconds of reading names, and then the page may go on
  const NEAR = "1000px";  // how far below the window the model is loaded
  const PREFIX = "#icons:";  // begins a link to a state; no heading's anchor has a colon

  const places = document.querySelectorAll('.nw-live[data-live="icons"]');
  if (!places.length) return;
  if ([typeof NEXTWORD, typeof nextwordParts, typeof nextwordCLIP].includes("undefined")) {
    for (const box of places) {
      box.append("The model cannot run: a script of this page is missing (engine.js, parts.js or clip.js).");
    }
    return;
  }
  const engine = nextwordEngine();
  const { Words, CLIPTexts, textVector, cosines, shares, placeOf } = nextwordCLIP(engine);
  const {
    h, fill, say, withArrows, radios, labelled, quiet, covering, inNextFrame, whenNear, highest, percent, quoted,
    inQuotes, table, bar, copying, followLinks, contentOf, storedIn,
  } = nextwordParts();
  const example = storedIn(places[0]);

  // --- 1. The model: one for all places ------------------------------------------------------------------------------

  /** The model with the gallery; `vectors` are those of the gallery's names, (N, C), once they have been read. */
  let mind = null;
  let right = example.right;  // how often the right one is found; computed again from the names' vectors
  let trouble = "";
  const painters = [];  // of all places
  const paintAll = () => { for (const paint of painters) paint(); };

  let waking = null;
  /** Load the model, once; whoever asks again waits for the same. */
  function wake() {
    waking ??= load().catch((error) => {
      trouble = `The model could not be loaded (${error.message}); what you see was stored.`;
      paintAll();
    });
    return waking;
  }

  async function load() {
    const content = await contentOf("clip_icons", "clip_icons.js");
    const { gallery, ...weights } = engine.readSafetensors(engine.bytesOf(content.base64));
    const { config, card, words, texts, names, trained, columns, sheet } = content;
    delete content.base64;  // the matrices are there now
    mind = {
      encoder: new CLIPTexts(config, weights), words: new Words(words), gallery, vectors: null,
      names, trained, columns, card,
      texts: new Map(words.map((word, id) => [word, texts[id]])),
    };
    useSheet(sheet, columns, Math.ceil(names.length / columns));
    performance.mark("nextword icons awake");
    paintAll();
    readNames();  // in the background: texts can be looked up already
  }

  const style = h("style");
  document.head.append(style);
  /** Where the pictures are: of the example in one row, of the gallery in several. It is a rule for all icons, since
      each of hundreds would keep a copy of what a variable holds. */
  function useSheet(png, columns, rows) {
    style.textContent = `.nw-live span.lv-icon { --lv-columns: ${columns}; --lv-rows: ${rows};
      mask-image: url(data:image/png;base64,${png}); }`;
  }

  /** Read the names of the gallery, in slices, and count how often the right one is found. */
  async function readNames() {
    const { names, trained, gallery, encoder, words } = mind, N = names.length, C = gallery.length / N;
    const vectors = new Float32Array(N * C), table = new Float32Array(N * N);  // row: name, column: picture
    let began = performance.now();
    for (let n = 0; n < N; n++) {
      const vector = textVector(encoder, words, names[n]);
      vectors.set(vector, n * C);
      table.set(cosines(vector, gallery), n * N);
      if (performance.now() - began < SLICE) continue;
      await new Promise((go) => setTimeout(go));
      began = performance.now();
    }
    mind.vectors = vectors;
    const row = (n) => table.subarray(n * N, (n + 1) * N);
    const ofIcon = (i, n) => Float32Array.from({ length: n }, (_, name) => table[name * N + i]);
    const finds = (from, to, place, k) => {
      const found = Array.from({ length: to - from }, (_, n) => place(from + n));
      return [1, k].map((most) => found.filter((at) => at <= most).length / found.length);
    };
    right = {
      words: [[0, trained], [trained, N]].map(([from, to]) => finds(from, to, (n) => placeOf(row(n), n), FOUND)),
      seen: finds(0, trained, (i) => placeOf(ofIcon(i, trained), i), NAMED),
      all: finds(0, N, (i) => placeOf(ofIcon(i, N), i), NAMED),
    };
    performance.mark("nextword icons named");
    paintAll();
  }

  // --- 2. What it says -----------------------------------------------------------------------------------------------

  const START = {
    text: example.text, mean: false, icon: example.icon, list: "seen", own: "cat, dog, face",
    question: null, covered: null, guess: null,
  };

  const written = (text) => text.toLowerCase();  // as all texts of the training are
  const sizeOf = (list) => (list === "seen" ? example.trained : example.icons);
  const nameOf = (icon) => (mind ? mind.names[icon] : example.found.find(([i]) => i === icon)?.[1]);

  /** A text as the model reads it: the words that it reads, how many are left, and which are unknown. */
  function reading(text) {
    const all = mind.words.split(written(text)), read = all.slice(0, mind.encoder.config.context_length - 1);
    return { read, left: all.length - read.length, unknown: read.filter((word) => !mind.words.ids.has(word)) };
  }

  /** What a text finds: {best: [[icon, name, cosine], …], own, place, cosine}, with the icon that is called so, or -1;
      null while it is not known. */
  function found({ text, mean }) {
    if (!mind) return text === START.text && !mean ? { best: example.found, own: -1 } : null;
    const scores = cosines(textVector(mind.encoder, mind.words, written(text), mean ? PROMPTS : ["{}"]), mind.gallery);
    const best = highest(scores, FOUND).map((icon) => [icon, mind.names[icon], scores[icon]]);
    const own = mind.names.indexOf(mind.words.split(written(text)).join(" "));
    return { best, own, place: own < 0 ? null : placeOf(scores, own), cosine: scores[own] };
  }

  /** The names of the reader's own list, each once. */
  function ownNames(text) {
    const names = text.split(",").map((name) => written(name).trim().replace(/\s+/gu, " "));
    return [...new Set(names)].filter(Boolean);
  }

  /** The names of an icon: {best: [[name, share, cosine, place], …], size, place}, with the place of its own name, or
      null where that is not on the list; null while it is not known. */
  function named({ icon, list, own }) {
    if (!mind || (list !== "own" && !mind.vectors)) {
      if (icon !== START.icon || list !== START.list) return null;
      const best = example.named.map(([name, share, cosine], n) => [name, share, cosine, n + 1]);
      return { best, size: example.trained, place: best.find(([name]) => name === nameOf(icon))?.[3] ?? null };
    }
    const C = mind.encoder.config.d_embed, picture = mind.gallery.subarray(icon * C, (icon + 1) * C);
    const names = list === "own" ? ownNames(own).slice(0, MOST_NAMES) : mind.names.slice(0, sizeOf(list));
    if (!names.length) return { best: [], size: 0, place: null };
    const vectors = list === "own" ? new Float32Array(names.length * C) : mind.vectors.subarray(0, names.length * C);
    if (list === "own") names.forEach((name, n) => vectors.set(textVector(mind.encoder, mind.words, name), n * C));
    const scores = cosines(picture, vectors), parts = shares(scores, mind.encoder.scale);
    const row = (n) => [names[n], parts[n], scores[n], placeOf(scores, n)];
    const best = highest(scores, NAMED).map(row), at = names.indexOf(nameOf(icon));
    const place = at < 0 ? null : placeOf(scores, at);
    if (place > NAMED) best.push(row(at));  // its own name, from further back
    return { best, size: names.length, place };
  }

  // In sentences

  function readingSentences(text) {
    if (!mind) return "";
    const { read, left, unknown } = reading(text), said = [], { texts, words } = example;
    if (!read.length) return "Nothing is typed: the model reads its end token alone, and even that has nearest icons.";
    said.push(`Under each word stands in how many of the ${texts.toLocaleString("en")} training texts it occurs.`);
    if (unknown.length) {
      said.push(`The model knows ${words.toLocaleString("en")} words, and ${quoted(unknown[0])} is none of them: it ` +
        "reads all unknown words as the same token, which was in no training text.");
    }
    if (left) said.push(`It reads ${read.length} words; the last ${left} are left out.`);
    if (text.length === MOST_CHARACTERS) said.push(`The text is cut after ${MOST_CHARACTERS} characters.`);
    return said.join(" ");
  }

  const kindOf = (icon) => (icon < example.trained ? "a name that the model has learnt from other designers" :
    "a name that is new to the model, though its words are not");

  function placeSentence({ own, place, cosine }, text) {
    if (own < 0) return text.trim() ? `No icon here is called ${quoted(written(text).trim())}.` : "";
    return `${quoted(nameOf(own))} is ${kindOf(own)}. The icon that is called so comes at place ${place} of ` +
      `${example.icons}, with a cosine of ${cosine.toFixed(2)}.`;
  }

  function nameSentence({ best, size, place }, icon) {
    const name = `Its designer’s name, ${quoted(nameOf(icon))},`;
    if (place) return `${name} comes at place ${place} of ${size}.`;
    return `${name} is not on this list. The shares add up to 100\u00a0% all the same; the highest cosine is ` +
      `${minus(best[0][2])}.`;
  }

  const minus = (cosine) => cosine.toFixed(2).replace("-", "−");

  // Taking it along

  /** Python that prints what is shown: the icons of the text, and the names of the chosen icon. */
  function inPython({ text, mean, icon, list, own }) {
    const names = { seen: "[icon.name for icon in split.seen]", all: "[icon.name for icon in gallery]" }[list] ??
      `[${ownNames(own).slice(0, MOST_NAMES).map(inQuotes).join(", ")}]`;
    const prompts = mean ? `, prompts=[${PROMPTS.map(inQuotes).join(", ")}]` : "";
    return [
      "from nextword.book import icons, models", "from nextword.contrastive import name_vectors, picture_vectors", "",
      'clip, split = models.load("clip_icons").model, icons.split_icons("Phosphor")',
      "gallery, words = [*split.seen, *split.new], icons.caption_tokenizer(split.train)",
      "pictures = picture_vectors(clip, icons.as_tensor(gallery))", "",
      `text = name_vectors(clip, [${inQuotes(written(text))}], words, icons.END_ID${prompts})[0]`,
      "cosines = pictures @ text",
      `for i in cosines.topk(${FOUND}).indices.tolist():`,
      '    print(f"{cosines[i]:.2f} {gallery[i].name}")',
      ...(names === "[]" ? [] : [
        "", `names = ${names}`, `cosines = name_vectors(clip, names, words, icons.END_ID) @ pictures[${icon}]`,
        "shares = (clip.scale() * cosines).softmax(0)",
        `for i in cosines.topk(min(${NAMED}, len(names))).indices.tolist():`,
        '    print(f"{cosines[i]:.2f} {100 * shares[i]:.1f} % {names[i]}")',
      ]),
    ].join("\n");
  }

  function toHash({ text, mean, icon, list, own }) {
    const link = new URLSearchParams({ text, icon: nameOf(icon), list });
    if (mean) link.set("mean", 1);
    if (list === "own") link.set("own", own);
    return PREFIX + link;
  }

  /** The state that a link asks for. */
  function fromLink(link) {
    const icon = mind.names.indexOf(link.get("icon"));
    return {
      ...START, text: (link.get("text") ?? "").slice(0, MOST_CHARACTERS), mean: link.has("mean"),
      icon: icon < 0 ? START.icon : icon, list: Object.hasOwn(LISTS, link.get("list")) ? link.get("list") : START.list,
      own: (link.get("own") ?? START.own).slice(0, 2 * MOST_CHARACTERS),
    };
  }

  // --- 3. A place in the page ----------------------------------------------------------------------------------------

  const LISTS = {
    seen: `the ${example.trained} trained names`, all: `all ${example.icons} names`, own: "a list of your own",
  };

  /** Fill a place; returns the function that takes over what the reader set. */
  function build(box) {
    const state = { ...START };
    const controls = [];  // functions that write a part of the place

    const paint = inNextFrame(paintNow);

    function paintNow() {
      for (const write of controls) write();
    }

    /** Take over what the reader set. Whatever it is, a guess is over. */
    function set(changes) {
      Object.assign(state, { guess: null, covered: null }, changes);
      wake();
      paint();
    }

    async function choose(question) {
      await wake();
      if (!mind) return;  // the status line says why
      const { part, ask, task, lot, guess, icon, ...settings } = QUESTIONS[question], drawn = {};
      const any = (n) => Math.floor(Math.random() * n);
      if (icon) drawn.icon = mind.names.indexOf(icon);
      if (lot && part === "words") drawn.text = mind.names[any(mind.names.length)];
      if (lot && part === "names") drawn.icon = any(mind.trained);
      if (part === "words") drawn.mean = false;
      set({ ...settings, ...drawn, question, covered: guess ? part : null });
    }

    /** The buttons of QUESTIONS for one direction, with the task of the one that was pressed. */
    function tries(part) {
      const numbers = [...QUESTIONS.keys()].filter((n) => QUESTIONS[n].part === part);
      const buttons = numbers.map((n) => (
        h("button", { type: "button", class: "lv-try", value: n, onclick: () => choose(n) }, QUESTIONS[n].ask)
      ));
      const task = h("p", { class: "lv-task", "aria-live": "polite", hidden: "" });
      controls.push(() => {
        for (const button of buttons) button.setAttribute("aria-pressed", Number(button.value) === state.question);
        const chosen = QUESTIONS[state.question]?.part === part;
        task.hidden = !chosen;
        say(task, chosen ? QUESTIONS[state.question].task : "");
      });
      return h("div", {}, h("div", { class: "lv-row" }, h("span", { class: "lv-quiet" }, "Try"), ...buttons), task);
    }

    /** What stands where the answer will be, until the reader has guessed. */
    function guessing(part, what, k) {
      const buttons = GUESSES.map(({ label }, n) => h("button", {
        type: "button", "data-key": `guess ${n}`, onclick: () => set({ guess: [part, n] }),
      }, label(k)));
      return h("div", { class: "lv-cover" }, what, h("div", { class: "lv-row" }, ...buttons));
    }

    /** How a guess came out, and a space behind it. */
    function verdict(part, place, k) {
      if (state.guess?.[0] !== part) return "";
      const { label, fits } = GUESSES[state.guess[1]];
      return `Your guess, ${label(k)}, is ${fits(place, k) ? "right" : "wrong"}. `;
    }

    /** A picture of the sheet. Before the model is there, the sheet is that of the example. */
    function picture(icon, kind = "") {
      const at = mind ? icon : example.found.findIndex(([i]) => i === icon);
      const columns = mind ? mind.columns : example.found.length;
      const element = h("span", { class: `lv-icon ${kind}`, "aria-hidden": "true" });
      element.style.setProperty("--lv-x", at % columns);
      element.style.setProperty("--lv-y", Math.floor(at / columns));
      return element;
    }

    /** A box for icons as buttons, through which arrow keys lead. */
    function iconsBox(label, kind = "") {
      const list = h("div", { class: `lv-found ${kind}`, role: "group", "aria-label": label });
      return withArrows(list, () => {
        const [first, ...rest] = list.children;
        return 1 + rest.filter((button) => button.offsetTop === first.offsetTop).length;
      });
    }

    function iconButton(icon, attributes, ...inside) {
      const names = () => (QUESTIONS[state.question]?.part === "names" ? null : state.question);  // its task is over
      return h("button", {
        type: "button", "data-key": icon, "aria-pressed": String(icon === state.icon),
        onclick: () => set({ icon, question: names() }), ...attributes,
      }, picture(icon), ...inside);
    }

    const textInput = (maxlength, take) => h("input", {
      class: "lv-wide", maxlength, autocomplete: "off", autocapitalize: "off", spellcheck: "false",
      oninput: ({ target }) => take(target.value),
    });

    // Words find pictures

    function wordsPart() {
      const input = textInput(MOST_CHARACTERS, (text) => {
        set({ text, question: QUESTIONS[state.question]?.lot ? null : state.question });  // a task may say what to type
      });
      const how = radios("How the text is read", { bare: "as typed", mean: `mean over ${PROMPTS.length} prompts` },
        (value) => set({ mean: value === "mean" }));
      const chips = h("div", { class: "lv-chips", role: "group", "aria-label": "Words that the model reads" });
      const notes = h("p", { class: "lv-quiet", role: "status" }), list = iconsBox("The nearest icons");
      const told = h("p", { class: "lv-said", role: "status" }), often = quiet();
      controls.push(() => {
        const { text, mean } = state, answer = found(state), covered = state.covered === "words";
        if (input.value !== text) input.value = text;
        how.show(mean ? "mean" : "bare");
        fill(chips, ...(mind ? reading(text).read.map(wordChip) : []));
        say(notes, readingSentences(text));
        if (covered) fill(list, guessing("words", `At which place does the icon called ${quoted(text)} come?`, FOUND));
        else if (answer) fill(list, ...answer.best.map((row, n) => foundIcon(row, n, answer.own)));
        else fill(list, covering("The icons are shown as soon as the model is there."));
        say(told, answer && !covered ? verdict("words", answer.place, FOUND) + placeSentence(answer, text) : "");
        const [trained, others] = right.words.map((pair) => pair.map(percent));
        say(often, covered ? "" : `Of the ${example.trained} trained names, read as typed, ${trained[0]} have their ` +
          `own icon at the first place and ${trained[1]} among the first ${FOUND}; of the ` +
          `${example.icons - example.trained} new ones ${others[0]} and ${others[1]}.`);
      });
      const some = PROMPTS.slice(0, 3).map((prompt) => quoted(prompt.replace("{}", "heart")));
      return [
        h("label", { class: "lv-label" }, "Words to look up ", input), tries("words"),
        labelled("The text is read", how), chips, notes, list, told, often,
        quiet("Under each icon stand its designer’s name and its cosine with the text. The mean is that of the ",
          `vectors of ${some.join(", ")} and so on, with each word of style.`),
      ];
    }

    function wordChip(word) {
      const texts = mind.texts.get(word), known = texts !== undefined;
      return h("span", { class: "lv-chip" }, h(known ? "span" : "s", { class: "lv-token" }, word),
        h("small", {}, known ? texts.toLocaleString("en") : "unknown"));
    }

    function foundIcon([icon, name, cosine], n, own) {
      const label = `${name}, place ${n + 1}, cosine ${minus(cosine)}${icon === own ? ", the one called so" : ""}`;
      return iconButton(icon, { "aria-label": label }, h("span", {}, name),
        h("small", {}, `${icon === own ? "✓ " : ""}${minus(cosine)}`));
    }

    // Pictures find names

    function namesPart() {
      const shown = h("div", { class: "lv-shown" }), answers = h("div");
      const lists = radios("Names to choose from", LISTS, (list) => set({ list }));
      const own = textInput(2 * MOST_CHARACTERS, (names) => set({ own: names }));
      const ownLabel = h("label", { class: "lv-label" }, "Names, with commas between them ", own);
      const cut = h("p", { class: "lv-trouble", role: "status" });
      const told = h("p", { class: "lv-said", role: "status" }), often = quiet();
      controls.push(() => {
        const { icon, list } = state, covered = state.covered === "names", answer = named(state);
        fill(shown, picture(icon, "lv-large"), h("p", {}, covered ? "What is it?" :
          `Its designer calls it ${quoted(nameOf(icon))}, ${kindOf(icon)}.`));
        lists.show(list);
        ownLabel.hidden = list !== "own";
        if (own.value !== state.own) own.value = state.own;
        const left = list === "own" ? ownNames(state.own).length - MOST_NAMES : 0;
        say(cut, left > 0 ? `The list is cut after ${MOST_NAMES} names; the last ${left} are left out.` : "");
        if (covered) fill(answers, guessing("names", "At which place does its designer’s name for it come?", NAMED));
        else if (!answer) fill(answers, covering("The names are shown as soon as the model has read them."));
        else if (!answer.size) fill(answers, covering("Type names, with commas between them."));
        else fill(answers, namesTable(answer, icon));
        say(told, answer?.size && !covered ? verdict("names", answer.place, NAMED) + nameSentence(answer, icon) : "");
        const [first, ten] = (right[list] ?? []).map(percent);
        say(often, first && !covered ? `Of the ${sizeOf(list)} icons whose names are on this list, ${first} have the ` +
          `right name at the first place and ${ten} among the first ${NAMED}.` : "");
      });
      return [
        h("p", { class: "lv-label lv-second" }, "The other way round: names for an icon"),
        quiet("Choose an icon above, or among all of them at the end."), tries("names"), shown,
        labelled("Names to choose from", lists), ownLabel, cut, answers, told, often, allIcons(),
      ];
    }

    function namesTable({ best, size }, icon) {
      const rows = best.map(([name, share, cosine, place]) => {
        const isOwn = name === nameOf(icon), small = `${place > NAMED ? `place ${place}, ` : ""}its name`;
        return h("tr", { class: isOwn ? "lv-guess" : null },
          h("th", { scope: "row" }, name, isOwn ? h("small", {}, small) : null),
          h("td", {}, bar(share), percent(share)), h("td", {}, minus(cosine)));
      });
      return table(`The nearest of ${size} names: what each gets of the softmax, and its cosine`,
        ["name", "share", "cosine"], rows, "lv-named");
    }

    /** All icons, to choose from. They are drawn when this is opened. */
    function allIcons() {
      const list = iconsBox("All icons", "lv-all");
      const details = h("details", { ontoggle: async () => {
        await wake();
        if (!mind || !details.open || list.childElementCount) return;
        fill(list, ...mind.names.map((name, icon) => iconButton(icon, { "aria-label": name, title: name })));
      } }, h("summary", {}, `All ${example.icons} icons`), list);
      const mark = (button) => button.setAttribute("aria-pressed", Number(button.dataset.key) === state.icon);
      controls.push(() => [...list.children].forEach(mark));
      return details;
    }

    // Taking it along

    function copyPart() {
      const { buttons, code, show } = copying(() => toHash(state), () => inPython(state)), licence = quiet();
      controls.push(show, () => {
        say(licence, mind ? `Licences of the pictures and names: ${mind.card.licence}.` : "");
      });
      return [h("div", { class: "lv-row" }, ...buttons), code, licence];
    }

    const status = h("p", { class: "lv-status", role: "status" });
    controls.push(() => {
      status.classList.toggle("lv-trouble", trouble !== "");
      say(status, trouble || (mind ? "The text encoder runs in this browser; the icons’ vectors are stored." :
        "What you see is stored; the model is loaded when you come near."));
    });
    fill(box, status, ...wordsPart(), ...namesPart(), ...copyPart());
    paintNow();
    painters.push(paint);
    return set;
  }

  // --- 4. Start: the stored example first, and the model when the reader comes near ----------------------------------

  useSheet(example.sheet, example.found.length, 1);
  const setters = Array.from(places, build);
  performance.mark("nextword icons stored");

  whenNear(places, wake, NEAR);

  followLinks(PREFIX, places[0], (link) => {
    wake().then(() => mind && setters[0](fromLink(link)));  // without the model it would not know the icon's name
  });
})();
