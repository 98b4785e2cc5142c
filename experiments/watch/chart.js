// Draws one panel: the curves of a metric over steps, time or examples, as SVG.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const COLORS = 8; // of style.css; runs beyond have them again, dashed
const DASHES = ["", "7 3", "2 3"];
const LINE_HEIGHT = 13; // pixels between labels
const ruler = document.createElement("canvas").getContext("2d");

function make(name, attributes, parent, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function textWidth(text) {
  ruler.font = "11px system-ui, sans-serif";
  return ruler.measureText(text).width;
}

// Numbers -----------------------------------------------------------------------------------------------------------

function withSuffix(value, digits) {
  for (const [size, suffix] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]])
    if (Math.abs(value) >= size) return Number((value / size).toPrecision(digits)) + suffix;
  return String(Number(value.toPrecision(digits)));
}

function formatTick(value, step, format) {
  if (format === "percent") return (100 * value).toFixed(decimals(100 * step)) + " %";
  if (Math.abs(value) >= 1e4 || (format === "rate" && step >= 1e3)) return withSuffix(value, 4);
  if (value !== 0 && step < 1e-4) return String(Number(value.toPrecision(3)).toExponential()).replace("e+", "e");
  return value.toFixed(decimals(step));
}

function formatValue(value, format) {
  if (format === "percent") return (100 * value).toFixed(Math.abs(value) < 0.1 ? 2 : 1) + " %";
  if (Math.abs(value) >= 1e4 || format === "rate") return withSuffix(value, 3);
  if (value !== 0 && Math.abs(value) < 1e-3) return String(Number(value.toPrecision(3)).toExponential());
  return String(Number(value.toPrecision(4)));
}

function decimals(step) {
  for (let count = 0; count < 8; count++) if (Math.abs(step * 10 ** count - Math.round(step * 10 ** count)) < 1e-6) return count;
  return 8;
}

// Scales ------------------------------------------------------------------------------------------------------------

function linearTicks(low, high, count) {
  const rough = (high - low) / Math.max(count, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const ticks = [];
  for (let place = Math.ceil(low / step - 1e-9); place * step <= high + step * 1e-9; place++) ticks.push(place * step);
  return { ticks, step };
}

// As many round numbers as stand apart.
function logTicks(low, high, at) {
  let ticks = [];
  for (const factors of [[1], [1, 2, 5], [1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 4.5, 5, 6, 7, 8, 9]]) {
    const finer = [];
    for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++)
      finer.push(...factors.map((factor) => Number((factor * 10 ** power).toPrecision(3))).filter((tick) => tick >= low && tick <= high));
    if (ticks.length > 1 && finer.some((tick, place) => place && at(finer[place - 1]) - at(tick) < 18)) break;
    ticks = finer;
  }
  return ticks;
}

function verticalScale(values, isLog, top, bottom) {
  let low = Math.min(...values), high = Math.max(...values);
  if (isLog) {
    const margin = (high / low) ** 0.05 || 1;
    [low, high] = high > low ? [low / margin, high * margin] : [low / 2, high * 2];
    const at = (value) => bottom - ((Math.log(value) - Math.log(low)) / Math.log(high / low)) * (bottom - top);
    return { at, ticks: logTicks(low, high, at), step: 0 };
  }
  if (high - low < 1e-9 * Math.max(Math.abs(high), 1e-30)) {
    const around = Math.abs(high) * 0.1 || 1;
    [low, high] = [low - around, high + around];
  }
  const margin = 0.05 * (high - low);
  const startsAtZero = low >= 0 && low < 0.25 * high;
  [low, high] = [startsAtZero ? 0 : low - margin, high + margin];
  const { ticks, step } = linearTicks(low, high, 6);
  return { at: (value) => bottom - ((value - low) / (high - low)) * (bottom - top), ticks, step };
}

// What a step is on the axis that was chosen, by what training had come to at its lines.
function interpolate(value, from, to) {
  let last = from.length - 1;
  if (last < 1) return value * 0;
  let first = 0;
  if (value >= from[last]) first = last - 1;
  else while (last - first > 1) {
    const middle = (first + last) >> 1;
    if (from[middle] <= value) first = middle; else last = middle;
  }
  const share = (value - from[first]) / (from[first + 1] - from[first] || 1);
  return to[first] + Math.min(share, 1) * (to[first + 1] - to[first]);
}

