"use strict";
/* The book's language models in plain JavaScript, in the order of the maths: a file's bytes become matrices (1), text
   becomes ids (2), ids become vectors, attention and scores (3), counts do without all that (4), scores become
   probabilities and words (5). Part 6 serves it from a worker, so that the page stays awake while a model reads.

   Nothing is fetched, since a page that was opened from a folder may not. Everything sits in one function, so that a worker
   can be made from the function's own source text: see `startWorker` at the end.

   Shapes are written as in the library: T positions, C = d_model, V words, H heads of width D = C / H. A matrix is one
   Float32Array, row after row. */
function nextwordEngine() {

  // --- 1. From a file to matrices -----------------------------------------------------------------------------------

  /** The bytes behind a base64 string. */
  function bytesOf(base64) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
    return Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  }

  /** The bytes behind gzipped ones; a promise. */
  async function unzip(bytes) {
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  /** A number in half precision: 1 bit of sign, 5 of exponent, 10 of fraction. */
  function fromHalf(half) {
    const sign = half >> 15 ? -1 : 1, exponent = (half >> 10) & 31, fraction = half & 1023;
    if (exponent === 0) return sign * fraction * 2 ** -24;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (1024 + fraction) * 2 ** (exponent - 25);
  }

  /** The tensors of a safetensors file: 8 bytes with the length of the header, the header in JSON, raw numbers.
      A matrix in 8 bits comes with `NAME.scale`, one number a row, which multiplies it. Returns {name: Float32Array}. */
  function readSafetensors(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    const start = 8 + Number(view.getBigUint64(0, true));
    const { __metadata__, ...header } = JSON.parse(new TextDecoder().decode(bytes.subarray(8, start)));
    const tensors = {};
    for (const [name, { dtype, data_offsets: [from, to] }] of Object.entries(header)) {
      const raw = bytes.slice(start + from, start + to).buffer;  // a copy begins at address 0, so it is aligned
      if (dtype === "F32") tensors[name] = new Float32Array(raw);
      else if (dtype === "F16") tensors[name] = Float32Array.from(new Uint16Array(raw), fromHalf);
      else if (dtype === "I8") tensors[name] = Float32Array.from(new Int8Array(raw));
      else throw new TypeError(`${name} is stored as ${dtype}; this engine reads F32, F16 and I8`);
    }
    for (const name of Object.keys(tensors).filter((key) => key.endsWith(".scale"))) {
      const matrix = tensors[name.slice(0, -".scale".length)], scale = tensors[name];
      const width = matrix.length / scale.length;
      for (let i = 0; i < matrix.length; i++) matrix[i] *= scale[Math.floor(i / width)];
      delete tensors[name];
    }
    return tensors;
  }

  // --- 2. From text to ids and back ---------------------------------------------------------------------------------

  /** Byte-level byte-pair encoding, from the content of the library's tokenizer.json. */
  class ByteBPE {
    constructor({ tokens, pattern, special_tokens }) {
      this.tokens = tokens;  // each byte is written as the character of the same number
      this.rank = new Map(tokens.map((token, id) => [token, id]));  // the earlier a merge was learnt, the lower its id
      this.end = special_tokens["<|endoftext|>"];
      // Python's \s is Unicode's White_Space. JavaScript's has U+FEFF besides, and lacks U+0085.
      const unicode = pattern.replaceAll("\\s", "\\p{White_Space}").replaceAll("\\S", "\\P{White_Space}");
      this.pieces = new RegExp(unicode, "gu");
    }

    encode(text) {
      const ids = [];
      for (const piece of text.match(this.pieces) || []) {
        const bytes = new TextEncoder().encode(piece);  // half a surrogate pair becomes U+FFFD, as in the library
        const parts = Array.from(bytes, (byte) => String.fromCharCode(byte));
        while (parts.length > 1) {  // merge the two neighbours whose merge was learnt first; of equals the leftmost
          let best = Infinity, at = -1;
          for (let i = 0; i + 1 < parts.length; i++) {
            const rank = this.rank.get(parts[i] + parts[i + 1]);
            if (rank < best) [best, at] = [rank, i];
          }
          if (at < 0) break;
          parts.splice(at, 2, parts[at] + parts[at + 1]);
        }
        for (const part of parts) ids.push(this.rank.get(part));
      }
      return ids;
    }

    decode(ids) {
      const text = ids.map((id) => (id === this.end ? "<|endoftext|>" : this.tokens[id])).join("");
      const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0));
      return new TextDecoder("utf-8", { ignoreBOM: true }).decode(bytes);  // else U+FEFF would be swallowed
    }
  }

  // --- 3. From ids to scores ----------------------------------------------------------------------------------------

  /** y = x Wᵀ + b. x: (T, I), W: (O, I), b: (O,) or null; returns (T, O). Nearly all the time is spent here. */
  function linear(x, T, W, b) {
    const I = x.length / T, O = W.length / I, y = new Float32Array(T * O);
    let t = 0;
    for (; t + 4 <= T; t += 4) {  // four rows share each weight that is loaded
      const p = t * I, q = p + I, r = q + I, s = r + I;
      for (let o = 0, w = 0; o < O; o++, w += I) {
        let y0 = 0, y1 = 0, y2 = 0, y3 = 0;
        for (let i = 0; i < I; i++) {
          const weight = W[w + i];
          y0 += weight * x[p + i];
          y1 += weight * x[q + i];
          y2 += weight * x[r + i];
          y3 += weight * x[s + i];
        }
        const at = t * O + o;
        y[at] = y0;
        y[at + O] = y1;
        y[at + 2 * O] = y2;
        y[at + 3 * O] = y3;
      }
    }
    for (; t < T; t++) {
      for (let o = 0, w = 0; o < O; o++, w += I) {
        let sum = 0;
        for (let i = 0; i < I; i++) sum += W[w + i] * x[t * I + i];
        y[t * O + o] = sum;
      }
    }
    if (b) for (let i = 0; i < y.length; i++) y[i] += b[i % O];
    return y;
  }

  /** dots.wat, which lies beside this file, as bytes. */
  const DOTS =
    "AGFzbQEAAAABEQJgCH9/f39/f39/AGABewF9AggBAWUBbQIAAQMDAgABBwgBBGRvdHMAAArLAgKuAgIIfwV7IAZBAnQhBiAHQQJ0IQcDQCACIQ" +
    "kgAyEKIAUhDANAIAkgBGohDSANIARqIQ4gDiAEaiEP/QwAAAAAAAAAAAAAAAAAAAAAIREgESESIBEhEyARIRRBACELA0AgACALav0ABAAhECAR" +
    "IBAgCSALav0ABAD95gH95AEhESASIBAgDSALav0ABAD95gH95AEhEiATIBAgDiALav0ABAD95gH95AEhEyAUIBAgDyALav0ABAD95gH95AEhFC" +
    "ALQRBqIgsgBEkNAAsgDCAREAE4AgAgDCAHaiIMIBIQATgCACAMIAdqIgwgExABOAIAIAwgB2oiDCAUEAE4AgAgDCAHaiEMIA8gBGohCSAKQQRr" +
    "IgoNAAsgACAEaiEAIAUgBmohBSABQQFrIgENAAsLGQAgAP0fACAA/R8BkiAA/R8CIAD9HwOSkgs=";

  /** The same sums, four numbers at a time, by WebAssembly. It reads one memory of its own, to which the weights move.
      Returns a function with the arguments of `linear`; throws where the browser has no such instructions. What four
      does not divide is left to `linear`. Both sides of the largest matrix are 16 or more wide. */
  function quickLinear(weights, rows = 16) {
    const matrices = Object.entries(weights), widest = Math.max(...matrices.map(([, W]) => W.length / 16));
    const atY = rows * widest * 4;  // rows of x come first, rows of y behind them, then the weights
    let free = 2 * atY;
    const size = free + matrices.reduce((sum, [, W]) => sum + 4 * W.length + 16, 0);
    const memory = new WebAssembly.Memory({ initial: Math.ceil(size / 65536) });
    const { dots } = new WebAssembly.Instance(new WebAssembly.Module(bytesOf(DOTS)), { e: { m: memory } }).exports;
    for (const [name, W] of matrices) {
      weights[name] = new Float32Array(memory.buffer, free, W.length);
      weights[name].set(W);
      free += Math.ceil(W.length / 4) * 16;
    }
    const floats = new Float32Array(memory.buffer);
    return (x, T, W, b) => {
      const I = x.length / T, O = W.length / I, y = new Float32Array(T * O);
      if (I % 4 || (O % 4 && T % 4)) return linear(x, T, W, b);
      for (let t = 0; t < T; t += rows) {
        const n = Math.min(rows, T - t), m = n & ~3;  // m rows by fours, and then those that are left
        floats.set(x.subarray(t * I, (t + n) * I));
        if (m) dots(W.byteOffset, O, 0, m, 4 * I, atY, 1, O);
        if (n > m) dots(4 * m * I, n - m, W.byteOffset, O, 4 * I, atY + 4 * m * O, O, 1);
        y.set(floats.subarray(atY / 4, atY / 4 + n * O), t * O);
      }
      if (b) for (let i = 0; i < y.length; i++) y[i] += b[i % O];
      return y;
    };
  }

  /** Each row of x, (T, C), to mean 0 and variance 1, then scaled and shifted. */
  function layerNorm(x, C, weight, bias, eps) {
    const y = new Float32Array(x.length);
    for (let from = 0; from < x.length; from += C) {
      let mean = 0, variance = 0;
      for (let i = 0; i < C; i++) mean += x[from + i] / C;
      for (let i = 0; i < C; i++) variance += (x[from + i] - mean) ** 2 / C;
      const scale = 1 / Math.sqrt(variance + eps);
      for (let i = 0; i < C; i++) y[from + i] = (x[from + i] - mean) * scale * weight[i] + bias[i];
    }
    return y;
  }

  /** GELU as GPT-2 computes it, by tanh; in place. */
  function gelu(x) {
    for (let i = 0; i < x.length; i++) {
      x[i] = 0.5 * x[i] * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x[i] + 0.044715 * x[i] ** 3)));
    }
    return x;
  }

  /** The error function, as Abramowitz and Stegun approximate it (1964, formula 7.1.26): the error is below 1.5e-7. */
  function erf(x) {
    const t = 1 / (1 + 0.3275911 * Math.abs(x));
    const sum = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
    return Math.sign(x) * (1 - sum * Math.exp(-x * x));
  }

  /** GELU itself, of BERT and CLIP: x times the share of a normal distribution that lies below x; in place. */
  function exactGelu(x) {
    for (let i = 0; i < x.length; i++) x[i] *= 0.5 * (1 + erf(x[i] / Math.SQRT2));
    return x;
  }

  /** e^x divided by its sum; in place. */
  function softmax(x) {
    let highest = -Infinity, sum = 0;
    for (const value of x) if (value > highest) highest = value;
    for (let i = 0; i < x.length; i++) sum += x[i] = Math.exp(x[i] - highest);
    for (let i = 0; i < x.length; i++) x[i] /= sum;
    return x;
  }

  /** What each of T queries finds: of each head the weights softmax(q·k / √D), and the sum of the values by these.
      queries: (T, C); keys and values: (S, C); query t looks at the first sees(t) of them. Of a silent head the sums
      are replaced by zeros. Returns out, the heads' sums side by side, (T, C), and rows[head][t], (sees(t),). */
  function attention(queries, keys, values, n_heads, C, sees, silent = () => false) {
    const D = C / n_heads, T = queries.length / C, out = new Float32Array(T * C);
    const rows = Array.from({ length: n_heads }, () => []);
    for (let head = 0; head < n_heads; head++) {
      for (let t = 0; t < T; t++) {
        const row = new Float32Array(sees(t)), q = t * C + head * D;
        for (let s = 0; s < row.length; s++) {
          let dot = 0;
          for (let d = 0, k = s * C + head * D; d < D; d++) dot += queries[q + d] * keys[k + d];
          row[s] = dot / Math.sqrt(D);
        }
        rows[head].push(softmax(row));
        for (let s = 0; s < row.length && !silent(head); s++) {
          for (let d = 0, v = s * C + head * D; d < D; d++) out[q + d] += row[s] * values[v + d];
        }
      }
    }
    return { out, rows };
  }

  /** What all networks have: a config that the code implements, the weights, and the fastest sums of this browser. */
  class Network {
    constructor(config, weights, quick, implemented) {
      for (const [field, value] of Object.entries(implemented)) {
        if (config[field] === value) continue;
        const [given, ours] = [config[field], value].map((one) => JSON.stringify(one));
        throw new TypeError(`${field} is ${given}; this engine has ${ours} only`);
      }
      this.config = config;
      this.weights = weights;
      this.linear = linear;
      try { if (quick) this.linear = quickLinear(weights); } catch { /* an old browser: `linear` does it */ }
    }
  }

  /** What a config must say for `Decoder` to compute that model; anything else would be silently wrong. */
  const IMPLEMENTED = {
    model: "Decoder", norm: "layer", norm_position: "pre", activation: "gelu_tanh", positions: "learned",
    tie_embeddings: true, bias: true, n_kv_heads: null, d_ff: null,
  };

  /** GPT-2's decoder with a cache: it reads ids after those that a memory holds. */
  class Decoder extends Network {
    constructor(config, weights, quick = true) {
      super(config, weights, quick, IMPLEMENTED);
    }

    /** An empty memory: ids, keys and values of each layer, (context_length, C), and attention[layer][head][t], (t + 1,). */
    newMemory() {
      const { n_layers, n_heads, context_length, d_model } = this.config;
      const perLayer = (make) => Array.from({ length: n_layers }, make);
      const table = () => new Float32Array(context_length * d_model);
      const maps = () => Array.from({ length: n_heads }, () => []);
      return { ids: [], keys: perLayer(table), values: perLayer(table), attention: perLayer(maps) };
    }

    /** Forget all but the first n positions. Keys and values need no care: they are written over later. */
    crop(memory, n) {
      memory.ids.length = Math.min(n, memory.ids.length);
      for (const layer of memory.attention) for (const rows of layer) rows.length = memory.ids.length;
    }

    /** Read ids after what the memory holds; return the hidden vectors of the new positions, (T, C), after the last norm.
        `mute` is a set of "layer.head": what these heads bring is replaced by zeros. */
    read(ids, memory, mute = new Set()) {
      const { d_model: C, n_layers, norm_eps: eps, context_length } = this.config, w = this.weights;
      const T = ids.length, start = memory.ids.length;
      if (start + T > context_length) throw new RangeError(`${start + T} tokens; the model reads at most ${context_length}`);
      const x = new Float32Array(T * C);
      for (let t = 0; t < T; t++) {
        for (let i = 0; i < C; i++) {
          x[t * C + i] = w["embedding.weight"][ids[t] * C + i] + w["positions.weight"][(start + t) * C + i];
        }
      }
      memory.ids.push(...ids);
      for (let layer = 0; layer < n_layers; layer++) {
        const part = (name) => w[`blocks.${layer}.${name}`];
        const affine = (name, input) => this.linear(input, T, part(`${name}.weight`), part(`${name}.bias`));
        const norm = (name) => layerNorm(x, C, part(`${name}.weight`), part(`${name}.bias`), eps);
        const add = (y) => { for (let i = 0; i < x.length; i++) x[i] += y[i]; };
        add(affine("attention.out", this.attend(layer, norm("attention_norm"), affine, start, memory, mute)));
        add(affine("feed_forward.down", gelu(affine("feed_forward.up", norm("feed_forward_norm")))));
      }
      return layerNorm(x, C, w["norm.weight"], w["norm.bias"], eps);
    }

    /** Causal attention of the new positions to all up to themselves: the heads' weighted sums side by side, (T, C). */
    attend(layer, x, affine, start, memory, mute) {
      const { d_model: C, n_heads } = this.config, keys = memory.keys[layer], values = memory.values[layer];
      const queries = affine("attention.query", x);
      keys.set(affine("attention.key", x), start * C);
      values.set(affine("attention.value", x), start * C);
      const silent = (head) => mute.has(`${layer}.${head}`);
      const { out, rows } = attention(queries, keys, values, n_heads, C, (t) => start + t + 1, silent);
      memory.attention[layer].forEach((seen, head) => seen.push(...rows[head]));
      return out;
    }

    /** A score for every next token, (T, V): the table that was read from also scores, as in GPT-2. */
    logits(hidden) {
      return this.linear(hidden, hidden.length / this.config.d_model, this.weights["embedding.weight"], null);
    }
  }

  // --- 4. Counts instead of a network -------------------------------------------------------------------------------

  /** Kneser-Ney from counts of which the small ones were left out (nextword.book.counts writes the bytes):
      p(w|h) = (c(hw) - D) / c(h) + λ(h) p(w|h'), with h' being h without its first word. λ(h) is what the words that were
      kept leave over of 1; a context that was not kept passes everything on. */
  class NGram {
    constructor(bytes) {
      let at = 0;
      const number = () => {  // seven bits a byte, the lowest first; the eighth bit says that more follow
        let value = 0;
        for (let unit = 1; ; unit *= 128) {
          const byte = bytes[at++];
          value += (byte & 127) * unit;
          if (byte < 128) return value;
        }
      };
      const column = (n) => Float64Array.from({ length: n }, number);
      this.vocabSize = number();
      this.orders = Array.from({ length: number() }, () => {
        const D = number() / 1e6, M = number(), N = number();
        const contexts = column(M), sizes = column(M), left = column(M), words = column(N), counts = column(N);
        const starts = new Int32Array(M + 1), share = new Float64Array(N), rest = new Float64Array(M);
        for (let h = 0; h < M; h++) {
          contexts[h] += h ? contexts[h - 1] : 0;  // stored as steps from one to the next
          starts[h + 1] = starts[h] + sizes[h];
          let total = left[h];
          for (let i = starts[h]; i < starts[h + 1]; i++) {
            words[i] += i > starts[h] ? words[i - 1] : 0;
            total += counts[i];
          }
          rest[h] = 1;
          for (let i = starts[h]; i < starts[h + 1]; i++) rest[h] -= share[i] = (counts[i] - D) / total;
        }
        return { contexts, starts, words, share, rest };
      });
    }

    /** p of every next word after ids, (V,). */
    distribution(ids) {
      const p = new Float64Array(this.vocabSize).fill(1 / this.vocabSize);
      for (let k = 0; k < Math.min(this.orders.length, ids.length + 1); k++) {
        const { contexts, starts, words, share, rest } = this.orders[k];
        const key = ids.slice(ids.length - k).reduce((sum, id) => sum * this.vocabSize + id, 0);
        let low = 0, high = contexts.length;
        while (low < high) {
          const middle = (low + high) >> 1;
          if (contexts[middle] < key) low = middle + 1; else high = middle;
        }
        if (contexts[low] !== key) continue;
        for (let w = 0; w < p.length; w++) p[w] *= rest[low];
        for (let i = starts[low]; i < starts[low + 1]; i++) p[words[i]] += share[i];
      }
      return p;
    }
  }

  // --- 5. From scores to words --------------------------------------------------------------------------------------

  /** ln of the softmax of one row of scores. */
  function logSoftmax(logits) {
    let highest = -Infinity, sum = 0;
    for (const value of logits) if (value > highest) highest = value;
    for (const value of logits) sum += Math.exp(value - highest);
    const log = highest + Math.log(sum);
    return Float32Array.from(logits, (value) => value - log);
  }

  /** The probabilities to draw from: the temperature divides the scores, top-k keeps the k best (and its equals), top-p
      the smallest set of best words that together have a share of p. As the library's `filter_logits`, in its order. */
  function filtered(logits, { temperature = 1, topK = 0, topP = 1 } = {}) {
    const best = Array.from(logits.keys());
    const keepsAll = temperature > 0 && !topK && topP >= 1;  // then no order is needed, and sorting takes longest
    if (!keepsAll) best.sort((a, b) => logits[b] - logits[a] || a - b);
    const p = new Float32Array(logits.length);
    if (temperature === 0) {
      p[best[0]] = 1;
      return p;
    }
    let n = best.length;
    if (topK && topK < n) for (n = topK; n < best.length && logits[best[n]] === logits[best[topK - 1]];) n++;
    const kept = softmax(Float64Array.from(best.slice(0, n), (id) => logits[id] / temperature));
    let m = 0, share = 0;
    while (m < n && (topP >= 1 || share < topP)) share += kept[m++];
    const total = kept.subarray(0, m).reduce((sum, value) => sum + value, 0);
    for (let i = 0; i < m; i++) p[best[i]] = kept[i] / total;
    return p;
  }

  /** Random numbers from 0 to 1 that a seed fixes (the generator mulberry32), so that a text can be written again. */
  function randomNumbers(seed) {
    return () => {
      seed = (seed + 0x6d2b79f5) | 0;
      let z = Math.imul(seed ^ (seed >>> 15), 1 | seed);
      z = (z + Math.imul(z ^ (z >>> 7), 61 | z)) ^ z;
      return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
    };
  }

  /** An id drawn with probabilities p. */
  function draw(p, random) {
    let left = random(), last = 0;
    for (let id = 0; id < p.length; id++) {
      if (p[id] === 0) continue;
      last = id;
      left -= p[id];
      if (left < 0) break;
    }
    return last;  // rounding may leave a crumb: then the last word that is possible
  }

  // --- 6. In a worker: one model, one request at a time, and the newest wins ----------------------------------------

  /** How many ids two rows have in common at their beginning, as far as `n`. */
  function commonStart(ids, others, n) {
    let same = 0;
    while (same < n && same < ids.length && ids[same] === others[same]) same++;
    return same;
  }

  /** A network that reads texts one after the other: what they have in common at the beginning is read once. */
  class Reader {
    constructor(model) {
      this.model = model;
      this.memory = model.newMemory();
      this.next = [];  // ln p of every next word after each position that was read
      this.muted = "";
    }

    /** Read ids, of which only what follows the common beginning is new, in slices. False if `outdated()` says so. */
    async bring(ids, mute, outdated) {
      const { model, memory, next } = this, muted = [...mute].sort().join();
      const same = muted === this.muted ? commonStart(ids, memory.ids, next.length) : 0;
      this.muted = muted;
      model.crop(memory, same);
      next.length = same;
      for (let t = same; t < ids.length; t += 16) {
        const slice = ids.slice(t, t + 16), logits = model.logits(model.read(slice, memory, mute));
        const V = logits.length / slice.length;
        for (let i = 0; i < slice.length; i++) next.push(logSoftmax(logits.subarray(i * V, (i + 1) * V)));
        await pause();
        if (outdated()) return false;
      }
      return true;
    }
  }

  /** Counts read in the same way: each position anew, since there is nothing to remember. */
  class CountReader {
    constructor(model) {
      this.model = model;
      this.ids = [];
      this.next = [];
      this.memory = { attention: null };
    }

    async bring(ids) {
      const same = commonStart(ids, this.ids, this.next.length);
      this.ids = ids.slice();
      this.next.length = same;
      for (let t = same; t < ids.length; t++) {
        this.next.push(Float32Array.from(this.model.distribution(ids.slice(0, t + 1)), Math.log));
      }
      return true;
    }
  }

  /** Let other messages in. A timer would wait 4 ms. */
  const pause = () => new Promise((go) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => { port1.close(); go(); };
    port2.postMessage(0);
  });

  /** Answer `{id, task, …}` with `{id, result}` or `{id, error}`, and `{id, partial, …}` on the way. Null: outdated.
      `more` holds tasks of a view's own. */
  function serve(scope, more = {}) {
    let reader, newest = 0;
    const tasks = {
      async load({ kind, config, base64, quick = true }) {
        const bytes = bytesOf(base64);
        if (kind === "counts") reader = new CountReader(new NGram(await unzip(bytes)));
        else reader = new Reader(new Decoder(config, readSafetensors(bytes), quick));
        return { quick: reader.model.linear !== linear };  // counts multiply nothing, and are not slow
      },

      /** ln p of each token (of the first: 0) and of every word behind the last; attention maps where asked for. */
      async read({ ids, mute = [], maps = false }, outdated) {
        const began = performance.now();
        if (!(await reader.bring(ids, new Set(mute), outdated))) return null;
        const logP = ids.map((token, t) => (t ? reader.next[t - 1][token] : 0));
        const attention = maps ? reader.memory.attention : null;
        return { ids, logP, next: reader.next[ids.length - 1], attention, ms: performance.now() - began };
      },

      /** How much ln p of a next word changes when a head is muted, for each head in turn. */
      async muteEach({ ids, word }, outdated, partial) {
        const { n_layers, n_heads } = reader.model.config;
        if (!(await reader.bring(ids, new Set(), outdated))) return null;
        const whole = reader.next[ids.length - 1][word];
        for (let layer = 0; layer < n_layers; layer++) {
          for (let head = 0; head < n_heads; head++) {
            if (!(await reader.bring(ids, new Set([`${layer}.${head}`]), outdated))) return null;
            partial({ layer, head, change: reader.next[ids.length - 1][word] - whole });
          }
        }
        return {};
      },

      /** Write up to n tokens; each is sent as soon as it is drawn. Stops behind the token `end`. */
      async write({ ids, n, seed, end, longest, ...how }, outdated, partial) {
        const random = randomNumbers(seed), text = ids.slice(), began = performance.now();
        while (text.length < Math.min(ids.length + n, longest)) {
          if (!(await reader.bring(text, new Set(), outdated)) || outdated()) return null;
          const next = reader.next[text.length - 1], token = draw(filtered(next, how), random);
          text.push(token);
          partial({ token, logP: next[token] });
          if (token === end) break;
        }
        return { ids: text, ms: performance.now() - began };
      },

      stop: async () => ({}),

      ...more,
    };
    scope.onmessage = async ({ data: { id, task, ...rest } }) => {
      newest = id;
      const outdated = () => id !== newest, partial = (part) => scope.postMessage({ id, partial: true, ...part });
      try {
        scope.postMessage({ id, result: await tasks[task](rest, outdated, partial) });
      } catch (error) {
        scope.postMessage({ id, error: String(error) });
      }
    };
  }

  return {
    bytesOf, unzip, readSafetensors, ByteBPE, linear, quickLinear, layerNorm, gelu, erf, exactGelu, softmax, attention,
    Network, Decoder, NGram, logSoftmax, filtered, randomNumbers, draw, serve,
  };
}

