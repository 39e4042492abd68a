"use strict";
/* What a trace (nuwa/explore/decisions.py) says of single tokens. Pure functions: a trace, no DOM.

   A cell is a place in a view's grid, row by row; a token is a number among its image's. Layer -1 is before pruning. */
explorer.tokens = (() => {
  function unpack(values) {
    if (!values || Array.isArray(values)) return values;
    const whole = [];
    for (let at = 0; at < values.runs.length; at += 3) {
      const [first, step, count] = values.runs.slice(at, at + 3);
      for (let n = 0; n < count; n += 1) whole.push(first + n * step);
    }
    return whole;
  }

  /* A trace with its lists written out, with where each token stands, place[token] = [view, cell], and with what was
     found of the cells of each view, scored = [{name, layer, values, ...ranking}]; layer -1 is before the LLM. */
  function ready(trace) {
    if (trace.place) return trace;
    trace.into = unpack(trace.into);
    trace.place = new Map();
    const inside = trace.stages.flatMap(({layer, scores}) => Object.entries(scores).map(([name, all]) => [{name, layer, ...ranking(all)}, all]));
    trace.views.forEach((view, number) => {
      view.cells = unpack(view.cells);
      view.cells.forEach((token, cell) => trace.place.set(token, [number, cell]));
      view.links ??= {};
      const before = Object.entries(view.scores).map(([name, values]) => ({name, layer: -1, values, ...ranking(values)}));
      view.scored = before.concat(inside.map(([scored, all]) => ({...scored, values: view.cells.map((token) => all[token])})));
      view.pillars &&= new Set(view.pillars);
    });
    for (const stage of trace.stages) {
      stage.there = trace.left.map((_, token) => token).filter((token) => isThere(trace, token, stage.layer));
      for (const name of Object.keys(stage.ids)) stage.ids[name] = stage.ids[name].map(unpack);
    }
    return trace;
  }

  /* Where a score stands among `all` that were compared, of which some are null: its rank, from 1 on, and the share of
     the others that are lower. */
  function ranking(all) {
    const sorted = Float64Array.from(all.filter((value) => value !== null)).sort(), below = new Map(), upTo = new Map();
    sorted.forEach((value, place) => {
      if (!below.has(value)) below.set(value, place);
      upTo.set(value, place + 1);
    });
    const share = (value) => below.get(value) / Math.max(1, sorted.length - 1);
    return {among: sorted.length, share, rank: (value) => sorted.length - upTo.get(value) + 1};
  }

  /* The scores by which tokens left last on entry of a layer, or that they leave by first; undefined where there are none. */
  function scoredAt(view, layer) {
    const last = view.scored.findLast((scored) => scored.layer <= layer) ?? view.scored[0];
    return view.scored.find((scored) => scored.layer === last.layer);
  }

  function isThere(trace, token, layer) {
    return layer < 0 || trace.left[token] < 0 || trace.left[token] > layer;
  }

  /* How many tokens are there, or, of those without a cell (newlines, which follow cells), how many. */
  function count(trace, layer, all = true) {
    return trace.left.filter((_, token) => isThere(trace, token, layer) && (all || !trace.place.has(token))).length;
  }

  /* What a token is in a layer; before pruning, what it is to be. */
  function roleAt(trace, number, cell, layer) {
    const view = trace.views[number], token = view.cells[cell], into = trace.into[token];
    if (!isThere(trace, token, Math.max(layer, 0))) return into !== token && into >= 0 ? "merged" : "dropped";
    if (trace.always.includes(token)) return "always";
    if (view.links[cell]) return "collector";
    return view.pillars?.has(cell) ? "pillar" : "kept";
  }

  function stageAt(trace, layer) {
    return trace.stages.findLast((stage) => stage.layer <= Math.max(layer, 0)) ?? trace.stages[0];
  }

  /* {strategy: ids by axis} of a token that is there, else null. */
  function idsAt(trace, token, layer) {
    const stage = stageAt(trace, layer), at = stage.there.indexOf(token);
    if (at < 0) return null;
    return Object.fromEntries(Object.entries(stage.ids).map(([name, axes]) => [name, axes.map((axis) => axis[at])]));
  }

  /* [view, row, column] of the cell whose own ids these are, or null. */
  function placeOfIds(trace, ids) {
    if (!trace.start || !ids) return null;
    const offset = ids.map((id, axis) => id - trace.start[axis]);
    if (offset.length === 1) {
      const place = trace.place.get(offset[0]);
      return place ? [place[0], ...rowColumn(trace.views[place[0]], place[1])] : null;
    }
    const [rows, columns] = trace.views[0].grid, [row, column] = offset.slice(-2);
    return row >= 0 && row < rows && column >= 0 && column < columns ? [0, row, column] : null;
  }

  function rowColumn(view, cell) {
    return [Math.floor(cell / view.grid[1]), cell % view.grid[1]];
  }

  /* The cell under a point of the picture (fractions of it), -1 where the view does not show it. */
  function cellAt(view, x, y) {
    const [x0, y0, x1, y1] = view.frame, [rows, columns] = view.grid;
    const column = Math.floor(((x - x0) / (x1 - x0)) * columns), row = Math.floor(((y - y0) / (y1 - y0)) * rows);
    return row < 0 || row >= rows || column < 0 || column >= columns ? -1 : row * columns + column;
  }

  /* The middle of a cell, as a point of the picture. */
  function pointOf(view, cell) {
    const [x0, y0, x1, y1] = view.frame, [row, column] = rowColumn(view, cell);
    return [x0 + ((column + 0.5) / view.grid[1]) * (x1 - x0), y0 + ((row + 0.5) / view.grid[0]) * (y1 - y0)];
  }

  return {ready, isThere, count, roleAt, stageAt, idsAt, placeOfIds, rowColumn, scoredAt, cellAt, pointOf};
})();
