// The attention of a model through its training: a slider over evaluations, a pattern, and curves with a cursor.
"use strict";
(() => {
  const { SVG, element, state, keep, mathematics } = toyPage;
  const at = (id) => document.getElementById(`viewer-${id}`);
  const film = JSON.parse(at("data").textContent);
  const scenes = film.scenes.map((scene) => ({
    ...scene,
    bytes: Uint8Array.from(atob(scene.patterns), (letter) => letter.charCodeAt(0)),
  }));
  const [, layers, heads] = scenes[0].shape, last = film.steps.length - 1;
  let timer = null;

  const scene = () => scenes[Number(at("scene").value)];
  const frame = () => Number(at("step").value);
  const head = () => at("head").value.split(".").map(Number);
  const pattern = toyPage.heatMap(at("pattern"), (query, key) => {
    const { names, queries } = scene();
    const from = queries ? queries[query] : `position ${query} (${names[query]})`;
    at("cell").textContent = `${from} attends to position ${key} (${names[key]}): ${weight(query, key).toFixed(3)}`;
  });

  function weight(query, key, at = frame()) {
    const { shape: [, , , queries, keys], bytes } = scene();
    const [layer, number] = head();
    return bytes[(((at * layers + layer) * heads + number) * queries + query) * keys + key] / 255;
  }

  function build() { // with the links of the head's own job: those that it attends to at the end, if not known
    const { names, queries, links } = scene();
    const attended = (pairs) => pairs.reduce((sum, [query, key]) => sum + weight(query, key, last), 0) / pairs.length;
    const own = Object.values(links).filter((pairs) => queries || attended(pairs) > 0.5).flat();
    pattern.build(queries ?? names, names, own);
    pattern.showLinks(at("links").checked);
  }

  function draw() {
    pattern.draw(weight);
    at("at").textContent = film.steps[frame()];
    at("step").setAttribute("aria-valuetext", `step ${film.steps[frame()]}`);
    for (const line of document.querySelectorAll("#viewer-curves .now")) {
      for (const end of ["x1", "x2"]) line.setAttribute(end, across(frame()));
    }
    for (const [name, values] of Object.entries(film.curves)) {
      document.querySelector(`#viewer-curves [data-name="${CSS.escape(name)}"]`)
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

  function go(n) {
    at("step").value = n;
    draw();
  }

  function stop() {
    clearInterval(timer);
    timer = null;
    at("play").textContent = "Play";
  }

  function play() {
    if (frame() === last) go(0);
    at("play").textContent = "Pause";
    timer = setInterval(() => (frame() === last ? stop() : go(frame() + 1)), 350);
  }

  function choose(n) { // by the reader, which ends the playing and changes the link
    stop();
    go(n);
    keep({ step: film.steps[n], head: at("head").value, scene: at("scene").value });
  }

  scenes.forEach((one, n) => at("scene").append(new Option(one.title, n)));
  for (let layer = 0; layer < layers; layer++) {
    for (let number = 0; number < heads; number++) {
      at("head").append(new Option(`layer ${layer}, head ${number}`, `${layer}.${number}`));
    }
  }
  function restore(select, value) { // a value of the link counts only if it is an option
    if ([...at(select).options].some((option) => option.value === value)) at(select).value = value;
  }
  restore("head", film.start.join("."));
  restore("head", state.get("head"));
  restore("scene", String(scenes.length - 1));
  restore("scene", state.get("scene"));
  at("step").max = last;
  build();
  curves();
  const linked = film.steps.indexOf(Number(state.get("step") ?? NaN));
  const still = linked >= 0 || matchMedia("(prefers-reduced-motion: reduce)").matches;
  go(linked >= 0 ? linked : still ? last : 0);
  if (!still) play();

  at("step").addEventListener("input", () => choose(frame()));
  at("head").addEventListener("change", () => { build(); choose(frame()); });
  at("links").addEventListener("change", () => pattern.showLinks(at("links").checked));
  at("scene").addEventListener("change", () => { build(); choose(frame()); });
  at("play").addEventListener("click", () => (timer ? stop() : play()));
  addEventListener("beforeprint", () => { stop(); go(last); });
})();
