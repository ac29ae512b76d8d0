// A panel as a widget of a notebook. The shadow root keeps ids and styles of widgets and notebook apart.
const toyWidget = (panel) => ({
  render({ model, el }) {
    const host = document.createElement("div"), root = host.attachShadow({ mode: "open" });
    host.dataset.lmSuppressShortcuts = "true"; // in JupyterLab, a letter typed in a shadow root counts as a command
    host.addEventListener("keydown", (event) => event.stopPropagation());
    root.innerHTML = model.get("markup");
    el.append(host);
    panel(root, model.get("data"), {
      get: (name) => model.get("state")[name] ?? null,
      keep(changes) {
        model.set("state", { ...model.get("state"), ...changes });
        model.save_changes();
      },
    });
    root.querySelector("section").removeAttribute("aria-busy");
  },
});
