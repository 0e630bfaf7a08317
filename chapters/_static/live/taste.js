/* The part "taste" of InstructGPT's chapter: base, supervised, PPO and PPO-ptx go on with one beginning, and judges say
   what they think of it: the reward model that PPO was paid by, and three that training never saw.

   What a place shows at first is stored in it. The models, 12 MB, are loaded when the reader first asks for something.
   Everything stands in one function, since the scripts of the book's theme share the global scope. */
(function nextwordTaste() {
  "use strict";

  const POLICIES = { base: "base", supervised: "supervised", ppo: "PPO", ppo_ptx: "PPO-ptx" };
  const NAMES = Object.keys(POLICIES);
  const JUDGES = {
    reward: ["reward model", "what PPO was paid by"],
    judge: ["second reward model", "never used in training"],
    counts: ["counted words", "never used in training"],
    lexicon: ["lexicon", "never used in training"],
  };
  const METERS = Object.keys(JUDGES), UNPAID = METERS.slice(1);
  const FILES = {  // what a script calls its content, and the script
    base: ["medium", "weights_medium.js"],
    ...Object.fromEntries([...NAMES.slice(1), "reward", "judge"].map((name) => (
      [name, [`taste_${name}`, `weights_taste_${name}.js`]]
    ))),
    tables: ["taste_tables", "taste_tables.js"],
  };
  const TAGS = { "Film:": "Film:", "Product:": "Product:" };

  /** Buttons that set a place up. */
  const QUESTIONS = [
    {
      ask: "Can it pan a film?", tag: "Film:", text: "This is the worst film",
      task: "The verdict is given. Guess which of the four turns it into praise, and press “Write”. Then try other " +
        "seeds.",
    },
    {
      ask: "Which word is paid for?", tag: "Film:", text: "The story of a man who", numbers: true,
      task: "Press “Write”. At which words of PPO does the reward model's number rise most? Do they say anything " +
        "about the film? (What it says of half a sentence nobody taught it; only the last number was ever paid.)",
    },
    {
      ask: "Is one answer enough?", tag: "Product:", text: "i bought this",
      task: "Guess how many nats PPO goes away from the supervised model, and how many PPO-ptx. Press “Write” with " +
        "three seeds: how much do their log ratios scatter? Then let each write 8 more, and look at the means.",
    },
    {
      ask: "Can you fool the judge?", tag: "Film:", text: "great and best and great.",
      task: "Press “Judge this text alone”. Now write a review yourself that the reward model likes and the lexicon " +
        "does not, or the other way round. Which of the two is easier to fool?",
    },
  ];

  const MOST_TOKENS = 60;  // of a beginning, with its tag; the models were trained on texts of 48 at most
  const MOST_CHARACTERS = 1000;
  const TO_WRITE = 40;
  const CONTEXT = 256;
  const MORE = 8;
  const TRIES = 64;
  const SIZES = [1, 2, 4, 8, 16, 32, 64];  // of best of n
  const WIDEST = 4;  // sd at the end of a bar
  const HIGHEST = 6;  // sd at the upper edge of a sparkline
  const MOST_SEED = 999999;
  const PREFIX = "#taste:";  // begins a link to a state

  const places = document.querySelectorAll('.nw-live[data-live="taste"]');
  if (!places.length) return;
  if ([typeof NEXTWORD, typeof nextwordParts, typeof nextwordJudges].includes("undefined") || !NEXTWORD.tokenizer) {
    places[0].append("The models cannot run: a script of this page is missing (engine.js, parts.js, judges.js or " +
      "tokenizer.js).");
    return;
  }
  const { ByteBPE } = nextwordEngine();
  const {
    h, fill, say, radios, labelled, quiet, covering, inNextFrame, sum, listed, quoted, tinted, table, column, tokensOf,
    copying, followLinks, numberIn, contentOf, storedIn,
  } = nextwordParts();
  const bpe = new ByteBPE(NEXTWORD.tokenizer), stored = storedIn(places[0]);
  const { isWhole, chips } = tokensOf(bpe);

  // --- 1. The models, for all places of the page --------------------------------------------------------------------

  /** The `ask` of a new worker; it rejects when the worker breaks down. */
  function newWorker(view) {
    const { ask, worker } = startWorker(view);
    const broken = new Promise((_, reject) => {
      worker.onerror = (event) => reject(new Error(event.message || "a worker stopped"));
    });
    broken.catch(() => {});  // whoever asks is told
    return (...question) => Promise.race([ask(...question), broken]);
  }

  /** One question after the other: the engine drops a question as soon as it is asked a newer one. */
  function inTurn(ask) {
    let last = Promise.resolve();
    return (...question) => {
      const answer = last.then(() => ask(...question));
      last = answer.catch(() => {});
      return answer;
    };
  }

  let panel;  // the worker of all judges
  const awake = {};  // name -> a promise of what the model can be asked: {ask, stop}

  async function start(name) {
    const content = await contentOf(...FILES[name]), { config, base64 } = content;
    if (NAMES.includes(name)) {
      const ask = newWorker();
      await ask("load", { config, base64 });
      return { ask: inTurn(ask), stop: () => ask("stop") };
    }
    panel ??= newWorker(nextwordJudges);
    await (name === "tables" ? panel("loadTables", { base64 }) : panel("loadReward", { name, config, base64 }));
    return { ask: panel };
  }

  function wake(name) {
    awake[name] ??= start(name).catch((error) => {
      delete awake[name];  // the next press tries again
      throw error;
    });
    return awake[name];
  }

  /** Wake models in turn; `tell` is told how far it is. */
  async function wakeAll(names, tell) {
    for (const [n, name] of [...names, "tables"].entries()) {
      if (!awake[name]) tell(`Loading ${Math.min(n + 1, names.length)} of ${names.length} …`);
      await wake(name);
    }
  }

  // --- 2. Answers: {ids, start, length, ratio, inside, reward, judge, counts, lexicon} ------------------------------

  /** A beginning as the models read it: {ids, left}; of a long one `left` tokens are not read. */
  function reading(tag, text) {
    const all = bpe.encode(`${tag} ${text.trim()}`.trim());
    let n = Math.min(all.length, MOST_TOKENS);
    while (n < all.length && !isWhole(all.slice(0, n))) n--;
    return { ids: [bpe.end, ...all.slice(0, n)], left: all.length - n };
  }

  /** A text without its tag, as the chapter gives it to those who count words. */
  function textOf(ids) {
    const text = bpe.decode(ids.filter((id) => id !== bpe.end));
    if (!Object.keys(TAGS).some((tag) => text.startsWith(tag))) return text;
    return text.includes(": ") ? text.slice(text.indexOf(": ") + 2) : "";
  }

  /** Add to an answer what the judges say, in sd: of the reward model the number at each token. All texts end. */
  async function judge(answer) {
    const ids = answer.ids.at(-1) === bpe.end ? answer.ids : [...answer.ids, bpe.end];
    const { reward, ...others } = await (await wake("tables")).ask("judge", { ids, text: textOf(ids) });
    return Object.assign(answer, others, { inside: reward.slice(answer.start), reward: reward.at(-1) });
  }

  /** Let a policy go on with a beginning, and ask the judges; `each` is called with the answer as it grows. Null: it
      was stopped. The log ratio Σ ln π(y) − ln π_SFT(y) is exact, since both models are at hand. */
  async function answered(name, { ids, seed }, each = () => {}) {
    const answer = { ids: ids.slice(), start: ids.length }, logP = [];
    const order = { ids, n: TO_WRITE, seed, end: bpe.end, longest: CONTEXT };
    const written = await (await wake(name)).ask("write", order, (step) => {
      answer.ids.push(step.token);
      logP.push(step.logP);
      each(answer);
    });
    if (!written) return null;
    answer.ratio = 0;
    if (name !== "supervised") {
      const before = await (await wake("supervised")).ask("read", { ids: answer.ids });
      if (!before) return null;
      answer.ratio = sum(logP) - sum(before.logP.slice(answer.start));
    }
    answer.length = logP.length;
    return judge(answer);
  }

  // --- 3. Best of n -------------------------------------------------------------------------------------------------

  /** The place of the answer that the reward model likes best. */
  const bestOf = (answers) => answers.reduce((best, { reward }, i) => (reward > answers[best].reward ? i : best), 0);

  const mean = (values) => sum(values) / values.length;

  /** What judges see of best of n: over disjoint groups of n, the mean of the best above the mean of all; NaN if there
      are too few answers. `sets` are the answers to one beginning each. */
  function gains(sets, n) {
    const seen = Object.fromEntries(METERS.map((name) => [name, []]));
    for (const answers of sets) {
      const middle = Object.fromEntries(METERS.map((name) => [name, mean(answers.map((answer) => answer[name]))]));
      for (let from = 0; from + n <= answers.length; from += n) {
        const group = answers.slice(from, from + n), best = group[bestOf(group)];
        for (const name of METERS) seen[name].push(best[name] - middle[name]);
      }
    }
    return Object.fromEntries(METERS.map((name) => [name, mean(seen[name])]));
  }

  // --- 4. What is shown ---------------------------------------------------------------------------------------------

  /** Two digits, as far as they mean something; `signed` has its sign. */
  const plain = (x) => (Math.abs(x) < 0.05 ? "0.0" : x.toFixed(Math.abs(x) < 9.95 ? 1 : 0).replace("-", "−"));
  const signed = (x) => (x >= 0.05 ? `+${plain(x)}` : plain(x));

  function svg(tag, attributes, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  }

  /** A bar to the right of the middle, or to its left; its number stands beside it. */
  function meter(x) {
    const share = 50 * Math.min(Math.abs(x) / WIDEST, 1), filled = h("span", { class: "lv-bar" });
    filled.style.left = `${x < 0 ? 50 - share : 50}%`;
    filled.style.width = `${share}%`;
    return h("span", { class: "lv-track lv-around", "aria-hidden": "true" }, filled);
  }

  /** The reward model's number along an answer, as a line around 0. */
  function sparkline(values) {
    const y = (x) => 20 - (19 * Math.max(-HIGHEST, Math.min(x, HIGHEST))) / HIGHEST;
    const points = values.map((value, i) => [4 + (192 * (i + 1)) / values.length, y(value)]);
    const [endX, endY] = points.at(-1);
    return svg("svg", { class: "lv-spark", viewBox: "0 0 204 40", "aria-hidden": "true" },
      svg("line", { x1: 0, x2: 204, y1: 20, y2: 20 }), svg("polyline", { points: points.join(" ") }),
      svg("circle", { cx: endX, cy: endY, r: 3 }));
  }

  /** What was written, as text or token by token with the reward model's numbers. */
  function paper(label, { ids, start, inside, reward }, numbers) {
    const written = ids.slice(start), ended = written.at(-1) === bpe.end;
    const element = h("div", { class: "lv-paper", role: "group", "aria-label": label }, h("b", {}, label));
    const asked = h("span", { class: "lv-quiet" }, bpe.decode(ids.slice(1, start)));
    const over = ended ? h("span", { class: "lv-end" }, "end of text") : null;
    if (numbers && inside) {
      const look = (t) => ({ number: t ? signed(inside[t - 1]) : "", tint: t ? tintOf(inside[t - 1]) : [] });
      const [, ...tokens] = chips([bpe.end, ...written], look);  // the first stands for the start of a text
      element.append(h("p", {}, asked), h("div", { class: "lv-chips" }, ...tokens));
    } else {
      const words = bpe.decode(written.filter((id) => id !== bpe.end));
      element.append(h("p", {}, asked, h("span", { class: "lv-words" }, words), over));
    }
    if (inside) element.append(h("p", { class: "lv-line" }, sparkline(inside), `${signed(reward)} sd`));
    return element;
  }

  const tintOf = (x) => [x > 0 ? "more" : "less", Math.abs(x) / HIGHEST];

  /** A table with a row for each judge, and for log ratio and length. `cell(name, key, mark, spell)` fills it. */
  function judgedTable(caption, small, cell) {
    const head = [h("td"), ...NAMES.map((name) => column(POLICIES[name], small(name)))];
    const row = (key, label, note, mark, spell) => h("tr", {},
      h("th", { scope: "row" }, label, h("small", {}, note)),
      ...NAMES.map((name) => h("td", {}, ...cell(name, key, mark, spell))));
    return table(caption, head, [
      ...METERS.map((key) => row(key, ...JUDGES[key], meter, signed)),
      row("ratio", "log ratio", "to supervised, nats", null, plain),
      row("length", "length", "tokens", null, (x) => x.toFixed(0)),
    ], "lv-judged");
  }

  /** What judges say of one answer of each. */
  function answersTable(answers) {
    return judgedTable("Of these answers, in standard deviations (sd): 0 is an average answer of the supervised model",
      () => null, (name, key, mark, spell) => {
        const value = answers[name]?.[key];
        return value === undefined ? ["…"] : [...(mark ? [mark(value)] : []), spell(value)];
      });
  }

  /** Their means over all that was written for the reader, with a standard error, and the stored means in brackets. */
  function meansTable(tally) {
    const ours = tally.supervised.length > 0, kl = "The mean of the log ratios estimates the KL.";
    const caption = ours ? "Means of what was written for you, ± one standard error. In brackets: 64 answers of each " +
      `by the library. ${kl}` : `Means of 64 answers of each, which the library wrote to 64 test beginnings. ${kl}`;
    const small = (name) => (ours ? `n = ${tally[name].length}` : "n = 64, stored");
    return judgedTable(caption, small, (name, key, mark, spell) => {
      const values = tally[name].map((answer) => answer[key]), old = stored.means[name][key];
      const middle = ours ? mean(values) : old, shown = [...(mark ? [mark(middle)] : []), spell(middle)];
      if (!ours) return shown;
      const variance = sum(values.map((x) => (x - middle) ** 2)) / (values.length - 1);
      const error = values.length > 1 ? `± ${plain(Math.sqrt(variance / values.length))} ` : "";
      return [...shown, h("small", {}, `${error}(${spell(old)})`)];
    });
  }

  /** The curves of best of n: `lines` of this page, and the recorded ones, dashed; {name: [a number for each size]}. */
  function chart(lines, recorded) {
    const all = [lines, recorded].flatMap((some) => Object.values(some).flat()).filter(Number.isFinite);
    const low = Math.min(0, ...all) - 0.1, high = Math.max(2, ...all) + 0.1;
    const x = (i) => 26 + (184 * i) / (SIZES.length - 1), y = (value) => 212 - (204 * (value - low)) / (high - low);
    const path = (values) => values.map((value, i) => [x(i), y(value)]).filter(([, at]) => Number.isFinite(at));
    const drawn = [];
    for (let value = Math.ceil(low); value <= high; value++) {
      drawn.push(svg("line", { class: "lv-grid", x1: 26, x2: 210, y1: y(value), y2: y(value) }),
        svg("text", { x: 20, y: y(value) + 4, "text-anchor": "end" }, signed(value).replace(".0", "")));
    }
    SIZES.forEach((n, i) => drawn.push(svg("text", { x: x(i), y: 229, "text-anchor": "middle" }, n)));
    drawn.push(svg("text", { x: 118, y: 245, "text-anchor": "middle" }, "n, answers to choose from"));
    const ends = METERS.map((name) => ({ name, points: path(lines[name]), old: path(recorded[name]) }));
    let free = -Infinity;
    for (const { name, points, old } of ends.sort((a, b) => endOf(a)[1] - endOf(b)[1])) {
      drawn.push(svg("polyline", { class: `lv-old lv-of-${name}`, points: old.join(" ") }),
        svg("polyline", { class: `lv-of-${name}`, points: points.join(" ") }),
        ...points.map(([cx, cy]) => svg("circle", { class: `lv-of-${name}`, cx, cy, r: 2.5 })));
      free = Math.max(endOf({ points, old })[1] + 4, free + 14);  // labels keep their distance
      drawn.push(svg("line", { class: `lv-of-${name}`, x1: 216, x2: 228, y1: free - 4, y2: free - 4 }),
        svg("text", { x: 233, y: free }, JUDGES[name][0]));
    }
    const ours = Object.values(lines).flat().some(Number.isFinite);
    const label = `Gain of best of n in sd, for n from 1 to 64. Recorded at 64: ${told(recorded, SIZES.length - 1)}.` +
      (ours ? " Solid lines: the answers written here." : "");
    return svg("svg", { class: "lv-chart", viewBox: "0 0 360 250", role: "img", "aria-label": label }, ...drawn);
  }

  const endOf = ({ points, old }) => points.at(-1) ?? old.at(-1);
  const told = (lines, at) => listed(METERS.map((name) => `${JUDGES[name][0]} ${lines[name][at].toFixed(1)}`));

  /** What a guess is told: of each unit of reward, how much a judge sees with few answers and with many. */
  function verdict(guess) {
    const { best, seeds } = stored, few = SIZES.indexOf(4), many = SIZES.length - 1;
    const share = (name, at) => best[name][at] / best.reward[at], two = (x) => x.toFixed(2);
    const least = (value) => UNPAID.reduce((a, b) => (value(b) < value(a) ? b : a));
    const first = least((name) => share(name, many) - share(name, few));
    const shares = UNPAID.map((name) => `${JUDGES[name][0]} ${two(share(name, few))} and ${two(share(name, many))}`);
    const yours = guess === null ? "" : guess === first ? "You guessed it. " : `You guessed: ${JUDGES[guess][0]}. `;
    return `${yours}In the recorded runs (${seeds} seeds, 128 beginnings each) it is the ${JUDGES[first][0]}. ` +
      `Of each unit of reward the judges see, at n = 4 and at n = 64: ${listed(shares)}. None of them has stopped at ` +
      `64, and the ${JUDGES[least((name) => share(name, many))][0]} sees least.`;
  }

  /** Python that prints what the judges say of answers, and their log ratios. */
  function inPython(answers) {
    const { start } = answers.supervised;
    return `import gzip, json
import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
from nextword import checkpoints
from nextword.book import models

start = ${start}  # the answers begin behind so many tokens
answers = {
${NAMES.map((name) => `    "${name}": ${JSON.stringify(answers[name].ids).replaceAll(",", ", ")},`).join("\n")}
}
known = json.loads(gzip.decompress(models.JUDGES.read_bytes()))
terms, idf, weights = zip(*known["terms"])
counts = TfidfVectorizer(ngram_range=(1, 2), vocabulary=terms)
counts.idf_ = np.array(idf)
reward, judge = (models.load(f"taste_{name}").model for name in ("reward", "judge"))
policies = {name: models.load(f"taste_{name}").model for name in ("supervised", "ppo", "ppo_ptx")}
policies["base"], bpe, _ = checkpoints.load("nextword-medium")
END = bpe.special_tokens["<|endoftext|>"]

def log_p(model, ids):
    p = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(p[t - 1, ids[t]].item() for t in range(start, len(ids)))

for name, ids in answers.items():
    ended = ids if ids[-1] == END else [*ids, END]
    text = bpe.decode([i for i in ids if i != END])
    text = text.partition(": ")[2] if text.startswith(("Film:", "Product:")) else text
    said = {"reward": reward(torch.tensor([ended])).item(), "judge": judge(torch.tensor([ended])).item()}
    said["counts"] = (counts.transform([text]) @ np.array(weights))[0] + known["intercept"]
    said["lexicon"] = SentimentIntensityAnalyzer().polarity_scores(text)["compound"]
    units = {k: (x - known["scale"][k][0]) / known["scale"][k][1] for k, x in said.items()}
    ratio = log_p(policies[name], ids) - log_p(policies["supervised"], ids)
    print(f"{name:11s}", *(f"{k} {x:+.1f}" for k, x in units.items()), f"log ratio {ratio:.1f}")`;
  }

  // --- 5. A place ---------------------------------------------------------------------------------------------------

  /** Build a place: its controls once, and functions that write what there is. Returns the one that follows a link. */
  function mountIn(box, number) {
    const id = (name) => `nw-taste-${number}-${name}`;
    const [tag, ...words] = stored.asked.split(" ");
    const state = {
      tag, text: words.join(" "), seed: 1, question: null, numbers: false,
      answers: stored.answers,  // of each policy the newest one
      yours: null,  // the reader's own text, judged
      tally: Object.fromEntries(NAMES.map((name) => [name, []])), counted: new Set(), next: 1,
      sets: [], n: 4, guess: null, covered: true,
    };
    let round = 0;  // what was started before the newest round is dropped

    // What is done. Every action begins a round, and says how it goes in the status line beside its buttons.

    /** Run `work(tell, isNew)`; whatever fails is said. */
    async function run(names, { status, stop, start: button }, work) {
      const mine = begin(), isNew = () => mine === round;
      const tell = (text, trouble = false) => {
        status.classList.toggle("lv-trouble", trouble);
        say(status, text);
      };
      stop.disabled = false;
      try {
        await halt();
        await wakeAll(names, (text) => { if (isNew()) tell(text); });
        if (isNew()) await work(tell, isNew);
      } catch (error) {
        if (isNew()) tell(`That did not work: ${error.message}.`, true);
      }
      if (!isNew()) return;
      if (document.activeElement === stop) button.focus();
      stop.disabled = true;
      paint();
    }

    /** Let policies drop what they write. */
    async function halt() {
      await Promise.allSettled(NAMES.map(async (name) => (await awake[name])?.stop()));
    }

    /** Begin a round: what is under way is dropped. */
    function begin() {
      for (const { status, stop } of [upper, lower].filter((action) => !action.stop.disabled)) {
        stop.disabled = true;
        say(status, "Stopped.");
      }
      say(came, "");
      return ++round;
    }

    function stopAll(action) {
      begin();
      halt();
      action.start.focus();
    }

    /** All four go on with one beginning. */
    async function writeEach(job, isNew, each = () => {}) {
      const one = async (name) => [name, await answered(name, job, (answer) => each(name, answer))];
      const found = await Promise.all(NAMES.map(one));
      if (!isNew() || found.some(([, answer]) => !answer)) return null;
      const key = `${job.ids} ${job.seed}`;
      if (!state.counted.has(key)) for (const [name, answer] of found) state.tally[name].push(answer);
      state.counted.add(key);  // the same answer twice would say no more than once
      return Object.fromEntries(found);
    }

    const writeOne = () => run([...NAMES, "reward", "judge"], upper, async (tell, isNew) => {
      const job = { ids: reading(state.tag, state.text).ids, seed: state.seed };
      state.answers = {};
      tell("Writing …");
      const answers = await writeEach(job, isNew, (name, answer) => {
        if (!isNew()) return;
        state.answers[name] = answer;
        paint();
      });
      if (!answers) return;
      state.answers = answers;
      tell("All four have written, with the same seed.");
    });

    const writeMore = () => run([...NAMES, "reward", "judge"], upper, async (tell, isNew) => {
      for (let n = 0; n < MORE; n++) {
        tell(`Writing: ${n} of ${MORE} answers of each …`);
        const { beginnings } = stored, at = state.next % beginnings.length;
        const job = { ids: beginnings[at], seed: state.seed + Math.floor(state.next / beginnings.length) };
        if (!(await writeEach(job, isNew))) return;
        state.next++;
        paint();
      }
      tell(`Each has gone on with ${MORE} more test beginnings.`);
    });

    // A link brings along what is to be written, and that it has been written.

    function toHash() {
      const { tag, text, seed, numbers, answers } = state, link = new URLSearchParams({ about: tag, text, seed });
      if (numbers) link.set("numbers", 1);
      if (answers === stored.answers) link.set("answers", "stored");
      return PREFIX + link;
    }

    /** Take over what a link asks for. Answers that are not stored are written, as if “Write” was pressed. */
    function take(link) {
      if (!link.has("text")) return false;
      input.value = link.get("text").slice(0, MOST_CHARACTERS);  // it has one line only
      set({
        tag: Object.hasOwn(TAGS, link.get("about")) ? link.get("about") : state.tag, text: input.value,
        seed: Math.round(numberIn(link, "seed", 0, MOST_SEED) ?? 1), numbers: link.has("numbers"), question: null,
        yours: null,
      });
      if (link.get("answers") === "stored") {
        begin();
        halt();
        return set({ answers: stored.answers });
      }
      writeOne();
      return say(came, "You came by a link, which counts as a press of “Write”: it loads the models, " +
        `${stored.megabytes} MB in all.`);
    }

    const judgeAlone = () => run(["reward", "judge"], upper, async (tell, isNew) => {
      const { ids } = reading(state.tag, state.text);
      const yours = await judge({ ids: [...ids, bpe.end], start: reading(state.tag, "").ids.length });
      if (!isNew()) return;
      state.yours = yours;
      tell("Your text was judged.");
    });

    const writeBest = () => run(["supervised", "reward", "judge"], lower, async (tell, isNew) => {
      const { ids } = reading(state.tag, state.text), answers = [];
      state.sets.push(answers);
      for (let n = 0; n < TRIES; n++) {
        if (n % MORE === 0) tell(`Writing: ${n} of ${TRIES} answers …`);  // read aloud, so not at every one
        const answer = await answered("supervised", { ids, seed: state.seed + n });
        if (!answer || !isNew()) break;
        answers.push(answer);
        if (SIZES.includes(answers.length)) paint();
      }
      if (!answers.length) state.sets.pop();
      if (isNew()) tell(`The supervised model wrote ${TRIES} answers, each with a seed of its own.`);
    });

    // The controls

    const tags = radios("What it is about", TAGS, (value) => set({ tag: value }));
    const beginnings = stored.beginnings.map((ids) => bpe.decode(ids.slice(1)));
    const choice = h("select", { id: id("choice"), onchange: () => {
      const [about, ...rest] = choice.value.split(" ");
      set({ tag: about, text: rest.join(" ") });
    } }, h("option", { value: "" }, "choose …"), ...beginnings.map((text) => h("option", { value: text }, text)));
    const input = h("input", {
      id: id("text"), class: "lv-wide", autocomplete: "off", spellcheck: "false", maxlength: MOST_CHARACTERS,
      oninput: () => set({ text: input.value, question: null }),
    });
    const cut = h("p", { class: "lv-trouble", hidden: "" });
    const seed = h("input", { type: "number", min: 0, max: MOST_SEED, step: 1, onchange: () => {
      set({ seed: Math.min(Math.max(Math.round(Number(seed.value)) || 0, 0), MOST_SEED) });
    } });
    const button = (label, press, kind = "") => h("button", { type: "button", class: kind, onclick: press }, label);
    const tries = QUESTIONS.map(({ ask, task, ...settings }, n) => (
      button(ask, () => set({ numbers: false, yours: null, ...settings, question: n }), "lv-try")
    ));
    const task = h("p", { class: "lv-task", "aria-live": "polite", hidden: "" });

    /** The buttons of an action: {start, stop, status}. */
    function controls(label, press) {
      const made = { start: button(label, press, "lv-main"), stop: button("Stop", () => stopAll(made)) };
      made.stop.disabled = true;
      made.status = h("p", { class: "lv-status", role: "status" });
      return made;
    }
    const came = h("p", { class: "lv-quiet", role: "status" });
    const upper = controls("Write", writeOne), lower = controls(`Write ${TRIES} answers`, writeBest);
    const numbers = button("Number at each token", () => set({ numbers: !state.numbers }), "lv-toggle");
    const papers = h("div", { class: "lv-papers" }), yours = h("div"), said = h("div"), means = h("div");
    const isWritten = () => NAMES.every((name) => state.answers[name]?.reward !== undefined);
    const copies = copying(toHash, () => (isWritten() ? inPython(state.answers) : null));
    const guesses = radios("Your guess", Object.fromEntries(UNPAID.map((name) => [name, JUDGES[name][0]])), (guess) => {
      set({ guess, covered: false });
    });
    const uncover = button("Show without a guess", () => set({ covered: false }));
    const answer = h("p", { class: "lv-said", "aria-live": "polite" }), curves = h("div"), best = h("div");
    const slider = h("input", { type: "range", min: 0, max: SIZES.length - 1, step: 1, id: id("n"), oninput: () => {
      set({ n: SIZES[slider.value] });
    } });
    const chosen = h("b");
    const sliders = h("label", { class: "lv-slide" }, "Best of ", chosen, slider);

    function set(changes) {
      Object.assign(state, changes);
      paint();
    }

    function paintNow() {
      paintControls();
      paintAnswers();
      paintBest();
    }
    const paint = inNextFrame(paintNow);

    function paintControls() {
      tags.show(state.tag);
      if (input.value !== state.text) input.value = state.text;
      if (document.activeElement !== seed) seed.value = state.seed;
      const whole = `${state.tag} ${state.text}`;
      choice.value = beginnings.includes(whole) ? whole : "";
      const { ids, left } = reading(state.tag, state.text);
      cut.hidden = left === 0;
      say(cut, `The beginning is cut after ${ids.length - 1} tokens; what follows is not read.`);
      tries.forEach((press, n) => press.setAttribute("aria-pressed", n === state.question));
      task.hidden = state.question === null;
      say(task, state.question === null ? "" : QUESTIONS[state.question].task);
      numbers.setAttribute("aria-pressed", state.numbers);
    }

    function paintAnswers() {
      fill(papers, ...NAMES.filter((name) => state.answers[name]).map((name) => (
        paper(POLICIES[name], state.answers[name], state.numbers)
      )));
      fill(yours, ...(state.yours ? [paper("Your text", state.yours, true), quiet(
        `${listed(UNPAID.map((name) => `${JUDGES[name][0]} ${signed(state.yours[name])}`))} sd.`)] : []));
      fill(said, answersTable(state.answers));
      fill(means, meansTable(state.tally));
      copies.show();
    }

    function paintBest() {
      guesses.show(state.guess);
      if (state.guess === null) guesses.firstChild.tabIndex = 0;
      uncover.hidden = !state.covered;
      slider.value = SIZES.indexOf(state.n);
      slider.setAttribute("aria-valuetext", `best of ${state.n}`);
      say(chosen, state.n);
      say(answer, state.covered ? "" : verdict(state.guess));
      if (state.covered) {
        fill(curves, covering("Guess above; then the curves are shown."));
        fill(best);
        sliders.hidden = true;
        return;
      }
      sliders.hidden = false;
      const perSize = SIZES.map((n) => gains(state.sets, n));
      const lines = Object.fromEntries(METERS.map((name) => [name, perSize.map((gain) => gain[name])]));
      const solid = state.sets.length ? " Solid: the answers written here, means over disjoint groups of n." : "";
      fill(curves, chart(lines, stored.best), quiet(`Gain of the best of n over the mean of all ${TRIES}, in sd. `,
        `Dashed: the recorded runs.${solid}`));
      fill(best, ...bestOfFirst(lines));
    }

    /** The best of the first n answers of the newest set, and what judges say of it. */
    function bestOfFirst(lines) {
      const { n } = state, at = SIZES.indexOf(n), answers = state.sets.at(-1) ?? [], there = answers.length >= n;
      const winner = there ? answers[bestOf(answers.slice(0, n))] : null;
      const gain = (x) => (Number.isFinite(x) ? signed(x) : "…");
      const rows = METERS.map((name) => h("tr", {},
        h("th", { scope: "row" }, JUDGES[name][0], h("small", {}, JUDGES[name][1])),
        h("td", {}, ...(winner ? [meter(winner[name]), signed(winner[name])] : ["…"])),
        h("td", {}, gain(lines[name][at])), h("td", {}, gain(stored.best[name][at]))));
      const furthest = (Math.log(n) - (n - 1) / n).toFixed(1);
      return [
        winner ? h("p", {}, `Of the first ${n} the reward model likes this best: `, quoted(textOf(winner.ids), 400)) :
          quiet(`There are no ${n} answers yet: press “Write ${TRIES} answers”.`),
        table(`Best of ${n}, in sd: this answer, and gains over the mean of all answers`,
          [h("td"), "this answer", "gain here", "gain recorded"], rows, "lv-judged lv-best"),
        quiet(`KL to the supervised model: at most ln ${n} − ${n - 1}/${n} = ${furthest} nats. `,
          `The 64 stored answers of PPO are ${plain(stored.means.ppo.ratio)} nats away on average.`),
      ];
    }

    const row = (...children) => h("div", { class: "lv-row" }, ...children);
    const trouble = quiet("Four models write and two reward models judge, ",
      `${stored.megabytes} MB in all; they are loaded when you first press a button below, and run in this browser.`);
    fill(box, row(h("span", { class: "lv-quiet" }, "Try"), ...tries), task, trouble,
      labelled("About a", tags),
      row(h("label", { for: id("choice") }, "Test beginning"), choice),
      h("label", { for: id("text"), class: "lv-label" }, "Beginning, or your own"), input, cut,
      row(upper.start, button(`Write ${MORE} more of each`, writeMore), upper.stop,
        h("label", {}, "Seed ", seed), button("Judge this text alone", judgeAlone)),
      came, upper.status, yours, papers, row(numbers, ...copies.buttons), copies.code, said,
      quiet("The line along an answer is the reward model's number at each token; the last is the reward. ",
        `An answer without an end after ${TO_WRITE} tokens gets one before it is judged. The log ratio is `,
        "Σ ln π(y) − ln π_SFT(y) over the tokens of this one answer, so it is one sample of the KL. “8 more” takes ",
        "the next eight test beginnings."),
      means,
      h("h3", {}, "Best of n"),
      h("p", {}, "Here nothing is trained: the supervised model writes many answers to the beginning above, and the ",
        "reward model takes the best. As n grows, which of the three judges stops following first?"),
      row(guesses, uncover), answer, row(lower.start, lower.stop), lower.status, sliders, best, curves,
      quiet("The lexicon and its rules are VADER's (Hutto & Gilbert 2014; MIT licence, © 2016 C.J. Hutto)."));
    paintNow();
    return take;
  }

  const [take] = Array.from(places, mountIn);
  performance.mark("nextword taste stored");
  followLinks(PREFIX, places[0], take);
})();
