// Rows to charts, tables and words. All text goes in as text, never as markup.

const views = {};
let specs = {};
let config = {};
let clicked = () => {};
const byId = (id) => document.getElementById(id);

// `made` are the specifications by name; charts are made when their first rows come.
export function prepare(made, act) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  specs = made;
  clicked = act;
  config = {
    background: "transparent",
    font: "Liberation Sans, Arial, Helvetica, sans-serif",
    view: { stroke: colour("--line") },
    axis: { labelColor: colour("--ink"), titleColor: colour("--ink"), gridColor: colour("--grid"),
      domainColor: colour("--soft"), tickColor: colour("--soft"), labelFontSize: 11 },
    text: { color: colour("--ink") }, rule: { color: colour("--ink") }, tick: { color: colour("--ink") },
  };
  for (const id of Object.keys(views)) {
    views[id].finalize();
    delete views[id];
  }
}

// `titles` replaces words of the specification; other words mean another chart.
async function chart(id, rows, words, titles = {}) {
  const name = id.replace("other-", "");
  const place = byId(id);
  const key = JSON.stringify(titles);
  if (views[id] && (rows.length === 0 || views[id].key !== key)) {
    views[id].finalize();
    delete views[id];
  }
  if (rows.length === 0) {
    place.removeAttribute("role");
    place.removeAttribute("aria-label");
    place.replaceChildren(node("p", { className: "note" }, words));
    return;
  }
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", words);
  const content = JSON.stringify(rows);
  if (views[id]?.content === content) return;
  if (views[id]) {
    views[id].content = content;
    await views[id].view.data(name, rows).runAsync();
    return;
  }
  let spec = JSON.stringify(specs[name]);
  for (const [word, title] of Object.entries(titles)) spec = spec.replaceAll(word, title);
  const made = await window.vegaEmbed(place, { ...JSON.parse(spec), datasets: { [name]: rows } }, {
    actions: false, ast: true, config, defaultStyle: false, renderer: "canvas",
    tooltip: { disableDefaultStyle: true, theme: "custom" },
  });
  views[id] = { view: made.view, key, content, finalize: () => made.finalize() };
  if (name === "points")
    made.view.addEventListener("click", (event, item) => {
      if (item?.datum?.batch) clicked(item.datum.tp, item.datum.batch, event);
    });
}

export async function draw(found) {
  const axis = byId("axis").selectedOptions[0]?.text ?? "latency";
  const other = found.other;
  const name = (state) => `${state.model} on ${state.gpus} × ${state.gpu}`;
  const headline = found.advice.map((a) => `${a.use}: ${a.headline}`).join("; ");
  const paper = getComputedStyle(document.documentElement).getPropertyValue("--paper").trim();
  const latency = { $latency: axis, $paper: paper };
  const unit = { $unit: (found.cost[0]?.unit ?? "").split("/")[0] };
  words(found, name);
  byId("compare").hidden = !other;
  document.querySelector(".other").hidden = !other;
  await Promise.all([
    chart("points", found.points, `Throughput of the node against ${axis} for ${name(found.state)}, one curve a TP size. ${headline}.`, latency),
    other && chart("other-points", other.points, `Throughput of the node against ${axis} for ${name(other.state)}.`, latency),
    chart("parts", found.parts, `Seconds of a request by cause for each TP at batch ${found.state.batch}; the table above has the numbers of one cell.`),
    chart("steps", found.steps, found.steps.length === 0 ? "Only one TP size fits, so there is no step." : "Change at each TP step: " + found.steps.map((s) => `${s.step} ${s.metric} ${s.label} %`).join(", ")),
    chart("cost", found.cost, "Cost per million output tokens: " + found.cost.map((c) => `TP=${c.tp} ${c.use} ${c.label} ${c.unit}`).join(", "), unit),
    chart("memory", found.memory, found.memory_title + ": " + [...new Set(found.memory.map((m) => `${m.gpu} ${m.fit}`))].join(", ")),
  ]);
}

function words(found, name) {
  byId("advice").replaceChildren(...[found, found.other].filter(Boolean).flatMap((one) =>
    one.advice.map((a) => node("article", { className: a.found ? "card" : "card missed" },
      node("p", { className: "use" }, (found.other ? name(one.state) + ": " : "") + a.use.replace("online", "users who wait").replace("offline", "work nobody waits for")),
      node("h3", {}, a.headline), node("p", {}, a.line)))));
  byId("skipped").replaceChildren(...found.skipped.map((line) => node("li", {}, line)));
  byId("memory-words").textContent = `${found.memory_title}; thick line: what the engine may use.`;
  byId("sources").textContent = found.sources.join("; ") + ".";
  byId("command").textContent = found.commands.join("\n");
  byId("beside").replaceChildren(...found.beside.map((line) => node("li", {}, line)));
  swatches("legend", [...found.tps.map((t) => [t.colour, `TP=${t.tp}`]), ...kinds(found.points)]);
  swatches("parts-legend", unique(found.parts, "cause"));
  swatches("memory-legend", unique(found.memory, "part"));
  for (const title of document.querySelectorAll(".subject"))
    title.textContent = title.dataset.subject === "other" ? (found.other ? name(found.other.state) : "") : name(found.state);
  cell(found.cell);
  grid(found);
  rates(found.rates);
  compare(found, name);
}

