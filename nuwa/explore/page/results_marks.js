"use strict";
/* Marks of runs: colour and shape are the method's, what stands inside is the position strategy's. */
(() => {
  const {el} = explorer;
  const SHAPES = [d3.symbolCircle, d3.symbolSquare, d3.symbolTriangle, d3.symbolDiamond, d3.symbolCross], AREA = 90;
  const COLOURS = d3.schemeTableau10.slice(0, 9); // without the grey
  /* null: the mark is full; "": it is empty */
  const INSIDE = {pesp: null, perc: "", rpme: "M-2,0A2,2,0,1,1,2,0A2,2,0,1,1,-2,0", rpme_1d: "M-6,0H6", median: "M0,-6V6"};
  const OTHER = "M-4,-4L4,4M-4,4L4,-4";

  /* {method: {colour, shape}}; no two methods have both in common, up to 45. */
  function looksOf(runs) {
    const methods = d3.sort(new Set(runs.map((run) => run.method))).filter((method) => method !== "none");
    const looks = methods.map((method, place) => (
      [method, {colour: COLOURS[place % COLOURS.length], shape: SHAPES[place % SHAPES.length]}]));
    return new Map([["none", {colour: "currentColor", shape: d3.symbolStar}], ...looks]);
  }

  function drawMark(group, look, position) {
    const inside = position in INSIDE ? INSIDE[position] : OTHER;
    const line = (path) => group.append("path").attr("d", path).attr("stroke", look.colour).attr("stroke-width", 1.6);
    const fill = inside === null ? look.colour : "var(--ground)";
    line(d3.symbol(look.shape, AREA)()).attr("class", "r-mark").attr("fill", fill);
    if (inside) line(inside).attr("fill", "none");
  }

  function entry(look, position, words) {
    const item = d3.create("li");
    const svg = item.append("svg").attr("width", 18).attr("height", 18).attr("viewBox", "-9 -9 18 18");
    drawMark(svg.attr("aria-hidden", true), look, position);
    item.append("span").text(words);
    return item.node();
  }

  /* Methods, that which keeps most first, and position strategies. */
  function legend(points, looks) {
    const best = d3.rollup(points, (some) => d3.max(some, (point) => point.kept), (point) => point.run.method);
    const methods = d3.sort(best.keys(), (method) => -best.get(method));
    const pruned = points.filter((point) => point.run.method !== "none");
    const positions = d3.sort(new Set(pruned.map((point) => point.run.position)));
    const plain = {colour: "currentColor", shape: d3.symbolCircle};
    return el("ul", {class: "r-legend"},
      ...methods.map((method) => entry(looks.get(method), "pesp", method === "none" ? "unpruned" : method)),
      ...positions.map((position) => entry(plain, position, `positions: ${position}`)));
  }

  Object.assign(explorer.results, {drawMark, legend, looksOf});
})();