// Through each point the straight line that fits its neighbours best, each of which weighs `weight` times as much as the
// one before it. A mean over what came before would lag behind a curve that falls, one over both sides bend its ends.
function smooth(values, weight) {
  const reach = Math.min(Math.ceil(Math.log(0.01) / Math.log(weight)), values.length);
  const kernel = Array.from({ length: reach + 1 }, (_, distance) => weight ** distance);
  return values.map((value, place) => {
    let total = 0, first = 0, second = 0, sum = 0, slope = 0;
    const last = Math.min(place + reach, values.length - 1);
    for (let other = Math.max(place - reach, 0); other <= last; other++) {
      const distance = other - place, share = kernel[Math.abs(distance)];
      total += share;
      first += share * distance;
      second += share * distance * distance;
      sum += share * values[other];
      slope += share * distance * values[other];
    }
    const spread = total * second - first * first;
    return spread > 1e-9 ? (second * sum - first * slope) / spread : value;
  });
}

// On a logarithmic axis it is the logarithms that are smoothed: what is positive stays so.
function smoothOn(isLog, values, weight) {
  return isLog ? smooth(values.map(Math.log), weight).map(Math.exp) : smooth(values, weight);
}

function pathOf(xs, ys) {
  return xs.map((x, place) => (place ? "L" : "M") + x.toFixed(1) + " " + ys[place].toFixed(1)).join("");
}

// Panels ------------------------------------------------------------------------------------------------------------

// The curves of a panel that are to be seen: each with its values on the axis that was chosen.
function visibleCurves(panel, runs, view) {
  const isLog = view.log && panel.format !== "percent";
  return panel.series.filter((series) => !view.hidden.has(runs[series.run].name)).map((series) => {
    const run = runs[series.run], elapsed = run.elapsed[view.axis] || [];
    const keep = series.values.map((value) => !isLog || value > 0);
    const pick = (list) => list && list.filter((_, place) => keep[place]);
    const steps = pick(series.steps), values = pick(series.values);
    const smooths = panel.smooths && series.training && view.smoothing > 0;
    return {
      ...series, run, place: series.run, steps, values,
      low: pick(series.low), high: pick(series.high),
      xs: view.axis === "steps" ? steps : steps.map((step) => interpolate(step, run.elapsed.steps, elapsed)),
      shown: smooths ? smoothOn(isLog, values, view.smoothing) : values,
      isSmooth: smooths,
    };
  }).filter((curve) => curve.values.length);
}

function horizontalUnit(view, longest, runs) {
  if (view.axis === "steps") return { size: 1, label: "step" };
  if (view.axis === "seen") return { size: 1, label: [...new Set(runs.map((run) => run.unit).filter(Boolean))].join(" or ") + " seen" };
  const units = [[86400 * 2, 86400, "days"], [7200, 3600, "hours"], [120, 60, "minutes"], [0, 1, "seconds"]];
  const [, size, name] = units.find(([from]) => longest >= from);
  return { size, label: name + " of training" };
}

function endLabel(curve, panel, runs) {
  const value = formatValue(curve.shown[curve.shown.length - 1], panel.format);
  if (runs.length === 1) return { value, name: curve.split };
  const name = curve.run.name.length > 14 ? "…" + curve.run.name.slice(-13) : curve.run.name;
  return { value, name: (curve.training ? "" : "● ") + name };
}

// Moves labels apart so that none covers another, and gives those that there is room for.
function placeLabels(labels, top, bottom) {
  const room = Math.max(Math.floor((bottom - top) / LINE_HEIGHT), 1);
  const placed = labels.slice(0, room).sort((one, other) => one.y - other.y);
  placed.forEach((label, place) => {
    label.y = Math.max(label.y, place ? placed[place - 1].y + LINE_HEIGHT : top);
  });
  for (let place = placed.length - 1, limit = bottom; place >= 0; place--, limit -= LINE_HEIGHT)
    placed[place].y = Math.min(placed[place].y, limit);
  return placed;
}

function styleOf(place) {
  return { class: "run-" + (place % COLORS), dash: DASHES[Math.floor(place / COLORS) % DASHES.length] };
}

function drawAxes(svg, box, vertical, horizontal, panel, unit) {
  for (const tick of vertical.ticks) {
    const y = vertical.at(tick);
    make("line", { x1: box.left, x2: box.right, y1: y, y2: y, class: "grid" }, svg);
    const text = vertical.step ? formatTick(tick, vertical.step, panel.format) : formatValue(tick, panel.format);
    make("text", { x: box.left - 6, y: y + 4, class: "tick end" }, svg, text);
  }
  for (const tick of horizontal.ticks) {
    const x = horizontal.at(tick * unit.size);
    make("line", { x1: x, x2: x, y1: box.bottom, y2: box.bottom + 4, class: "axis" }, svg);
    make("text", { x, y: box.bottom + 16, class: "tick middle" }, svg, formatTick(tick, horizontal.step, "number"));
  }
  make("line", { x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom, class: "axis" }, svg);
  make("text", { x: box.right, y: box.bottom + 30, class: "tick end" }, svg, unit.label);
}

