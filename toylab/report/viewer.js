// The attention of a model through its training: a slider over evaluations, a pattern, and curves with a cursor.
"use strict";
(() => {
  const at = (id) => document.getElementById(`viewer-${id}`);
  const film = JSON.parse(at("data").textContent);
  const scenes = film.scenes.map((scene) => ({
    ...scene,
    bytes: Uint8Array.from(atob(scene.patterns), (letter) => letter.charCodeAt(0)),
  }));
  const [, layers, heads] = scenes[0].shape;
  const CELL = 18, SVG = "http://www.w3.org/2000/svg";
  const longest = Math.max(...scenes.flatMap(({ names }) => names.map((name) => name.length)));
  const LEFT = Math.min(24 + 6 * longest, 176), TOP = LEFT;
  let cells = [], cursor = [0, 0], timer = null;

  function element(name, attributes, parent, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  }

  const scene = () => scenes[Number(at("scene").value)];
  const frame = () => Number(at("step").value);
  const head = () => at("head").value.split(".").map(Number);

  function weight(query, key) {
    const { shape: [, , , size], bytes } = scene();
    const [layer, number] = head();
    return bytes[(((frame() * layers + layer) * heads + number) * size + query) * size + key] / 255;
  }

  function build() {
    const { names, links } = scene(), size = names.length, svg = at("pattern");
    const width = LEFT + size * CELL + 2, height = TOP + size * CELL + 2;
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.style.maxWidth = `${1.3 * width}px`;
    const middle = (size * CELL) / 2, axis = { "text-anchor": "middle" };
    element("text", { ...axis, x: LEFT + middle, y: 12 }, svg, "key: token that is read");
    element("text", { ...axis, transform: `translate(12 ${TOP + middle}) rotate(-90)` }, svg, "query: token that reads");
    names.forEach((name, n) => {
      const place = n * CELL + CELL / 2;
      element("text", { x: LEFT - 5, y: TOP + place + 4, "text-anchor": "end" }, svg, name);
      const turned = { transform: `translate(${LEFT + place + 4} ${TOP - 5}) rotate(-90)` };
      element("text", turned, svg, name);
    });
    cells = names.map((_, query) => names.map((_, key) => {
      const place = { x: LEFT + key * CELL, y: TOP + query * CELL, width: CELL, height: CELL, class: "weight" };
      const cell = element("rect", place, svg);
      cell.dataset.query = query;
      cell.dataset.key = key;
      return cell;
    }));
    const marks = element("g", { id: "viewer-marks" }, svg);
    for (const pairs of Object.values(links)) {
      for (const [query, key] of pairs) {
        const place = { x: LEFT + key * CELL + 1, y: TOP + query * CELL + 1, width: CELL - 2, height: CELL - 2 };
        element("rect", { ...place, class: "link" }, marks);
      }
    }
    element("rect", { id: "viewer-cursor", width: CELL, height: CELL, class: "cursor" }, svg);
    cursor = [size - 1, 0];
  }

  function draw() {
    cells.forEach((row, query) => row.forEach((cell, key) => cell.style.setProperty("--w", weight(query, key))));
    at("marks").style.display = at("links").checked ? "" : "none";
    at("at").textContent = film.steps[frame()];
    at("step").setAttribute("aria-valuetext", `step ${film.steps[frame()]}`);
    for (const line of document.querySelectorAll("#viewer-curves .now")) {
      for (const end of ["x1", "x2"]) line.setAttribute(end, across(frame()));
    }
    for (const [name, values] of Object.entries(film.curves)) {
      document.querySelector(`#viewer-curves [data-name="${CSS.escape(name)}"]`).textContent =
        `${name}: ${values[frame()].toFixed(3)}`;
    }
  }

  function tell(query, key) {
    cursor = [query, key];
    const { names } = scene(), box = at("cursor");
    box.setAttribute("x", LEFT + key * CELL);
    box.setAttribute("y", TOP + query * CELL);
    at("cell").textContent =
      `position ${query} (${names[query]}) attends to position ${key} (${names[key]}): ${weight(query, key).toFixed(3)}`;
  }

  const WIDE = 300, HIGH = 56;
  const across = (n) => 4 + (n / Math.max(film.steps.length - 1, 1)) * (WIDE - 8);

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
        go(Math.round(Math.min(Math.max(share, 0), 1) * (film.steps.length - 1)));
      });
      at("curves").append(label, svg);
    }
  }

  function go(n) {
    at("step").value = n;
    draw();
    tell(...cursor);
  }

  function play() {
    const stop = () => { clearInterval(timer); timer = null; at("play").textContent = "Play"; };
    if (timer) return stop();
    if (frame() === film.steps.length - 1) go(0);
    at("play").textContent = "Pause";
    timer = setInterval(() => (frame() === film.steps.length - 1 ? stop() : go(frame() + 1)), 350);
  }

  scenes.forEach((one, n) => at("scene").append(new Option(one.title, n)));
  for (let layer = 0; layer < layers; layer++) {
    for (let number = 0; number < heads; number++) {
      at("head").append(new Option(`layer ${layer}, head ${number}`, `${layer}.${number}`));
    }
  }
  at("head").value = film.start.join(".");
  at("scene").value = scenes.length - 1;
  at("step").max = film.steps.length - 1;
  build();
  curves();
  go(film.steps.length - 1);

  at("step").addEventListener("input", () => go(frame()));
  at("head").addEventListener("change", () => go(frame()));
  at("links").addEventListener("change", draw);
  at("scene").addEventListener("change", () => { build(); go(frame()); });
  at("play").addEventListener("click", play);
  at("pattern").addEventListener("pointermove", (event) => {
    const { query, key } = event.target.dataset;
    if (query !== undefined) tell(Number(query), Number(key));
  });
  at("pattern").addEventListener("keydown", (event) => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const move = moves[event.key], last = scene().names.length - 1;
    if (!move) return;
    event.preventDefault();
    tell(...cursor.map((place, n) => Math.min(Math.max(place + move[n], 0), last)));
  });
})();
