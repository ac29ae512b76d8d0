// Parts shared by the panels of pages and notebooks: elements, heat maps, and in a page its data and its link.
"use strict";
const toyPage = (() => {
  const SVG = "http://www.w3.org/2000/svg", CELL = 18;

  function element(name, attributes, parent, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent.append(made);
    return made;
  }

  // Text with its subscripts typeset, such as x_t, as nodes.
  function mathematics(text) {
    return text.split(/(?<!\w)([A-Za-z]_[A-Za-z0-9])(?!\w)/).map((part, n) => {
      if (n % 2 === 0) return part;
      const symbol = document.createElement("i"), index = document.createElement("sub");
      [symbol.textContent, index.textContent] = part.split("_");
      const both = document.createElement("span");
      both.append(symbol, index);
      return both;
    });
  }

  // The state of the page, such as #step=900&head=1.3; a link to a claim or a figure has none.
  function linkState() {
    const state = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
    return {
      get: (name) => state.get(name),
      keep(changes) {
        for (const [name, value] of Object.entries(changes)) {
          if (value === "" || value === null) state.delete(name);
          else state.set(name, value);
        }
        history.replaceState(null, "", `#${state}`);
      },
    };
  }

  // Start the panels of a page, {id of the section: function}, on their data: the base64 of deflated JSON.
  function start(panels) {
    const link = linkState();
    for (const [id, panel] of Object.entries(panels)) {
      const packed = JSON.parse(document.getElementById(`${id}-data`).textContent), section = document.getElementById(id);
      const bytes = Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0));
      const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
      new Response(unpacked).json().then((data) => panel(document, data, link))
        .finally(() => section.removeAttribute("aria-busy"));
    }
  }

  // A heat map on an SVG element: `tell(query, key)` is called for the cell under the pointer or the cursor, and `move`,
  // if given, for a cell that is pressed, dragged over, or entered with the keyboard.
  function heatMap(svg, tell, move) {
    let cells = [], marks, box, cursor = null, left, top;

    function build(queries, keys, links) {
      const longest = (names) => Math.min(24 + 8 * Math.max(...names.map((name) => name.length)), 176);
      left = longest(queries);
      top = longest(keys);
      const width = left + keys.length * CELL + 2, height = top + queries.length * CELL + 2;
      svg.replaceChildren();
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      svg.style.maxWidth = `${1.3 * width}px`;
      svg.style.minWidth = `${Math.min(0.6 * width, 900)}px`;
      const axis = { "text-anchor": "middle" };
      element("text", { ...axis, x: left + (keys.length * CELL) / 2, y: 12 }, svg, "key: attended token");
      const middle = top + (queries.length * CELL) / 2;
      element("text", { ...axis, transform: `translate(12 ${middle}) rotate(-90)` }, svg, "query");
      queries.forEach((name, n) =>
        element("text", { x: left - 5, y: top + n * CELL + 13, "text-anchor": "end" }, svg, name));
      keys.forEach((name, n) =>
        element("text", { transform: `translate(${left + n * CELL + 13} ${top - 5}) rotate(-90)` }, svg, name));
      cells = queries.map((_, query) => keys.map((_, key) => {
        const place = { x: left + key * CELL, y: top + query * CELL, width: CELL, height: CELL, class: "weight" };
        const cell = element("rect", place, svg);
        cell.dataset.query = query;
        cell.dataset.key = key;
        return cell;
      }));
      marks = element("g", { class: "marks" }, svg);
      for (const [query, key] of links) {
        const place = { x: left + key * CELL + 1, y: top + query * CELL + 1, width: CELL - 2, height: CELL - 2 };
        element("rect", { ...place, class: "link" }, marks);
      }
      box = element("rect", { width: CELL, height: CELL, class: "cursor" }, svg);
      cursor ??= [queries.length - 1, 0];
      cursor = [Math.min(cursor[0], queries.length - 1), Math.min(cursor[1], keys.length - 1)];
    }

    const draw = (weight) => cells.forEach((row, query) =>
      row.forEach((cell, key) => cell.style.setProperty("--w", weight(query, key))));

    function select(query, key) {
      cursor = [query, key];
      box.setAttribute("x", left + key * CELL);
      box.setAttribute("y", top + query * CELL);
      tell(query, key);
    }

    function point(event, pressing) {
      const [query, key] = [event.target.dataset.query, event.target.dataset.key].map(Number);
      const same = query === cursor[0] && key === cursor[1];
      if (Number.isNaN(query)) return;
      select(query, key);
      if (pressing && move && !(same && event.type === "pointermove")) move(query, key);
    }
    svg.addEventListener("pointerdown", (event) => {
      const { target, pointerId } = event;
      if (target.hasPointerCapture(pointerId)) target.releasePointerCapture(pointerId); // a finger drags across cells
      point(event, true);
    });
    svg.addEventListener("pointermove", (event) => point(event, event.buttons === 1));
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step && !(move && event.key === "Enter")) return;
      event.preventDefault();
      const last = [cells.length - 1, cells[0].length - 1];
      if (step) select(...cursor.map((place, n) => Math.min(Math.max(place + step[n], 0), last[n])));
      else move(...cursor);
    });
    return {
      build, draw, select,
      again: () => select(...cursor),
      showLinks: (shown) => { marks.style.display = shown ? "" : "none"; },
    };
  }

  // A player of recorded steps, by the elements "step", "at" and "play" that `at` finds: it starts at the step of the
  // link, or else plays once from the first, unless reduced motion is asked for. `draw` shows the frame of the slider,
  // and `kept` has what the link keeps beside the step. Returns `choose`, for a frame that the reader chooses.
  function player(at, { steps, delay, draw, kept }, state) {
    const last = steps.length - 1, frame = () => Number(at("step").value);
    let timer = null;

    function go(n) {
      at("step").value = n;
      at("at").textContent = steps[n];
      at("step").setAttribute("aria-valuetext", `step ${steps[n]}`);
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
      timer = setInterval(() => (frame() === last ? stop() : go(frame() + 1)), delay);
    }

    function choose(n = frame()) { // by the reader, which ends the playing and changes the link
      stop();
      go(n);
      state.keep({ step: steps[n], ...kept() });
    }

    at("step").max = last;
    const linked = steps.indexOf(Number(state.get("step") ?? NaN));
    const still = linked >= 0 || matchMedia("(prefers-reduced-motion: reduce)").matches;
    go(linked >= 0 ? linked : still ? last : 0);
    if (!still) play();
    at("step").addEventListener("input", () => choose());
    at("play").addEventListener("click", () => (timer ? stop() : play()));
    addEventListener("beforeprint", () => { stop(); go(last); });
    return choose;
  }

  return { SVG, element, mathematics, heatMap, player, start };
})();
