// Wires form, address, server and page. One request at a time; the newest state wins.

import { compare, fill, problems, query, read, show, slid, sliders } from "./fields.js";
import { prepareChart } from "./chart.js";
import { draw, drawDetails } from "./draw.js";

const byId = (id) => document.getElementById(id);
const FILES = [["deployment", "deployment.toml"], ["csv", "study.csv"], ["report", "report.html"]];
const REST_MS = 150; // without a change, before the parts below the answer are asked for
let defaults = {};
let choices = {};
let busy = false;
let waiting = false;
let since = 0; // when the oldest change not yet drawn was made
let shown = null; // the newest answer, of the state in the form
let detailed = null; // the address that the details are of
let later = 0; // the timer of the details

const address = () => query(read(), defaults);

async function update() {
  if (busy) {
    waiting = true;
    return;
  }
  busy = true;
  const start = since;
  const wanted = address();
  try {
    await answered(await fetch(`/api/study?${wanted}`), wanted);
    // until the next frame, the first that can show it
    requestAnimationFrame(() => performance.measure("redraw", { start, end: performance.now() }));
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    problems({ "": "The server does not answer. Is shardwise web still running?" });
    allow(null, wanted);
  } finally {
    busy = false;
  }
  if (waiting) {
    waiting = false;
    await update();
  }
}

async function answered(answer, wanted) {
  const found = await answer.json();
  clearTimeout(later);
  if (answer.ok) {
    problems({});
    draw(found);
    allow(found, wanted);
    later = setTimeout(details, REST_MS, wanted);
  } else {
    problems(found.problems ?? { "": `the server answered ${answer.status}` });
    allow(null, wanted);
  }
}

// The parts below the answer; left alone where a newer state has come meanwhile.
async function details(wanted) {
  if (wanted === detailed) return;
  const answer = await fetch(`/api/details?${wanted}`);
  if (!answer.ok || wanted !== address()) return;
  drawDetails(await answer.json());
  detailed = wanted;
  document.documentElement.dataset.detailed = wanted || "default";
}

// Buttons work for a valid state alone: `found` is its answer, null where the state is not valid.
function allow(found, wanted) {
  shown = found;
  document.querySelector(".result").classList.toggle("invalid", !found);
  const reasons = { deployment: found?.deploy_problem ?? "some fields are invalid", csv: "", report: "" };
  for (const [id, file] of FILES) {
    const link = byId(`download-${id}`);
    if (found && !reasons[id]) {
      link.href = `/download/${file}?${wanted}`;
      link.removeAttribute("aria-disabled");
      link.removeAttribute("title");
      link.removeAttribute("role");
    } else {
      link.removeAttribute("href"); // neither clicked nor reached by the keyboard
      link.setAttribute("role", "link");
      link.setAttribute("aria-disabled", "true");
      link.title = reasons[id] || "the question is not valid";
    }
  }
  byId("copy-command").disabled = !found?.commands.lines.length;
  byId("copy-command").title = found ? found.commands.problem : "the question is not valid";
  byId("share").disabled = !found;
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
  show({ ...defaults, ...given });
  return given;
}

function set(values, event) {
  show({ ...read(), ...values });
  changed(event);
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    byId("shared").textContent = "Copied.";
  } catch {
    byId("shared").textContent = text;
  }
}

function input(event) {
  const field = event.target;
  if (field.id === "vs-add") {
    if (field.value) compare(field.value.split(" ")[0], field.value.split(" ").slice(1).join(" "), true);
  } else if (field.type === "range") slid(field);
  else if (field.type === "number") sliders();
  if (field.id === "gpu") byId("gpus").value = choices.gpu.find((g) => g.id === field.value)?.gpus ?? 8;
  if (["model", "gpu", "gpus", "engine", "dtype"].includes(field.id)) show({ ...read(), layout: "", batch: "" });
  const saved = field.id === "study" && choices.study.find((s) => s.name === field.value);
  if (saved) show({ ...read(), ...saved.state });
  changed(event);
}

function clicked(event) {
  const on = (name) => event.target.closest(`[data-${name}]`)?.dataset[name];
  if (on("cell")) {
    const [batch, ...layout] = on("cell").split(" ");
    set({ layout: layout.join(" "), batch }, event);
  } else if (on("vs")) {
    const [kind, ...name] = on("vs").split(" ");
    compare(kind, name.join(" "), false);
    byId("vs-add").focus();
    changed(event);
  } else if (on("change")) set(JSON.parse(on("change")), event);
}

function listen() {
  document.addEventListener("input", input);
  document.addEventListener("click", clicked);
  byId("form").addEventListener("submit", (event) => event.preventDefault());
  byId("share").addEventListener("click", () => copy(location.href));
  byId("copy-command").addEventListener("click", () => copy(shown.commands.lines.join("\n")));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", update);
  window.addEventListener("popstate", () => {
    fromAddress();
    update();
  });
}

async function start() {
  // the address as given, not as the form reads it: text that a number field drops gets its message
  const [listed, first] = await Promise.all([fetch("/api/choices"), fetch(`/api/study${location.search}`)]);
  choices = await listed.json();
  defaults = choices.defaults;
  fill(choices);
  const given = fromAddress();
  prepareChart(byId("points"), (layout, batch, event) => set({ layout, batch }, event));
  listen();
  if (first.ok) await answered(first, address());
  else {
    const { problems: wrong } = await first.json();
    const good = Object.fromEntries(Object.entries(given).filter(([k]) => !(k in wrong)));
    const other = await fetch(`/api/study?${new URLSearchParams(good)}`);
    if (other.ok) draw(await other.json());
    problems(wrong);
    allow(null, address());
  }
  document.documentElement.dataset.ready = "yes";
  requestAnimationFrame(() => performance.mark("first view"));
}

start();