function drawCurve(svg, curve, horizontal, vertical) {
  const style = styleOf(curve.place);
  const xs = curve.xs.map(horizontal.at), ys = curve.shown.map(vertical.at);
  const group = make("g", { class: `${style.class} ${curve.training ? "training" : "scored"}` }, svg);
  if (curve.low) {
    const edge = pathOf(xs, curve.high.map(vertical.at)) + pathOf([...xs].reverse(), [...curve.low].reverse().map(vertical.at)).replace("M", "L");
    make("path", { d: edge + "Z", class: "band" }, group);
  }
  if (curve.isSmooth) make("path", { d: pathOf(xs, curve.values.map(vertical.at)), class: "raw" }, group);
  make("path", { d: pathOf(xs, ys), class: "curve", "stroke-dasharray": style.dash }, group);
  if (!curve.training || xs.length === 1)
    if (xs.length <= 60) xs.forEach((x, place) => make("circle", { cx: x, cy: ys[place], r: 3, class: "dot" }, group));
}

// Draws a panel into its place and gives what a readout needs; nothing where all of its runs are hidden.
function drawPanel(panel, holder, runs, view) {
  const curves = visibleCurves(panel, runs, view);
  holder.replaceChildren();
  if (!curves.length) return null;
  const width = holder.clientWidth, height = width < 480 ? 200 : 230;
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": panel.title }, holder);
  const isLog = view.log && panel.format !== "percent";
  const baselines = [...new Set(curves.map((curve) => curve.baseline).filter((value) => value !== null && (!isLog || value > 0)))];
  const all = curves.flatMap((curve) => [...curve.values, ...(curve.low || []), ...(curve.high || [])].filter((value) => !isLog || value > 0));
  const box = { top: 12, bottom: height - 38 };
  const vertical = verticalScale([...all, ...baselines], isLog, box.top, box.bottom);
  const tickTexts = vertical.ticks.map((tick) => (vertical.step ? formatTick(tick, vertical.step, panel.format) : formatValue(tick, panel.format)));
  box.left = Math.max(...tickTexts.map(textWidth), 20) + 10;
  const labels = curves.map((curve) => ({ curve, ...endLabel(curve, panel, runs) }));
  const whole = Math.max(...labels.map((label) => textWidth(label.value + "  " + label.name)));
  const named = whole < 0.36 * width;
  box.right = width - 8 - (named ? whole : Math.max(...labels.map((label) => textWidth(label.value)))) - 7;
  const longest = Math.max(...curves.flatMap((curve) => curve.xs)) || 1;
  const unit = horizontalUnit(view, longest, curves.map((curve) => curve.run));
  const horizontal = linearTicks(0, longest / unit.size, Math.max(2, Math.floor((box.right - box.left) / 56)));
  horizontal.at = (x) => box.left + (x / longest) * (box.right - box.left);
  drawAxes(svg, box, vertical, horizontal, panel, unit);
  for (const value of baselines) {
    const y = vertical.at(value);
    make("line", { x1: box.left, x2: box.right, y1: y, y2: y, class: "baseline" }, svg);
  }
  for (const training of [true, false]) for (const curve of curves) if (curve.training === training) drawCurve(svg, curve, horizontal, vertical);
  for (const value of baselines) make("text", { x: box.left + 4, y: vertical.at(value) - 4, class: "tick haloed" }, svg, "baseline " + formatValue(value, panel.format));
  for (const label of labels) label.y = vertical.at(label.curve.shown[label.curve.shown.length - 1]);
  for (const label of placeLabels(labels, box.top, box.bottom)) {
    const text = make("text", { x: box.right + 9, y: label.y + 4, class: "label " + styleOf(label.curve.place).class }, svg);
    make("tspan", { class: "value" }, text, label.value);
    if (named) make("tspan", { dx: 5 }, text, label.name);
  }
  const cursor = make("line", { y1: box.top, y2: box.bottom, class: "cursor", visibility: "hidden" }, svg);
  return { panel, svg, curves, box, longest, unit, at: horizontal.at, cursor };
}
