// Rows to the answer, the chart and tables. All text goes in as text, never as markup.

import { drawChart, onPaper } from "./chart.js";
import { options } from "./fields.js";

const byId = (id) => document.getElementById(id);
const MET = { met: "✓ met", within: "≈ met by the value only", missed: "✗ missed" };

export function draw(found) {
  const [online, offline] = found.answers;
  byId("main").classList.remove("empty");
  byId("subject").textContent = found.name;
  document.title = `${online.title}: ${found.name} · Shardwise`;
  answer(online);
  byId("offline").hidden = !offline; // of those compared too it would be another comparison
  byId("offline").replaceChildren(...(offline ? [node("strong", {}, "offline"), ` (${offline.asked}): `,
    node("strong", {}, offline.title), `, ${offline.in_flight}; ${offline.numbers.map(short).join(", ")}`] : []));
  compared(found.compare);
  legend(found);
  byId("beside").replaceChildren(...found.beside.map((line) => node("li", {}, line)));
  cell(found);
  ranking(found.ranking);
  grid(found.grid);
  byId("command").textContent = [...found.commands.lines,
    ...found.commands.files.flatMap(([name, text]) => [`\n${name}:\n${text}`]), ...(found.commands.note ? [`(${found.commands.note})`] : [])].join("\n");
  byId("terminal").textContent = found.terminal.join("\n");
  byId("source").textContent = `${found.source}.`;
  drawChart(found.chart, `${found.chart.y} against ${found.chart.x} for ${found.name}. `
    + `${online.found ? `Recommended: ${online.line}.` : online.line ? `${online.line}.` : online.why} The tables below have the numbers.`);
}

const short = (n) => `${n.text} ${n.unit} ${n.plus_minus}`.trim();

function answer(one) {
  byId("answer").classList.toggle("missed", !one.found);
  byId("answer-use").textContent = one.use;
  byId("answer-asked").textContent = one.asked;
  byId("answer-title").textContent = one.title;
  byId("answer-line").textContent = one.line;
  byId("answer-numbers").replaceChildren(...one.numbers.map((n) => node("div", { className: "number" },
    node("span", { className: "label" }, n.label), node("span", { className: "value" }, n.text),
    node("span", { className: "unit" }, n.unit),
    node("span", { className: "spread" }, ...(n.plus_minus ? [node("span", {}, n.plus_minus), " ", node("span", {}, `(${n.bounds})`)] : ["as asked"])))));
  byId("answer-chips").replaceChildren(...one.chips.map((c) => {
    return node("li", { className: `chip ${c.met}` }, node("b", {}, c.text), ` ${MET[c.met]} `, node("span", {}, c.detail));
  }));
  byId("answer-why").textContent = [one.why, one.note].filter(Boolean).join(" ");
  byId("answer-ground").textContent = one.ground;
}

function compared(found) {
  const rows = found.rows;
  byId("compare").hidden = rows.length === 0;
  byId("changes").hidden = rows.length > 0; // they are of the first alone
  if (!rows.length) return;
  const unit = rows.find((r) => r.numbers.length)?.numbers.at(-1).unit ?? "";
  const heads = ["", "layout", "tok/s per GPU", "TPOT", unit, "largest context", "fits", "calibrated"];
  byId("compare-lead").textContent = found.lead;
  table("compare-table", heads, rows.map((r) => [
    [...(r.colour ? [swatch(r.colour)] : []), r.name, node("span", { className: "soft" }, r.price)],
    r.layout || "–",
    ...[0, 1, 2].map((i) => value(r.numbers[i], i)),
    r.context ? r.context.toLocaleString("en") : "–",
    r.fits === "yes" ? node("span", { className: "yes" }, "yes") : node("span", { className: "no" }, r.fits),
    r.calibrated || "–",
  ]), [1, 6, 7], [6, 7].filter((at) => at === 7 || rows.some((r) => r.fits !== "yes")));
}

