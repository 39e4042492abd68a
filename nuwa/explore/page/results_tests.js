"use strict";
/* Every run against every other on the same samples: the difference, and whether it is more than chance. */
(() => {
  const {el} = explorer, {choice, format, lostSamples} = explorer.results;
  const MOST = 40, SURE = 0.05;

  /* Of the runs at two places: the row's score less the column's, and the test. */
  function difference(tests, row, column) {
    const found = tests.get(`${Math.min(row, column)} ${Math.max(row, column)}`);
    return found && {...found, lead: row < column ? found.first - found.second : found.second - found.first};
  }

  function cell(test, one, other, metric, go) {
    if (!test) return el("td");
    const sure = test.p < SURE, side = test.lead > 0 ? "better" : "worse";
    const words = `${one.name} less ${other.name}: ${format.p(test.p)} (${test.test}, corrected), ${test.n} samples; click: what the first has right and the second wrong`;
    const shown = `${test.lead < 0 ? "−" : "+"}${Math.abs(test.lead).toFixed(3)}${sure ? "*" : ""}`;
    return el("td", {class: `number ${sure ? side : ""}`},
      el("button", {class: "r-link", title: words, click: () => go(lostSamples(one, other, metric))}, shown));
  }

  function matrix(entry, shown, context) {
    const tests = new Map(entry.pairs.map((test) => [test.pair.join(" "), test]));
    const places = entry.runs.map((key, place) => ({place, run: context.runs.get(key)})).filter(({run}) => shown.has(run));
    if (places.length > MOST) return el("p", {}, `${places.length} runs: choose at most ${MOST} above to see their tests.`);
    const head = el("tr", {}, el("th"), ...places.map(({place, run}) => el("th", {scope: "col", title: run.name}, String(place + 1))));
    const rows = places.map((row) => el("tr", {}, el("th", {scope: "row"}, `${row.place + 1} ${row.run.name}`),
      ...places.map((column) => cell(difference(tests, row.place, column.place), row.run, column.run, entry.metric, context.go))));
    return el("table", {class: "r-tests"}, el("thead", {}, head), el("tbody", {}, ...rows));
  }

  function titles(tests) {
    const seen = new Map();
    return tests.map(({model, dataset, metric}) => {
      const title = `${model}, ${dataset}: ${metric}`, count = (seen.get(title) ?? 0) + 1;
      seen.set(title, count);
      return count > 1 ? `${title} (${count})` : title;
    });
  }

  function tests(context) {
    const entries = context.results.tests, names = titles(entries), chosen = choice("r.tests", "Score ", names);
    const scroller = el("div", {class: "r-scroll", tabindex: 0, role: "region", "aria-label": "Differences of runs"});
    const note = el("p", {class: "r-note"});
    const element = el("section", {class: "r-panel"}, el("h2", {}, "Tests in pairs"),
      entries.length ? el("p", {}, chosen.element) : el("p", {class: "r-note"}, "No two finished runs answered the same questions with the same model."),
      scroller, note);
    function show(runs) {
      chosen.show();
      const entry = entries[names.indexOf(chosen.current())];
      if (!entry) return;
      scroller.replaceChildren(matrix(entry, new Set(runs), context));
      note.textContent = entry.pairs.length ? `The row's score less the column's; * p < ${SURE}, ${entry.note}. A cell leads to the samples that the row's run has right and the column's wrong.` : entry.note;
    }
    return {element, show};
  }

  explorer.results.panels.push(tests);
})();
