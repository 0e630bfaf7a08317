"use strict";
/* The book's two translators in plain JavaScript, in the order of the maths: what both share (1), the Transformer (2),
   the LSTM with attention (3), and writing a translation word by word (4). They are made of engine.js's pieces.

   Shapes are written as in the library: S words read, T words written, C = d_model, V words known, H heads. A matrix
   is one Float32Array, row after row. Where a model looked is maps[layer][head][t], a weight for each source word,
   (S,). */
function nextwordTranslators({ Network, linear, layerNorm, softmax, attention, logSoftmax }) {

  // --- 1. What both share -------------------------------------------------------------------------------------------

  const EPS = 1e-5;  // of every norm, as in the library

  const plus = (x, y) => x.map((value, i) => value + y[i]);

  /** Two matrices of the same width, one below the other. */
  function stacked(x, y) {
    const both = new Float32Array(x.length + y.length);
    both.set(x);
    both.set(y, x.length);
    return both;
  }

  /** x, (T, A), and y, (T, B), side by side, (T, A + B). */
  function beside(x, y, T) {
    const A = x.length / T, B = y.length / T, both = new Float32Array(x.length + y.length);
    for (let t = 0; t < T; t++) {
      both.set(x.subarray(t * A, (t + 1) * A), t * (A + B));
      both.set(y.subarray(t * B, (t + 1) * B), t * (A + B) + A);
    }
    return both;
  }

  /** An encoder reads the source once, into a memory; a decoder then reads what has been written, and scores the next
      word. A subclass says what its config must be, how it encodes, how it decodes, and what it remembers meanwhile. */
  class EncoderDecoder extends Network {
    constructor(config, weights, quick, implemented) {
      super(config, weights, quick, { share_embeddings: true, source_vocab: config.target_vocab, ...implemented });
      this.quick = this.linear !== linear;
    }

    /** A matrix with its bias, if it has one. x: (T, I); returns (T, O). */
    affine(name, x, T) {
      return this.linear(x, T, this.weights[`${name}.weight`], this.weights[`${name}.bias`]);
    }

    norm(name, x) {
      return layerNorm(x, this.config.d_model, this.weights[`${name}.weight`], this.weights[`${name}.bias`], EPS);
    }

    /** The words' vectors times √C, (T, C). The same table scores words, and its numbers are small for that. */
    embed(ids) {
      const C = this.config.d_model, x = new Float32Array(ids.length * C);
      const table = this.weights["target_embedding.weight"];  // (V, C)
      ids.forEach((id, t) => x.set(table.subarray(id * C, (id + 1) * C), t * C));
      return x.map((value) => value * Math.sqrt(C));
    }

    /** Read `ids` after what `state` holds, which moves along. Returns next[t], ln p of every word behind ids[t], (V,),
        and maps. The cross-attention of the heads in `mute`, a set of "layer.head", brings zeros. */
    read(ids, memory, state, mute = new Set()) {
      const { hidden, maps } = this.decode(ids, memory, state, mute), V = this.config.target_vocab;
      const table = this.weights["target_embedding.weight"];  // it reads words on both sides, and scores them
      const scores = this.linear(hidden, ids.length, table, this.weights["output.bias"]);  // (T, V)
      return { next: ids.map((_, t) => logSoftmax(scores.subarray(t * V, (t + 1) * V))), maps };
    }
  }

  // --- 2. The Transformer (Vaswani et al. 2017) ---------------------------------------------------------------------

  class Transformer extends EncoderDecoder {
    constructor(config, weights, quick = true) {
      super(config, weights, quick, {
        model: "Transformer", norm_position: "post", positions: "sinusoidal", activation: "relu", bias: true,
        attention_bias: false, d_key: null,
      });
    }

    /** The words with their places: beside each sine stands the cosine of the same angle. The first is at `start`. */
    place(ids, start) {
      const C = this.config.d_model;
      return this.embed(ids).map((value, i) => {
        const column = i % C, even = column - (column % 2);
        const angle = (start + Math.floor(i / C)) * 10000 ** (-even / C);
        return value + (column % 2 ? Math.cos(angle) : Math.sin(angle));
      });
    }

    /** LayerNorm(x + f(x)): each sublayer is added to what came in, and the sum is normalised (post-norm). */
    add(name, x, y) {
      return this.norm(name, plus(x, y));
    }

    feedForward(layer, x, T) {
      const inner = this.affine(`${layer}.up`, x, T).map((value) => Math.max(0, value));  // (T, d_ff)
      return this.affine(`${layer}.down`, inner, T);
    }

    /** A vector for each source word, and of these the keys and values that the decoder's layers look up, (S, C) each:
        they stay the same for every word that is written. */
    encode(source) {
      const { d_model: C, n_layers, n_heads } = this.config, S = source.length;
      let x = this.place(source, 0);  // (S, C)
      for (let i = 0; i < n_layers; i++) {
        const layer = `encoder.${i}`, part = (name) => this.affine(`${layer}.attention.${name}`, x, S);
        const { out } = attention(part("query"), part("key"), part("value"), n_heads, C, () => S);  // all see all
        x = this.add(`${layer}.attention_norm`, x, this.affine(`${layer}.attention.out`, out, S));
        x = this.add(`${layer}.feed_forward_norm`, x, this.feedForward(`${layer}.feed_forward`, x, S));
      }
      const look = (name) => Array.from({ length: n_layers }, (_, i) => (
        this.affine(`decoder.${i}.cross_attention.${name}`, x, S)
      ));
      return { S, keys: look("key"), values: look("value") };
    }

    /** Nothing written: each layer has yet to see keys and values of words, (0, C). */
    newState() {
      const none = () => Array.from({ length: this.config.n_layers }, () => new Float32Array(0));
      return { length: 0, keys: none(), values: none() };
    }

    decode(ids, memory, state, mute) {
      const { d_model: C, n_layers, n_heads } = this.config, T = ids.length, start = state.length, maps = [];
      let x = this.place(ids, start);  // (T, C)
      for (let i = 0; i < n_layers; i++) {
        const layer = `decoder.${i}`, part = (name) => this.affine(`${layer}.${name}`, x, T);
        state.keys[i] = stacked(state.keys[i], part("attention.key"));
        state.values[i] = stacked(state.values[i], part("attention.value"));
        const sees = (t) => start + t + 1;  // a word sees itself and those before it
        const own = attention(part("attention.query"), state.keys[i], state.values[i], n_heads, C, sees);
        x = this.add(`${layer}.attention_norm`, x, this.affine(`${layer}.attention.out`, own.out, T));
        const silent = (head) => mute.has(`${i}.${head}`), query = part("cross_attention.query");
        const cross = attention(query, memory.keys[i], memory.values[i], n_heads, C, () => memory.S, silent);
        maps.push(cross.rows);
        x = this.add(`${layer}.cross_norm`, x, this.affine(`${layer}.cross_attention.out`, cross.out, T));
        x = this.add(`${layer}.feed_forward_norm`, x, this.feedForward(`${layer}.feed_forward`, x, T));
      }
      state.length += T;
      return { hidden: x, maps };
    }
  }

  // --- 3. The LSTM with attention (Bahdanau et al. 2015, Wu et al. 2016) --------------------------------------------

  const sigmoid = (x) => 1 / (1 + Math.exp(-x));

  /** The rows of x, (T, C), the last first. */
  function reversed(x, T) {
    const C = x.length / T, y = new Float32Array(x.length);
    for (let t = 0; t < T; t++) y.set(x.subarray(t * C, (t + 1) * C), (T - 1 - t) * C);
    return y;
  }

  class GNMT extends EncoderDecoder {
    constructor(config, weights, quick = true) {
      super(config, weights, quick, {
        model: "Seq2SeqLSTM", attention: "bottom", residual_from: null, output_norm: true,
      });
    }

    /** An LSTM over T vectors, (T, I). Its state, output h and cell c, (H,) each, moves along. Returns all h, (T, H).
        Here H is the layer's width. */
    lstm(name, x, T, { h, c }) {
      const part = (kind) => this.weights[`${name}.${kind}_l0`], H = h.length, y = new Float32Array(T * H);
      const fromWords = this.linear(x, T, part("weight_ih"), part("bias_ih"));  // (T, 4H), of all words at once
      for (let t = 0; t < T; t++) {
        const fromState = this.linear(h, 1, part("weight_hh"), part("bias_hh"));  // (4H,): it waits for the word before
        const sum = (gate, i) => fromWords[(4 * t + gate) * H + i] + fromState[gate * H + i];
        for (let i = 0; i < H; i++) {  // gates are stored in the order input, forget, cell, output
          c[i] = sigmoid(sum(1, i)) * c[i] + sigmoid(sum(0, i)) * Math.tanh(sum(2, i));
          y[t * H + i] = h[i] = sigmoid(sum(3, i)) * Math.tanh(c[i]);
        }
      }
      return y;
    }

    /** An LSTM's state before its first word. */
    begin(h) {
      return { h: Float32Array.from(h), c: new Float32Array(h.length) };
    }

    /** A vector for each source word, which knows its neighbours on both sides, and a key for the attention, (S, C). */
    encode(source) {
      const { d_model: C, n_layers } = this.config, S = source.length, words = this.embed(source);
      const alone = (name, x, width) => this.lstm(name, x, S, this.begin(new Float32Array(width)));
      const forwards = alone("forward_lstm", words, C / 2);  // (S, C/2): each word and what stands before it
      const backwards = reversed(alone("backward_lstm", reversed(words, S), C / 2), S);  // and what stands behind it
      let x = beside(forwards, backwards, S);  // (S, C)
      for (let i = 0; i < n_layers - 1; i++) x = alone(`encoder.${i}`, x, C);
      return { S, states: x, keys: this.affine("attention.key", x, S) };
    }

    /** Every layer of the decoder begins with the encoder's last output. */
    newState({ S, states }) {
      const last = states.subarray((S - 1) * this.config.d_model);
      return Array.from({ length: this.config.n_layers }, () => this.begin(last));
    }

    /** For each of T queries the weights softmax(v · tanh(W_q q + W_m h_s)) over the source, rows[t], (S,), and the
        mean of the source's vectors h_s by these weights, contexts, (T, C). */
    look(queries, T, { S, states, keys }) {
      const C = this.config.d_model, v = this.weights["attention.score.weight"];
      const asked = this.affine("attention.query", queries, T), contexts = new Float32Array(T * C), rows = [];
      for (let t = 0; t < T; t++) {
        const row = new Float32Array(S);
        for (let s = 0; s < S; s++) {
          for (let i = 0; i < C; i++) row[s] += v[i] * Math.tanh(asked[t * C + i] + keys[s * C + i]);
        }
        rows.push(softmax(row));
        for (let s = 0; s < S; s++) {
          for (let i = 0; i < C; i++) contexts[t * C + i] += row[s] * states[s * C + i];
        }
      }
      return { contexts, rows };
    }

    /** The bottom layer reads the words and asks the source; the layers above read the answer beside their input. */
    decode(ids, memory, state) {
      const T = ids.length;
      let x = this.lstm("decoder.0", this.embed(ids), T, state[0]);  // (T, C)
      const { contexts, rows } = this.look(x, T, memory);
      for (let i = 1; i < state.length; i++) x = this.lstm(`decoder.${i}`, beside(x, contexts, T), T, state[i]);
      return { hidden: this.norm("output_norm", x), maps: [[rows]] };  // one layer looks, with one head
    }
  }

  // --- 4. Writing ---------------------------------------------------------------------------------------------------

  /** Translate word by word, the likeliest each time, until `end` or until `longest` words are written. At the places
      in `forced`, a Map from place to id, that word is written instead. Returns the ids, and next and maps of each. */
  function translate(model, source, { start, end, longest, forced = new Map(), mute = new Set() }) {
    const memory = model.encode(source), state = model.newState(memory), ids = [], next = [];
    let maps = null, last = start;
    while (ids.length < longest && last !== end) {
      const step = model.read([last], memory, state, mute), [row] = step.next;
      last = forced.get(ids.length) ?? row.indexOf(row.reduce((best, value) => Math.max(best, value)));
      ids.push(last);
      next.push(row);
      maps = maps?.map((layer, l) => layer.map((rows, head) => [...rows, ...step.maps[l][head]])) ?? step.maps;
    }
    return { ids, next, maps };
  }

  /** Read a translation that is there at once, as in training: next and maps of every place. */
  function score(model, source, ids, { start, mute = new Set() }) {
    const memory = model.encode(source);
    return model.read([start, ...ids.slice(0, -1)], memory, model.newState(memory), mute);
  }

  /** Where each word looked, as a mean over layers and heads: mean[t], (S,). */
  function meanOf(maps) {
    const all = maps.flat();
    return all[0].map((_, t) => all[0][t].map((_, s) => all.reduce((sum, rows) => sum + rows[t][s] / all.length, 0)));
  }

  return { Transformer, GNMT, translate, score, meanOf };
}