const value = (n, i) => (n ? [`${n.text}${i === 1 ? ` ${n.unit}` : ""}`, node("span", { className: "soft" }, n.plus_minus)] : "–");

function legend(found) {
  const roles = new Set(found.chart.rows.map((r) => r.role));
  const items = [
    roles.has("chosen") && "◆ recommended, with its 80 % interval",
    roles.has("nearest") && "✖ nearest, which is not enough",
    roles.has("runner-up") && "○ runner-up",
    "— frontier: no layout is better in both",
    roles.has("cell") && "• every layout at every batch",
    roles.has("measured") && "□ measured",
    (roles.has("bound-x") || roles.has("bound-y")) && "- - requested bounds",
  ].filter(Boolean);
  byId("legend").replaceChildren(...items.map((text) => node("li", {}, text)));
}

function swatch(colour) {
  const mark = node("span", { className: "swatch" });
  mark.style.backgroundColor = onPaper(colour);
  return mark;
}

function cell(found) {
  const one = found.cell;
  byId("cell-title").textContent = `${one.title} at ${one.batch} in flight per replica (${one.kind})`;
  const chosen = byId("layout").value;
  const offered = [["", "recommended"], ...found.grid.layouts.map((l) => [l.id, l.name])];
  if (String(offered) !== String([...byId("layout").options].map((o) => [o.value, o.text]))) options("layout", offered);
  byId("layout").value = offered.some(([id]) => id === chosen) ? chosen : "";
  byId("batch").placeholder = String(one.batch);
  byId("cell-metrics").replaceChildren(...one.metrics.map((m) =>
    node("div", {}, node("dt", {}, m.name), node("dd", {}, ...spans(m.text), ...(m.measured ? [node("br"), "measured ", ...spans(m.measured)] : [])))));
}

// `1,670 tok/s (1,534–1,819)` breaks before its bounds and nowhere else
const spans = (text) => text.split(" (").flatMap((part, i) => [...(i ? [" "] : []), node("span", {}, i ? `(${part}` : part)]);

function ranking(found) {
  byId("ranking").hidden = found.rows.length === 0;
  const heads = found.columns.map((c) => (c.unit ? [c.title, node("span", { className: "soft" }, c.unit)] : c.title));
  const left = found.columns.flatMap((c, i) => (c.align === "left" ? [i] : []));
  table("ranking-table", heads, found.rows.map((r) => r.cells.map(([text, detail]) =>
    (detail ? [text, " ", node("span", { className: "spread" }, detail)] : text))), left);
  for (const [i, row] of [...byId("ranking-table").tBodies[0].rows].entries()) {
    row.classList.toggle("missing", !found.rows[i].meets);
    row.classList.toggle("best", i === 0 && found.rows[i].meets);
  }
  byId("ranking-note").textContent = found.note;
  byId("rejected").replaceChildren(...found.rejected.map((line) => node("li", {}, line)));
}

let buttons = new Map(); // of the grid, by batch and layout
let gridKey = ""; // what the grid has rows and columns of

// The buttons stay while layouts and batches do: a slider's move changes what they say.
function grid(found) {
  const key = JSON.stringify([found.layouts, found.rows.map((g) => [g.batch, g.layout])]);
  if (key !== gridKey) gridOf(found);
  gridKey = key;
  const names = new Map(found.layouts.map((l) => [l.id, l.name]));
  for (const g of found.rows) {
    const button = buttons.get(`${g.batch} ${g.layout}`);
    [g.tpot, g.per_gpu, g.short].forEach((text, i) => put(button.children[i], text));
    button.setAttribute("aria-pressed", String(g.picked));
    button.setAttribute("aria-label", `${names.get(g.layout)}, ${g.batch} in flight: TPOT ${g.tpot}, ${g.per_gpu} per GPU${g.short ? `; ${g.short}` : ""}`);
  }
}

