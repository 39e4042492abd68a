"use strict";
/* The two tabs, and what is shown first. */
(() => {
  const {state} = explorer, tabs = ["samples", "results"], narrow = window.matchMedia("(max-width: 48rem)");

  function showTab() {
    const chosen = tabs.includes(state.get("tab")) ? state.get("tab") : "samples";
    for (const name of tabs) {
      document.getElementById(name).hidden = name !== chosen;
      document.getElementById(`tab-${name}`).setAttribute("aria-selected", name === chosen);
    }
  }

  /* To the samples, as other tabs ask for it: {a, b: run keys, verdict, task, dataset, q, iou}; the rest is forgotten. */
  function go(filter) {
    const forgotten = Object.fromEntries(["sample", ...explorer.filterNames].map((name) => [name, null]));
    state.set({...forgotten, ...filter, tab: "samples"}, {push: true});
  }

  async function showResults() {
    const tab = document.getElementById("tab-results");
    tab.hidden = !window.showResults;
    if (window.showResults) window.showResults(document.getElementById("results"), await explorer.load("results"), go);
  }

  function complain(error) {
    document.getElementById("found").textContent = error.message;
  }

  /* Folded on a phone, where the grid comes first. */
  function foldFilters() {
    document.getElementById("panel").open = !narrow.matches;
  }

  for (const name of tabs) {
    document.getElementById(`tab-${name}`).addEventListener("click", () => state.set({tab: name}, {push: true}));
  }
  narrow.addEventListener("change", foldFilters);
  window.addEventListener("statechange", showTab);
  window.addEventListener("DOMContentLoaded", async () => {
    const index = await explorer.load("index").catch(complain);
    if (!index) return;
    document.getElementById("name").textContent = index.name;
    document.title = `${index.name} · Nüwa explorer`;
    foldFilters();
    showTab();
    explorer.showSamples(index);
    await showResults();
  });
})();
