"use strict";
/* In words: what is known of a token, of a sample, and of the runs that answered it. */
(() => {
  const {state, el, tokens, letters} = explorer;
  const roles = {
    kept: "kept", pillar: "pillar: stays as it is", collector: "collector: gathered others", always: "stays in any case",
    merged: "merged into another", dropped: "dropped",
  };

  function facts(pairs) {
    const rows = pairs.filter(([, value]) => value !== null).map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
    return el("dl", {}, ...rows.flat());
  }

  function placeOf(trace, token) {
    const [number, cell] = trace.place.get(token) ?? [0, -1], view = trace.views[number];
    if (cell < 0) return `token ${token}`;
    const [row, column] = tokens.rowColumn(view, cell);
    const among = view.time === undefined ? "view" : "frame";
    return `row ${row}, column ${column}${trace.views.length > 1 ? `, ${among} ${number}` : ""}`;
  }

  function whenLeft(trace, token) {
    const left = trace.left[token];
    return left < 0 ? "stays to the end" : left === 0 ? "before the LLM" : `at layer ${left}`;
  }

  function idRows(trace, token, layer, position) {
    const ids = tokens.idsAt(trace, token, layer);
    if (!ids) return [["ids", "none: it is not in this layer"]];
    return Object.entries(ids).map(([name, axes]) => {
      const place = tokens.placeOfIds(trace, axes), at = place ? `, of row ${place[1]}, column ${place[2]}` : "";
      return [`${name.toUpperCase()}${name === position ? " (in use)" : ""}`, `${axes.join(", ")}${at}`];
    });
  }

  function linkText(view, cell) {
    const links = view.links[cell];
    if (!links) return null;
    const said = [];
    for (let at = 0; at < links.length; at += 2) {
      const [row, column] = tokens.rowColumn(view, links[at]);
      said.push(`${row},${column}: ${(links[at + 1] / 1000).toFixed(3)}`);
    }
    return said.join("   ");
  }

  explorer.scoreName = ({name, layer}) => `${name}, ${layer < 0 ? "before the LLM" : `layer ${layer}`}`;

  function scoreRows({scored}, cell) {
    const rows = scored.map(({values, rank, among, ...which}) => {
      const score = values[cell], early = which.layer < 0, none = early ? "no number" : "none: it had left";
      const said = `${Number(score).toPrecision(3)}, rank ${rank(score)} of ${among}`;
      return [early ? which.name : explorer.scoreName(which), score === null ? none : said];
    });
    return rows.length ? rows : [["score", "none noted by this method"]];
  }

  explorer.tokenFacts = (trace, number, cell, layer, run) => {
    const view = trace.views[number], token = view.cells[cell], role = tokens.roleAt(trace, number, cell, layer);
    const merged = role === "merged" ? ` (${placeOf(trace, trace.into[token])})` : "";
    return facts([
      ["token", `${token}: ${placeOf(trace, token)}`],
      ["segment", view.segment === undefined ? null : String(view.segment)],
      ["role", roles[role] + merged],
      ["leaves", whenLeft(trace, token)],
      ...scoreRows(view, cell),
      ...idRows(trace, token, layer, run.position),
      ["gathered", linkText(view, cell)],
    ]);
  };

  /* With their tasks where there are several. */
  function scoresText({scores}) {
    const tasks = new Set(Object.keys(scores).map((name) => name.split("/")[0]));
    const said = (name) => (tasks.size > 1 ? name : name.split("/").slice(1).join("/"));
    return Object.entries(scores).map(([name, score]) => `${said(name)} ${+score.toFixed(3)}`).join(", ");
  }

  function answerRow(index, sample, run) {
    const answer = sample.answers[run.key], chosen = explorer.chosenRuns(index);
    const letter = letters.find((one) => chosen[one] === run) ?? "";
    const text = !answer ? "not asked" : answer.failed !== undefined ? `failed: ${answer.failed}` : answer.text || "(empty)";
    return el("tr", {class: letter ? "chosen" : ""}, el("td", {}, explorer.mark(letter, answer)), el("td", {}, run.label),
      el("td", {}, text, answer?.scores ? el("small", {}, scoresText(answer)) : null));
  }

  /* Visual tokens as they enter each layer, from the journal: [[layer, tokens], ...] of each picture. */
  function perLayer(answer, layers) {
    return Array.from({length: layers}, (_, layer) =>
      (answer?.kept ?? []).reduce((sum, stages) => sum + (stages.findLast(([start]) => start <= layer)?.[1] ?? 0), 0));
  }

  function bar(count, layer, most) {
    const drawn = el("i", {title: `layer ${layer}: ${count}`});
    drawn.style.height = `${Math.max(2, (100 * count) / most)}%`;
    return drawn;
  }

  /* A row of bars for each run, all on one scale. */
  function layerBars(runs, sample) {
    const counted = runs.map(([letter, run]) => [letter, perLayer(sample.answers[run.key], run.layers)]);
    const most = Math.max(1, ...counted.flatMap(([, counts]) => counts));
    return counted.filter(([, counts]) => counts.some(Boolean)).map(([letter, counts]) => {
      const mean = counts.reduce((sum, count) => sum + count, 0) / counts.length;
      const said = `${counts[0]} enter, ${counts.at(-1)} in the last layer, ${+mean.toFixed(1)} on average`;
      const row = counts.map((count, layer) => bar(count, layer, most));
      return el("div", {class: "layers"}, el("b", {}, letter.toUpperCase()),
        el("span", {class: "bars", role: "img", "aria-label": said}, ...row), el("small", {}, said));
    });
  }

  async function copy(text, button) {
    const field = el("textarea", {class: "unseen"}, text);
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy"); // navigator.clipboard asks for a server
    field.remove();
    button.focus();
    button.textContent = done ? "Copied" : "Select it by hand";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }

  function runFacts(letter, run) {
    const button = el("button", {type: "button", click: () => copy(run.command, button)}, "Copy");
    return el("div", {class: "run"}, el("b", {}, letter.toUpperCase()), el("a", {href: encodeURI(run.result)}, `${run.key}/result.json`),
      el("code", {}, run.command), button);
  }

  explorer.sampleSide = ({index, sample}) => {
    const runs = Object.entries(explorer.chosenRuns(index)), all = index.runs.filter((run) => run.set === sample.set);
    const layers = layerBars(runs, sample);
    return el("aside", {"aria-label": "Answers and runs"},
      facts(["question", "target", "id", "task"].map((name) => [name === "id" ? "sample" : name, sample[name] || "–"])),
      el("h3", {}, "Answers"), el("table", {}, ...all.map((run) => answerRow(index, sample, run))),
      ...(layers.length ? [el("h3", {}, "Tokens per layer"), ...layers] : []),
      el("h3", {}, "Runs again"), ...runs.map(([letter, run]) => runFacts(letter, run)));
  };

  explorer.sampleHead = ({sample, samples}) => {
    const at = samples.indexOf(sample), open = (place) => () => explorer.openAt(place);
    return el("div", {class: "head"},
      el("button", {type: "button", click: () => state.set({sample: null, pin: null}, {push: true})}, "← All samples"),
      el("button", {type: "button", "aria-label": "previous sample", disabled: at < 1, click: open(at - 1)}, "←"),
      el("button", {type: "button", "aria-label": "next sample", disabled: at + 1 >= samples.length, click: open(at + 1)}, "→"),
      el("span", {}, at < 0 ? "not among the filtered" : `${at + 1} of ${samples.length}`),
      el("h2", {}, sample.title || sample.question || sample.id));
  };

  function slider(label, name, bounds, value, said) {
    const output = el("output", {}, said(value));
    const input = (event) => {
      output.textContent = said(Number(event.target.value));
      state.set({[name]: event.target.value});
    };
    return el("label", {class: "slider"}, label, el("input", {type: "range", ...bounds, value, id: `slider-${name}`, input}), output);
  }

  function toggles() {
    const on = explorer.shownMarks();
    return Object.entries(explorer.marks).map(([name, text]) => {
      const change = () => {
        on.has(name) ? on.delete(name) : on.add(name);
        state.set({show: [...on].filter((one) => explorer.marks[one]).join(",") || "none"});
      };
      return el("label", {class: "toggle"}, el("input", {type: "checkbox", checked: on.has(name), change}), text);
    });
  }

  explorer.layerText = (layer) => (layer < 0 ? "before pruning" : `entering layer ${layer}`);

  explorer.sampleTools = ({index}, several, fits) => {
    const last = Math.max(0, ...Object.values(explorer.chosenRuns(index)).map((run) => run.layers - 1));
    const swiped = state.get("view") === "swipe", mode = () => state.set({view: swiped ? null : "swipe"});
    return el("div", {class: "tools"},
      slider("Layer", "layer", {min: -1, max: last, step: 1}, explorer.layer(), explorer.layerText),
      slider("Fade", "fade", {min: 0, max: 100, step: 5}, Number(state.get("fade") || explorer.usualFade), (value) => `${value} %`),
      ...toggles(),
      several ? el("button", {type: "button", "aria-pressed": String(fits && swiped), disabled: !fits, click: mode,
        title: fits ? null : "A and B see different parts of the picture"}, "Swipe A | B") : null,
      legend());
  };

  function legend() {
    const shown = ["kept", "collector", "pillar", "always"].map((role) => el("span", {class: `swatch ${role}`}, roles[role]));
    return el("div", {class: "legend"}, ...shown, el("span", {class: "swatch truth"}, "true box"), el("span", {class: "swatch answer"}, "predicted box"),
      el("span", {class: "swatch moved"}, "where its id stands"), el("span", {class: "swatch link"}, "merged or gathered"));
  }
})();