function gridOf(found) {
  buttons = new Map(found.rows.map((g) => {
    const name = `${g.batch} ${g.layout}`;
    const button = node("button", { type: "button" }, node("span"), node("span"), node("span", { className: "short" }));
    button.dataset.cell = name;
    return [name, button];
  }));
  const batches = [...new Set(found.rows.map((g) => g.batch))].sort((a, b) => a - b);
  table("grid", ["in flight", ...found.layouts.map((l) => l.name)], batches.map((batch) =>
    [String(batch), ...found.layouts.map((l) => buttons.get(`${batch} ${l.id}`) ?? "–")]));
}

function put(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

// What comes after the answer: a token by operator, other questions, memory.
export function drawDetails(found) {
  byId("changes-list").replaceChildren(...found.changes.map((c) => {
    const button = node("button", { type: "button" }, node("span", { className: "label" }, `${c.label}: `), node("strong", {}, c.title), node("br"), ...c.line.split(", ").flatMap((part, i) => [...(i ? [", "] : []), node("span", { className: "whole" }, part)]));
    button.disabled = Object.keys(c.fields).length === 0;
    button.dataset.change = JSON.stringify(c.fields);
    return node("li", {}, button);
  }));
  step(found.step);
  memory(found.memory);
}

function step(found) {
  byId("step-title").textContent = found.title;
  byId("step-lead").textContent = `${found.lead} Solid: the kernel’s time was measured or interpolated.`;
  const longest = Math.max(...found.rows.map((r) => r.width));
  table("step-table", ["operator", "", found.unit, "%", "its time is"], found.rows.map((r) => [
    r.name, track([[r.width / longest, r.direct ? "direct" : "indirect"]]), r.time, r.share, r.known]), [4]);
  for (const row of byId("step-table").tBodies[0].rows) row.cells[1].classList.add("bar");
}

function memory(found) {
  byId("memory-title").textContent = found.title;
  byId("memory-lead").textContent = `${found.lead} The line is the memory that the engine may use.`;
  byId("memory-legend").replaceChildren(...found.parts.map((part) =>
    node("li", {}, node("span", { className: `swatch part-${part}` }), part.replace("_", " ").replace("kv", "KV"))));
  table("memory-table", ["GPU", "sold as", "", "fits"], found.rows.map((r) => {
    const bar = track(r.used.map((share, i) => [share, `part-${found.parts[i]}`]), r.capacity);
    bar.title = found.parts.map((part, i) => `${part} ${r.gb[i]} GB`).join(", ");
    return [r.gpu, r.nameplate, bar, node("span", { className: r.fits ? "yes" : "no" }, `${r.fits ? "✓" : "✗"} ${r.fit}`)];
  }), [3]);
  for (const [i, row] of [...byId("memory-table").tBodies[0].rows].entries()) {
    row.cells[2].classList.add("bar");
    row.classList.toggle("best", found.rows[i].own);
  }
}

function track(parts, limit) {
  const bar = node("div", { className: "track" }, ...parts.map(([share, className]) => {
    const part = node("span", { className });
    part.style.width = `${100 * share}%`;
    return part;
  }));
  if (limit !== undefined) {
    const mark = node("span", { className: "limit" });
    mark.style.left = `${100 * limit}%`;
    bar.append(mark);
  }
  return bar;
}

// `left` columns are flush left, `words` of them wrap.
function table(id, heads, rows, left = [], words = []) {
  const classes = (i) => [left.includes(i) && "left", words.includes(i) && "words"].filter(Boolean).join(" ");
  const head = node("tr", {}, ...heads.map((text, i) => (text ? Object.assign(node("th", { className: classes(i) }, ...[text].flat()), { scope: "col" }) : node("td"))));
  const body = rows.map((row) => node("tr", {}, ...row.map((content, i) => node("td", { className: classes(i) }, ...[content].flat()))));
  byId(id).replaceChildren(node("thead", {}, head), node("tbody", {}, ...body));
}

function node(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}
