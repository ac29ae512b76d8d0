// Attention patterns of a model, through its training if there are several steps: a slider, a pattern, and curves.
// `root` holds the elements of viewer.html; `state` has `get(name)` and `keep(changes)`.
"use strict";
function toyViewer(root, film, state) {
  const { SVG, element, mathematics } = toyPage;
  const at = (id) => root.querySelector(`#viewer-${id}`);
  // Of a layer in a scene: `data`, the base64 of patterns times `film.levels` by (step, head, query, key), and `queries`
  // and `keys`, if they are not the names of the scene.
  function unpacked({ data, ...layer }) {
    const { buffer } = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    return { ...layer, levels: film.levels > 255 ? new Uint16Array(buffer) : new Uint8Array(buffer) };
  }
  const scenes = film.scenes.map((scene) => ({ ...scene, layers: scene.layers.map(unpacked) }));
  const last = film.steps.length - 1;

  const scene = () => scenes[Number(at("scene").value)];
  const frame = () => Number(at("step").value);
  const head = () => at("head").value.split(".").map(Number);
  const pattern = toyPage.heatMap(at("pattern"), (query, key) => {
    const { names: tokens } = scene(), [queries, keys] = sides();
    const told = (names, n) => (names === tokens ? `position ${n} (${names[n]})` : names[n]);
    at("cell").textContent = `${told(queries, query)} attends to ${told(keys, key)}: ${weight(query, key).toFixed(3)}`;
  });

  function sides() { // the names of queries and keys
    const { names, queries: labels = names, layers } = scene(), { queries = labels, keys = names } = layers[head()[0]];
    return [queries, keys];
  }

  function weight(query, key, at = frame()) {
    const [layer, number] = head(), [queries, keys] = sides(), { levels } = scene().layers[layer];
    const row = (at * film.layers[layer].heads + number) * queries.length + query;
    return levels[row * keys.length + key] / film.levels;
  }

  function build() { // with the links of the head's own job: those that it attends to at the end, if not known
    const { links, queries } = scene();
    const attended = (pairs) => pairs.reduce((sum, [query, key]) => sum + weight(query, key, last), 0) / pairs.length;
    pattern.build(...sides(), Object.values(links).filter((pairs) => queries || attended(pairs) > 0.5).flat());
    pattern.showLinks(at("links").checked);
  }

  function draw() {
    pattern.draw(weight);
    for (const line of root.querySelectorAll("#viewer-curves .now")) {
      for (const end of ["x1", "x2"]) line.setAttribute(end, across(frame()));
    }
    for (const [name, values] of Object.entries(film.curves)) {
      root.querySelector(`#viewer-curves [data-name="${CSS.escape(name)}"]`)
        .replaceChildren(...mathematics(`${name}: ${values[frame()].toFixed(3)}`));
    }
    pattern.again();
  }

  const WIDE = 300, HIGH = 56;
  const across = (n) => 4 + (n / Math.max(last, 1)) * (WIDE - 8);

  function curves() {
    for (const [name, values] of Object.entries(film.curves)) {
      const label = document.createElement("p");
      label.className = "cell";
      label.dataset.name = name;
      const svg = document.createElementNS(SVG, "svg");
      svg.setAttribute("viewBox", `0 0 ${WIDE} ${HIGH}`);
      svg.setAttribute("aria-hidden", "true");
      const most = Math.max(1e-9, ...values);
      const points = values.map((value, n) => `${across(n)},${HIGH - 4 - (value / most) * (HIGH - 8)}`).join(" ");
      element("line", { x1: 4, x2: WIDE - 4, y1: HIGH - 4, y2: HIGH - 4, class: "axis" }, svg);
      element("polyline", { points, class: "curve" }, svg);
      element("line", { y1: 2, y2: HIGH - 2, class: "now" }, svg);
      svg.addEventListener("click", (event) => {
        const box = svg.getBoundingClientRect();
        const share = (((event.clientX - box.left) / box.width) * WIDE - 4) / (WIDE - 8);
        choose(Math.round(Math.min(Math.max(share, 0), 1) * last));
      });
      at("curves").append(label, svg);
    }
  }

  scenes.forEach((one, n) => at("scene").append(new Option(one.title, n)));
  film.layers.forEach(({ title, heads }, layer) => {
    for (let number = 0; number < heads; number++) {
      at("head").append(new Option(`${title}, head ${number}`, `${layer}.${number}`));
    }
  });
  at("steps").hidden = last === 0;
  at("scenes").hidden = scenes.length < 2;
  at("linked").hidden = scenes.every(({ links }) => !Object.keys(links).length);
  function restore(select, value) { // a value of the link counts only if it is an option
    if ([...at(select).options].some((option) => option.value === value)) at(select).value = value;
  }
  restore("head", film.start.join("."));
  restore("head", state.get("head"));
  restore("scene", String(scenes.length - 1));
  restore("scene", state.get("scene"));
  build();
  curves();
  const kept = () => ({ head: at("head").value, scene: at("scene").value });
  const choose = toyPage.player(at, { steps: film.steps, delay: 350, draw, kept }, state);

  at("head").addEventListener("change", () => { build(); choose(); });
  at("links").addEventListener("change", () => pattern.showLinks(at("links").checked));
  at("scene").addEventListener("change", () => { build(); choose(); });
}
