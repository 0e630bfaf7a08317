"use strict";
/* BERT in plain JavaScript: the library's MaskedLM, in the order of the maths, from pieces of engine.js. Ids become
   vectors (1), blocks let every position see all others (2), a head scores the words at the hidden places (3). With
   `causal` the same network reads from left to right, as GPT does.

   Shapes as in engine.js: T positions, C = d_model, H heads of width D = C / H, V words. */
function nextwordEncoder({ Network, layerNorm, exactGelu, attention }) {

  /** Rotary positions: in each head of x, (T, C), position t turns pair i by t · 10000^(-2i/D) radians; in place.
      The product of a query and a key then knows how far apart they stand. */
  function rotate(x, C, n_heads) {
    const D = C / n_heads;
    for (let from = 0, t = 0; from < x.length; from += C, t++) {
      for (let pair = 0; pair < D; pair += 2) {
        const angle = t * 10000 ** (-pair / D), cos = Math.cos(angle), sin = Math.sin(angle);
        for (let a = from + pair; a < from + C; a += D) {  // all heads turn alike
          [x[a], x[a + 1]] = [x[a] * cos - x[a + 1] * sin, x[a] * sin + x[a + 1] * cos];
        }
      }
    }
    return x;
  }

  /** What a config must say for `MaskedLM` to compute that model; anything else would be silently wrong. */
  const IMPLEMENTED = {
    model: "MaskedLM", norm_position: "post", activation: "gelu", positions: "rotary", d_ff: null,
  };

  class MaskedLM extends Network {
    constructor(config, weights, quick = true) {
      super(config, weights, quick, IMPLEMENTED);
      if (typeof config.causal !== "boolean") throw new TypeError("causal must be true or false");
    }

    /** x Wᵀ + b with the weights of that name. x: (T, I); returns (T, O). */
    affine(name, x, T) {
      return this.linear(x, T, this.weights[`${name}.weight`], this.weights[`${name}.bias`]);
    }

    norm(name, x) {
      const { d_model: C, norm_eps: eps } = this.config;
      return layerNorm(x, C, this.weights[`${name}.weight`], this.weights[`${name}.bias`], eps);
    }

    /** A vector for every position, (T, C). `segments` says of which of two texts each token is a part. */
    read(ids, segments = ids.map(() => 0)) {
      const { d_model: C, n_layers, context_length } = this.config, T = ids.length;
      if (T > context_length) throw new RangeError(`${T} tokens; the model reads at most ${context_length}`);
      const words = this.weights["encoder.embedding.weight"], texts = this.weights["encoder.segments.weight"];
      let x = new Float32Array(T * C);  // which word, and which text; the place follows in attention
      for (let t = 0; t < T; t++) {
        for (let i = 0; i < C; i++) x[t * C + i] = words[ids[t] * C + i] + texts[segments[t] * C + i];
      }
      x = this.norm("encoder.embedding_norm", x);
      for (let layer = 0; layer < n_layers; layer++) {  // post-norm: LayerNorm(x + Sublayer(x))
        const block = `encoder.blocks.${layer}`;
        x = this.norm(`${block}.attention_norm`, sum(x, this.attend(`${block}.attention`, x, T)));
        const hidden = exactGelu(this.affine(`${block}.feed_forward.up`, x, T));  // (T, 4C)
        x = this.norm(`${block}.feed_forward_norm`, sum(x, this.affine(`${block}.feed_forward.down`, hidden, T)));
      }
      return x;
    }

    /** Attention of every position to all of them or, if causal, to those up to itself; (T, C). */
    attend(name, x, T) {
      const { d_model: C, n_heads, causal } = this.config;
      const queries = rotate(this.affine(`${name}.query`, x, T), C, n_heads);
      const keys = rotate(this.affine(`${name}.key`, x, T), C, n_heads);
      const values = this.affine(`${name}.value`, x, T);  // not turned: they carry what is said, and not where
      const { out } = attention(queries, keys, values, n_heads, C, (t) => (causal ? t + 1 : T));
      return this.affine(`${name}.out`, out, T);
    }

    /** The score of every word at these places: hidden, (T, C), to (places, V). The table that was read from also
        scores, with a bias for each word. */
    logits(hidden, places) {
      const C = this.config.d_model, n = places.length, table = this.weights["encoder.embedding.weight"];
      const rows = new Float32Array(n * C);
      places.forEach((t, i) => rows.set(hidden.subarray(t * C, (t + 1) * C), i * C));
      const x = this.norm("transform_norm", exactGelu(this.affine("transform", rows, n)));
      return this.linear(x, n, table, this.weights["output.bias"]);
    }
  }

  const sum = (x, y) => x.map((value, i) => value + y[i]);

  return { rotate, MaskedLM };
}
