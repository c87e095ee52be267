// The chart: the marks of `reports.figure_pareto`, which decides what is shown and where names stand.

// The palette of the figures on dark paper.
const ON_DARK = { "#0072B2": "#56b4e9", "#D55E00": "#ff9d6e", "#009E73": "#5fd3a4", "#E69F00": "#f0c36a", "#666666": "#a6b0ba" };
const MARGIN = { left: 66, right: 18, top: 22, bottom: 40 };
const TICK_PX = { x: 75, y: 34 }; // between ticks, about
const REACH_PX = 9; // of a click or of the pointer to a point
const NAMED = ["chosen", "nearest", "runner-up", "measured", "frontier", "cell"]; // nearest to the eye first
const dark = matchMedia("(prefers-color-scheme: dark)");
export const onPaper = (colour) => (dark.matches ? ON_DARK[colour] ?? colour : colour);

let place = null;
let shown = null; // what is drawn: its data and its words
let at = null; // a row to pixels
let size = { width: 0, height: 0 }; // of the place: asking for it anew would lay out the page

// `act` is called with the layout, the batch and the event of a click on a point.
export function prepareChart(element, act) {
  place = element;
  place.setAttribute("role", "img");
  place.addEventListener("click", (event) => {
    const row = under(event);
    if (row && row.role !== "measured") act(row.layout, row.batch, event);
  });
  place.addEventListener("pointermove", (event) => tip(under(event), event));
  place.addEventListener("pointerleave", () => tip(null));
  new ResizeObserver(([{ contentRect }]) => {
    const changed = contentRect.width !== size.width || contentRect.height !== size.height;
    size = contentRect;
    if (changed && shown) draw();
  }).observe(place);
}

export function drawChart(data, words) {
  shown = { data, words };
  draw();
}

function draw() {
  const { data, words } = shown;
  place.setAttribute("aria-label", words);
  if (!size.width) size = place.getBoundingClientRect();
  const { width, height } = size;
  const inner = { x0: MARGIN.left, x1: width - MARGIN.right, y0: height - MARGIN.bottom, y1: MARGIN.top };
  const x = axis(data.rows, "x", inner.x0, inner.x1, TICK_PX.x);
  const y = axis(data.rows, "y", inner.y0, inner.y1, TICK_PX.y);
  at = { x: x.to, y: y.to };
  const of = (...roles) => data.rows.filter((r) => roles.includes(r.role));
  place.replaceChildren(svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": true },
    ...axes(data, x, y, inner), ...bounds(of("bound-x"), of("bound-y"), inner), ...points(of),
    ...answers(of), ...names(of("answer-name", "name"), inner)), tooltip);
}

// Ticks at 1, 2 or 5 times a power of ten, from 0 to the first at or above the largest value.
function axis(rows, field, from, to, apart) {
  const largest = Math.max(...rows.map((r) => Math.max(r[field] ?? 0, r[`${field}_hi`] ?? 0))) || 1;
  const rough = largest / Math.max(Math.abs(to - from) / apart, 2);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((times) => times * power >= rough);
  const count = Math.ceil(largest / step - 1e-9);
  const places = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const text = (value) => value.toLocaleString("en", { minimumFractionDigits: places, maximumFractionDigits: places });
  const scale = (value) => from + ((to - from) * value) / (count * step);
  return { to: scale, ticks: Array.from({ length: count + 1 }, (_, i) => [scale(i * step), text(i * step)]) };
}

function axes(data, x, y, { x0, x1, y0, y1 }) {
  const grid = [...x.ticks.map(([p]) => `M${p} ${y0}V${y1}`), ...y.ticks.map(([p]) => `M${x0} ${p}H${x1}`)];
  return [
    svg("path", { class: "grid", d: grid.join("") }),
    svg("path", { class: "domain", d: `M${x0} ${y1}V${y0}H${x1}` }),
    ...x.ticks.map(([p, text]) => svg("text", { x: p, y: y0 + 15, "text-anchor": "middle" }, text)),
    ...y.ticks.map(([p, text]) => svg("text", { x: x0 - 6, y: p + 4, "text-anchor": "end" }, text)),
    svg("text", { class: "title", x: (x0 + x1) / 2, y: y0 + 33, "text-anchor": "middle" }, data.x),
    svg("text", { class: "title", transform: `translate(14 ${(y0 + y1) / 2}) rotate(-90)`, "text-anchor": "middle" }, data.y),
  ];
}

