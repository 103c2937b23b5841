"use strict";
// The chart of a transience report. Names come from users: they only ever become text nodes and attributes.
const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
const DASHES = ["", "7 4", "2 3", "10 3 2 3", "5 2", "1 4"];
const STRATEGIES = "strategies";
const GLYPHS = {
  up: "M0,-7.4L6,3.7L-6,3.7Z", // centres of mass at the point that is marked
  star: "M0,-7L2,-2.2L7,-2.2L3,1L4.5,6L0,3L-4.5,6L-3,1L-7,-2.2L-2,-2.2Z",
  down: "M0,7.4L6,-3.7L-6,-3.7Z",
  cross: "M-5.5,-3.5L-3.5,-5.5L0,-2L3.5,-5.5L5.5,-3.5L2,0L5.5,3.5L3.5,5.5L0,2L-3.5,5.5L-5.5,3.5L-2,0Z",
};
const MAX_BANDS = 3; // means, or runs without replicas, of whose bands one can still be told from another
const state = { view: data.views[0].name, log: false, smooth: 1, cursor: null, evaluators: new Set(), series: new Set() };
let scale = null; // of the last drawing: from step to pixel and back

function make(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}
function html(name, attributes = {}, ...children) {
  const element = Object.assign(document.createElement(name), attributes);
  element.append(...children);
  return element;
}

const breakable = (name) => name.split(/(?<=,)/).flatMap((part, i) => (i ? [html("wbr"), part] : [part])); // not within words

// ---- what is shown ----
const colour = (evaluator) => `var(--c${data.evaluators.findIndex((e) => e.name === evaluator) % 8})`;
const sideColour = (curve) => `var(--c${curve.colour % 8})`;
const sideCurves = () => data.panels.flatMap((panel) => panel.curves).filter((curve) => known(curve.metric));
const shownSeries = () => data.series.filter((s) => state.series.has(s.name));
const isThin = (series) => series.mean !== null && state.series.has(series.mean); // stands behind its replicas' mean
const metricOf = (evaluator) => (state.view === STRATEGIES ? evaluator.primary : `${evaluator.name}/${state.view}`);
const known = (metric) => data.series.some((s) => s.curves[metric]);
function shownMetrics() {
  return data.evaluators.filter((e) => state.evaluators.has(e.name) && known(metricOf(e)))
    .map((e) => ({ metric: metricOf(e), colour: colour(e.name) }));
}
function shownCurves(metrics) {
  const lists = shownSeries().map((series) => metrics.filter((m) => series.curves[m.metric])
    .map((m) => ({ ...m, series, ...series.curves[m.metric] })));
  return lists.flat().map((c) => (state.log ? withoutZero(c) : c)).filter((c) => c.steps.length);
}
function withoutZero(curve) {
  const from = (steps) => { const i = steps.findIndex((s) => s > 0); return i < 0 ? steps.length : i; };
  const cut = (columns) => Object.fromEntries(Object.entries(columns).map(([name, list]) => [name, list.slice(from(columns.steps))]));
  return { ...curve, ...cut({ steps: curve.steps, values: curve.values }), band: curve.band && cut(curve.band) };
}
function smoothed(values, width) { // mean over a window about each evaluation, as much to its left as to its right
  const half = (width - 1) / 2, sums = [0];
  for (const value of values) sums.push(sums.at(-1) + value);
  return values.map((_, i) => {
    const reach = Math.min(half, i, values.length - 1 - i);
    return (sums[i + reach + 1] - sums[i - reach]) / (2 * reach + 1);
  });
}
const allSteps = (curves) => [...new Set(curves.flatMap((c) => c.steps))].sort((a, b) => a - b);

