"use strict";
/* A row for each run. A heading sorts, a score leads to the samples that were lost, columns can be hidden. */
(() => {
  const {el, state} = explorer, {failures, format} = explorer.results;
  const TIMES = {ttft: "first token, ms", prefill: "prefill, ms", decode: "decode, ms/token"};

  /* A column: title, value(run) to sort by, text(run) to show; `metric` of a score, `right` of numbers. */
  const text = (title, value) => ({title, value, text: (run) => String(value(run) ?? "")});

  function number(title, value) {
    const known = (run) => value(run) !== null && value(run) !== undefined;
    return {title, value, right: true, text: (run) => (known(run) ? format.number(value(run)) : "")};
  }

  function scored(title, group, metric, one) {
    const found = (run) => run[group][metric];
    return {title, metric, right: true, value: (run) => found(run)?.[0],
            text: (run) => (found(run) ? format.interval(found(run), one) : "")};
  }

  function devicesOf(runs) {
    return [...new Set(runs.map((run) => run.device).filter(Boolean))];
  }

  /* Times of several devices stand in several columns. */
  function timed(runs) {
    const devices = devicesOf(runs), named = (title, place) => (devices.length > 1 ? `${title} on ${place + 1}` : title);
    return devices.flatMap((device, place) => Object.entries(TIMES).map(([by, title]) => (
      number(named(title, place), (run) => (run.device === device ? run.times[by] : null)))));
  }

  function columnsOf({runs, headlines, metrics}) {
    const differs = [...new Set(runs.flatMap((run) => Object.keys(run.differs)))];
    const minor = metrics.filter((metric) => !headlines.includes(metric));
    const parts = minor.filter((metric) => headlines.some((whole) => metric.startsWith(`${whole}/`)));
    const columns = [
      ...["method", "budget", "position", "model", "dataset"].map((name) => text(name, (run) => run[name])),
      ...differs.map((name) => text(name, (run) => run.differs[name])),
      ...headlines.map((metric) => scored(metric, "scores", metric, format.score)),
      ...headlines.map((metric) => scored(`${metric} kept`, "kept", metric, format.percent)),
      ...minor.map((metric) => ({...scored(metric, "scores", metric, format.score), minor: true})),
      ...parts.map((metric) => ({...scored(`${metric} kept`, "kept", metric, format.percent), minor: true})),
      number("tokens", (run) => run.tokens),
      number("LLM TFLOPs", (run) => run.tflops),
      number("KV cache, MB", (run) => run.kv && run.kv / 2 ** 20),
      ...timed(runs),
      number("samples", (run) => run.n),
      number("failed", (run) => run.failed),
      ...["status", "remark", "run"].map((name) => text(name, (run) => run[name])),
    ];
    return columns.filter((column) => runs.some((run) => column.text(run) !== ""));
  }

  /* Columns that say nothing (one value for all runs, a metric that is no headline) are hidden at first. */
  function shownAtFirst(column, runs) {
    const varied = new Set(runs.map(column.text)).size > 1 || runs.length < 2;
    return column.title === "method" || (varied && !column.minor);
  }

  function compare(one, other) {
    if (typeof one === "number" && typeof other === "number") return one - other;
    return String(one).localeCompare(String(other), "en", {numeric: true});
  }

  /* Runs by a column; those that lack it come last in either direction. */
  function sorted(runs, {value, text: shown}, down) {
    const known = runs.filter((run) => shown(run) !== "");
    known.sort((one, other) => (down ? -1 : 1) * compare(value(one), value(other)));
    return [...known, ...runs.filter((run) => shown(run) === "")];
  }

  function cell(run, column, {go, runs}) {
    const words = column.text(run), click = () => go(failures(run, runs, column.metric));
    const linked = column.metric && words;
    return el("td", {class: column.right && "number"},
      linked ? el("button", {class: "r-link", title: "samples that were lost", click}, words) : words);
  }

  function heading(column, sort) {
    const ways = column.right ? [`-${column.title}`, column.title] : [column.title, `-${column.title}`];
    const next = ways[ways.indexOf(sort) + 1], click = () => state.set({"r.sort": next});
    const orders = {[column.title]: ["ascending", " ▲"], [`-${column.title}`]: ["descending", " ▼"]};
    const [order, mark] = orders[sort] ?? [null, ""];
    return el("th", {scope: "col", "aria-sort": order, class: column.right && "number"},
      el("button", {click}, column.title + mark));
  }

  function noteOf(runs) {
    const devices = devicesOf(runs).map((device, place, all) => (all.length > 1 ? `${place + 1}: ${device}` : device));
    const scores = "Scores, and what is kept of the unpruned model's, with 95 % intervals. A score leads to its lost samples.";
    const times = `Times are medians at batch size 1 (${devices.join("; ")}). A machine is not always equally fast: below, ` +
      "each run's times are relative to the unpruned model's, timed beside it.";
    return devices.length ? `${scores} ${times}` : scores;
  }

  /* r.columns names the columns that are not as at first; r.sort the column, with "-" before it from high to low. */
  function table(context) {
    const all = context.results.runs, columns = columnsOf(context.results);
    const body = el("tbody"), head = el("thead");
    const toggled = () => new Set(state.get("r.columns").split(";").filter(Boolean));

    function toggle(title) {
      const names = toggled();
      if (!names.delete(title)) names.add(title);
      state.set({"r.columns": [...names].join(";")});
    }

    const boxes = columns.map(({title}) => el("input", {type: "checkbox", change: () => toggle(title)}));
    const menu = el("div", {class: "r-menu"}, ...columns.map(({title}, place) => el("label", {}, boxes[place], title)));

    /* New headings, the focus on the same as before. */
    function showHead(visible, sort) {
      const place = [...head.querySelectorAll("button")].indexOf(document.activeElement);
      head.replaceChildren(el("tr", {}, ...visible.map((column) => heading(column, sort))));
      head.querySelectorAll("button")[place]?.focus();
    }

    function show(runs) {
      const names = toggled(), shown = (column) => shownAtFirst(column, all) !== names.has(column.title);
      const visible = columns.filter(shown);
      const sort = state.get("r.sort"), by = columns.find((column) => [column.title, `-${column.title}`].includes(sort));
      const rows = by ? sorted(runs, by, sort !== by.title) : runs;
      showHead(visible, sort);
      body.replaceChildren(...rows.map((run) => el("tr", {}, ...visible.map((column) => cell(run, column, context)))));
      boxes.forEach((box, place) => { box.checked = visible.includes(columns[place]); });
    }

    const scroller = el("div", {class: "r-scroll", tabindex: 0, role: "region", "aria-label": "Table of runs"},
      el("table", {}, head, body));
    const element = el("section", {}, el("h2", {}, "Runs"), el("p", {class: "r-note"}, noteOf(all)),
      el("details", {}, el("summary", {}, "Columns"), menu), scroller);
    return {element, show};
  }

  explorer.results.panels.push(table);
})();
