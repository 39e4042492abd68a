"use strict";
/* What every run keeps against what it costs, both relative to the unpruned model, and the front of the best.

   Colour and shape are the method's, filling is the position strategy's. Drawn with d3 (page/vendor). */
(() => {
  const {el, state} = explorer, {choice, failures, format} = explorer.results;
  const SIZE = 90, APART = 13, HEIGHT = 380, MARGIN = {top: 16, right: 24, bottom: 44, left: 52};
  const COSTS = {
    tokens: "tokens entering a layer, mean", tflops: "LLM FLOPs", kv: "KV cache",
    ttft: "time to the first token", prefill: "prefill time", decode: "decode time per token",
  };
  /* What stands inside a mark, by position strategy: nothing is a full one, "" an empty one. */
  const INSIDE = {pesp: null, perc: "", rpme: "M-2,0A2,2,0,1,1,2,0A2,2,0,1,1,-2,0", rpme_1d: "M-6,0H6", median: "M0,-6V6"};
  const OTHER = "M-4,-4L4,4M-4,4L4,-4";

  /* Colour and shape of each method, none twice. */
  function looksOf(runs) {
    const methods = d3.sort(d3.group(runs, (run) => run.method).keys()).filter((method) => method !== "none");
    const shapes = [d3.symbolCircle, d3.symbolSquare, d3.symbolTriangle, d3.symbolDiamond, d3.symbolCross, d3.symbolWye, d3.symbolStar];
    const looks = methods.map((method, place) => (
      [method, {colour: d3.schemeTableau10[place % 9], shape: shapes[place % shapes.length]}]));
    return new Map([["none", {colour: "currentColor", shape: d3.symbolStar}], ...looks]);
  }

  function drawMark(group, look, position) {
    const inside = position in INSIDE ? INSIDE[position] : OTHER;
    group.append("path").attr("d", d3.symbol(look.shape, SIZE)()).attr("stroke", look.colour).attr("stroke-width", 1.6)
      .attr("class", "r-mark").attr("fill", inside === null ? look.colour : "var(--ground)");
    if (inside) group.append("path").attr("d", inside).attr("stroke", look.colour).attr("stroke-width", 1.6).attr("fill", "none");
  }

  /* Where marks stand: beside the place of their cost where another one would cover them. */
  function place(points, x, y) {
    const placed = [], free = (point, left) => placed.every((other) => Math.hypot(left - other.left, y(point.kept) - other.top) > APART);
    for (const point of points) {
      const steps = d3.range(points.length).map((number) => APART * Math.ceil(number / 2) * (number % 2 ? 1 : -1));
      const left = x(point.cost) + (steps.find((step) => x(point.cost) + step > MARGIN.left && free(point, x(point.cost) + step)) ?? 0);
      placed.push({...point, left, top: y(point.kept)});
    }
    return placed;
  }

  function scales(points, width) {
    const [least, most] = d3.extent(points, (point) => point.cost), low = d3.min(points, (point) => point.low);
    const x = d3.scaleLog().domain([least / 1.25, most * 1.1]).range([MARGIN.left, width - MARGIN.right]);
    const y = d3.scaleLinear().domain([low < 0.5 ? 0 : low - 0.02, d3.max(points, (point) => point.high) + 0.02])
      .range([HEIGHT - MARGIN.bottom, MARGIN.top]);
    return {x, y};
  }

  function drawAxes(svg, x, y, width, label) {
    const [from, to] = x.domain(), steps = width < 500 ? [1, 2, 5] : [1, 2, 3, 5, 7];
    const ticks = d3.range(-6, 4).flatMap((power) => steps.map((step) => step * 10 ** power)).filter((value) => value >= from && value <= to);
    svg.append("g").attr("class", "r-axis").attr("transform", `translate(0,${HEIGHT - MARGIN.bottom})`)
      .call(d3.axisBottom(x).tickValues(ticks).tickFormat(d3.format("~g")));
    svg.append("g").attr("class", "r-axis").attr("transform", `translate(${MARGIN.left},0)`).call(d3.axisLeft(y).ticks(6, "%"));
    svg.append("text").attr("x", width - MARGIN.right).attr("y", HEIGHT - 8).attr("text-anchor", "end").text(label);
  }

  function legend(points, looks, context) {
    const best = d3.rollup(points, (some) => d3.max(some, (point) => point.kept), (point) => point.run.method);
    const methods = [...best.keys()].sort((one, other) => best.get(other) - best.get(one));
    const positions = [...new Set(points.filter((point) => point.run.method !== "none").map((point) => point.run.position))].sort();
    const entry = (look, position, words) => {
      const item = d3.create("li");
      drawMark(item.append("svg").attr("width", 18).attr("height", 18).attr("viewBox", "-9 -9 18 18").attr("aria-hidden", true), look, position);
      item.append("span").text(words);
      return item.node();
    };
    const plain = {colour: "currentColor", shape: d3.symbolCircle};
    return el("ul", {class: "r-legend"},
      ...methods.map((method) => entry(looks.get(method), "pesp", method === "none" ? "unpruned" : method)),
      ...positions.map((position) => entry(plain, position, `positions: ${position}`)));
  }

  /* What a run itself spends, where it was counted or timed in that run. */
  function amount(run, by) {
    const spent = by in run ? run[by] : run.times[by], unit = {tokens: "", tflops: " TFLOPs", kv: " MB"}[by] ?? " ms";
    return spent === null || spent === undefined ? "" : `${format.number(by === "kv" ? spent / 2 ** 20 : spent)}${unit}, `;
  }

  const described = (point, by) => [
    point.run.name,
    `keeps ${format.interval([point.kept, point.low, point.high], format.percent)}`,
    `${COSTS[by]}: ${amount(point.run, by)}${format.number(point.cost)} of the unpruned model's`,
    ...(point.front ? ["on the front: none costs less and keeps as much"] : []),
  ];

  /* Marks that can be hovered, reached with the arrow keys, and clicked. */
  function drawPoints(svg, points, y, looks, act) {
    const marks = svg.selectAll("g.r-point").data(points).join("g").attr("class", "r-point").attr("role", "button")
      .attr("tabindex", (point, place) => (place === 0 ? 0 : -1)).attr("aria-label", (point) => act.words(point).join(", "))
      .attr("transform", (point) => `translate(${point.left},${point.top})`);
    marks.append("path").attr("class", "r-bar").attr("d", (point) => `M0,${y(point.low) - point.top}V${y(point.high) - point.top}`);
    marks.each(function draw(point) { drawMark(d3.select(this), looks.get(point.run.method), point.run.position); });
    const nodes = marks.nodes(), moves = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1};
    marks.on("click", (event, point) => act.open(point))
      .on("pointerenter focus", (event, point) => act.tell(point))
      .on("pointerleave blur", () => act.tell(null))
      .on("keydown", (event, point) => {
        if (event.key === "Enter" || event.key === " ") act.open(point);
        else if (event.key in moves) nodes[(nodes.indexOf(event.currentTarget) + moves[event.key] + nodes.length) % nodes.length].focus();
        else return;
        event.preventDefault();
      });
  }

  function plot(context) {
    const {results} = context, looks = looksOf(results.runs);
    const titleOf = (front) => `${front.model}, ${front.dataset}: ${front.metric}`;
    const costOf = (front) => COSTS[front.by] + (front.device ? ` (${front.device})` : "");
    const score = choice("r.plot", "Score ", [...new Set(results.fronts.map(titleOf))]);
    const order = [...new Set(results.fronts.map(costOf))].sort((one, other) => (other === COSTS.tokens) - (one === COSTS.tokens));
    const cost = choice("r.cost", "Cost ", order);
    const drawing = el("div", {class: "r-plot"}), hint = el("div", {class: "r-hint", role: "status"}), note = el("p", {class: "r-note"});
    let visible = [];

    function draw() {
      const front = results.fronts.find((one) => titleOf(one) === score.current() && costOf(one) === cost.current());
      note.textContent = front ? front.note ?? noteOf(front) : "No run was measured like that: choose another cost.";
      const points = (front?.points ?? []).map((point) => ({...point, run: context.runs.get(point.run)}));
      const shown = points.filter((point) => visible.includes(point.run));
      drawing.replaceChildren();
      tell(null);
      if (shown.length && drawing.clientWidth) drawing.append(picture(front, points, shown), hint, legend(shown, looks));
    }

    const noteOf = ({samples, points}) => (
      `${samples} samples that all ${points.length} runs answered; bars: 95 %; line: the front, which no run beats.`);

    function picture(front, points, shown) {
      const width = drawing.clientWidth, {x, y} = scales(points, width);
      const svg = d3.create("svg").attr("viewBox", `0 0 ${width} ${HEIGHT}`).attr("role", "group")
        .attr("aria-label", `${titleOf(front)}: kept against ${costOf(front)}`);
      drawAxes(svg, x, y, width, `${COSTS[front.by]}, unpruned = 1`);
      const best = d3.sort(points.filter((point) => point.front), (point) => point.cost);
      const line = d3.line((point) => x(point.cost), (point) => y(point.kept)).curve(d3.curveStepAfter);
      svg.append("path").attr("class", "r-front").attr("d", line(best));
      drawPoints(svg, place(shown, x, y), y, looks, {
        words: (point) => described(point, front.by),
        open: (point) => context.go(failures(point.run, context.runs, front.metric)),
        tell: (point) => tell(point, point ? described(point, front.by) : []),
      });
      return svg.node();
    }

    function tell(point, lines = []) {
      hint.hidden = !point;
      hint.replaceChildren(...lines.map((line) => el("div", {}, line)));
      if (!point) return;
      hint.style.top = `${point.top + 12}px`;
      hint.style.left = `${Math.max(0, Math.min(point.left - 60, drawing.clientWidth - 230))}px`;
    }

    new ResizeObserver(draw).observe(drawing);
    const element = el("section", {class: "r-panel"}, el("h2", {}, "Quality against cost"),
      results.fronts.length ? el("p", {}, score.element, " ", cost.element) : el("p", {class: "r-note"}, "No finished run beside its unpruned one: let the sweep make it (baseline=auto)."),
      drawing, note);
    const show = (runs) => { visible = runs; score.show(); cost.show(); if (results.fronts.length) draw(); };
    return {element, show};
  }

  explorer.results.panels.push(plot);
})();
