"use strict";
/* The grid of samples. Cards are made as they are scrolled to. */
(() => {
  const {state, el} = explorer, MORE = 60;
  let index = null, shown = [], scrolled = 0, opened;

  const more = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && append());

  function mark(letter, answer) {
    const right = explorer.rightness(answer), [name, sign] = right === null
      ? ["none", "–"] : right ? ["right", "✓"] : ["wrong", "✗"];
    const said = {none: answer?.failed ? "failed" : "no answer", right: "right", wrong: "wrong"}[name];
    return el("span", {class: `mark ${name}`, title: `${letter.toUpperCase()} ${said}`.trim()},
      letter.toUpperCase(), el("span", {"aria-hidden": "true"}, sign), el("span", {class: "unseen"}, ` ${said}`));
  }

  function card(sample) {
    const runs = Object.entries(explorer.chosenRuns(index));
    const marks = runs.map(([letter, run]) => mark(letter, sample.answers[run.key]));
    const picture = sample.thumbnail
      ? el("img", {src: sample.thumbnail, loading: "lazy", decoding: "async", alt: ""})
      : el("span", {class: "nothing"}, "no picture");
    const open = () => state.set({sample: sample.id}, {push: true});
    const button = el("button", {type: "button", class: "card", "data-sample": sample.id, click: open},
      picture, el("span", {class: "marks"}, ...marks), el("span", {class: "question"}, sample.title || sample.question || sample.id));
    return el("div", {role: "listitem"}, button);
  }

  function append() {
    const grid = document.getElementById("grid"), there = grid.children.length;
    more.disconnect();
    grid.append(...shown.slice(there, there + MORE).map(card));
    if (grid.children.length < shown.length) more.observe(grid.lastElementChild);
  }

  function showGrid() {
    shown = explorer.chosenSamples(index);
    const set = explorer.chosenSet(index), all = index.samples.filter((sample) => sample.set === set).length;
    const more = index.sets[set].total > all ? `, the first of ${index.sets[set].total}: nuwa explore --samples shows more` : "";
    document.getElementById("found").textContent = `${shown.length} of ${all} samples${more}`;
    document.getElementById("grid").replaceChildren();
    append();
  }

  function showNotes() {
    const notes = document.getElementById("notes");
    notes.hidden = !index.notes.length;
    notes.querySelector("summary").textContent = `${index.notes.length} remarks`;
    notes.querySelector("ul").replaceChildren(...index.notes.map((note) => el("li", {}, note)));
  }

  function sampleAt(id) {
    return id && index.samples.find((one) => one.set === explorer.chosenSet(index) && one.id === id);
  }

  /* The grid, or one sample in its place; the grid stays as it was scrolled. */
  function showOne() {
    const sample = sampleAt(state.get("sample")), browse = document.getElementById("browse"), left = browse.hidden;
    if (sample && !left) scrolled = window.scrollY;
    browse.hidden = Boolean(sample);
    document.getElementById("sample").hidden = !sample;
    document.getElementById("samples").classList.toggle("one", Boolean(sample));
    if (!sample && left) returnTo(opened);
    opened = sample?.id;
    explorer.showSample(index, sample, shown);
  }

  function returnTo(id) {
    window.scrollTo(0, scrolled);
    [...document.querySelectorAll(".card")].find((one) => one.dataset.sample === id)?.focus({preventScroll: true});
  }

  function openAt(place) {
    if (shown[place]) state.set({sample: shown[place].id});
  }

  function openBeside(by) {
    const sample = sampleAt(state.get("sample"));
    if (sample) openAt(shown.indexOf(sample) + by);
  }

  explorer.showSamples = (given) => {
    index = given;
    showNotes();
    explorer.showFilters(index);
    showGrid();
    showOne();
    window.addEventListener("statechange", ({detail}) => {
      const filtered = detail.some((name) => explorer.filterNames.includes(name));
      if (filtered) explorer.showFilters(index);
      if (filtered) showGrid();
      if (filtered || detail.includes("sample")) showOne();
    });
  };
  Object.assign(explorer, {mark, openAt, openBeside});
})();
