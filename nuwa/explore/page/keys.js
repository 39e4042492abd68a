"use strict";
/* Keys: arrows between samples, [ ] between layers, / to search, Esc back. */
(() => {
  const {state} = explorer;

  function typing(target) {
    return target instanceof HTMLElement && target.matches("input, select, textarea");
  }

  function stepLayer(by) {
    const slider = document.getElementById("slider-layer");
    if (!slider) return;
    slider.value = Number(slider.value) + by;
    slider.dispatchEvent(new Event("input"));
  }

  function back() {
    if (state.get("pin")) state.set({pin: null});
    else if (state.get("sample")) state.set({sample: null}, {push: true});
  }

  const actions = {
    "/": () => document.getElementById("filters").elements.q.focus(),
    "[": () => stepLayer(-1),
    "]": () => stepLayer(1),
    ArrowLeft: () => explorer.openBeside(-1),
    ArrowRight: () => explorer.openBeside(1),
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.getElementById("samples").hidden) return;
    if (event.key === "Escape" && typing(event.target)) event.target.blur();
    else if (event.key === "Escape") back();
    else if (actions[event.key] && !typing(event.target)) {
      event.preventDefault();
      actions[event.key]();
    }
  });
})();
