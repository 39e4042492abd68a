"use strict";
/* A row for each run. A heading sorts, a score leads to the samples that were lost, columns can be hidden. */
(() => {
  const {el, state} = explorer, {failures, format} = explorer.results;
  const TIMES = {ttft: "first token, ms", prefill: "prefill, ms", decode: "decode, ms/token"};

  const text = (title, value) => ({title, value, text: (run) => String(value(run) ?? "")});
  const number = (title, value) => ({
    title, value, right: true, text: (run) => (value(run) === null || value(run) === undefined ? "" : format.number(value(run))),
  });

  function scored(title, group, metric, one) {
    const found = (run) => run[group][metric];
    return {title, metric, right: true, value: (run) => found(run)?.[0],
            text: (run) => (found(run) ? format.interval(found(run), one) : "")};
  }

  function devicesOf(runs) {
    return [...new Set(runs.map((run) => run.device).filter(Boolean))];
  }

  /* All columns; times of several devices stand in several. Those that say nothing (of one value, or of a metric that is no headline) are hidden at first. */
  function columnsOf({runs, headlines, metrics}) {
    const differs = [...new Set(runs.flatMap((run) => Object.keys(run.differs)))];
    const devices = devicesOf(runs);
    const names = ["method", "budget", "position", "model", "dataset"];
    const columns = [
      ...names.map((name) => text(name, (run) => run[name])),
      ...differs.map((name) => text(name, (run) => run.differs[name])),
      ...headlines.map((metric) => scored(metric, "scores", metric, format.score)),
      ...headlines.map((metric) => scored(`${metric} kept`, "kept", metric, format.percent)),
      ...metrics.filter((metric) => !headlines.includes(metric)).map((metric) => (
        {...scored(metric, "scores", metric, format.score), minor: true})),
      number("tokens", (run) => run.tokens),
      number("LLM TFLOPs", (run) => run.tflops),
      number("KV cache, MB", (run) => run.kv && run.kv / 2 ** 20),
      ...devices.flatMap((device) => Object.entries(TIMES).map(([by, title]) => (
        number(title + (devices.length > 1 ? ` on ${devices.indexOf(device) + 1}` : ""), (run) => (run.device === device ? run.times[by] : null))))),
      number("samples", (run) => run.n),
      number("failed", (run) => run.failed),
      text("status", (run) => run.status),
      text("remark", (run) => run.remark),
      text("run", (run) => run.run),
    ];
    const varied = (column) => new Set(runs.map(column.text)).size > 1 || runs.length < 2;
    return columns.filter((column) => runs.some((run) => column.text(run) !== ""))
      .map((column) => ({...column, shown: column.title === "method" || (!column.minor && varied(column))}));
  }

  function compare(one, other) {
    if (typeof one === "number" && typeof other === "number") return one - other;
    return String(one).localeCompare(String(other), "en", {numeric: true});
  }

  /* Runs by a column; those that lack it come last in either direction. */
  function sorted(runs, column, down) {
    const known = runs.filter((run) => (column.value(run) ?? "") !== "");
    known.sort((one, other) => (down ? -1 : 1) * compare(column.value(one), column.value(other)));
    return [...known, ...runs.filter((run) => !known.includes(run))];
  }

  function cell(run, column, context) {
    const words = column.text(run);
    if (!column.metric || !words) return el("td", {class: column.right && "number"}, words);
    const link = el("button", {class: "r-link", title: "samples that were lost",
                               click: () => context.go(failures(run, context.runs, column.metric))}, words);
    return el("td", {class: "number"}, link);
  }

  /* r.columns names the columns that are not as at first, r.sort the column, with "-" before it from high to low. */
  function table(context) {
    const columns = columnsOf(context.results);
    const toggled = () => new Set(state.get("r.columns").split(";").filter(Boolean));
    const shown = () => columns.filter((column) => column.shown !== toggled().has(column.title));
    const devices = devicesOf(context.results.runs).map((device, place, all) => (all.length > 1 ? `${place + 1}: ${device}` : device));
    const body = el("tbody"), head = el("thead"), menu = el("div", {class: "r-menu"});

    function toggle(title) {
      const names = toggled();
      if (!names.delete(title)) names.add(title);
      state.set({"r.columns": [...names].join(";")});
    }

    function sortBy(column, sort) {
      const steps = column.right ? [`-${column.title}`, column.title] : [column.title, `-${column.title}`];
      state.set({"r.sort": steps[steps.indexOf(sort) + 1]});
    }

    function heading(column, sort) {
      const way = {[column.title]: "ascending", [`-${column.title}`]: "descending"}[sort];
      const mark = {ascending: " ▲", descending: " ▼"}[way] ?? "";
      return el("th", {scope: "col", "aria-sort": way, class: column.right && "number"},
        el("button", {click: () => sortBy(column, sort)}, column.title + mark));
    }

    function show(runs) {
      const sort = state.get("r.sort"), by = columns.find((column) => sort.replace(/^-/, "") === column.title);
      const rows = by ? sorted(runs, by, sort.startsWith("-")) : runs, visible = shown();
      head.replaceChildren(el("tr", {}, ...visible.map((column) => heading(column, sort))));
      body.replaceChildren(...rows.map((run) => el("tr", {}, ...visible.map((column) => cell(run, column, context)))));
      menu.replaceChildren(...columns.map((column) => el("label", {}, el("input", {
        type: "checkbox", checked: visible.includes(column), change: () => toggle(column.title)}), column.title)));
    }
    const scroller = el("div", {class: "r-scroll", tabindex: 0, role: "region", "aria-label": "Table of runs"},
      el("table", {}, head, body));
    const element = el("section", {class: "r-panel"}, el("h2", {}, "Runs"),
      el("p", {class: "r-note"}, "Scores and what is kept of the unpruned model's, with 95 % intervals. A score leads to its lost samples."),
      devices.length ? el("p", {class: "r-note"}, `Times are medians at batch size 1; ${devices.join("; ")}.`) : null,
      el("details", {}, el("summary", {}, "Columns"), menu), scroller);
    return {element, show};
  }

  explorer.results.panels.push(table);
})();