function place(steps, step) { // index of the first step at or after this one
  let [low, high] = [0, steps.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle + 1; else high = middle;
  }
  return low;
}
function valueAt({ steps, values }, step) { // exact at an evaluation, else linear between two; null outside
  const i = place(steps, step);
  if (steps[i] === step) return { value: values[i], exact: true };
  if (i === 0 || i === steps.length) return null;
  const share = (step - steps[i - 1]) / (steps[i] - steps[i - 1]);
  return { value: values[i - 1] + share * (values[i] - values[i - 1]), exact: false };
}
function heightAt({ steps, values, y }, x, step) { // of the drawn line, which is straight on the page, whatever the scales
  const i = place(steps, step);
  if (steps[i] === step) return y.to(values[i]);
  if (i === 0 || i === steps.length) return null;
  const [left, right] = [x.to(steps[i - 1]), x.to(steps[i])];
  return y.to(values[i - 1]) + ((x.to(step) - left) / (right - left)) * (y.to(values[i]) - y.to(values[i - 1]));
}
const writeValue = (v) => (Math.abs(v) >= 0.1 || v === 0 ? v.toFixed(3) : v.toPrecision(3));
const writeStep = (s) => Math.round(s).toLocaleString("en-US");
const writeTick = (t) => {
  if (t > 0 && t < 1e-3) return t.toExponential(0); // "0.00001" is wider than the margin
  if (t >= 1e9) return `${t / 1e9}B`;
  return t >= 1e6 ? `${t / 1e6}M` : t >= 1e3 ? `${t / 1e3}k` : String(+t.toPrecision(6));
};

// ---- scales ----
function linearTicks(low, high, count) {
  const raw = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(raw));
  const unit = [1, 2, 5, 10].find((u) => u * power >= raw) * power;
  const ticks = [];
  for (let i = Math.ceil(low / unit); i * unit <= high + unit * 1e-9; i++) ticks.push(i * unit);
  return ticks;
}
function logTicks(low, high) {
  const factors = Math.log10(high / low) > 3 ? [1] : Math.log10(high / low) > 1.5 ? [1, 3] : [1, 2, 5];
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    ticks.push(...factors.map((f) => f * 10 ** power).filter((t) => t >= low * 0.999 && t <= high * 1.001));
  }
  return ticks;
}
function makeScale(low, high, from, to, log, count) {
  if (log && high <= low) [low, high] = [low / 2, high * 2];
  if (!log && high <= low) [low, high] = [low - 0.5, high + 0.5];
  const warp = log ? Math.log : (v) => v, unwarp = log ? Math.exp : (v) => v;
  const [a, b] = [warp(low), warp(high)];
  return {
    to: (v) => from + ((warp(v) - a) / (b - a)) * (to - from),
    back: (pixel) => unwarp(a + ((pixel - from) / (to - from)) * (b - a)),
    ticks: log ? logTicks(low, high) : linearTicks(low, high, count),
  };
}

