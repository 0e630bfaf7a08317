"use strict";
/* CLIP's text encoder in plain JavaScript, in the order of the maths: words become ids (1), ids become one vector (2),
   and its cosines with other vectors say what belongs together (3). The pieces are those of engine.js.

   The picture encoder is not here: the vectors of the gallery's pictures were computed by the library. Shapes as in
   engine.js: T tokens, C = d_model (also the width of the space that texts and pictures share), N pictures. */
function nextwordCLIP({ Network, linear, layerNorm, exactGelu, softmax, attention }) {

  // --- 1. From words to ids -----------------------------------------------------------------------------------------

  const END = 2, UNKNOWN = 3;
  // Python's \s is Unicode's White_Space, which JavaScript's is not; with the flag u a sign is a whole code point.
  const PIECES = /\p{L}+|\p{N}+|[^\p{White_Space}\p{L}\p{N}]/gu;

  /** Whole words, numbers and signs as ids (the library's WordTokenizer); what it does not know is UNKNOWN. */
  class Words {
    constructor(tokens) {
      this.ids = new Map(tokens.map((token, id) => [token, id]));
    }

    split(text) {
      return text.match(PIECES) || [];
    }

    encode(text) {
      return this.split(text).map((word) => this.ids.get(word) ?? UNKNOWN);
    }
  }

  // --- 2. From ids to a vector --------------------------------------------------------------------------------------

  /** A vector divided by its length; in place. */
  function unitLength(x) {
    let squares = 0;
    for (const value of x) squares += value ** 2;
    const length = Math.max(Math.sqrt(squares), 1e-12);
    for (let i = 0; i < x.length; i++) x[i] /= length;
    return x;
  }

  const EPS = 1e-5;  // of the norms

  /** The fields of a config of which this knows what they mean; the last ones are those of the picture encoder. */
  const KNOWN = [
    "format", "model", "vocab_size", "context_length", "d_embed", "d_model", "n_heads", "n_layers", "temperature",
    "size", "n_channels", "vision", "widths", "patch", "vision_layers",
  ];
  const IMPLEMENTED = { format: 1, model: "CLIP" };

  /** The text encoder: a small GPT, read at the end token (Radford et al. 2021, section 2.4). */
  class CLIPTexts extends Network {
    constructor(config, weights, quick = true) {
      super(config, weights, quick, IMPLEMENTED);
      for (const field of Object.keys(config)) {
        if (!KNOWN.includes(field)) throw new TypeError(`${field} is a field that this does not implement`);
      }
      const { vocab_size: V, context_length, d_model: C, d_embed, n_layers } = config;
      const sizes = { embedding: V * C, positions: context_length * C, output: d_embed * C };
      for (const [name, size] of Object.entries(sizes)) {
        const { length } = weights[`text.${name}.weight`];
        if (length !== size) throw new TypeError(`${name} holds ${length} numbers, and by its config ${size}`);
      }
      if (weights[`text.blocks.${n_layers}.attention.query.weight`]) {
        throw new TypeError(`n_layers is ${n_layers}, and there are weights for more`);
      }
      this.scale = Math.min(Math.exp(weights.log_scale[0]), 100);  // what multiplies cosines, 1 / τ
    }

    /** x Wᵀ + b with the weights of that name; the last projection has no b. x: (T, I); returns (T, O). */
    affine(name, x, T) {
      return this.linear(x, T, this.weights[`text.${name}.weight`], this.weights[`text.${name}.bias`] ?? null);
    }

    norm(name, x) {
      const { [`text.${name}.weight`]: weight, [`text.${name}.bias`]: bias } = this.weights;
      return layerNorm(x, this.config.d_model, weight, bias, EPS);
    }

    /** The vector of one text, (C,), of length 1. `ids` are those of its words, without the end token. */
    read(ids) {
      const { d_model: C, n_heads, n_layers, context_length } = this.config;
      const all = [...ids.slice(0, context_length - 1), END], T = all.length;
      const words = this.weights["text.embedding.weight"], places = this.weights["text.positions.weight"];
      const x = new Float32Array(T * C);  // which word, and where
      for (let t = 0; t < T; t++) {
        for (let i = 0; i < C; i++) x[t * C + i] = words[all[t] * C + i] + places[t * C + i];
      }
      const add = (y) => { for (let i = 0; i < x.length; i++) x[i] += y[i]; };
      for (let layer = 0; layer < n_layers; layer++) {  // pre-norm: x + Sublayer(LayerNorm(x))
        const block = `blocks.${layer}`, y = this.norm(`${block}.attention_norm`, x);
        const [queries, keys, values] = ["query", "key", "value"].map((kind) => (
          this.affine(`${block}.attention.${kind}`, y, T)
        ));
        const { out } = attention(queries, keys, values, n_heads, C, (t) => t + 1);  // each sees up to itself
        add(this.affine(`${block}.attention.out`, out, T));
        const hidden = exactGelu(this.affine(`${block}.feed_forward.up`, this.norm(`${block}.feed_forward_norm`, x), T));
        add(this.affine(`${block}.feed_forward.down`, hidden, T));
      }
      const end = x.subarray((T - 1) * C);  // the only one that has seen the whole text
      return unitLength(this.affine("output", this.norm("norm", end), 1));
    }
  }

  // --- 3. What belongs together -------------------------------------------------------------------------------------

  /** The vector of a text, (C,): the mean of its vectors in all prompts, with length 1 again (section 3.1.4). */
  function textVector(encoder, words, text, prompts = ["{}"]) {
    const mean = new Float32Array(encoder.config.d_embed);
    for (const prompt of prompts) {
      const vector = encoder.read(words.encode(prompt.replace("{}", () => text)));  // in a text "$&" is no pattern
      for (let i = 0; i < mean.length; i++) mean[i] += vector[i] / prompts.length;
    }
    return unitLength(mean);
  }

  /** The cosines of a vector, (C,), with N others, (N, C), all of length 1; (N,). */
  const cosines = (vector, others) => linear(vector, 1, others, null);

  /** What each of N candidates gets of 1: a softmax of the cosines, divided by the learned temperature. */
  const shares = (cosines, scale) => softmax(cosines.map((cosine) => scale * cosine));

  /** At which place of a row of scores the one at `right` stands: 1 where none is higher. */
  const placeOf = (scores, right) => 1 + scores.reduce((higher, score) => higher + (score > scores[right]), 0);

  return { Words, CLIPTexts, textVector, cosines, shares, placeOf };
}
