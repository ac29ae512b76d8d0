// The live panel: a trained model runs on the reader's input, with heads, layers and MLPs to switch off.
"use strict";
(() => {
  const { state, keep, mathematics } = toyPage;
  const at = (id) => document.getElementById(`live-${id}`);
  const panel = JSON.parse(at("data").textContent), { task, vocabulary } = panel;
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
    return { row: names(row.slice(0, -1)), answer, ended: row.at(-1) === stop };
  }

  // Of each kind of task: `read` the words of the input, `run` them, `solve` them, and `measure` the claim's quantity.
  const KINDS = {
    iteration: {
      hint: () => `Inputs x (${task.inputs.join(" ")})`,
      read: (text) => allow(text.trim().split(/\s+/), task.inputs, 1, task.longest),
      run(words, hook) {
        const { row, answer, ended } = written(ids([task.begin, ...words, "EoI"]), words.length + 3, vocabulary.indexOf("EoS"), hook);
        const length = words.length, links = words.map((_, t) => [length + 1 + t, t + 1]).filter(([query]) => query < row.length);
        return { rows: row, columns: row, links, answer: ended ? answer.slice(0, -1) : answer };
      },
      solve(words) {
        const values = ids(words);
        return names(values.slice(1).reduce((states, x) => [...states, task.next[states.at(-1)][x]], [task.first[values[0]]]));
      },
      measure({ links }, pattern) {
        const shares = links.map(([query, key]) => pattern[query][key]), peaked = mean(shares.map((share) => Number(share > 0.5)));
        return [{ name: "steps in which this head has over half of its attention on x_t", value: peaked, more: `mean attention on x_t: ${mean(shares).toFixed(3)}` }];
      },
    },
    counting: {
      hint: () => "String of 0, 1, [ and ]",
      read(text) {
        const string = text.replace(/\s/g, ""), letters = allow([...string], ["0", "1", "[", "]"], 2, task.longest);
        if (!/^([01]*\[[01]*\])+[01]*$/.test(string)) throw new Error(`${string}: must have regions [ ... ] one after another`);
        const regions = string.split("[").length - 1;
        if (regions > task.regions) throw new Error(`${count(regions, "region")}: this model counts up to ${task.regions}`);
        return letters;
      },
      run(letters, hook) {
        const logits = toyModel.forward(model(), ids(["BoS", ...letters]), hook), columns = ["BoS", ...letters], links = [];
        let region = 0;
        letters.forEach((letter, n) => {
          if (letter === "[") region++;
          else if (letter === "1" && letters.slice(0, n).lastIndexOf("[") > letters.slice(0, n).lastIndexOf("]")) links.push([region - 1, n + 1]);
        });
        const answer = logits.slice(0, region).map((row) => String(toyModel.argmax(row)));
        return { rows: logits.map((_, n) => `region ${n + 1}`), columns, links, answer };
      },
      solve: (letters) => letters.join("").match(/\[[01]*\]/g).map((region) => String(region.split("1").length - 1)),
      measure({ links, answer }, _, patterns) {
        const shares = patterns["decoder.cross"][0];
        return answer.map((_, region) => {
          const ones = links.filter(([label]) => label === region).map(([, key]) => shares[region][key]), n = ones.length;
          const k = task.bias[at("seed").value]?.[region], law = n / (n + k);
          const more = `n = ${n}` + (k ? `; n / (n + K) with K = ${k.toFixed(2)}: ${law.toFixed(3)}` : "");
          return { name: `region ${region + 1}: attention on its ones`, value: ones.reduce((sum, share) => sum + share, 0), mark: k && law, more };
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
      measure: ({ answer }) => [{ name: "refused: share of NULL in the answer", value: mean(answer.map((name) => Number(name === "NULL"))), more: "the line above is what compliance would write" }],
    },
    steering: {
      hint: () => `x0 and ${task.length} steps, digits ${task.digits.join(" ")}`,
      read: (text) => allow(text.trim().split(/\s+/), task.digits, task.length + 1),
      run(words, hook) {
        const prompt = ids(["BOS", ...words, "SEP"]), chance = toyModel.softmax(toyModel.forward(model(), prompt, hook).at(-1));
        const { row, answer } = written(prompt, task.length + 4, vocabulary.indexOf("EOS"), hook);
        const links = answer[0] === "THINK" ? words.slice(1).map((_, t) => [prompt.length + t, 2 + t]) : [];
        return { rows: row, columns: row, links: links.filter(([query]) => query < row.length), answer, chance };
      },
      solve(words) {
        const [start, ...steps] = words.map(Number);
        const states = steps.reduce((chain, a) => [...chain, task.permutation[(chain.at(-1) + a) % task.digits.length]], [start]).slice(1);
        return ["THINK", ...states.map(String), "ANS", String(states.at(-1)), "EOS"];
      },
      measure: ({ chance }) => ["THINK", "DIRECT"].map((name) => ({ name: `probability of the opener ${name}`, value: chance[vocabulary.indexOf(name)] })),
    },
  };

  const kind = KINDS[panel.kind], models = {};
  let gains = {}, off = [], moved = {}, result = null, patterns = {}, mixed = {};

  const chosen = () => panel.models[at("seed").selectedIndex];
  function model() { // of the chosen seed; fine-tuned, with the chosen multiple of the change
    const { title, model: record, change } = chosen(), share = Number(at("scale").value), key = `${title} ${share}`;
    models[title] ??= toyModel.load(record);
    if (!change || share === 1) return models[title];
    if (mixed.key !== key) mixed = { key, model: toyModel.changed(models[title], change, share - 1) };
    return mixed.model;
  }

  // The heads by their name in the link, such as 1.3, as [point of the attention, number of the head].
  function heads({ kind: built, config }) {
    const blocks = ({ layers, heads: number }, name, site) => Array.from({ length: layers }, (_, layer) =>
      Array.from({ length: number }, (_, h) => [`${name}${layer}.${h}`, [`${site}blocks.${layer}.attn`, h]])).flat();
    if (built === "Transformer") return Object.fromEntries(blocks(config, "", ""));
    const cross = Array.from({ length: config.heads }, (_, h) => [`decoder.${h}`, ["decoder.cross", h]]);
    return Object.fromEntries([...cross, ...blocks(config.encoder, "encoder.", "encoder.")]);
  }
  const known = heads(panel.models[0].model), site = (head) => known[head].join(".");
  const title = (head) => head.replace(/^(encoder\.)?(\d+)\.(\d+)$/, (_, side, layer, h) => `${side ? "encoder, " : ""}layer ${layer}, head ${h}`)
    .replace("decoder.", "decoder, head ");

  const pattern = toyPage.heatMap(at("pattern"), (query, key) => {
    const share = shown()[query]?.[key] ?? 0, [rows, columns] = sides();
    at("cell").textContent = `${query} (${rows[query]}) attends to ${key} (${columns[key]}): ${share.toFixed(3)}`
      + (moved[site(at("head").value)]?.[query] === undefined ? "" : ", moved here by you");
  }, (query, key) => {
    (moved[site(at("head").value)] ??= {})[query] = key;
    compute(); // the drawn rows may change with the answer
  });
  const shown = () => { const [point, h] = known[at("head").value]; return patterns[point][h]; };
  const sides = () => (at("head").value.startsWith("encoder") ? [result.columns, result.columns] : [result.rows, result.columns]);

  function vectors() {
    const all = chosen().vectors ?? {}, name = at("vector").value, scale = Number(at("scale").value);
    return Object.fromEntries(Object.entries(all).filter(([point]) => point === name).map(([point, v]) => [point, v.map((x) => scale * x)]));
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
      const correct = kind.solve(words);
      answer({ "the model writes": result.answer, [panel.kind === "refusal" ? "the transform" : "correct"]: correct });
    } catch (error) {
      at("error").textContent = error.message;
      return;
    }
    const key = JSON.stringify([sides(), result.links, at("head").value]);
    if (key !== size) pattern.build(...sides(), (kind.figureLinks ?? ((links) => links))(result.links, at("head").value));
    size = key;
    pattern.draw((query, k) => shown()[query]?.[k] ?? 0);
    pattern.again();
    at("quantity").replaceChildren(...kind.measure(result, shown(), patterns).map(gauge));
    at("scale-at").textContent = Number(at("scale").value).toFixed(2);
    at("gain").value = gains[site(at("head").value)] ?? 1;
    at("gain-at").textContent = Number(at("gain").value).toFixed(1);
    for (const box of document.querySelectorAll("#live-parts input")) box.checked = parts[box.value].on();
  }

  function make(name, className, text, ...children) {
    const made = document.createElement(name);
    made.className = className;
    made.append(...(text ? [text] : []), ...children);
    return made;
  }

  function answer(lines) {
    const [, correct] = Object.values(lines);
    at("answer").replaceChildren(...Object.entries(lines).flatMap(([name, tokens], line) => [
      make("dt", "", name),
      make("dd", "", "", ...tokens.map((token, n) => make("span", line || token === correct[n] ? "" : "wrong", `${token} `))),
    ]));
  }

  function gauge({ name, value, mark, more }) {
    const bar = make("div", "gauge"), low = panel.threshold, add = (part, left) => { const i = make("i", part); i.style.left = `${100 * left}%`; bar.append(i); return i; };
    if (low !== null) add("met", low).style.width = `${100 * (1 - low)}%`;
    add("bar", 0).style.width = `${100 * Math.min(value, 1)}%`;
    if (mark) add("control", mark);
    add("value", Math.min(value, 1));
    bar.setAttribute("aria-hidden", "true");
    return make("div", "reading", "", make("p", "cell", "", ...mathematics(`${name}: `), make("b", "", value.toFixed(3)), ...mathematics(more ? ` (${more})` : "")), bar);
  }

  // Switches: heads by their gain, MLPs and whole layers by their outputs.
  const parts = {};
  function switches() {
    const { kind: built, config } = panel.models[0].model, layers = {};
    for (const head of Object.keys(known)) (layers[head.slice(0, head.lastIndexOf("."))] ??= []).push(head);
    for (const [layer, own] of Object.entries(layers)) {
      const group = layer === "decoder" ? "decoder" : layer.replace(/^(encoder\.)?(\d+)$/, (_, side, n) => `${side ? "encoder, " : ""}layer ${n}`);
      const outputs = own.map((head) => known[head][0]).slice(0, 1).map((point) => (point === "decoder.cross" ? "decoder.cross_out" : point.replace(/\.attn$/, ".attn_out")));
      const hidden = layer === "decoder" ? config.hidden : (config.encoder ?? config).hidden;
      const output = layer === "decoder" ? "decoder.mlp_out" : outputs[0].replace("attn_out", "mlp_out");
      for (const head of own) part(head, title(head).split(", ").at(-1), () => (gains[site(head)] ?? 1) !== 0, (on) => { gains[site(head)] = Number(on); });
      if (hidden !== 0) toggle(output, "MLP", [output]), outputs.push(output);
      if (built === "Transformer") toggle(layer, `all of layer ${layer}`, outputs);
      at("parts").append(make("div", "group", "", make("b", "", group), ...boxes.splice(0)));
    }
  }
  const boxes = [];
  function toggle(name, label, points) {
    part(name, label, () => !points.every((point) => off.includes(point)), (on) => {
      off = on ? off.filter((point) => !points.includes(point)) : [...new Set([...off, ...points])];
    });
  }
  function part(name, label, on, set) {
    const box = document.createElement("input");
    Object.assign(box, { type: "checkbox", value: name, checked: true });
    box.addEventListener("change", () => { set(box.checked); changed(); });
    parts[name] = { on };
    boxes.push(make("label", "", "", box, ` ${label}`));
  }

  function changed() {
    compute();
    const listed = (edits, write) => Object.entries(edits).map(write).join(",");
    keep({
      input: at("input").value, head: at("head").value, seed: panel.models.length > 1 ? at("seed").value : "",
      scale: at("scale").value === "1" ? "" : at("scale").value, vector: panel.models[0].vectors ? at("vector").value : "",
      gain: listed(Object.fromEntries(Object.entries(gains).filter(([, gain]) => gain !== 1)), ([name, gain]) => `${name}:${gain}`), off: off.join(","),
      moved: Object.entries(moved).flatMap(([name, keys]) => Object.entries(keys).map(([query, key]) => `${name}:${query}:${key}`)).join(","),
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
  Object.keys(known).forEach((head) => at("head").append(new Option(title(head), head)));
  Object.keys(panel.models[0].vectors ?? {}).forEach((point) => at("vector").append(new Option(`after layer ${point.split(".")[1]}`, point)));
  at("vector").selectedIndex = at("vector").length - 1;
  at("seeds").hidden = panel.models.length < 2;
  at("vectors").hidden = !panel.models[0].vectors;
  at("scales").hidden = !panel.models[0].vectors && !panel.models[0].change;
  at("scale-name").textContent = panel.models[0].change ? "Multiple of the fine-tuning's change" : "Scale of the vector";
  switches();
  restore();
  compute();

  at("example").addEventListener("change", () => { at("input").value = at("example").value; moved = {}; changed(); });
  at("seed").addEventListener("change", () => { at("head").value = panel.start[at("seed").value]; gains = {}; moved = {}; changed(); });
  at("gain").addEventListener("input", () => { gains[site(at("head").value)] = Number(at("gain").value); changed(); });
  for (const id of ["input", "scale"]) at(id).addEventListener("input", changed);
  for (const id of ["head", "vector"]) at(id).addEventListener("change", changed);
  at("reset").addEventListener("click", () => { gains = {}; off = []; moved = {}; at("scale").value = 1; changed(); });
})();