// ---- drawing ----
function draw() {
  const width = Math.max(280, find("plot").clientWidth), narrow = width < 520;
  const left = 44, right = width - 14, heights = { top: narrow ? 260 : 340, gap: 46, side: 120 };
  const metrics = shownMetrics(), top = shownCurves(metrics);
  const loss = shownCurves([{ metric: data.loss, colour: "var(--ink)" }]);
  const sides = data.panels.map((p) => ({ curves: shownCurves(p.curves.map((c) => ({ metric: c.metric, colour: sideColour(c) }))),
    metrics: [], height: heights.side, title: narrow ? p.short : p.title, range: p.ends, levels: p.levels }));
  const panels = [
    { curves: top, metrics, height: heights.top, title: data.views.find((v) => v.name === state.view).title,
      range: state.view === "loss" ? null : [0, 1], isLoss: state.view === "loss" },
    ...sides,
    { curves: loss, metrics: [], height: heights.side, title: data.lossTitle, range: null, isLoss: true },
  ].filter((panel, i) => i === 0 || panel.curves.length);
  const steps = allSteps(panels.flatMap((panel) => panel.curves));
  const total = 24 + panels.reduce((sum, panel) => sum + panel.height + heights.gap, -heights.gap) + 40;
  const svg = make("svg", { viewBox: `0 0 ${width} ${total}`, height: total, tabindex: 0, role: "slider",
    "aria-label": "Curves over training steps; arrow keys move the reading step" });
  if (!steps.length) {
    svg.append(make("text", { x: left, y: 60 }, "Nothing to show: choose an evaluator and a run."));
    scale = { steps, svg };
  } else {
    const x = makeScale(steps[0], steps.at(-1), left, right, state.log, narrow ? 4 : 8);
    let at = 24;
    for (const panel of panels) {
      drawPanel(svg, { ...panel, x, from: left, to: right, at }, panel.curves, panel.metrics);
      at += panel.height + heights.gap;
    }
    svg.append(make("text", { x: (left + right) / 2, y: total - 6, "text-anchor": "middle" }, data.axis.title));
    scale = { x, steps, svg, curves: panels.flatMap((panel) => panel.curves), bottom: total - 40 };
  }
  svg.addEventListener("pointermove", moveTo);
  svg.addEventListener("pointerdown", moveTo);
  svg.addEventListener("keydown", moveBy);
  const focused = find("plot").contains(document.activeElement);
  find("plot").replaceChildren(svg);
  if (focused) svg.focus();
  showCursor();
}
function drawPanel(svg, { x, from, to, at, height, title, range, levels, isLoss }, curves, metrics) {
  if (!range && !curves.length) return;
  const values = curves.flatMap((c) => [...c.values, ...(c.band ? [...c.band.low, ...c.band.high] : [])]);
  const [low, high] = range || [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
  const y = makeScale(low, high, at + height, at, isLoss && low > 0 && high > 2 * low, 5); // a logarithm of less has no ticks
  svg.append(make("text", { class: "title", x: 4, y: at - 10 }, title));
  for (const tick of y.ticks) {
    svg.append(make("line", { class: "grid", x1: from, x2: to, y1: y.to(tick), y2: y.to(tick) }));
    svg.append(make("text", { x: from - 6, y: y.to(tick) + 4, "text-anchor": "end" }, writeTick(tick)));
  }
  for (const tick of x.ticks) {
    svg.append(make("line", { class: "grid", x1: x.to(tick), x2: x.to(tick), y1: at, y2: at + height }));
    svg.append(make("text", { class: "xtick", x: x.to(tick), y: at + height + 16, "text-anchor": "middle" }, writeTick(tick)));
  }
  const chances = shownSeries().flatMap((s) => metrics.map((m) => s.chance[m.metric])).filter((l) => l !== undefined);
  for (const level of new Set([...chances, ...(levels || [])])) svg.append(make("line", { class: "chance", x1: from, x2: to, y1: y.to(level), y2: y.to(level) }));
  const nMarked = shownSeries().filter((s) => !isThin(s)).length;
  for (const curve of curves) drawCurve(svg, x, y, curve);
  for (const curve of curves) {
    curve.y = y;
    if (nMarked <= 3 && !isThin(curve.series)) drawEvents(svg, x, curve);
  }
}
function drawCurve(svg, x, y, { steps, values, band, colour, series, metric }) {
  const line = (steps, list) => steps.map((step, i) => `${x.to(step).toFixed(1)},${y.to(list[i]).toFixed(1)}`);
  const thin = isThin(series), isSmooth = state.smooth > 1 && !thin;
  const path = (list, attributes) => svg.append(make("path", { class: "curve", "data-metric": metric, "data-series": series.name,
    d: `M${line(steps, list).join("L")}`, stroke: colour, ...attributes }));
  if (band && shownSeries().filter((s) => !isThin(s)).length <= MAX_BANDS) {
    const ends = [...line(band.steps, band.high), ...line(band.steps, band.low).reverse()];
    svg.append(make("path", { class: "band", fill: colour, d: `M${ends.join("L")}Z` }));
  }
  const plain = { "stroke-width": thin ? 1 : 2, "stroke-dasharray": thin ? "" : series.dash, "stroke-opacity": thin ? 0.4 : 1 };
  path(values, isSmooth ? { ...plain, "stroke-width": 1, "stroke-opacity": 0.5 } : plain);
  if (isSmooth) path(smoothed(values, state.smooth), { ...plain, class: "curve smooth" });
  if (steps.length === 1) svg.append(make("circle", { cx: x.to(steps[0]), cy: y.to(values[0]), r: 4, fill: colour }));
}
function drawEvents(svg, x, curve) {
  for (const [name, step] of Object.entries(curve.series.events[curve.metric] || {})) {
    const height = heightAt(curve, x, step);
    if (height === null) continue;
    const label = `${curve.series.name}: ${data.titles[curve.metric] || curve.metric}, ${name.replaceAll("_", " ")} ${writeStep(step)}`;
    svg.append(make("path", { class: "event", d: GLYPHS[data.markers[name]], fill: curve.colour, "data-metric": curve.metric,
      "data-series": curve.series.name, "data-step": step,
      transform: `translate(${x.to(step)},${height})` }, make("title", {}, label)));
  }
}

// ---- reading values ----
function nearest(steps, step) {
  const i = place(steps, step);
  if (i === 0) return steps[0];
  if (i === steps.length) return steps.at(-1);
  return scale.x.to(steps[i]) - scale.x.to(step) < scale.x.to(step) - scale.x.to(steps[i - 1]) ? steps[i] : steps[i - 1];
}
function moveTo(event) {
  if (!scale.x) return;
  const box = scale.svg.getBoundingClientRect();
  const pixel = ((event.clientX - box.left) / box.width) * scale.svg.viewBox.baseVal.width;
  state.cursor = nearest(scale.steps, scale.x.back(pixel));
  showCursor();
}
function moveBy(event) {
  const last = scale.steps.length - 1, i = place(scale.steps, state.cursor);
  const to = { ArrowLeft: i - 1, ArrowDown: i - 1, ArrowRight: i + 1, ArrowUp: i + 1, PageDown: i - 10, PageUp: i + 10, Home: 0, End: last };
  if (!(event.key in to) || last < 0) return;
  event.preventDefault();
  state.cursor = scale.steps[Math.min(last, Math.max(0, to[event.key]))];
  showCursor();
}
function showCursor() {
  const { svg, steps, x, curves, bottom } = scale;
  svg.querySelectorAll(".cursor, .dot").forEach((old) => old.remove());
  if (steps.length) {
    state.cursor = state.cursor === null ? steps.at(-1) : nearest(steps, state.cursor);
    const at = x.to(state.cursor);
    svg.append(make("line", { class: "cursor", x1: at, x2: at, y1: 24, y2: bottom }));
    for (const curve of curves) {
      const height = heightAt(curve, x, state.cursor);
      if (height !== null) svg.append(make("circle", { class: "dot", cx: at, cy: height, r: 3.2, fill: curve.colour }));
    }
    const range = { "aria-valuemin": steps[0], "aria-valuemax": steps.at(-1), "aria-valuenow": state.cursor,
      "aria-valuetext": data.axis.place.replace("@", writeStep(state.cursor)) };
    for (const [key, value] of Object.entries(range)) svg.setAttribute(key, value);
  }
  find("step").textContent = steps.length ? writeStep(state.cursor) : "–";
  for (const cell of document.querySelectorAll("#values td")) cell.textContent = readCell(cell.dataset.metric, cell.dataset.series);
}
function readCell(metric, name) {
  const curve = data.series.find((s) => s.name === name).curves[metric];
  const found = curve && state.cursor !== null && valueAt(curve, state.cursor);
  return found ? (found.exact ? "" : "≈ ") + writeValue(found.value) : "–";
}

// ---- controls ----
function toggle(set, name, label, sample) {
  const box = html("input", { type: "checkbox", checked: state[set].has(name) });
  box.addEventListener("change", () => { if (box.checked) state[set].add(name); else state[set].delete(name); update(); });
  return html("label", {}, box, sample, typeof label === "string" ? html("span", {}, ...breakable(label)) : label);
}
function drawSample(stroke, dash, width) {
  const line = make("line", { x1: 0, x2: 26, y1: 5, y2: 5, stroke, "stroke-width": width, "stroke-dasharray": dash });
  return make("svg", { class: "sample", viewBox: "0 0 26 10", "aria-hidden": "true" }, line);
}
function fillReadout() {
  const series = shownSeries();
  find("chart").classList.toggle("stacked", series.length > 2);
  find("values").parentElement.classList.toggle("listed", series.length > 1);
  const line = (metric, head) => html("tr", {}, html("th", { scope: "row" }, head), ...series.map((s) => {
    const cell = html("td");
    Object.assign(cell.dataset, { metric, series: s.name, label: s.name.replaceAll(",", ",\u200b") });
    return cell;
  }));
  find("columns").replaceChildren(html("tr", {}, html("th", { scope: "col" }, "Curve"), ...series.map((s) => html("th", { scope: "col" }, ...breakable(s.name)))));
  const rows = data.evaluators.filter((e) => known(metricOf(e)))
    .map((e) => line(metricOf(e), toggle("evaluators", e.name, state.view === STRATEGIES ? e.title : e.label, drawSample(colour(e.name), "", 3))));
  for (const side of sideCurves()) rows.push(line(side.metric, html("span", {}, drawSample(sideColour(side), "", 3), side.title)));
  if (known(data.loss)) rows.push(line(data.loss, html("span", {}, data.lossTitle)));
  find("values").replaceChildren(...rows);
}
// ---- a link to what is shown ----
function writeLink() {
  const numbers = data.series.map((series, i) => (state.series.has(series.name) ? i : -1)).filter((i) => i >= 0);
  const words = { view: state.view, log: Number(state.log), smooth: state.smooth, curves: [...state.evaluators].join(" "), runs: numbers.join(" ") };
  find("link").href = `#${new URLSearchParams(words)}`;
}
function readLink() { // what a link does not know stays as it is
  const words = new URLSearchParams(location.hash.slice(1));
  const pick = (name, known) => { const word = words.get(name); return known.includes(word) ? word : null; };
  state.view = pick("view", data.views.map((view) => view.name)) ?? state.view;
  state.smooth = Number(pick("smooth", [...find("smooth").options].map((option) => option.value)) ?? state.smooth);
  state.log = words.has("log") ? words.get("log") === "1" : state.log;
  const names = data.evaluators.map((evaluator) => evaluator.name);
  if (words.has("curves")) state.evaluators = new Set(words.get("curves").split(" ").filter((name) => names.includes(name)));
  if (words.has("runs")) {
    const chosen = words.get("runs").split(" ").filter((word) => word in data.series).map((word) => data.series[word].name);
    state.series = new Set(chosen);
  }
  Object.assign(find("view"), { value: state.view });
  Object.assign(find("smooth"), { value: String(state.smooth) });
  Object.assign(find("log"), { checked: state.log });
  for (const series of data.series) series.box.checked = state.series.has(series.name);
}

// ---- files of what is shown ----
const STYLED = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-opacity", "stroke-linejoin", "opacity", "font-size", "font-family"];
function withStyles(element, copy) { // what the page's style sheet says of it, so that it looks the same elsewhere
  const style = getComputedStyle(element);
  for (const name of STYLED) copy.setAttribute(name, style.getPropertyValue(name));
  copy.removeAttribute("class");
  [...element.children].forEach((child, i) => withStyles(child, copy.children[i]));
}
function listKeys() { // [colour, dash, text] of each evaluator and, of several runs, of each of them
  const evaluators = data.evaluators.filter((e) => state.evaluators.has(e.name) && known(metricOf(e)));
  const keys = evaluators.map((e) => [colour(e.name), "", state.view === STRATEGIES ? e.title : e.label]);
  const sides = sideCurves().map((side) => [sideColour(side), "", side.title]);
  const series = shownSeries().filter((s) => !isThin(s));
  return [...keys, ...sides, ...(series.length > 1 ? series.map((s) => ["var(--ink)", s.dash, s.name]) : [])];
}
function exportSvg() {
  const box = scale.svg.viewBox.baseVal, [width, line] = [box.width, 20], keys = listKeys(), columns = width < 520 ? 1 : 2;
  const height = box.height + 12 + Math.ceil(keys.length / columns) * line;
  const svg = scale.svg.cloneNode(true);
  svg.querySelectorAll(".cursor, .dot").forEach((reading) => reading.remove());
  for (const [name, value] of Object.entries({ viewBox: `0 0 ${width} ${height}`, width, height })) svg.setAttribute(name, value);
  keys.forEach(([stroke, dash, text], i) => {
    const [x, y] = [8 + (i % columns) * (width / columns), box.height + 16 + Math.floor(i / columns) * line];
    svg.append(make("line", { x1: x, x2: x + 26, y1: y, y2: y, stroke, "stroke-width": 3, "stroke-dasharray": dash }));
    svg.append(make("text", { x: x + 34, y: y + 4 }, text));
  });
  svg.prepend(make("rect", { width: "100%", height: "100%", fill: "var(--paper)" }));
  scale.svg.after(svg); // styles are those of the place where it stands
  const copy = svg.cloneNode(true);
  withStyles(svg, copy);
  svg.remove();
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  return { text: new XMLSerializer().serializeToString(copy), width, height };
}
function exportCsv() { // each point that is drawn, unsmoothed; text that a spreadsheet would take for a formula is quoted for it too
  const cell = (text) => `"${(/^[=+@\t\r-]/.test(text) ? "'" : "") + text.replaceAll('"', '""')}"`;
  const lines = ["run,metric,step,value,low,high"];
  for (const { series, metric, steps, values, band } of scale.curves || []) {
    const ends = new Map((band ? band.steps : []).map((step, i) => [step, [band.low[i], band.high[i]]]));
    steps.forEach((step, i) => lines.push([cell(series.name), cell(metric), step, values[i], ...(ends.get(step) || ["", ""])].join(",")));
  }
  return lines.join("\n") + "\n";
}
function save(content, type, ending) {
  const link = html("a", { href: URL.createObjectURL(new Blob([content], { type })), download: `transience-${state.view}.${ending}` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
function savePng() {
  const { text, width, height } = exportSvg(), picture = new Image(), canvas = html("canvas", { width: 2 * width, height: 2 * height });
  picture.addEventListener("load", () => {
    canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => save(blob, "image/png", "png"), "image/png");
  });
  picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
}

function update() {
  const focus = document.activeElement.closest && document.activeElement.closest("#values tr");
  const index = focus ? [...find("values").rows].indexOf(focus) : -1;
  fillReadout();
  for (const s of data.series) s.sample.firstChild.setAttribute("stroke-dasharray", isThin(s) ? "" : s.dash);
  if (index >= 0) find("values").rows[index]?.querySelector("input")?.focus();
  draw();
  writeLink();
}
function start() {
  for (const evaluator of data.evaluators) if (evaluator.shown) state.evaluators.add(evaluator.name);
  const leads = data.series.filter((s) => s.mean === null);
  data.series.forEach((series, i) => {
    series.dash = DASHES[(series.mean === null ? leads.indexOf(series) : leads.length + i) % DASHES.length];
    series.sample = drawSample("currentColor", series.dash, series.isMean ? 3 : 1.5);
    if (series.shown) state.series.add(series.name);
    const label = toggle("series", series.name, series.name, series.sample);
    series.box = label.firstChild;
    find("runs").append(label);
  });
  find("runs").hidden = data.series.length < 2;
  find("view").append(...data.views.map((view) => html("option", { value: view.name }, view.title)));
  find("view").addEventListener("change", (event) => { state.view = event.target.value; update(); });
  find("log").addEventListener("change", (event) => { state.log = event.target.checked; update(); });
  find("smooth").addEventListener("change", (event) => { state.smooth = Number(event.target.value); update(); });
  find("png").addEventListener("click", savePng);
  find("svg").addEventListener("click", () => save(exportSvg().text, "image/svg+xml", "svg"));
  find("csv").addEventListener("click", () => save(exportCsv(), "text/csv", "csv"));
  window.addEventListener("hashchange", () => { readLink(); update(); });
  // the page's own policy refuses style attributes, whoever wrote them
  for (const cell of document.querySelectorAll("[data-share]")) cell.style.setProperty("--share", cell.dataset.share);
  find("explorer").hidden = false;
  readLink();
  update();
  new ResizeObserver(draw).observe(find("plot"));
}
start();
