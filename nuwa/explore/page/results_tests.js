"use strict";
/* Every run against every other on the same samples: the difference, and whether it is more than chance. */
(() => {
  const {el} = explorer, {choice, format, lostSamples} = explorer.results;
  const MOST = 40, SURE = 0.05;

  /* The row's score less the column's, and the test of their difference; a test lies under the smaller place first. */
  function difference(tests, row, column) {
    const found = tests.get(`${Math.min(row, column)},${Math.max(row, column)}`);
    return found && {...found, lead: row < column ? found.first - found.second : found.second - found.first};
  }

  function cell(test, one, other, metric, go) {
    if (!test) return el("td");
    const sure = test.p < SURE, side = test.lead > 0 ? "better" : "worse";
    const title = `${one.name} less ${other.name}: ${format.p(test.p)} (${test.test}, corrected), ${test.n} samples`;
    const shown = `${test.lead < 0 ? "−" : "+"}${Math.abs(test.lead).toFixed(3)}${sure ? "*" : ""}`;
    const click = () => go(lostSamples(one, other, metric));
    return el("td", {class: `number ${sure ? side : ""}`}, el("button", {class: "r-link", title, click}, shown));
  }

  function matrix(entry, chosen, {runs, go}) {
    const tests = new Map(entry.pairs.map((test) => [test.pair.join(), test]));
    const all = entry.runs.map((key, place) => ({place, run: runs.get(key)})).filter(({run}) => chosen.has(run));
    if (all.length > MOST) return el("p", {}, `${all.length} runs: choose at most ${MOST} of them, by words above.`);
    const heads = all.map(({place, run}) => el("th", {scope: "col", class: "number", title: run.name}, `${place + 1}`));
    const rows = all.map((row) => el("tr", {},
      el("th", {scope: "row"}, `${row.place + 1} ${row.run.name}`),
      ...all.map((column) => cell(difference(tests, row.place, column.place), row.run, column.run, entry.metric, go))));
    return el("table", {class: "r-tests"}, el("thead", {}, el("tr", {}, el("td"), ...heads)), el("tbody", {}, ...rows));
  }

  function noteOf(entry) {
    if (!entry.pairs.length) return entry.note;
    return `The row's score less the column's; * p < ${SURE}, ${entry.note}. ` +
      "A cell leads to the samples that the row's run has right and the column's wrong.";
  }

  function tests(context) {
    const entries = context.results.tests, heading = el("h2", {}, "Tests in pairs");
    if (!entries.length) {
      const missing = "No two finished runs answered the same questions with the same model.";
      return {element: el("section", {}, heading, el("p", {class: "r-note"}, missing)), show() {}};
    }
    const titles = entries.map(({title, metric}) => [title, metric].filter(Boolean).join(": "));
    const score = choice("r.tests", "Score ", titles), note = el("p", {class: "r-note"});
    const scroller = el("div", {class: "r-scroll", tabindex: 0, role: "region", "aria-label": "Differences of runs"});

    function show(chosen) {
      score.show();
      const entry = entries[titles.indexOf(score.current())];
      scroller.replaceChildren(matrix(entry, new Set(chosen), context));
      note.textContent = noteOf(entry);
    }
    return {element: el("section", {}, heading, el("p", {}, score.element), scroller, note), show};
  }

  explorer.results.panels.push(tests);
})();
