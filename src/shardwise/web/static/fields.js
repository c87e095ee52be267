// The form and the address: one state, two forms of it.

export const FIELDS = [
  "model", "gpu", "gpus", "engine", "dtype", "kv_dtype", "mode", "isl", "osl", "rate", "ttft",
  "tpot", "price", "axis", "layout", "batch", "vs_gpu", "vs_model", "study",
];
export const MAX_COMPARED = 3;
// Slider positions are powers of two, so that a step feels the same everywhere.
const RANGES = { isl: [5, 17], osl: [3, 15], tpot: [0, 10], ttft: [4, 17] };
const STEP = { isl: 0.5, osl: 0.5, tpot: 0.25, ttft: 0.25 };
const MAX_NAME = 80;

const byId = (id) => document.getElementById(id);
const cut = (text) => (text.length > MAX_NAME ? text.slice(0, MAX_NAME) + "…" : text);

export function fill(choices) {
  for (const name of ["model", "engine", "dtype", "kv_dtype"])
    options(name, choices[name].map((value) => [value, value]));
  const gpus = choices.gpu.map((gpu) => [gpu.id, gpu.name]);
  options("gpu", gpus);
  options("layout", [["", "recommended"]]);
  byId("vs-add").replaceChildren(new Option("add …", ""), group("GPUs", gpus, "gpu"),
    group("Models", choices.model.map((value) => [value, value]), "model"));
  options("study", [["", choices.study.length ? "none" : "none in the store"],
    ...choices.study.map((study) => [study.name, `${study.label} (${study.kind})`])]);
  for (const slider of document.querySelectorAll("input[type=range]")) {
    const name = slider.dataset.for;
    [slider.min, slider.max] = RANGES[name];
    slider.step = STEP[name];
  }
}

function group(label, pairs, kind) {
  const made = Object.assign(document.createElement("optgroup"), { label });
  made.append(...pairs.map(([value, text]) => new Option(cut(text), `${kind} ${value}`)));
  return made;
}

export function options(name, pairs) {
  byId(name).replaceChildren(...pairs.map(([value, text]) => new Option(cut(text), value)));
}

// The form as the address says; a value that no option has is kept, so that its message makes sense.
export function show(state) {
  for (const name of FIELDS) {
    const field = byId(name);
    const value = String(state[name] ?? "");
    if (field.tagName === "SELECT" && ![...field.options].some((o) => o.value === value))
      field.add(new Option(cut(value), value));
    // a number field takes no other text: its message still says what was given
    field.value = field.type === "number" && !Number.isFinite(Number(value)) ? "" : value;
  }
  sliders();
  compared();
}

const listed = (kind) => byId(`vs_${kind}`).value.split(",").filter(Boolean);

// What stands beside the first, each a button that takes it away.
function compared() {
  const items = ["gpu", "model"].flatMap((kind) => listed(kind).map((name) => [kind, name]));
  byId("vs-add").disabled = items.length >= MAX_COMPARED;
  byId("vs-chosen").replaceChildren(...items.map(([kind, name]) => {
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.append(`${cut(name)} ×`);
    button.setAttribute("aria-label", `Remove ${cut(name)} from the comparison`);
    button.dataset.vs = `${kind} ${name}`;
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
}

export function compare(kind, name, add) {
  const rest = listed(kind).filter((other) => other !== name);
  byId(`vs_${kind}`).value = (add ? [...rest, name] : rest).join(",");
  byId("vs-add").value = "";
  compared();
}

export function sliders() {
  for (const slider of document.querySelectorAll("input[type=range]")) {
    const value = Number(byId(slider.dataset.for).value);
    if (value > 0) slider.value = Math.log2(value);
  }
}

export function slid(slider) {
  byId(slider.dataset.for).value = Math.round(2 ** Number(slider.value));
}

export const read = () => Object.fromEntries(FIELDS.map((name) => [name, byId(name).value]));

// What differs from the defaults, so that an address stays short.
export function query(state, defaults) {
  const wanted = Object.entries(state).filter(([k, v]) => String(v) !== String(defaults[k] ?? ""));
  return new URLSearchParams(wanted).toString();
}

export function problems(found) {
  for (const name of FIELDS) {
    const message = found[name] ?? "";
    const field = byId(name);
    byId(`${name}-problem`).textContent = message;
    byId(`${name}-problem`).title = message;
    field.toggleAttribute("aria-invalid", Boolean(message));
    if (message) {
      field.setAttribute("aria-invalid", "true");
      field.setAttribute("aria-describedby", `${name}-problem`);
    } else field.removeAttribute("aria-describedby");
  }
  const banner = byId("banner");
  const messages = [...new Set(Object.values(found))];
  banner.hidden = messages.length === 0;
  banner.textContent = messages.length
    ? `${messages.map(cutLong).join("; ")}.${byId("main").classList.contains("empty") ? "" : " The last valid answer is shown below."}` : "";
}

const cutLong = (text) => (text.length > 400 ? text.slice(0, 400) + "…" : text);
