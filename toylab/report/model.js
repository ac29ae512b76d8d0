// The forward pass of the models of toylab/model, in float64, with a hook at every point that a page edits or shows.
// A stream is one Float64Array per position; queries, keys, values and patterns have a leading axis of heads.
"use strict";
const toyModel = (() => {
  const zip = (x, y, f) => x.map((row, i) => row.map((value, j) => f(value, y[i][j])));
  const add = (x, y) => zip(x, y, (a, b) => a + b);
  const range = (n) => Array.from({ length: n }, (_, i) => i);

  function erf(x) { // a series of positive terms; beyond 6, erf is 1 to the last digit
    if (Math.abs(x) > 6) return Math.sign(x);
    let term = x, sum = x;
    for (let n = 1; Math.abs(term) > 1e-17 * Math.abs(sum); n++) sum += term *= (2 * x * x) / (2 * n + 1);
    return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
  }

  const ACTIVATIONS = {
    gelu: (x) => (x / 2) * (1 + erf(x / Math.SQRT2)),
    "gelu-tanh": (x) => (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
    relu: (x) => Math.max(x, 0),
    silu: (x) => x / (1 + Math.exp(-x)),
  };

  function frequencies(size, { position_base, position_frequency }) {
    return range(Math.ceil(size / 2)).map((i) => position_frequency * Math.exp((-Math.log(position_base) * 2 * i) / size));
  }

  // Each encoding has at most one of: embed(position), rotate(row, position), bias(head, query, key).
  const POSITIONS = {
    none: () => ({}),
    learned: (config, weights) => ({
      embed(position) {
        const table = weights["positions.table"];
        if (position < table.rows) return row(table, position);
        throw new Error(`position ${position}: learned positions end at ${table.rows - 1}; give a shorter input`);
      },
    }),
    sinusoidal(config) {
      const angular = frequencies(config.position_width ?? config.width, config);
      const wave = (f, position) => angular.map((frequency) => config.position_std * f(position * frequency));
      return {
        embed: (position) => {
          const vector = new Float64Array(config.width);
          vector.set([...wave(Math.sin, position), ...wave(Math.cos, position)]);
          return vector;
        },
      };
    },
    rotary(config) {
      const half = config.width / config.heads / 2, angular = frequencies(2 * half, config);
      return {
        rotate: (x, position) => x.map((value, i) => {
          const angle = position * angular[i % half], sine = Math.sin(angle), cosine = Math.cos(angle);
          return i < half ? value * cosine - x[i + half] * sine : x[i - half] * sine + value * cosine;
        }),
      };
    },
    alibi({ heads, alibi_slope }) {
      const slopes = range(heads).map((h) => alibi_slope ?? 2 ** ((-8 * (h + 1)) / heads));
      return { bias: (head, query, key) => -slopes[head] * Math.abs(query - key) };
    },
  };

  const OPTIONS = {
    activation: Object.keys(ACTIVATIONS),
    norm: ["pre", "post", "entry", "none"],
    positions: Object.keys(POSITIONS),
    unembedding: ["learned", "tied", "frozen", "orthogonal", "none"],
  };
  const FIELDS = [
    "layers", "heads", "width", "hidden", "biases", "causal", "position_base", "position_frequency", "position_width",
    "position_std", "alibi_slope", "embedding_std", "dropout", ...Object.keys(OPTIONS),
  ];
  const DECODER_FIELDS = ["encoder", "heads", "self_attention", "residual", "hidden", "query_std", "head", "logit_scale"];

  function check(config, fields) {
    for (const [name, value] of Object.entries(config)) {
      if (!fields.includes(name)) throw new Error(`${name}=${value}: this page cannot compute models with this setting`);
      const options = OPTIONS[name];
      if (options && !options.includes(value)) {
        throw new Error(`${name}=${value}: this page computes models with ${options.join(", ")}`);
      }
    }
  }

  const buffer = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer;

  // Float32 numbers whose bytes are stored by significance: first the lowest byte of all, then the next.
  function numbers(text) {
    const planes = new Uint8Array(buffer(text)), size = planes.length / 4, bytes = new Uint8Array(4 * size);
    planes.forEach((byte, at) => { bytes[4 * (at % size) + Math.floor(at / size)] = byte; });
    return new Float32Array(bytes.buffer);
  }

  // A model from {kind, config, weights: {name: {shape, data}}}, where data is the base64 of `numbers`.
  function load({ kind, config, weights }) {
    if (kind === "Transformer") check(config, FIELDS);
    else if (kind === "EncoderDecoder") check(config.encoder, FIELDS), check(config, DECODER_FIELDS);
    else throw new Error(`${kind}: this page computes a Transformer or an EncoderDecoder`);
    const tensors = Object.entries(weights).map(([name, { shape, data }]) =>
      [name, { rows: shape.length > 1 ? shape[0] : 1, columns: shape.at(-1), data: numbers(data) }]);
    return { kind, config, weights: Object.fromEntries(tensors) };
  }

  // The model with its weights plus `share` times a change: {name: {scale, data}}, where data is the base64 of int16.
  function changed(model, change, share) {
    const weights = Object.fromEntries(Object.entries(change).map(([name, { scale, data }]) => {
      const steps = new Int16Array(buffer(data)), before = model.weights[name];
      return [name, { ...before, data: Float64Array.from(before.data, (value, i) => value + share * scale * steps[i]) }];
    }));
    return { ...model, weights };
  }

  const row = ({ columns, data }, n) => Float64Array.from(data.subarray(n * columns, (n + 1) * columns));

  function linear(weights, name, x) {
    const { rows, columns, data } = weights[`${name}.weight`], bias = weights[`${name}.bias`]?.data;
    return x.map((input) => {
      const output = new Float64Array(rows);
      for (let i = 0, at = 0; i < rows; i++) {
        let sum = bias ? bias[i] : 0;
        for (let j = 0; j < columns; j++) sum += data[at++] * input[j];
        output[i] = sum;
      }
      return output;
    });
  }

  function layerNorm(weights, name, x) {
    const gain = weights[`${name}.weight`].data, bias = weights[`${name}.bias`]?.data;
    return x.map((input) => {
      const mean = input.reduce((sum, value) => sum + value, 0) / input.length;
      const variance = input.reduce((sum, value) => sum + (value - mean) ** 2, 0) / input.length;
      return input.map((value, i) => ((value - mean) / Math.sqrt(variance + 1e-5)) * gain[i] + (bias ? bias[i] : 0));
    });
  }

  function softmax(scores) {
    const most = Math.max(...scores), exponentials = scores.map((score) => Math.exp(score - most));
    const total = exponentials.reduce((sum, value) => sum + value, 0);
    return exponentials.map((value) => value / total);
  }

  // Scores get bias(head, query, key), -Infinity where a key is hidden.
  function attention(weights, name, heads, queryStream, keyStream, bias, hook, rotate = (x) => x) {
    const part = (r, h) => r.subarray((h * r.length) / heads, ((h + 1) * r.length) / heads);
    const split = (x) => range(heads).map((h) => x.map((r) => part(r, h)));
    const turned = (x) => x.map((head) => head.map((r, position) => rotate(r, position)));
    const q = hook(`${name}.q`, turned(split(linear(weights, `${name}.query`, queryStream))));
    const k = hook(`${name}.k`, turned(split(linear(weights, `${name}.key`, keyStream))));
    const v = hook(`${name}.v`, split(linear(weights, `${name}.value`, keyStream)));
    const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
    const scores = q.map((head, h) => head.map((query, i) =>
      Float64Array.from(k[h], (key, j) => dot(query, key) / Math.sqrt(query.length) + bias(h, i, j))));
    const pattern = hook(`${name}.pattern`, hook(`${name}.scores`, scores).map((head) => head.map(softmax)));
    const z = hook(`${name}.z`, pattern.map((head, h) => head.map((shares) => {
      const mean = new Float64Array(v[h][0].length);
      shares.forEach((share, j) => v[h][j].forEach((value, i) => { mean[i] += share * value; }));
      return mean;
    })));
    return linear(weights, `${name}.output`, z[0].map((_, i) => Float64Array.from(z.flatMap((head) => [...head[i]]))));
  }

  function mlp(weights, name, activation, x, hook) {
    const pre = hook(`${name}.pre`, linear(weights, `${name}.up`, x));
    const post = hook(`${name}.post`, pre.map((hidden) => hidden.map(ACTIVATIONS[activation])));
    return linear(weights, `${name}.down`, post);
  }

  // Logits at each position; the final stream of an encoder, which has no unembedding. `prefix` is its place in a model.
  function transformer(allWeights, config, tokens, allHooks, prefix = "") {
    const weights = Object.fromEntries(Object.entries(allWeights).filter(([name]) => name.startsWith(prefix))
      .map(([name, tensor]) => [name.slice(prefix.length), tensor]));
    const hook = (point, x) => allHooks(prefix + point, x);
    const { norm, heads, activation, causal } = config;
    const encoding = POSITIONS[config.positions](config, weights);
    const extra = encoding.bias ?? (() => 0);
    const bias = (head, query, key) => (causal && key > query ? -Infinity : extra(head, query, key));
    const normed = (when, name, x) => (when.includes(norm) ? layerNorm(weights, name, x) : x);
    let x = hook("embed", tokens.map((token) => row(weights["embedding.weight"], token)));
    if (encoding.embed) x = add(x, hook("pos_embed", tokens.map((_, position) => encoding.embed(position))));
    for (const layer of range(config.layers)) {
      const at = `blocks.${layer}`;
      x = normed(["entry"], `${at}.ln1`, hook(`${at}.resid_pre`, x));
      const read = normed(["pre"], `${at}.ln1`, x);
      const attended = attention(weights, `${at}.attn`, heads, read, read, bias, hook, encoding.rotate);
      x = hook(`${at}.resid_mid`, normed(["post"], `${at}.ln1`, add(x, hook(`${at}.attn_out`, attended))));
      if (config.hidden !== 0) {
        const written = mlp(weights, `${at}.mlp`, activation, normed(["pre", "entry"], `${at}.ln2`, x), hook);
        x = normed(["post"], `${at}.ln2`, add(x, hook(`${at}.mlp_out`, written)));
      }
      x = hook(`${at}.resid_post`, x);
    }
    const final = hook("final", normed(["pre", "entry"], "ln_final", x));
    if (config.unembedding === "none") return final;
    const tied = { "unembedding.weight": weights["embedding.weight"] };
    return linear({ ...tied, ...weights }, "unembedding", final);
  }

  function encoderDecoder(weights, config, tokens, hook) {
    const stream = transformer(weights, config.encoder, tokens, hook, "encoder.");
    const queries = weights["decoder.queries"], everywhere = () => 0, { heads } = config;
    const at = (point, x) => hook(`decoder.${point}`, x);
    let x = at("resid_pre", range(queries.rows).map((n) => row(queries, n)));
    if (config.self_attention) {
      const read = layerNorm(weights, "decoder.ln1", x);
      x = add(x, at("attn_out", attention(weights, "decoder.attn", heads, read, read, everywhere, hook)));
    }
    x = at("resid_mid", x);
    const attended = at("cross_out", attention(weights, "decoder.cross", heads, x, stream, everywhere, hook));
    x = config.residual ? add(x, attended) : attended;
    if (config.hidden) {
      const read = layerNorm(weights, "decoder.ln2", x);
      x = add(x, at("mlp_out", mlp(weights, "decoder.mlp", config.encoder.activation, read, hook)));
    }
    const scaled = at("resid_post", x).map((vector) => vector.map((value) => config.logit_scale * value));
    return linear(weights, "decoder.head", scaled);
  }

  // Logits as one array per position (of an encoder-decoder: per label query). `hook(point, x)` returns x or an edit.
  function forward({ kind, config, weights }, tokens, hook = (point, x) => x) {
    return (kind === "Transformer" ? transformer : encoderDecoder)(weights, config, tokens, hook);
  }

  const argmax = (x) => x.indexOf(Math.max(...x));

  // The tokens with a greedy continuation, up to `steps` tokens or the end token `stop`.
  function generate(model, tokens, steps, stop, hook) {
    const written = [...tokens];
    while (steps-- > 0 && !(written.length > tokens.length && written.at(-1) === stop)) {
      written.push(argmax(forward(model, written, hook).at(-1)));
    }
    return written;
  }

  // A hook from edits: gains of heads and moved attention {query: key} by head (such as "blocks.1.attn.0"), outputs that
  // are zero-ablated, and vectors added at a point.
  function editing({ gains = {}, off = [], moved = {}, vectors = {} }) {
    return (point, x) => {
      const site = point.replace(/\.(z|pattern)$/, ".");
      if (off.includes(point)) return x.map((vector) => vector.map(() => 0));
      if (point.endsWith(".z")) return x.map((head, h) => head.map((r) => r.map((value) => value * (gains[site + h] ?? 1))));
      if (point.endsWith(".pattern")) {
        return x.map((head, h) => head.map((shares, query) => {
          const key = moved[site + h]?.[query];
          return key === undefined ? shares : shares.map((_, j) => Number(j === key));
        }));
      }
      return vectors[point] ? x.map((r) => r.map((value, i) => value + vectors[point][i])) : x;
    };
  }

  return { load, changed, forward, generate, editing, softmax, argmax };
})();
if (typeof module !== "undefined") module.exports = toyModel; // tests run it under node