function bounds(upright, level, { x0, x1, y0, y1 }) {
  return [
    ...upright.flatMap((r) => [svg("path", { class: "bound", d: `M${at.x(r.x)} ${y0}V${y1}` }),
      svg("text", { x: clamp(at.x(r.x), x0 + 40, x1 - 40), y: y1 - 6, "text-anchor": "middle" }, r.text)]),
    ...level.flatMap((r) => [svg("path", { class: "bound", d: `M${x0} ${at.y(r.y)}H${x1}` }),
      svg("text", { class: "name", x: x1 - 6, y: at.y(r.y) - 6, "text-anchor": "end" }, r.text)]),
  ];
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

function points(of) {
  const lines = Map.groupBy(of("frontier"), (r) => r.series);
  return [
    // a line of no length with round ends is a dot
    svg("path", { class: "cells", stroke: onPaper(of("cell")[0]?.colour), d: of("cell").map((r) => `M${at.x(r.x)} ${at.y(r.y)}h0`).join("") }),
    ...[...lines.values()].flatMap((rows) => [
      svg("polyline", { class: "frontier", stroke: onPaper(rows[0].colour), points: rows.map((r) => `${at.x(r.x)},${at.y(r.y)}`).join(" ") }),
      svg("path", { class: "corners", stroke: onPaper(rows[0].colour), d: rows.map((r) => `M${at.x(r.x)} ${at.y(r.y)}h0`).join("") }),
    ]),
    ...of("measured").map((r) => svg("rect", { class: "measured", x: at.x(r.x) - 4.5, y: at.y(r.y) - 4.5, width: 9, height: 9 })),
    ...of("picked").map((r) => svg("circle", { class: "picked", stroke: onPaper(r.colour), cx: at.x(r.x), cy: at.y(r.y), r: 9 })),
  ];
}

const SHAPES = {
  chosen: "M0-9L9 0L0 9L-9 0Z",
  nearest: "M0-4L4-8L8-4L4 0L8 4L4 8L0 4L-4 8L-8 4L-4 0L-8-4L-4-8Z",
  "runner-up": "M-6.5 0a6.5 6.5 0 1 0 13 0a6.5 6.5 0 1 0-13 0Z",
};

function answers(of) {
  return ["runner-up", "nearest", "chosen"].flatMap((role) => of(role)).flatMap((r) => {
    const [x, y, stroke] = [at.x(r.x), at.y(r.y), onPaper(r.colour)];
    const spread = `M${at.x(r.x_lo)} ${y}H${at.x(r.x_hi)}M${x} ${at.y(r.y_lo)}V${at.y(r.y_hi)}`;
    return [svg("path", { class: "spread", stroke, d: spread }),
      svg("path", { class: r.role, stroke, fill: stroke, d: SHAPES[r.role], transform: `translate(${x} ${y})` })];
  });
}

// A name that would lie on another is left out: the rows place them for a wide chart.
function names(rows, { x1 }) {
  const boxes = [];
  return rows.flatMap((r) => {
    const large = r.role === "answer-name";
    const [width, x, y] = [(large ? 7.5 : 6.4) * r.text.length, at.x(r.x) + r.dx, at.y(r.y) + r.dy];
    const start = r.align === "left" && x + width < x1 + MARGIN.right;
    const left = start ? x : at.x(r.x) - Math.abs(r.dx) - width;
    if (!large && boxes.some((b) => Math.abs(b.left + b.width / 2 - left - width / 2) < (b.width + width) / 2 && Math.abs(b.y - y) < 13)) return [];
    boxes.push({ left, width, y });
    return [svg("text", { class: large ? "name answer-name" : "name", x: start ? x : left + width, y, "text-anchor": start ? "start" : "end" }, r.text)];
  });
}

// The row at the pointer: the nearest within reach, of those as near the one that stands out most.
function under(event) {
  if (!at) return null;
  const box = place.getBoundingClientRect();
  let best = null;
  let least = REACH_PX;
  for (const role of NAMED) {
    for (const row of shown.data.rows) {
      if (row.role !== role) continue;
      const far = Math.hypot(at.x(row.x) - event.clientX + box.left, at.y(row.y) - event.clientY + box.top);
      if (far < least - 0.01) [best, least] = [row, far];
    }
  }
  return best;
}

const tooltip = Object.assign(document.createElement("dl"), { className: "tooltip", hidden: true });
const three = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });

function tip(row, event) {
  tooltip.hidden = !row;
  place.classList.toggle("pointed", Boolean(row));
  if (!row) return;
  const { data } = shown;
  const lines = [["on", row.series], ["layout", row.name], ["in flight per replica", row.batch], [data.x, three.format(row.x)], [data.y, three.format(row.y)]];
  tooltip.replaceChildren(...lines.flatMap(([name, value]) => [text("dt", name), text("dd", value)]));
  const box = place.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  tooltip.style.left = `${clamp(x > box.width / 2 ? x - tooltip.offsetWidth - 14 : x + 14, 0, box.width)}px`;
  tooltip.style.top = `${clamp(y - 20, 0, box.height - tooltip.offsetHeight)}px`;
}

function text(tag, content) {
  return Object.assign(document.createElement(tag), { textContent: content });
}

function svg(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== undefined) made.setAttribute(name, value);
  made.append(...children);
  return made;
}