const DRAWN = { predicted: "solid, circles", measured: "dashed, squares", simulated: "dotted, triangles", published: "dash-dotted, diamonds" };
const kinds = (points) => [...new Set(points.map((p) => p.kind))].map((kind) => ["", `${kind}: ${DRAWN[kind]}`]);
const unique = (rows, key) => [...new Map(rows.map((r) => [r[key], [r.colour, r[key]]])).values()];

function swatches(id, pairs) {
  byId(id).replaceChildren(...pairs.map(([colour, text]) => {
    const mark = node("span", { className: colour ? "swatch" : "" });
    if (colour) mark.style.backgroundColor = colour;
    return node("li", {}, mark, text);
  }));
}

function cell(one) {
  byId("cell-title").textContent = `One cell, taken apart: TP=${one.tp}, batch ${one.batch} (${one.kind})`;
  byId("cell-metrics").replaceChildren(...one.metrics.map((m) =>
    node("div", {}, node("dt", {}, m.name), node("dd", {}, m.text, ...(m.measured ? [node("br"), `measured ${m.measured}`] : [])))));
  table("cell-parts", ["", "seconds of a request", "share, %"], one.parts.map((p) => {
    const mark = node("span", { className: "swatch" });
    mark.style.backgroundColor = p.colour;
    return [[mark, p.cause], p.seconds, p.share];
  }));
}

function grid(found) {
  const tps = found.tps.map((t) => t.tp);
  const batches = [...new Set(found.grid.map((g) => g.batch))].sort((a, b) => a - b);
  const at = new Map(found.grid.map((g) => [`${g.tp} ${g.batch}`, g]));
  const focused = document.activeElement?.dataset?.cell;
  table("grid", ["batch", ...tps.map((tp) => `TP=${tp}`)], batches.map((batch) => [String(batch), ...tps.map((tp) => {
    const g = at.get(`${tp} ${batch}`);
    if (!g) return "–";
    const button = node("button", { type: "button" }, g.tpot, node("br"), g.out);
    button.dataset.cell = `${tp} ${batch}`;
    button.setAttribute("aria-pressed", String(found.cell.tp === tp && found.cell.batch === batch));
    button.setAttribute("aria-label", `TP=${tp}, batch ${batch}: ${g.tpot}, ${g.out}`);
    return button;
  })]));
  if (focused) document.querySelector(`[data-cell="${focused}"]`)?.focus();
}

function rates(rows) {
  byId("rates").hidden = rows.length === 0;
  table("rates-table", ["TP", "copies", "batch per copy that keeps up", "E2E latency there", "most it serves"],
    rows.map((r) => [String(r.tp), String(r.copies), r.batch === null ? "none studied" : String(r.batch), r.e2e || "–", r.most]));
}

function compare(found, name) {
  const other = found.other;
  if (!other) return;
  const full = (one) => new Map(one.cost.filter((c) => c.use === "full node").map((c) => [c.tp, c]));
  const [a, b] = [full(found), full(other)];
  const tps = [...new Set([...a.keys(), ...b.keys()])].sort((x, y) => x - y);
  const tpot = (one, tp) => one.grid.find((g) => g.tp === tp && g.batch === one.state.batch)?.tpot;
  const say = (one, c) => (c ? `${c.node} tok/s, ${c.label} ${c.unit}, TPOT ${tpot(one, c.tp)}` : "does not fit");
  table("compare-table", ["TP", name(found.state), name(other.state), "cost, second to first"], tps.map((tp) => [
    String(tp), say(found, a.get(tp)), say(other, b.get(tp)),
    a.get(tp) && b.get(tp) && a.get(tp).unit === b.get(tp).unit ? `${(b.get(tp).cost / a.get(tp).cost).toFixed(2)} x` : "–"]));
}

function table(id, heads, rows) {
  const head = node("tr", {}, ...heads.map((text) => Object.assign(node("th", {}, text), { scope: "col" })));
  const body = rows.map((row) => node("tr", {}, ...row.map((content) => node("td", {}, ...[content].flat()))));
  byId(id).replaceChildren(node("thead", {}, head), node("tbody", {}, ...body));
}

function node(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}
