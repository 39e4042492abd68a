"use strict";
/* What every run keeps against what it costs, both relative to the unpruned model, and the front of the best. */
(() => {
  const {el} = explorer, {choice, drawMark, failures, format, legend, looksOf} = explorer.results;
  const APART = 13, HEIGHT = 380, MARGIN = {top: 30, right: 24, bottom: 44, left: 52};
  const COSTS = {
    tokens: "tokens entering a layer, mean", tflops: "LLM FLOPs", kv: "KV cache",
    ttft: "time to the first token", prefill: "prefill time", decode: "decode time per token",
  };
  const AMOUNTS = {
    tokens: (run) => [run.tokens, ""], tflops: (run) => [run.tflops, " TFLOPs"], kv: (run) => [run.kv / 2 ** 20, " MB"],
  };

  /* The texts about a point. What it spends itself is not known where another run of its choices was timed. */
  function described(point, by) {
    const [spent, unit] = AMOUNTS[by]?.(point.run) ?? [point.run.times[by], " ms"];
    const amount = spent === undefined ? "" : `${format.number(spent)}${unit}, `;
    return [
      point.run.name,
      `keeps ${format.interval([point.kept, point.low, point.high], format.percent)}`,
      `${COSTS[by]}: ${amount}${format.number(point.cost)} of the unpruned model's`,
      ...(point.front ? ["on the front: none costs less and keeps as much"] : []),
    ];
  }

  function scalesOf(points, width) {
    const [least, most] = d3.extent(points, (point) => point.cost), low = d3.min(points, (point) => point.low);
    return {
      x: d3.scaleLog([least / 1.25, most * 1.1], [MARGIN.left, width - MARGIN.right]),
      y: d3.scaleLinear([low < 0.5 ? 0 : low - 0.02, d3.max(points, (point) => point.high) + 0.02],
                        [HEIGHT - MARGIN.bottom, MARGIN.top]),
    };
  }

  /* Where marks stand: beside the place of their cost where another one would cover them. */
  function placed(points, {x, y}) {
    const steps = d3.range(points.length).map((number) => APART * Math.ceil(number / 2) * (number % 2 ? 1 : -1));
    const found = [];
    for (const point of points) {
      const top = y(point.kept), inside = (left) => left > x.range()[0] && left < x.range()[1];
      const places = steps.map((step) => x(point.cost) + step).filter(inside);
      const free = (left) => found.every((other) => Math.hypot(left - other.left, top - other.top) > APART);
      found.push({...point, top, left: places.find(free) ?? x(point.cost)});
    }
    return found;
  }

  function drawAxes(svg, {x, y}, width, label) {
    const steps = width < 500 ? [1, 2, 5] : [1, 2, 3, 5, 7], [from, to] = x.domain();
    const values = d3.range(-6, 4).flatMap((power) => steps.map((step) => step * 10 ** power));
    const ticks = values.filter((value) => value >= from && value <= to);
    const axis = (left, top, drawing) => svg.append("g").attr("class", "r-axis")
      .attr("transform", `translate(${left},${top})`).call(drawing);
    axis(0, HEIGHT - MARGIN.bottom, d3.axisBottom(x).tickValues(ticks).tickFormat(d3.format("~g")));
    axis(MARGIN.left, 0, d3.axisLeft(y).ticks(6, "%"));
    svg.append("text").attr("x", width - MARGIN.right).attr("y", HEIGHT - 8).attr("text-anchor", "end").text(label);
    svg.append("text").attr("y", 12).text("kept of the unpruned model's score");
  }

  function drawFront(svg, points, {x, y}) {
    const best = d3.sort(points.filter((point) => point.front), (point) => point.cost);
    const line = d3.line((point) => x(point.cost), (point) => y(point.kept)).curve(d3.curveStepAfter);
    svg.append("path").attr("class", "r-front").attr("d", line(best));
  }

  /* Arrow keys go from mark to mark, Enter opens one. */
  function onKey(event, point, open) {
    const marks = [...event.currentTarget.parentNode.querySelectorAll(".r-point")];
    const move = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (event.key === "Enter" || event.key === " ") open(point);
    else if (move) marks.at((marks.indexOf(event.currentTarget) + move) % marks.length).focus();
    else return;
    event.preventDefault();
  }

  /* `act` has words(point), open(point) and tell(point or null). */
  function drawPoints(svg, points, {y}, looks, act) {
    const marks = svg.selectAll("g.r-point").data(points).join("g").attr("class", "r-point").attr("role", "button")
      .attr("tabindex", (point, place) => (place === 0 ? 0 : -1))
      .attr("aria-label", (point) => act.words(point).join(", "))
      .attr("transform", (point) => `translate(${point.left},${point.top})`);
    marks.append("path").attr("class", "r-bar")
      .attr("d", (point) => `M0,${y(point.low) - point.top}V${y(point.high) - point.top}`);
    marks.each((point, place, nodes) => drawMark(d3.select(nodes[place]), looks.get(point.run.method), point.run.position));
    marks.on("click", (event, point) => act.open(point))
      .on("pointerenter focus", (event, point) => act.tell(point))
      .on("pointerleave blur", () => act.tell(null))
      .on("keydown", (event, point) => onKey(event, point, act.open));
  }

  function plot({results, runs, go}) {
    const {fronts} = results, looks = looksOf(results.runs);
    const titleOf = (front) => `${front.title}: ${front.metric}`;
    const costOf = (front) => COSTS[front.by] + (front.device ? ` (${front.device})` : "");
    const score = choice("r.plot", "Score ", fronts.map(titleOf));
    const cost = choice("r.cost", "Cost ", d3.sort(fronts.map(costOf), (title) => title !== COSTS.tokens));
    const drawing = el("div", {class: "r-plot"}), hint = el("div", {class: "r-hint"});
    const note = el("p", {class: "r-note"});
    let visible = new Set();

    function tell(point, lines) {
      hint.hidden = !point;
      if (!point) return;
      hint.replaceChildren(...lines.map((line) => el("div", {}, line)));
      hint.style.top = `${point.top + 12}px`;
      hint.style.left = `${Math.max(0, Math.min(point.left - 60, drawing.clientWidth - 230))}px`;
    }

    function picture(front, points, shown) {
      const width = drawing.clientWidth, scales = scalesOf(points, width);
      const svg = d3.create("svg").attr("viewBox", `0 0 ${width} ${HEIGHT}`).attr("role", "group")
        .attr("aria-label", `${titleOf(front)}: kept against ${costOf(front)}`);
      drawAxes(svg, scales, width, `${COSTS[front.by]}, unpruned = 1`);
      drawFront(svg, points, scales);
      drawPoints(svg, placed(shown, scales), scales, looks, {
        words: (point) => described(point, front.by),
        open: (point) => go(failures(point.run, runs, front.metric)),
        tell: (point) => tell(point, point && described(point, front.by)),
      });
      return svg.node();
    }

    function noteOf({points, samples, note: reason}) {
      if (reason) return reason;
      const marks = "bars: 95 %; line: the front, which no run beats; equal points stand side by side";
      return `${samples} samples that all ${points.length} runs answered; ${marks}.`;
    }

    function draw() {
      const front = fronts.find((one) => titleOf(one) === score.current() && costOf(one) === cost.current());
      note.textContent = front ? noteOf(front) : "No run was measured like that: choose another cost.";
      const points = (front?.points ?? []).map((point) => ({...point, run: runs.get(point.run)}));
      const shown = points.filter((point) => visible.has(point.run));
      drawing.replaceChildren();
      tell(null);
      if (shown.length && drawing.clientWidth) drawing.append(picture(front, points, shown), hint, legend(shown, looks));
    }

    function show(chosen) {
      visible = new Set(chosen);
      score.show();
      cost.show();
      draw();
    }

    const heading = el("h2", {}, "Quality against cost");
    if (!fronts.length) {
      const missing = "No finished run beside its unpruned run: let a sweep make that (baseline=auto).";
      return {element: el("section", {}, heading, el("p", {class: "r-note"}, missing)), show() {}};
    }
    new ResizeObserver(draw).observe(drawing);
    return {element: el("section", {}, heading, el("p", {}, score.element, " ", cost.element), drawing, note), show};
  }

  explorer.results.panels.push(plot);
})();
