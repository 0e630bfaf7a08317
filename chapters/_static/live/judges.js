"use strict";
/* What judges a text of InstructGPT's chapter: reward models (1), counted words (2) and a lexicon with rules (3). A
   worker can be started with them (4).

   Everything sits in one function of the engine, so that a worker can be made from its source: see `startWorker`. */
function nextwordJudges({ bytesOf, unzip, readSafetensors, linear, Decoder }) {

  // --- 1. A reward model: a number at every token -------------------------------------------------------------------

  /** The library's RewardModel: r = gain · (w·h + b) + bias, with the hidden vector h of a decoder. */
  class RewardModel {
    constructor(config, weights, quick = true) {
      if (config.model !== "RewardModel") {
        throw new TypeError(`model is ${JSON.stringify(config.model)}; a reward model has "RewardModel" only`);
      }
      const ofBody = Object.keys(weights).filter((name) => name.startsWith("decoder."));
      const body = Object.fromEntries(ofBody.map((name) => [name.slice("decoder.".length), weights[name]]));
      this.decoder = new Decoder({ ...config, model: "Decoder" }, body, quick);  // refuses what it does not implement
      this.memory = this.decoder.newMemory();
      this.weights = weights;
    }

    /** The number at each of T tokens, (T,): the reward if the text ended there. Its last one is the text's reward. */
    values(ids) {
      const { "head.weight": w, "head.bias": b, gain: [gain], bias: [bias] } = this.weights;  // w: (1, C)
      this.decoder.crop(this.memory, 0);
      const hidden = this.decoder.read(ids, this.memory);  // (T, C)
      return linear(hidden, ids.length, w, b).map((value) => gain * value + bias);
    }
  }

  // --- 2. Counted words ---------------------------------------------------------------------------------------------

  /** A linear fit to which words and pairs of words a text has: b + w·x / |x|, x[term] = count · idf. */
  class CountedWords {
    constructor({ terms, intercept }) {
      this.terms = new Map(terms.map(([term, idf, weight]) => [term, { idf, weight }]));
      this.intercept = intercept;
    }

    score(text) {
      const words = text.toLowerCase().match(/[\p{L}\p{N}_]{2,}/gu) ?? [], counts = new Map();
      words.forEach((word, i) => {
        for (const term of i ? [word, `${words[i - 1]} ${word}`] : [word]) {
          if (this.terms.has(term)) counts.set(term, (counts.get(term) ?? 0) + 1);
        }
      });
      let dot = 0, squares = 0;
      for (const [term, count] of counts) {
        const { idf, weight } = this.terms.get(term);
        dot += weight * count * idf;
        squares += (count * idf) ** 2;
      }
      return this.intercept + (squares ? dot / Math.sqrt(squares) : 0);
    }
  }

  // --- 3. A lexicon with rules: VADER, Hutto & Gilbert 2014 ---------------------------------------------------------

  // By how much people's ratings of a sentence change, measured by the authors.
  const LOUD = 0.733, DENIED = -0.74, FURTHER = [1, 0.95, 0.9], EXCLAIMED = 0.292, ASKED = 0.18, ASKED_MOST = 0.96;

  /** The compound score, from -1 to 1, as the package vaderSentiment 3.3.2 computes it, habits included. The tables are
      the package's: words with their valence, boosters with what they add, negations, idioms, names of emojis. */
  class Lexicon {
    constructor({ words, boosters, negations, idioms, emojis }) {
      const map = (table) => new Map(Object.entries(table));  // an object would also know "constructor"
      this.valences = map(words);
      this.boosters = map(boosters);
      this.negations = new Set(negations);
      this.idioms = map(idioms);
      this.emojis = map(emojis);
    }

    score(text) {
      const named = this.nameEmojis(text);
      const words = named.split(/[\p{White_Space}\x1c-\x1f]+/u).filter(Boolean).map(bare);
      const lower = words.map((word) => word.toLowerCase()), capitals = words.map(isUpper);
      const some = capitals.includes(true) && capitals.includes(false);  // where all is loud, nothing is
      const values = words.map((_, i) => this.valence(lower, capitals.map((loud) => loud && some), i));
      turnAtBut(values, lower.indexOf("but"));
      const sum = values.reduce((total, value) => total + value, 0);
      const total = sum + Math.sign(sum) * emphasis(named);
      return total / Math.sqrt(total ** 2 + 15);
    }

    /** Write the name of each emoji in its place, as words of its own. */
    nameEmojis(text) {
      let named = "", space = true;
      for (const sign of text) {
        const name = this.emojis.get(sign);
        named += name ? (space ? name : ` ${name}`) : sign;
        space = !name && sign === " ";
      }
      return named;
    }

    /** What word i brings: its valence in the lexicon, changed by up to three words before it. */
    valence(lower, loud, i) {
      const word = lower[i], before = (k) => lower[i - k], known = this.valences.get(word);
      if (known === undefined || this.boosters.has(word) || (word === "kind" && lower[i + 1] === "of")) return 0;
      let value = word === "no" && this.valences.has(lower[i + 1]) ? 0 : known;  // "no" may deny the word that follows
      const isList = ["or", "nor"].includes(before(1));
      if (before(1) === "no" || before(2) === "no" || (before(3) === "no" && isList)) value = known * DENIED;
      if (loud[i]) value += value > 0 ? LOUD : -LOUD;
      for (let k = 1; k <= Math.min(i, 3); k++) {
        if (this.valences.has(before(k))) continue;
        value += FURTHER[k - 1] * this.boost(before(k), loud[i - k], value);
        value *= this.denial(lower, i, k);
        if (k === 3) value = this.idiom(lower, i, value);
      }
      if (before(1) === "least" && !["at", "very"].includes(before(2))) value *= DENIED;
      return value;
    }

    /** What a booster, such as "very" or "hardly", adds to a value. */
    boost(word, loud, value) {
      const more = this.boosters.get(word);
      if (more === undefined) return 0;
      return (value < 0 ? -more : more) + (loud ? (value > 0 ? LOUD : -LOUD) : 0);
    }

    /** The factor by which the word k places before word i denies it. */
    denial(lower, i, k) {
      const word = lower[i - k], between = lower.slice(i - k + 1, i), isSo = (other) => ["so", "this"].includes(other);
      // "never so good" is praise. The package forgets to look for "never" three words back.
      if ((word === "never" && isSo(between[0])) || (k === 3 && isSo(between[1]))) return 1.25;
      if (word === "without" && between.includes("doubt")) return 1;
      return this.negations.has(word) || word.includes("n't") ? DENIED : 1;
    }

    /** The value of an idiom that word i stands in or behind; and boosters of more than one word. */
    idiom(lower, i, value) {
      const phrase = (from, to) => (i + to < lower.length ? lower.slice(i + from, i + to + 1).join(" ") : "");
      const back = [[-1, 0], [-2, 0], [-2, -1], [-3, -1], [-3, -2]].map((place) => phrase(...place));
      const ahead = [[0, 2], [0, 1]].map((place) => phrase(...place));
      const found = [...ahead, ...back].find((some) => this.idioms.has(some));
      const boosters = back.slice(2).map((some) => this.boosters.get(some) ?? 0);
      return boosters.reduce((sum, more) => sum + more, found ? this.idioms.get(found) : value);
    }
  }

  /** A word without the punctuation around it, unless it is so short that it may be a face, such as :-). */
  function bare(word) {
    const inside = word.replace(/^[!-/:-@[-`{-~]+|[!-/:-@[-`{-~]+$/g, "");
    return inside.length <= 2 ? word : inside;
  }

  const isUpper = (word) => /\p{Uppercase}/u.test(word) && !/[\p{Lowercase}\p{Lt}]/u.test(word);

  /** What comes before "but" counts half, what follows one and a half; in place. Of equal values the package changes
      the first one each time. */
  function turnAtBut(values, but) {
    for (let i = 0; i < values.length && but >= 0; i++) {
      const first = values.indexOf(values[i]);
      if (first !== but) values[first] *= first < but ? 0.5 : 1.5;
    }
  }

  /** What exclamation and question marks add. */
  function emphasis(text) {
    const exclaimed = text.split("!").length - 1, asked = text.split("?").length - 1;
    const questions = asked < 2 ? 0 : asked <= 3 ? asked * ASKED : ASKED_MOST;
    return Math.min(exclaimed, 4) * EXCLAIMED + questions;
  }

  // --- 4. In a worker -----------------------------------------------------------------------------------------------

  const models = {};
  let tables, counted, lexicon;
  const tasks = {
    async loadReward({ name, config, base64 }) {
      models[name] = new RewardModel(config, readSafetensors(bytesOf(base64)));
      return {};
    },

    async loadTables({ base64 }) {
      tables = JSON.parse(new TextDecoder().decode(await unzip(bytesOf(base64))));
      counted = new CountedWords(tables);
      lexicon = new Lexicon(tables.lexicon);
      return {};
    },

    /** What all judges say of a text, in standard deviations from the supervised model's mean: of the reward model the
        number at each token. */
    async judge({ ids, text }) {
      const inUnits = (name, value) => (value - tables.scale[name][0]) / tables.scale[name][1];
      return {
        reward: Array.from(models.reward.values(ids), (value) => inUnits("reward", value)),
        judge: inUnits("judge", models.judge.values(ids).at(-1)),
        counts: inUnits("counts", counted.score(text)),
        lexicon: inUnits("lexicon", lexicon.score(text)),
      };
    },
  };

  return { RewardModel, CountedWords, Lexicon, tasks };
}
