// The page: what was chosen in it, the panels, the readout below the pointer, and loading it anew while a run lives.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const KEPT = "watch " + location.pathname; // where choices outlive the page being loaded anew
const view = { axis: "steps", smoothing: 0.6, log: false, hidden: new Set(), ...remembered() };
const readout = document.getElementById("readout");
let drawn = [];

function remembered() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(KEPT)) || {};
    return { ...kept, hidden: new Set(kept.hidden || []) };
  } catch {
    return {}; // some browsers keep nothing for files
  }
}

function remember() {
  const open = [...document.querySelectorAll("details")].map((part) => part.open);
  try {
    sessionStorage.setItem(KEPT, JSON.stringify({ ...view, hidden: [...view.hidden], open, scroll: window.scrollY }));
  } catch {
    return;
  }
}

function draw() {
  hideReadout();
  drawn = data.panels.map((panel, place) => {
    const holder = document.getElementById("panel-" + place);
    const found = drawPanel(panel, holder, data.runs, view);
    holder.parentElement.hidden = !found;
    if (found) listen(found);
    return found;
  }).filter(Boolean);
  for (const section of document.querySelectorAll("section.curves"))
    section.hidden = ![...section.querySelectorAll("figure")].some((figure) => !figure.hidden);
}

// Readout -----------------------------------------------------------------------------------------------------------

function listen(found) {
  const move = (event) => {
    const place = event.clientX - found.svg.getBoundingClientRect().left;
    const share = (place - found.box.left) / (found.box.right - found.box.left);
    showReadout(found, Math.min(Math.max(share, 0), 1) * found.longest, event);
  };
  found.svg.addEventListener("pointermove", move);
  found.svg.addEventListener("pointerdown", move);
  found.svg.addEventListener("pointerleave", hideReadout);
}

function nearest(xs, x) {
  let best = 0;
  xs.forEach((other, place) => { if (Math.abs(other - x) < Math.abs(xs[best] - x)) best = place; });
  return best;
}

function showReadout(found, x, event) {
  const rows = found.curves.map((curve) => ({ curve, place: nearest(curve.xs, x) }));
  const closest = rows.reduce((one, other) => (Math.abs(other.curve.xs[other.place] - x) < Math.abs(one.curve.xs[one.place] - x) ? other : one));
  const snapped = closest.curve.xs[closest.place];
  for (const other of drawn) {
    const reaches = other.unit.label === found.unit.label && snapped <= other.longest;
    other.cursor.setAttribute("visibility", reaches ? "visible" : "hidden");
    if (reaches) for (const end of ["x1", "x2"]) other.cursor.setAttribute(end, other.at(snapped));
  }
  const head = document.createElement("strong");
  head.textContent = `step ${closest.curve.steps[closest.place].toLocaleString("en")}`;
  const list = document.createElement("table");
  rows.sort((one, other) => other.curve.shown[other.place] - one.curve.shown[one.place]);
  for (const { curve, place } of rows.slice(0, 16)) {
    const row = list.insertRow();
    const mark = row.insertCell();
    mark.className = styleOf(curve.place).class;
    mark.textContent = curve.training ? "—" : "●";
    row.insertCell().textContent = data.runs.length > 1 ? `${curve.run.name}, ${curve.split}` : curve.split;
    const value = row.insertCell();
    value.textContent = formatValue(curve.values[place], found.panel.format);
    if (curve.low && curve.low[place] < curve.high[place])
      value.title = value.textContent += ` (${formatValue(curve.low[place], found.panel.format)} to ${formatValue(curve.high[place], found.panel.format)})`;
  }
  readout.replaceChildren(head, list);
  readout.hidden = false;
  const { width, height } = readout.getBoundingClientRect();
  const right = event.clientX + 16 + width > document.documentElement.clientWidth;
  readout.style.left = Math.max(right ? event.clientX - 16 - width : event.clientX + 16, 4) + "px";
  readout.style.top = Math.max(Math.min(event.clientY + 16, window.innerHeight - height - 4), 4) + "px";
}

function hideReadout() {
  readout.hidden = true;
  for (const found of drawn) found.cursor.setAttribute("visibility", "hidden");
}

// Controls ----------------------------------------------------------------------------------------------------------

function connect() {
  const smoothing = document.getElementById("smoothing"), log = document.getElementById("log");
  smoothing.value = view.smoothing;
  log.checked = view.log;
  smoothing.addEventListener("input", () => { view.smoothing = Number(smoothing.value); changed(); });
  log.addEventListener("change", () => { view.log = log.checked; changed(); });
  for (const choice of document.querySelectorAll("input[name=axis]")) {
    choice.checked = choice.value === view.axis;
    choice.addEventListener("change", () => { view.axis = choice.value; changed(); });
  }
  for (const button of document.querySelectorAll("button.run")) {
    const name = data.runs[Number(button.dataset.run)].name;
    button.setAttribute("aria-pressed", !view.hidden.has(name));
    button.addEventListener("click", () => {
      view.hidden.has(name) ? view.hidden.delete(name) : view.hidden.add(name);
      button.setAttribute("aria-pressed", !view.hidden.has(name));
      changed();
    });
  }
  [...document.querySelectorAll("details")].forEach((part, place) => {
    if (view.open && place < view.open.length) part.open = view.open[place];
  });
}

function changed() {
  document.getElementById("smoothing-value").textContent = view.smoothing.toFixed(2);
  draw();
  remember();
}

// Loads the page anew while it is written, but never under the finger of a reader, or where nobody looks.
function keepFresh() {
  const written = document.getElementById("written");
  const tell = () => {
    const seconds = Math.max(Math.round(Date.now() / 1000 - data.written), 0);
    const late = data.live && seconds > 6 * data.refresh + 30;
    written.classList.toggle("late", late);
    written.textContent = `written ${age(seconds)} ago` + (late ? ": experiments.watch has ended" : data.live ? `, anew every ${data.refresh} s` : "");
  };
  tell();
  setInterval(tell, 1000);
  if (!data.live) return;
  setInterval(() => {
    if (document.hidden || !readout.hidden) return;
    remember();
    location.reload();
  }, 1000 * data.refresh);
}

function age(seconds) {
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} days`;
}

connect();
changed();
if (view.scroll) window.scrollTo(0, view.scroll);
new ResizeObserver(() => {
  if (drawn.length && drawn[0].svg.clientWidth !== drawn[0].svg.parentElement.clientWidth) draw();
}).observe(document.querySelector("main"));
keepFresh();
