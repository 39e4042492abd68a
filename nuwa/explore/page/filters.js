"use strict";
/* The form on the left: which runs, and which of their samples. It only reads and writes the state. */
(() => {
  const {state, el, letters} = explorer;
  const narrowing = ["method", "budget", "position", "model"];
  explorer.filterNames = ["dataset", "task", "verdict", "iou", "q", ...narrowing, ...letters];

  function select(label, name, options, chosen, changed, said = label) {
    const choices = options.map(([value, text]) => el("option", {value, selected: value === chosen}, text));
    const change = (event) => changed(event.target.value);
    return el("label", {}, el("span", {}, label), el("select", {name, change, "aria-label": said}, ...choices));
  }

  function unique(values) {
    return [...new Set(values)];
  }

  /* A select of what there is, "" being all; nothing where there is no choice. */
  function choice(label, name, values, texts = {}) {
    if (values.length < 2) return null;
    const options = [["", "all"], ...values.map((value) => [value, texts[value] ?? value])];
    return select(label, name, options, state.get(name), (value) => state.set({[name]: value}));
  }

  function runSelects(index) {
    const runs = explorer.chosenRuns(index), set = explorer.chosenSet(index);
    const fits = (run) => narrowing.every((name) => !state.get(name) || state.get(name) === run[name]);
    return letters.map((letter) => {
      const offered = index.runs.filter((run) => run.set === set && (fits(run) || run === runs[letter]));
      const options = [["", "none"], ...offered.map((run) => [run.key, run.label])];
      const changed = (value) => {
        const keys = letters.map((each) => [each, each === letter ? value : runs[each]?.key]);
        state.set(Object.fromEntries(keys));
      };
      return select(letter.toUpperCase(), letter, options, runs[letter]?.key ?? "", changed, `Run ${letter.toUpperCase()}`);
    });
  }

  function datasetSelect(index) {
    if (index.sets.length < 2) return null;
    const names = index.sets.map((set) => [set.name, set.name]);
    const forgotten = Object.fromEntries(["task", "sample", ...letters].map((name) => [name, null]));
    const chosen = index.sets[explorer.chosenSet(index)].name;
    return select("Data set", "dataset", names, chosen, (value) => state.set({...forgotten, dataset: value}));
  }

  function iouRange() {
    const [low, high] = state.get("iou") ? state.get("iou").split("-") : ["", ""];
    const field = (name, value) =>
      el("input", {type: "number", min: 0, max: 1, step: 0.05, name, value, "aria-label": `IoU of A, ${name}`, change});
    function change(event) {
      const [from, to] = ["from", "to"].map((name) => event.target.form.elements[name].value);
      state.set({iou: from || to ? `${from || 0}-${to || 1}` : ""});
    }
    return el("div", {class: "range"}, el("span", {}, "IoU of A"), field("from", low), "to", field("to", high));
  }

  function search() {
    const typed = (event) => state.set({q: event.target.value});
    const field = el("input", {type: "search", name: "q", value: state.get("q"), placeholder: "press /", input: typed});
    return el("label", {}, el("span", {}, "Search"), field);
  }

  function group(title, ...children) {
    const shown = children.flat().filter(Boolean);
    return shown.length ? el("fieldset", {}, el("legend", {}, title), ...shown) : null;
  }

  /* Build the form anew, but leave alone what is being typed. */
  function showFilters(index) {
    const form = document.getElementById("filters");
    if (form.contains(document.activeElement) && document.activeElement.name === "q") return;
    const focused = form.contains(document.activeElement) ? document.activeElement.name : "";
    const set = explorer.chosenSet(index), runs = index.runs.filter((run) => run.set === set);
    const samples = index.samples.filter((sample) => sample.set === set);
    const tasks = unique(samples.map((sample) => sample.task).filter(Boolean));
    const verdicts = Object.entries(explorer.verdicts), said = Object.fromEntries(verdicts.map(([name, [text]]) => [name, text]));
    const parts = [
      group("Samples", search(), datasetSelect(index), choice("Task", "task", tasks),
        choice("Answers", "verdict", verdicts.map(([name]) => name), said),
        samples.some((sample) => sample.box) ? iouRange() : null),
      group("Runs", runSelects(index)),
      group("Offer runs of", narrowing.map((name) => choice(name, name, unique(runs.map((run) => run[name]))))),
      el("button", {type: "button", click: reset}, "Reset"),
    ];
    form.replaceChildren(...parts.filter(Boolean));
    if (focused) form.elements[focused]?.focus();
  }

  function reset() {
    state.set(Object.fromEntries(explorer.filterNames.map((name) => [name, null])));
  }

  document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
  explorer.showFilters = showFilters;
})();
