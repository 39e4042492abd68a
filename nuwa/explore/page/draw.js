"use strict";
/* One view of a picture on a canvas: what is there in a layer, roles, scores, regions, boxes, and what is pointed at. */
(() => {
  const {tokens} = explorer, LONGER_SIDE = 672, SMALLEST_CELL = 5, PIXELATED = 160;

  function colour(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  }

  /* look: {layer, fade (0 to 1), show: set of "roles", "boxes", "scores", "regions", point: [x, y] or null, boxes} */
  function drawView(canvas, trace, number, picture, look) {
    const view = trace.views[number], [rows, columns] = view.grid;
    const side = Math.max(SMALLEST_CELL, Math.round(LONGER_SIDE / Math.max(rows, columns)));
    Object.assign(canvas, {width: columns * side, height: rows * side});
    const unit = Math.max(1, canvas.width / (canvas.clientWidth || canvas.width) / 2); // wider where it is shown small
    const pen = {context: canvas.getContext("2d"), view, side, trace, number, unit};
    drawPicture(pen.context, canvas, picture, view.frame);
    drawFade(pen, look);
    if (look.show.has("scores")) drawScores(pen, look.layer);
    if (look.show.has("regions") && view.region) drawRegions(pen, canvas);
    if (look.show.has("roles")) drawRoles(pen, look.layer);
    if (look.show.has("boxes")) drawBoxes(pen.context, canvas, view.frame, look.boxes);
    if (look.point) drawPointed(pen, look);
  }

  /* A picture, and boxes, where nothing is known of its tokens. */
  function drawPlain(canvas, picture, look) {
    const scale = LONGER_SIDE / Math.max(picture.naturalWidth, picture.naturalHeight), whole = [0, 0, 1, 1];
    Object.assign(canvas, {width: picture.naturalWidth * scale, height: picture.naturalHeight * scale});
    drawPicture(canvas.getContext("2d"), canvas, picture, whole);
    if (look.show.has("boxes")) drawBoxes(canvas.getContext("2d"), canvas, whole, look.boxes);
  }

  function drawPicture(context, {width, height}, picture, [x0, y0, x1, y1]) {
    const wide = width / (x1 - x0), high = height / (y1 - y0);
    context.fillStyle = "#7f7f7f";
    context.fillRect(0, 0, width, height);
    context.imageSmoothingEnabled = Math.max(picture.naturalWidth, picture.naturalHeight) > PIXELATED;
    context.drawImage(picture, -x0 * wide, -y0 * high, wide, high);
  }

  function corner({view, side}, cell) {
    const [row, column] = tokens.rowColumn(view, cell);
    return [column * side, row * side];
  }

  function middle(pen, cell) {
    return corner(pen, cell).map((at) => at + pen.side / 2);
  }

  function drawFade(pen, {layer, fade}) {
    pen.context.globalAlpha = fade;
    pen.context.fillStyle = colour("ground");
    pen.view.cells.forEach((token, cell) => {
      if (!tokens.isThere(pen.trace, token, layer)) pen.context.fillRect(...corner(pen, cell), pen.side, pen.side);
    });
    pen.context.globalAlpha = 1;
  }

  /* The higher its rank, the stronger a cell's colour. */
  function drawScores(pen, layer) {
    const scored = tokens.scoredAt(pen.view, layer), {context} = pen;
    context.fillStyle = colour("moved");
    scored?.values.forEach((score, cell) => {
      context.globalAlpha = score === null ? 0 : 0.8 * scored.share(score) ** 2;
      context.fillRect(...corner(pen, cell), pen.side, pen.side);
    });
    context.globalAlpha = 1;
  }

  function drawRoles(pen, layer) {
    const {context, side} = pen;
    if (layer < 0 || tokens.count(pen.trace, layer) === pen.trace.tokens) return; // all of it is kept
    pen.view.cells.forEach((token, cell) => {
      if (!tokens.isThere(pen.trace, token, layer)) return;
      const role = tokens.roleAt(pen.trace, pen.number, cell, layer), [x, y] = corner(pen, cell);
      context.strokeStyle = context.fillStyle = colour(role);
      context.lineWidth = Math.max(1, side / (role === "pillar" ? 6 : 12));
      const inset = context.lineWidth / 2;
      context.strokeRect(x + inset, y + inset, side - 2 * inset, side - 2 * inset);
      if (role === "collector") dot(context, x + side / 2, y + side / 2, Math.max(2, side / 8));
      if (role === "always") line(context, [x, y], [x + side, y + side]);
    });
  }

  function dot(context, x, y, radius) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.fill();
  }

  function line(context, from, to) {
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
  }

  function drawRegions({context, view, side}, {width, height}) {
    context.strokeStyle = colour("ink");
    context.lineWidth = 1;
    context.setLineDash([2, 4]);
    const step = view.region * side;
    for (let x = step; x < width; x += step) line(context, [x, 0], [x, height]);
    for (let y = step; y < height; y += step) line(context, [0, y], [width, y]);
    context.setLineDash([]);
  }

  function drawBoxes(context, {width, height}, [x0, y0, x1, y1], {truth, answer}) {
    for (const [box, ink, dashes] of [[truth, "#ffffff", []], [answer, colour("moved"), [10, 6]]]) {
      if (!box) continue;
      const [left, right] = [box[0], box[2]].map((x) => ((x - x0) / (x1 - x0)) * width);
      const [top, bottom] = [box[1], box[3]].map((y) => ((y - y0) / (y1 - y0)) * height);
      for (const [style, thick, pattern] of [["#000000", 7, []], [ink, 4, dashes]]) {
        Object.assign(context, {strokeStyle: style, lineWidth: thick});
        context.setLineDash(pattern);
        context.strokeRect(left, top, right - left, bottom - top);
      }
    }
    context.setLineDash([]);
  }

  /* The cell that is pointed at, what it gathered or went into, and where its id in use stands. */
  function drawPointed(pen, {point, layer, position}) {
    const {context, view, trace, side, unit} = pen, cell = tokens.cellAt(view, ...point);
    if (cell < 0) return;
    const token = view.cells[cell], role = tokens.roleAt(trace, pen.number, cell, layer);
    const links = view.links[cell] ?? (role === "merged" ? targetOf(pen, token) : []);
    context.strokeStyle = colour("link");
    for (let at = 0; at < links.length; at += 2) {
      context.lineWidth = unit * Math.max(1.5, (Math.min(side / 4, 7) * links[at + 1]) / Math.max(links[1], 1));
      line(context, middle(pen, cell), middle(pen, links[at]));
    }
    const there = tokens.placeOfIds(trace, tokens.idsAt(trace, token, layer)?.[position]);
    if (there && there[0] === pen.number && there[1] * view.grid[1] + there[2] !== cell) {
      Object.assign(context, {strokeStyle: colour("moved"), fillStyle: colour("moved"), lineWidth: 3 * unit});
      const end = [there[2], there[1]].map((at) => (at + 0.5) * side);
      line(context, middle(pen, cell), end);
      dot(context, ...end, Math.max(4, Math.min(side / 4, 7)) * unit);
    }
    for (const [ink, wide] of [["#000000", 4], ["#ffffff", 1.5]]) {
      Object.assign(context, {strokeStyle: ink, lineWidth: wide * unit});
      context.strokeRect(...corner(pen, cell), side, side);
    }
  }

  function targetOf({trace, number}, token) {
    const place = trace.place.get(trace.into[token]);
    return place && place[0] === number ? [place[1], 1000] : [];
  }

  Object.assign(explorer, {drawView, drawPlain});
})();