/** A worker made from the engine's own source: a page opened from a folder may not load one from a file.
    `ask(task, rest, each)` gives a promise of the result; `each` is called with every partial one.
    `view` is a function of the engine that returns further `tasks`; it may use nothing else from outside. */
function startWorker(view = () => ({})) {
  const code = `const engine = (${nextwordEngine})(); engine.serve(self, (${view})(engine).tasks);`;
  const source = new Blob([code], { type: "text/javascript" });
  const worker = new Worker(URL.createObjectURL(source)), waiting = new Map();
  let last = 0;
  worker.onmessage = ({ data: { id, result, error, partial, ...rest } }) => {
    const { resolve, reject, each } = waiting.get(id);
    if (partial) return each?.(rest);
    waiting.delete(id);
    if (error) reject(new Error(error));
    else resolve(result);
  };
  const ask = (task, rest = {}, each = null) => new Promise((resolve, reject) => {
    waiting.set(++last, { resolve, reject, each });
    worker.postMessage({ id: last, task, ...rest });
  });
  return { ask, worker };
}

/** Where the scripts that hold data put it: NEXTWORD.model("small", {…}), NEXTWORD.tokenizer = …. */
const NEXTWORD = {
  models: {},
  model(name, content) {
    this.models[name] = content;
    this.arrived?.(name);
  },
};
