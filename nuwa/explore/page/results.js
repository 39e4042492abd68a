"use strict";
/* The Results tab: runs in a table, what they keep against what they cost, and tests in pairs.

   showResults(section, results, go)    `results` is nuwa.explore.results.results_of's; go(filter) shows samples
   Its state in the URL: r.runs (words that choose runs), r.sort, r.columns, r.plot, r.cost, r.tests. */
(() => {
  const {el, state} = explorer;
  const format = {
    score: (value) => value.toFixed(3),
    percent: (value) => `${(100 * value).toFixed(1)}%`,
    number: (value) => String(Number(value.toPrecision(4))),
    p: (value) => (value < 0.0001 ? "p < 0.0001" : `p = ${value.toPrecision(2)}`),
    /* [value, low, high], without an interval that has no width */
    interval: ([value, low, high], one) => one(value) + (low === high ? "" : ` [${one(low)}, ${one(high)}]`),
  };

  /* Whether a run is meant: every word is in its choices; "a|b" is one or the other. */
  function matches(run, words) {
    const differs = Object.entries(run.differs).map(([name, value]) => `${name}=${value}`);
    const text = [run.name, run.method, run.budget, run.position, run.model, run.dataset, run.status, ...differs];
    const line = text.join(" ").toLowerCase();
    const found = (word) => word !== "" && (line.includes(word) || run.run === word);
    return words.toLowerCase().split(/\s+/).filter(Boolean).every((word) => word.split("|").some(found));
  }

  /* A choice among titles, in the URL under `name`: the one that is chosen, and its element. */
  function choice(name, label, all) {
    const titles = [...new Set(all)];
    const select = el("select", {name, change: () => state.set({[name]: select.value})});
    select.append(...titles.map((title) => el("option", {value: title}, title)));
    const current = () => (titles.includes(state.get(name)) ? state.get(name) : titles[0]);
    const show = () => { select.value = current(); };
    return {current, show, element: el("label", {hidden: titles.length < 2}, label, select)};
  }

  /* The samples behind a difference: those that run `a` gets right and run `b` wrong. */
  function lostSamples(a, b, metric) {
    return {a: a.run, b: b.run, task: metric.split("/")[0], verdict: "a_right_b_wrong"};
  }

  /* Where a run fails: the samples that its unpruned run gets right, or all its wrong ones where there is none. */
  function failures(run, runs, metric) {
    const whole = runs.get(run.unpruned);
    if (whole && whole !== run) return lostSamples(whole, run, metric);
    return {a: run.run, task: metric.split("/")[0], verdict: "wrong"};
  }

  function runsFilter(results) {
    const change = () => state.set({"r.runs": input.value}), found = el("output");
    const input = el("input", {type: "search", placeholder: "nuwa|visionzip pesp", input: change});
    const show = (runs) => {
      if (input.value !== state.get("r.runs")) input.value = state.get("r.runs");
      found.textContent = `${runs.length} of ${results.runs.length} runs`;
    };
    return {show, element: el("p", {class: "r-filter"}, el("label", {}, "Runs with ", input), " ", found)};
  }

  explorer.results = {choice, failures, format, lostSamples, panels: []};

  window.showResults = (section, results, go) => {
    const context = {results, go, runs: new Map(results.runs.map((run) => [run.run, run]))};
    const filter = runsFilter(results);
    const panels = explorer.results.panels.map((make) => make(context));
    section.replaceChildren(filter.element, ...panels.map((panel) => panel.element));
    const show = () => {
      const runs = results.runs.filter((run) => matches(run, state.get("r.runs")));
      for (const part of [filter, ...panels]) part.show(runs);
    };
    window.addEventListener("statechange", (event) => {
      if (event.detail.some((name) => name.startsWith("r."))) show();
    });
    show();
  };
})();
