"use strict";
/* One sample: its runs side by side, or a swipe between two; a layer, a token, and what was asked and answered.

   sample       its id                 view     "swipe", else side by side
   layer        -1 is before pruning   fade     per cent, of dropped cells
   show         letters of explorer.marks that are on           pin    "picture,x,y" in fractions of the picture */
(() => {
  const {state, el, tokens} = explorer, pictures = new Map();
  const marks = {roles: "Roles", boxes: "Boxes", regions: "Regions", scores: "Scores"};
  const usual = "roles,boxes", FADE = 80, FEW = 4;
  let current = null, panels = [], pointed = null, frame = 0;

  function picture(path) {
    if (!pictures.has(path)) {
      const image = new Image();
      image.src = path;
      pictures.set(path, image.decode().then(() => image));
    }
    return pictures.get(path);
  }

  async function traceOf(index, run, sample) {
    if (run.reason) return {reason: run.reason};
    try {
      const chunk = await explorer.load(`${run.key}-${Math.floor(sample.number / index.chunk)}`);
      return chunk[sample.id] ?? {reason: "not in the folder"};
    } catch (error) {
      return {reason: error.message};
    }
  }

  function layer() {
    return state.get("layer") === "" ? 0 : Number(state.get("layer"));
  }

  function shown() {
    return new Set((state.get("show") || usual).split(","));
  }

  function pinned() {
    const [number, x, y] = state.get("pin").split(",").map(Number);
    return state.get("pin") && Number.isFinite(y) ? {picture: number, x, y} : null;
  }

  /* The point that a panel shows, if it shows the picture: of a video, a frame of tokens may stand for several. */
  function pointIn(panel) {
    const point = pointed ?? pinned();
    if (!point) return null;
    const fits = panel.views.filter((view) => view.picture <= point.picture);
    const last = Math.max(...fits.map((view) => view.picture));
    return panel.view.picture === last ? [point.x, point.y] : null;
  }

  function redraw() {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(() => panels.forEach((panel) => panel.draw()));
  }

  function look(panel) {
    const {sample, answer, run} = panel, boxes = {truth: sample.box, answer: answer?.box};
    const fade = Number(state.get("fade") || FADE) / 100, point = panel.view ? pointIn(panel) : null;
    return {layer: layer(), show: shown(), fade, boxes, position: run.position, point};
  }

  /* Pointing and pinning, by mouse, finger or arrow keys. */
  function listen(canvas, view) {
    const at = (event) => {
      const box = canvas.getBoundingClientRect(), [x0, y0, x1, y1] = view.frame;
      const x = x0 + ((event.clientX - box.left) / box.width) * (x1 - x0);
      const y = y0 + ((event.clientY - box.top) / box.height) * (y1 - y0);
      return tokens.cellAt(view, x, y) < 0 ? null : {picture: view.picture, x, y};
    };
    canvas.addEventListener("pointermove", (event) => point(at(event)));
    canvas.addEventListener("pointerleave", () => point(null));
    canvas.addEventListener("click", (event) => pin(at(event)));
    canvas.addEventListener("keydown", (event) => {
      const step = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      const there = pinned(), [rows, columns] = view.grid;
      const [row, column] = there ? tokens.rowColumn(view, tokens.cellAt(view, there.x, there.y)) : [0, -step[1]];
      const [down, across] = [Math.min(Math.max(row + step[0], 0), rows - 1), Math.min(Math.max(column + step[1], 0), columns - 1)];
      const [x, y] = tokens.pointOf(view, down * columns + across);
      pin({picture: view.picture, x, y});
    });
  }

  function point(where) {
    pointed = where;
    redraw();
  }

  function pin(where) {
    const text = where ? [where.picture, where.x.toFixed(3), where.y.toFixed(3)].join(",") : "";
    pointed = null;
    state.set({pin: text === state.get("pin") ? "" : text});
  }

  async function viewPanel(parts, trace, number, views) {
    const view = trace.views[number], image = await picture(parts.sample.pictures[view.picture]);
    const [rows, columns] = view.grid, when = view.time === undefined ? "" : `, ${view.time} s`;
    const label = `${parts.run.label}${when}, ${rows} by ${columns} tokens; arrow keys choose one`;
    const canvas = el("canvas", {tabindex: 0, role: "img", "aria-label": label}), told = el("div", {class: "token"});
    const panel = {...parts, views, view, canvas, told};
    panel.draw = () => {
      explorer.drawView(canvas, trace, number, image, look(panel));
      const where = pointIn(panel), cell = where ? tokens.cellAt(view, ...where) : -1;
      told.replaceChildren(...(cell < 0 ? [] : [explorer.tokenFacts(trace, number, cell, layer(), parts.run)]));
    };
    listen(canvas, view);
    return panel;
  }

  async function plainPanel(parts, path) {
    const image = await picture(path), canvas = el("canvas", {role: "img", "aria-label": "picture"});
    const panel = {...parts, canvas, told: null};
    panel.draw = () => explorer.drawPlain(canvas, image, look(panel));
    return panel;
  }

  /* All panels of a run, and what is to be said about them. */
  async function panelsOf(index, letter, run, sample) {
    const parts = {letter, run, sample, answer: sample.answers[run.key]};
    const trace = await traceOf(index, run, sample), made = [], images = trace.images ?? [];
    const views = images.flatMap((image) => tokens.ready(image).views);
    for (const image of images) {
      for (const number of image.views.keys()) made.push(await viewPanel(parts, image, number, views));
    }
    if (!made.length) for (const path of sample.pictures ?? []) made.push(await plainPanel(parts, path));
    return {...parts, trace, panels: made};
  }

  function scoreText(view) {
    const scored = view && tokens.scoredAt(view, layer());
    return scored ? `coloured by ${explorer.scoreName(scored)}` : "no scores noted";
  }

  function caption({letter, run, trace, answer}) {
    const counts = el("span", {class: "counts"});
    const count = () => {
      const images = trace.images ?? [], sum = (of) => images.reduce((total, image) => total + of(image), 0);
      const newlines = sum((image) => image.tokens - image.place.size), whole = sum((image) => image.tokens);
      const few = newlines && sum((image) => tokens.count(image, layer(), false));
      const among = newlines ? `, ${few} newline${few === 1 ? "" : "s"} among them` : "";
      const scored = shown().has("scores") ? `, ${scoreText(images[0]?.views[0])}` : "";
      counts.textContent = images.length ? `${sum((image) => tokens.count(image, layer()))} of ${whole} tokens${among}${scored}` : "";
    };
    const remark = trace.reason ?? trace.differs;
    const told = remark ? el("p", {class: "remark"}, trace.reason ? `No tokens are shown: ${remark}` : remark) : null;
    const text = el("figcaption", {}, explorer.mark(letter, answer), " ", el("span", {class: "label"}, run.label), " ", counts, told);
    return {text, draw: count};
  }

  /* Views under each other, or the frames of a video in a row; rows scroll together. */
  function arrange(views) {
    const strip = views.length > FEW, together = (event) => {
      for (const other of document.querySelectorAll("#sample .strip")) other.scrollLeft = event.target.scrollLeft;
    };
    const own = (event) => event.key.startsWith("Arrow") && event.stopPropagation(); // they scroll it
    return strip ? el("div", {class: "strip", tabindex: 0, scroll: together, keydown: own}, ...views) : el("div", {class: "views"}, ...views);
  }

  /* What is drawn of a view; over a frame of a video its time, and its segment where the method cuts. */
  function withTime({view}, ...children) {
    const said = [view?.time === undefined ? "" : `${view.time} s`, view?.segment === undefined ? "" : `segment ${view.segment}`];
    return el("div", {class: "view"}, said.filter(Boolean).join(", "), ...children);
  }

  function sideBySide(groups) {
    const figures = groups.map((group) => {
      const {text, draw} = caption(group);
      panels.push({draw});
      const views = arrange(group.panels.map((panel) => withTime(panel, panel.canvas)));
      return el("figure", {}, text, views, ...group.panels.map((panel) => panel.told).filter(Boolean));
    });
    const filmed = groups.some((group) => group.panels.length > FEW);
    return el("div", {class: filmed ? "panels filmed" : "panels"}, ...figures);
  }

  function swipe([first, second]) {
    const captions = [first, second].map(caption), pairs = first.panels.map((panel, number) => [panel, second.panels[number]]);
    captions.forEach(({draw}) => panels.push({draw}));
    const stacks = pairs.filter(([, other]) => other).map(([panel, other]) =>
      withTime(panel, el("div", {class: "stack"}, panel.canvas, other.canvas)));
    const cut = (event) => figure.style.setProperty("--cut", `${event.target.value}%`);
    const slider = el("input", {type: "range", min: 0, max: 100, value: 50, class: "swipe", "aria-label": "swipe between A and B", input: cut});
    const facts = [first, second].map(({panels: mine}) => el("div", {}, ...mine.map((panel) => panel.told).filter(Boolean)));
    const figure = el("figure", {}, ...captions.map(({text}) => text), slider, arrange(stacks), el("div", {class: "pair"}, ...facts));
    return el("div", {class: "panels filmed"}, figure);
  }

  /* Whether two runs show the same parts of the same pictures, so that one can lie on the other. */
  function alike([first, second]) {
    const frames = (group) => JSON.stringify(group?.panels.map(({view}) => [view?.picture, view?.frame]));
    return frames(first) === frames(second);
  }

  async function showSample(index, sample, samples) {
    const article = document.getElementById("sample");
    current = sample ? {index, sample, samples} : null;
    pointed = null;
    if (!sample) return article.replaceChildren();
    const asked = current, runs = Object.entries(explorer.chosenRuns(index));
    const groups = await Promise.all(runs.map(([letter, run]) => panelsOf(index, letter, run, sample)));
    if (current !== asked) return undefined; // another sample was opened meanwhile
    panels = groups.flatMap((group) => group.panels);
    const fits = alike(groups), shownAs = fits && state.get("view") === "swipe" ? swipe : sideBySide;
    const body = el("div", {class: "middle"}, explorer.sampleTools(current, groups.length > 1, fits), shownAs(groups));
    article.replaceChildren(explorer.sampleHead(current), el("div", {class: "parts"}, body, explorer.sampleSide(current)));
    panels.forEach((panel) => panel.draw());
    return undefined;
  }

  window.addEventListener("statechange", (event) => {
    if (!current) return;
    if (event.detail.includes("view")) showSample(current.index, current.sample, current.samples);
    else if (event.detail.some((name) => ["layer", "fade", "show", "pin"].includes(name))) redraw();
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  Object.assign(explorer, {showSample, marks, shownMarks: shown, layer, usualFade: FADE});
})();
