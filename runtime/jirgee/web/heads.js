"use strict";
// The attention view: a grid of heads, each a small picture of who looks at whom, and the text of the chosen one.

const LOOK = "64, 138, 210"; // one blue that both themes bear

function attentionView(found) {
  const { layers, heads, before, after } = found.attention;
  const bytes = Uint8Array.from(atob(found.attention.weights), (letter) => letter.charCodeAt(0));
  const count = before + found.tokens.length + after;
  const weight = (layer, head, from, to) => bytes[((layer * heads + head) * count + from) * count + to] / 255;
  const mean = (from, to) => {
    let sum = 0;
    for (let cell = 0; cell < layers * heads; cell++) sum += bytes[(cell * count + from) * count + to];
    return sum / 255 / layers / heads;
  };
  const names = [
    ...Array.from({ length: before }, () => say("start")),
    ...found.tokens.map((token) => parted(token.text).core),
    ...Array.from({ length: after }, () => say("end")),
  ];
  const title = make("h3", { "aria-live": "polite" });
  const readout = make("p", { class: "readout" }, say("point"));
  const arcs = make("svg", { class: "arcs", "aria-hidden": "true" });
  const line = make("div", { class: "looking", role: "listbox", "aria-label": say("attention"), dir: "auto" }, arcs);
  let look = mean;
  let from = before;

  const items = names.map((name, index) => {
    const special = index < before || index >= before + found.tokens.length;
    const { before: gap, after: tail } = special ? { before: " ", after: " " } : parted(found.tokens[index - before].text);
    const item = make("span", { class: special ? "place special" : "place", role: "option", "aria-selected": "false" }, name);
    line.append(gap, item, tail);
    return item;
  });

  const draw = () => {
    const weights = items.map((_, to) => look(from, to));
    const most = Math.max(...weights, 1e-9);
    items.forEach((item, to) => {
      item.style.setProperty("--look", weights[to] / most);
      item.setAttribute("aria-selected", String(to === from));
    });
    const best = weights.map((value, to) => [value, to]).sort((a, b) => b[0] - a[0]).slice(0, 3);
    const targets = best.map(([value, to]) => `${names[to]}\u00a0${Math.round(100 * value)}\u00a0%`).join("  ·  ");
    const told = say("looks", { piece: names[from], targets });
    readout.textContent = told;
    items[from].setAttribute("aria-label", told);
    drawArcs(arcs, line, items, from, weights, most);
  };

  const cells = [];
  const choose = (index) => {
    const [layer, head] = [Math.floor(index / heads), index % heads];
    look = (source, to) => weight(layer, head, source, to);
    title.textContent = say("head", { layer: layer + 1, head: head + 1 });
    cells.forEach((cell, place) => cell.setAttribute("aria-selected", String(place === index)));
    draw();
  };
  const grid = make("div", { class: "heads", role: "grid", "aria-label": say("attention") });
  grid.style.setProperty("--heads", heads);
  for (let layer = 0; layer < layers; layer++) {
    const row = make("div", { role: "row" }, make("span", { class: "layer", role: "rowheader", "aria-label": say("layer", { layer: layer + 1 }) }, String(layer + 1)));
    for (let head = 0; head < heads; head++) {
      const cell = make("button", {
        type: "button", role: "gridcell", "aria-selected": "false",
        "aria-label": say("head", { layer: layer + 1, head: head + 1 }),
      }, picture(count, (source, to) => weight(layer, head, source, to)));
      cells.push(cell);
      row.append(cell);
    }
    grid.append(row);
  }
  roving(cells, (key) => ({ ArrowRight: 1, ArrowLeft: -1, ArrowDown: heads, ArrowUp: -heads })[key] || 0, choose);
  cells.forEach((cell, index) => cell.addEventListener("click", () => choose(index)));

  const turn = (index) => { from = index; draw(); };
  roving(items, along, turn);
  items.forEach((item, index) => {
    item.addEventListener("pointerenter", () => turn(index));
    item.addEventListener("click", () => item.focus());
  });
  title.textContent = say("average");
  requestAnimationFrame(draw);
  new ResizeObserver(draw).observe(line);

  return make("section", { class: "card", "aria-labelledby": "attention-title" },
    make("div", { class: "heading" }, make("h2", { id: "attention-title" }, say("attention"))),
    make("p", { class: "note" }, say("attentionLead")),
    make("div", { class: "attention" }, grid, make("div", { class: "head" }, title, line, readout)),
    make("p", { class: "note" }, say("caution")));
}

function picture(count, weight) {
  const canvas = make("canvas", { width: count, height: count, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  let most = 1e-9;
  for (let from = 0; from < count; from++) for (let to = 0; to < count; to++) most = Math.max(most, weight(from, to));
  for (let from = 0; from < count; from++) {
    for (let to = 0; to < count; to++) {
      context.fillStyle = `rgba(${LOOK}, ${((weight(from, to) / most) ** 0.7).toFixed(3)})`;
      context.fillRect(to, from, 1, 1);
    }
  }
  return canvas;
}

// Curves from a piece to what it looks at, the wider the more.
function drawArcs(svg, line, items, from, weights, most) {
  const frame = line.getBoundingClientRect();
  const top = (item) => {
    const box = item.getClientRects()[0] || frame;
    return [box.left - frame.left + box.width / 2, box.top - frame.top];
  };
  const [x, y] = top(items[from]);
  const curves = weights.map((value, to) => {
    if (to === from || value < 0.02) return null;
    const [endX, endY] = top(items[to]);
    const lift = Math.min(16, 6 + Math.abs(endX - x) / 12);
    const curve = make("path", { d: `M${x} ${y} C${x} ${y - lift}, ${endX} ${endY - lift}, ${endX} ${endY}`, class: "arc" });
    curve.style.setProperty("--look", value / most);
    return curve;
  });
  svg.replaceChildren(...curves.filter(Boolean));
}
