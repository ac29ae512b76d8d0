// Bars through training: a slider over steps, one horizontal bar per name, and the longest bars in words.
// `root` holds the elements of bars.html; `state` has `get(name)` and `keep(changes)`.
"use strict";
function toyBars(root, film, state) {
  const { element } = toyPage, at = (id) => root.querySelector(`#viewer-${id}`);
  const titles = Object.keys(film.scenes), svg = at("bars"), HIGH = 16;
  const left = 16 + 6 * Math.max(...film.names.map((name) => name.length));
  const wide = Math.max(160, Math.min(420, svg.parentElement.clientWidth - left - 24)); // text is legible on any screen
  const all = Object.values(film.scenes).flat(2), low = Math.min(0, ...all), high = Math.max(1e-9, ...all);
  const across = (value) => left + ((value - low) / (high - low)) * wide; // one scale, to compare frames and scenes
  const bottom = film.names.length * HIGH + 4;

  svg.setAttribute("viewBox", `0 0 ${left + wide + 24} ${bottom + 30}`);
  svg.style.maxWidth = `${1.5 * (left + wide)}px`;
  element("line", { x1: across(0), x2: across(0), y1: 0, y2: bottom, class: "axis" }, svg);
  for (const value of new Set([low, 0, high])) {
    element("text", { x: across(value), y: bottom + 12, "text-anchor": "middle" }, svg, value.toFixed(1));
  }
  element("text", { x: left + wide / 2, y: bottom + 26, "text-anchor": "middle" }, svg, film.unit);
  const bars = film.names.map((name, n) => {
    const kind = film.marked.includes(name) ? "marked" : "plain";
    element("text", { x: left - 6, y: n * HIGH + 12, "text-anchor": "end", class: kind }, svg, name);
    return element("rect", { y: n * HIGH + 2, height: HIGH - 4, class: kind }, svg);
  });

  const frames = () => film.scenes[titles[Number(at("scene").value)]];
  const frame = () => Number(at("step").value);

  function draw() {
    const values = frames()[frame()];
    bars.forEach((bar, n) => {
      bar.setAttribute("x", across(Math.min(0, values[n])));
      bar.setAttribute("width", Math.abs(across(values[n]) - across(0)));
    });
    const order = values.map((_, n) => n).sort((a, b) => values[b] - values[a]);
    const told = (n) => `${film.names[n]} ${values[n].toFixed(2)}`;
    const highest = order.slice(0, 3).map(told).join(", ");
    at("cell").textContent = `Step ${film.steps[frame()]}: highest ${highest}; lowest ${told(order.at(-1))}.`;
  }

  titles.forEach((title, n) => at("scene").append(new Option(title, n)));
  if (titles[state.get("scene")]) at("scene").value = state.get("scene");
  const kept = () => ({ scene: at("scene").value });
  const choose = toyPage.player(at, { steps: film.steps, delay: 200, draw, kept }, state);
  at("scene").addEventListener("change", () => choose());
}
