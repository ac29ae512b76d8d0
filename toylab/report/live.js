// The live panel: a trained model runs on the reader's input, with heads, layers and MLPs to switch off.
// `root` holds the elements of live.html; `state` has `get(name)` and `keep(changes)`.
"use strict";
function toyLive(root, panel, state) {
  const { mathematics } = toyPage, { task, vocabulary } = panel;
  const at = (id) => root.querySelector(`#live-${id}`);
  const mean = (x) => x.reduce((sum, value) => sum + value, 0) / x.length;
  const ids = (names) => names.map((name) => vocabulary.indexOf(name));
  const names = (tokens) => tokens.map((token) => vocabulary[token]);
  const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

  function allow(words, allowed, least, most = least) {
    const unknown = words.find((word) => !allowed.includes(word));
    if (unknown !== undefined) throw new Error(`${unknown}: is no token here; give ${allowed.join(" ")}`);
    if (words.length < least || words.length > most) {
      throw new Error(`${count(words.length, "token")}: give ${least === most ? least : `${least} to ${most}`}`);
    }
    return words;
  }

  function written(tokens, steps, stop, hook) { // a greedy answer: its row without the last token, and its names
    const row = toyModel.generate(model(), tokens, steps, stop, hook), answer = names(row.slice(tokens.length));
    return { row: names(row.slice(0, -1)), answer };
  }

  // Of each kind of task: `read` the words of the input, `run` them, `solve` them, and `measure` the claim's quantity.
  const KINDS = {
    iteration: {
      hint: () => `Inputs x (${task.inputs.join(" ")})`,
      read: (text) => allow(text.trim().split(/\s+/), task.inputs, 1, task.longest),
      run(words, hook) {
        const prompt = ids([task.begin, ...words, "EoI"]), stop = vocabulary.indexOf("EoS");
        const { row, answer } = written(prompt, words.length + 3, stop, hook);
        const links = words.map((_, t) => [words.length + 1 + t, t + 1]).filter(([query]) => query < row.length);
        return { rows: row, columns: row, links, answer: answer.filter((name) => name !== "EoS") };
      },
      solve(words) {
        const [first, ...later] = ids(words);
        return names(later.reduce((states, x) => [...states, task.next[states.at(-1)][x]], [task.first[first]]));
      },
      measure({ links }, pattern) {
        const shares = links.map(([query, key]) => pattern[query][key]);
        const value = mean(shares.map((share) => Number(share > 0.5)));
        const more = `mean attention on x_t: ${mean(shares).toFixed(3)}`;
        return [{ name: "steps in which this head has over half of its attention on x_t", value, more }];
      },
    },
    counting: {
      hint: () => "String of 0, 1, [ and ]",
      read(text) {
        const string = text.replace(/\s/g, ""), regions = string.split("[").length - 1;
        const letters = allow([...string], ["0", "1", "[", "]"], 2, task.longest);
        if (!/^([01]*\[[01]*\])+[01]*$/.test(string)) throw new Error(`${string}: must have regions [ ... ] in a row`);
        if (regions > task.regions) throw new Error(`${count(regions, "region")}: this model counts up to ${task.regions}`);
        return letters;
      },
      run(letters, hook) {
        const columns = ["BoS", ...letters], logits = toyModel.forward(model(), ids(columns), hook), links = [];
        let region = 0, inside = false;
        letters.forEach((letter, n) => {
          if (letter === "[") region++;
          if (letter === "[" || letter === "]") inside = !inside;
          else if (inside && letter === "1") links.push([region - 1, n + 1]);
        });
        const answer = logits.slice(0, region).map((row) => String(toyModel.argmax(row)));
        return { rows: logits.map((_, n) => `region ${n + 1}`), columns, links, answer };
      },
      solve: (letters) => letters.join("").match(/\[[01]*\]/g).map((region) => String(region.split("1").length - 1)),
      measure({ links, answer }, _, patterns) {
        const shares = patterns["decoder.cross"][0];
        return answer.map((_, region) => {
          const ones = links.filter(([label]) => label === region).map(([, key]) => shares[region][key]);
          const n = ones.length, k = task.bias?.[at("seed").value][region], law = n / (n + k);
          const more = k === undefined ? "" : `n / (n + K) = ${law.toFixed(3)} for n = ${n}, K = ${k.toFixed(2)}`;
          const value = ones.reduce((sum, share) => sum + share, 0);
          return { name: `region ${region + 1}: attention on its ones`, value, mark: law, more };
        });
      },
      figureLinks: (links, head) => (head.startsWith("decoder") ? links : []),
    },
    refusal: {
      hint: () => `Two operators (${task.operators.join(" ")}) and ${task.letters} letters`,
      read(text) {
        const words = text.trim().split(/\s+/);
        return [...allow(words.slice(0, 2), task.operators, 2), ...allow(words.slice(2), task.alphabet, task.letters)];
      },
      run([first, second, ...text], hook) {
        const prompt = ["BOS", first, second, "SOT", ...text, ...Array(task.pads).fill("PAD"), "EOT"];
        const { row, answer } = written(ids(prompt), task.letters, -1, hook);
        return { rows: row, columns: row, links: text.map((_, n) => [prompt.length - 1 + n, 4 + n]), answer };
      },
      solve: ([first, second, ...text]) => names(ids(text).map((letter) => [first, second].reduce(
        (image, name) => (image < task.alphabet.length ? task.images[task.operators.indexOf(name)][image] : image), letter))),
      measure: ({ answer }) => [{
        name: "refused: share of NULL", value: mean(answer.map((name) => Number(name === "NULL"))),
      }],
    },
    tokens: { // any other task: predictions at every position, or of a held-out row at its scored positions
      hint: () => `Tokens of a row (${vocabulary.join(" ")})`,
      read: (text) => allow(text.trim().split(/\s+/), vocabulary, 1, task.longest),
      run(words, hook) {
        const predicted = toyModel.forward(model(), ids(words), hook).map((row) => vocabulary[toyModel.argmax(row)]);
        const { links = [], targets } = task.rows[words.join(" ")] ?? {};
        return { rows: words, columns: words, links, answer: targets ? targets.map(([n]) => predicted[n]) : predicted };
      },
      solve: (words) => task.rows[words.join(" ")]?.targets.map(([, target]) => target),
      measure({ answer }, _, __, solution) {
        if (!solution) return [];
        return [{ name: "correct share of the scored tokens", value: mean(answer.map((name, n) => Number(name === solution[n]))) }];
      },
    },
    steering: {
      hint: () => `x0 and ${task.length} steps, digits ${task.digits.join(" ")}`,
      read: (text) => allow(text.trim().split(/\s+/), task.digits, task.length + 1),
      run(words, hook) {
        const prompt = ids(["BOS", ...words, "SEP"]);
        const chance = toyModel.softmax(toyModel.forward(model(), prompt, hook).at(-1));
        const { row, answer } = written(prompt, task.length + 4, vocabulary.indexOf("EOS"), hook);
        const links = answer[0] === "THINK" ? words.slice(1).map((_, t) => [prompt.length + t, 2 + t]) : [];
        return { rows: row, columns: row, links: links.filter(([query]) => query < row.length), answer, chance };
      },
      solve(words) {
        const [start, ...steps] = words.map(Number), next = (s, a) => task.permutation[(s + a) % task.digits.length];
        const states = steps.reduce((chain, a) => [...chain, next(chain.at(-1), a)], [start]).slice(1);
        return ["THINK", ...states.map(String), "ANS", String(states.at(-1)), "EOS"];
      },
      measure: ({ chance }) => ["THINK", "DIRECT"].map((name) =>
        ({ name: `probability of the opener ${name}`, value: chance[vocabulary.indexOf(name)] })),
    },
  };

  const kind = KINDS[panel.kind], models = {};
  let gains = {}, off = [], moved = {}, result = null, solution, patterns = {}, mixed = {};

  const chosen = () => panel.models[at("seed").selectedIndex];
  function model() { // of the chosen seed; fine-tuned, with the chosen multiple of the change
    const { title, model: record, change } = chosen(), share = Number(at("scale").value), key = `${title} ${share}`;
    models[title] ??= toyModel.load(record);
    if (!change || share === 1) return models[title];
    if (mixed.key !== key) mixed = { key, model: toyModel.changed(models[title], change, share - 1) };
    return mixed.model;
  }

  // Every attention: its name in links and on the page, its point, its heads, and the outputs of its layer.
  function attentions({ kind: built, config }) {
    const blocks = ({ layers: depth, heads, hidden, causal }, name, side, site) => Array.from({ length: depth }, (_, n) => ({
      name: `${name}${n}`, title: `${side}layer ${n}`, point: `${site}blocks.${n}.attn`, heads, causal,
      outputs: [`${site}blocks.${n}.attn_out`, ...(hidden === 0 ? [] : [`${site}blocks.${n}.mlp_out`])],
    }));
    if (built === "Transformer") return blocks(config, "", "", "");
    const outputs = ["decoder.cross_out", ...(config.hidden ? ["decoder.mlp_out"] : [])];
    const decoder = { name: "decoder", title: "decoder", point: "decoder.cross", heads: config.heads, outputs };
    return [decoder, ...blocks(config.encoder, "encoder.", "encoder, ", "encoder.")];
  }
  const layers = attentions(panel.models[0].model), known = {}, causal = {};
  for (const { name, title, point, heads, causal: isCausal } of layers) {
    for (let h = 0; h < heads; h++) {
      known[`${name}.${h}`] = [point, h];
      causal[`${name}.${h}`] = isCausal;
      at("head").append(new Option(`${title}, head ${h}`, `${name}.${h}`));
    }
  }
  const site = (head) => known[head].join(".");

  const pattern = toyPage.heatMap(at("pattern"), (query, key) => {
    const share = shown()[query]?.[key] ?? 0, [rows, columns] = sides();
    at("cell").textContent = `position ${query} (${rows[query]}) attends to position ${key} (${columns[key]}): ${share.toFixed(3)}`
      + (moved[site(at("head").value)]?.[query] === undefined ? "" : ", moved here by you");
  }, (query, key) => {
    if (causal[at("head").value] && key > query) return;
    (moved[site(at("head").value)] ??= {})[query] = key;
    changed();
  });
  const shown = () => { const [point, h] = known[at("head").value]; return patterns[point][h]; };
  const sides = () => (at("head").value.startsWith("encoder") ? [result.columns, result.columns] : [result.rows, result.columns]);

  function vectors() {
    const name = at("vector").value, vector = chosen().vectors?.[name], scale = Number(at("scale").value);
    return vector ? { [name]: vector.map((x) => scale * x) } : {};
  }

  let size = "";
  function compute() {
    at("error").textContent = "";
    try {
      const words = kind.read(at("input").value);
      const edit = toyModel.editing({ gains, off, moved, vectors: vectors() });
      patterns = {};
      result = kind.run(words, (point, x) => {
        const edited = edit(point, x);
        if (point.endsWith(".pattern")) patterns[point.slice(0, -8)] = edited;
        return edited;
      });
      solution = kind.solve(words);
      answer(result.answer, solution);
    } catch (error) {
      at("error").textContent = error.message;
      return;
    }
    const key = JSON.stringify([sides(), result.links, at("head").value]);
    if (key !== size) pattern.build(...sides(), (kind.figureLinks ?? ((links) => links))(result.links, at("head").value));
    size = key;
    pattern.draw((query, k) => shown()[query]?.[k] ?? 0);
    pattern.again();
    at("quantity").replaceChildren(...kind.measure(result, shown(), patterns, solution).map(gauge));
    at("scale-at").textContent = Number(at("scale").value).toFixed(2);
    at("gain").value = gains[site(at("head").value)] ?? 1;
    at("gain-at").textContent = Number(at("gain").value).toFixed(1);
    for (const box of root.querySelectorAll("#live-parts input")) box.checked = parts[box.value].on();
  }

  function make(name, className, text, ...children) {
    const made = document.createElement(name);
    made.className = className;
    made.append(...(text ? [text] : []), ...children);
    return made;
  }

  function answer(tokens, solution) { // a refusal is no wrong token, and the solution of a typed row may be unknown
    const wrong = (token, n) => panel.kind !== "refusal" && solution && token !== solution[n];
    at("answer").replaceChildren(
      make("dt", "", "the model writes"),
      make("dd", "", "", ...tokens.map((token, n) => make("span", wrong(token, n) ? "wrong" : "", `${token} `))),
      make("dt", "", panel.kind === "refusal" ? "the transform" : "correct"),
      make("dd", "", solution ? solution.join(" ") : "known for the held-out examples"),
    );
  }

  function gauge({ name, value, mark, more }) {
    const bar = make("div", "gauge"), percent = (share) => `${100 * Math.min(share, 1)}%`;
    function add(kind, start, end = start) {
      const piece = make("i", kind);
      Object.assign(piece.style, { left: percent(start), width: percent(end - start) });
      bar.append(piece);
    }
    if (panel.threshold !== null) add("met", panel.threshold, 1);
    add("bar", 0, value);
    if (mark) add("bound", mark);
    add("value", value);
    bar.setAttribute("aria-hidden", "true");
    const number = make("b", "", value.toFixed(3)), details = mathematics(more ? ` (${more})`.replaceAll(" = ", "\u00a0=\u00a0") : "");
    return make("div", "reading", "", make("p", "cell", "", ...mathematics(`${name}: `), number, ...details), bar);
  }

  // Switches: heads by their gain, MLPs and whole layers by their outputs.
  const parts = {};
  function part(name, label, on, set) {
    const box = document.createElement("input");
    Object.assign(box, { type: "checkbox", value: name });
    box.addEventListener("change", () => { set(box.checked); changed(); });
    parts[name] = { on };
    return make("label", "", "", box, ` ${label}`);
  }
  const outputs = (name, label, points) => part(name, label, () => !points.every((point) => off.includes(point)), (on) => {
    off = off.filter((point) => !points.includes(point)).concat(on ? [] : points);
  });
  function switches({ name, title, point, heads, outputs: [attended, ...mlp] }) {
    const boxes = Array.from({ length: heads }, (_, h) => part(`${name}.${h}`, `head ${h}`,
      () => (gains[`${point}.${h}`] ?? 1) !== 0, (on) => { gains[`${point}.${h}`] = Number(on); }));
    if (mlp.length) boxes.push(outputs(mlp[0], "MLP", mlp), outputs(name, "attention and MLP", [attended, ...mlp]));
    const group = make("div", "group", "", make("b", "", title), ...boxes);
    group.role = "group";
    group.ariaLabel = title;
    at("parts").append(group);
  }

  function changed() {
    compute();
    const gainList = Object.entries(gains).filter(([, gain]) => gain !== 1).map((entry) => entry.join(":"));
    const movedList = Object.entries(moved).flatMap(([head, keys]) =>
      Object.entries(keys).map((entry) => [head, ...entry].join(":")));
    state.keep({
      input: at("input").value,
      head: at("head").value,
      seed: panel.models.length > 1 ? at("seed").value : "",
      scale: at("scale").value === "1" ? "" : at("scale").value,
      vector: at("vector").value,
      gain: gainList.join(","),
      off: off.join(","),
      moved: movedList.join(","),
    });
  }

  function restore() {
    const split = (name) => (state.get(name) ?? "").split(",").filter(Boolean).map((entry) => entry.split(":"));
    const option = (id, value) => { if ([...at(id).options].some((one) => one.value === value)) at(id).value = value; };
    option("seed", state.get("seed"));
    option("head", panel.start[at("seed").value] ?? "");
    option("head", state.get("head"));
    option("vector", state.get("vector"));
    at("input").value = state.get("input") ?? panel.examples[0][1];
    at("scale").value = state.get("scale") ?? 1;
    gains = Object.fromEntries(split("gain").map(([name, gain]) => [name, Number(gain)]).filter(([, gain]) => gain >= 0));
    off = split("off").map(([point]) => point);
    for (const [name, query, key] of split("moved")) (moved[name] ??= {})[query] = Number(key);
  }

  at("hint").textContent = kind.hint();
  panel.examples.forEach(([name, input]) => at("example").append(new Option(name, input)));
  panel.models.forEach((one) => at("seed").append(new Option(one.title, one.title)));
  for (const point of Object.keys(panel.models[0].vectors ?? {})) {
    at("vector").append(new Option(`after layer ${point.split(".")[1]}`, point));
  }
  at("vector").selectedIndex = at("vector").length - 1;
  at("seeds").hidden = panel.models.length < 2;
  at("vectors").hidden = !panel.models[0].vectors;
  at("scales").hidden = !panel.models[0].vectors && !panel.models[0].change;
  at("scale-name").textContent = panel.models[0].change ? "Multiple of the fine-tuning's change" : "Scale of the vector";
  layers.forEach(switches);
  restore();
  compute();

  at("example").addEventListener("change", () => { at("input").value = at("example").value; moved = {}; changed(); });
  at("seed").addEventListener("change", () => {
    at("head").value = panel.start[at("seed").value];
    gains = {};
    moved = {};
    changed();
  });
  at("gain").addEventListener("input", () => { gains[site(at("head").value)] = Number(at("gain").value); changed(); });
  for (const id of ["input", "scale"]) at(id).addEventListener("input", changed);
  for (const id of ["head", "vector"]) at(id).addEventListener("change", changed);
  at("reset").addEventListener("click", () => { gains = {}; off = []; moved = {}; at("scale").value = 1; changed(); });
}
