// Wires form, address, server and charts. One request at a time; the newest state wins.

import { fill, problems, query, read, show, slid, sliders } from "./fields.js";
import { draw, prepare } from "./draw.js";

const byId = (id) => document.getElementById(id);
let defaults = {};
let choices = {};
let cell = 0; // the TP that is taken apart; 0: the one recommended
let busy = false;
let waiting = false;
let since = 0; // when the oldest change not yet drawn was made
let beside = false;

const address = () => query({ ...read(), tp: cell }, { ...defaults, tp: 0 });

async function update() {
  if (busy) {
    waiting = true;
    return;
  }
  busy = true;
  const start = since;
  const wanted = address();
  try {
    const answer = await fetch(`/api/study?${wanted}`);
    const found = await answer.json();
    if (answer.ok) {
      problems({});
      await draw(found);
      if (Boolean(found.other) !== beside) {
        beside = Boolean(found.other);
        window.dispatchEvent(new Event("resize")); // the charts have another width now
      }
      for (const [id, file] of [["deployment", "deployment.toml"], ["csv", "study.csv"], ["report", "report.html"]])
        byId(`download-${id}`).href = `/download/${file}?${wanted}`;
    } else problems(found.problems ?? { "": `the server answered ${answer.status}` });
    // until the next frame, the first that can show it
    requestAnimationFrame(() => performance.measure("redraw", { start, end: performance.now() }));
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    problems({ "": "The server does not answer. Is shardwise web still running?" });
  } finally {
    busy = false;
  }
  if (waiting) {
    waiting = false;
    await update();
  }
}

function changed(event) {
  if (!waiting) since = event?.timeStamp || performance.now();
  const wanted = address();
  history.replaceState(null, "", wanted ? `?${wanted}` : location.pathname);
  byId("shared").textContent = "";
  return update();
}

function fromAddress() {
  const given = Object.fromEntries(new URLSearchParams(location.search));
  cell = /^\d{1,4}$/.test(given.tp ?? "") ? Number(given.tp) : 0;
  show({ ...defaults, ...given });
  return given;
}

function select(tp, batch, event) {
  cell = tp;
  byId("batch").value = batch;
  sliders();
  changed(event);
}

function listen() {
  document.addEventListener("input", (event) => {
    const field = event.target;
    if (field.type === "range") slid(field);
    else if (field.type === "number") sliders();
    if (field.id === "gpu") byId("gpus").value = choices.gpu.find((g) => g.id === field.value)?.gpus ?? 8;
    const saved = field.id === "study" && choices.study.find((s) => s.name === field.value);
    if (saved) show({ ...read(), ...saved.state });
    changed(event);
  });
  byId("form").addEventListener("submit", (event) => event.preventDefault());
  byId("grid").addEventListener("click", (event) => {
    const chosen = event.target.closest("[data-cell]");
    if (chosen) select(...chosen.dataset.cell.split(" ").map(Number), event);
  });
  byId("share").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(location.href);
      byId("shared").textContent = "Copied.";
    } catch {
      byId("shared").textContent = location.href;
    }
  });
  window.addEventListener("popstate", () => {
    fromAddress();
    update();
  });
}

async function start() {
  const specs = await (await fetch("/api/charts")).json();
  choices = await (await fetch("/api/choices")).json();
  defaults = choices.defaults;
  fill(choices);
  const given = fromAddress();
  prepare(specs, select);
  listen();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    prepare(specs, select);
    update();
  });
  since = performance.now();
  // the address as given, not as the form reads it: text that a number field drops gets its message
  const first = await fetch(`/api/study?${new URLSearchParams(given)}`);
  if (first.ok) await update();
  else {
    const found = await first.json();
    const good = Object.fromEntries(Object.entries(given).filter(([k]) => !(k in found.problems)));
    const shown = await fetch(`/api/study?${new URLSearchParams(good)}`);
    if (shown.ok) await draw(await shown.json());
    problems(found.problems);
  }
  document.documentElement.dataset.ready = "yes";
}

start();
