// The scoreboard: sorts and filters the claims, opens their figures, and keeps sorting and filters in the link.
"use strict";
(() => {
  const at = (id) => document.getElementById(`board-${id}`);
  const table = document.querySelector(".board"), claims = [...table.tBodies];
  const headings = [...table.tHead.rows[0].cells], FILTERS = ["paper", "verdict", "text"];
  let sorting = { sort: "", order: "" };

  function key(claim, column) { // a number where there is one; undefined sorts last
    const cell = claim.rows[0].cells[column], text = cell.dataset.key ?? cell.textContent.trim().toLowerCase();
    return text === "" ? undefined : Number.isNaN(Number(text)) ? text : Number(text);
  }

  function sort() {
    const column = headings.findIndex((heading) => heading.dataset.name === sorting.sort);
    const sign = sorting.order === "descending" ? -1 : 1;
    const keyed = claims.map((claim, n) => [column < 0 ? n : key(claim, column), n, claim]);
    keyed.sort(([a, n], [b, m]) => (a === undefined) - (b === undefined) || sign * ((a > b) - (a < b)) || n - m);
    table.append(...keyed.map(([, , claim]) => claim));
    headings.forEach((heading, n) => {
      if (n === column) heading.setAttribute("aria-sort", sign < 0 ? "descending" : "ascending");
      else heading.removeAttribute("aria-sort");
    });
  }

  function filter() {
    const [paper, verdict, text] = FILTERS.map((name) => at(name).value), words = text.toLowerCase().split(/\s+/);
    for (const claim of claims) {
      const content = claim.textContent.toLowerCase();
      claim.hidden = (paper !== "" && claim.dataset.paper !== paper)
        || (verdict !== "" && claim.dataset.verdict !== verdict) || !words.every((word) => content.includes(word));
    }
    at("count").textContent = `${claims.filter((claim) => !claim.hidden).length} of ${claims.length} claims`;
  }

  function keep() {
    const entries = [...FILTERS.map((name) => [name, at(name).value]), ...Object.entries(sorting)];
    const state = new URLSearchParams(entries.filter(([, value]) => value !== ""));
    history.replaceState(null, "", `#${state}`);
  }

  function restore() { // a value of the link counts only if it can be chosen
    const state = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
    for (const name of FILTERS) at(name).value = state.get(name) ?? "";
    for (const name of ["paper", "verdict"]) if (at(name).selectedIndex < 0) at(name).value = "";
    const known = headings.some((heading) => heading.dataset.name === state.get("sort"));
    sorting = known ? { sort: state.get("sort"), order: state.get("order") ?? "" } : { sort: "", order: "" };
    sort();
    filter();
  }

  function open(button, opened) {
    button.setAttribute("aria-expanded", opened);
    document.getElementById(button.getAttribute("aria-controls")).hidden = !opened;
  }

  for (const heading of headings) {
    heading.querySelector("button").addEventListener("click", () => {
      const again = heading.getAttribute("aria-sort") === "ascending";
      sorting = { sort: heading.dataset.name, order: again ? "descending" : "ascending" };
      sort();
      keep();
    });
  }
  for (const button of table.querySelectorAll("[aria-expanded]")) {
    open(button, false);
    button.addEventListener("click", () => open(button, button.getAttribute("aria-expanded") === "false"));
  }
  for (const image of table.querySelectorAll("img")) { // a page without the folders of its runs has no figures
    image.addEventListener("error", () => { image.closest("figure").hidden = true; });
  }
  for (const name of FILTERS) at(name).addEventListener("input", () => { filter(); keep(); });
  at("all").addEventListener("click", () => { history.replaceState(null, "", "#"); restore(); });
  addEventListener("hashchange", restore);
  restore();
})();
