// Draws the page from the JSON in it. Text of runs reaches the page as textContent only, and plotly through `plain`.

const data = JSON.parse(document.getElementById("data").textContent);
const runs = data.runs;
const at = (id) => document.getElementById(id);

const STATUSES = ["completed", "diverged", "failed", "interrupted", "unfinished", "broken"];
const FIRST_SELECTED = 30;
const MOST_COLUMNS = 12; // of runs, in the table of differences
const MOST_RAW = 40; // runs whose values as logged are drawn behind the smoothed ones
const MOST_INTERVALS = 40; // runs whose intervals are drawn
const OKABE_ITO = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", null, "#F0E442"]; // null: ink
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"];
const MARKERS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "star", "hexagon"];

const selected = new Set();
let runsTable = null;

// ------------------------------------------------------------------------------------------------------ words

const isNumber = (value) => typeof value === "number";
const isAccuracy = (metric) => /(^|\/)accuracy/.test(metric);
const scaleOf = (metric) => (isAccuracy(metric) ? 100 : 1);
const axisName = (metric) => (isAccuracy(metric) ? `${metric} (%)` : metric);
const count = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
const known = (value) => (value === null || value === undefined || value === "" ? "–" : String(value));
const scaled = (values, metric) => values.map((value) => (isNumber(value) ? value * scaleOf(metric) : null));
const distinct = (values) => [...new Set(values)];

function short(value) {
  if (!isNumber(value)) return known(value);
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size >= 1e4) return value.toLocaleString("en");
  if (size < 1e-3 || size >= 1e6) return value.toExponential(2).replace(/\.?0*e/, "e").replace("e+", "e");
  return Number(value.toPrecision(4)).toString();
}

const isExtreme = (value) => value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5);

/** A metric and half its interval, if there is one, to the same decimals. */
function measure(value, metric, ci95 = null) {
  if (!isNumber(value)) return "–";
  const [number, width] = [value * scaleOf(metric), isNumber(ci95) ? ci95 * scaleOf(metric) : null];
  const decimals = isAccuracy(metric) ? 2 : 3 - Math.max(0, Math.min(3, Math.floor(Math.log10(Math.abs(number) || 1))));
  const written = (part) => (isExtreme(number) ? part.toExponential(2).replace("e+", "e") : part.toFixed(decimals));
  const interval = width === null ? "" : ` ± ${vanishes(width, decimals) && !isExtreme(number) ? `<${10 ** -decimals}` : written(width)}`;
  return `${written(number)}${interval}${isAccuracy(metric) ? " %" : ""}`;
}

/** Whether so many decimals leave nothing of a width but zeros. */
const vanishes = (width, decimals) => width !== 0 && width < 0.5 * 10 ** -decimals;

function duration(seconds) {
  if (!isNumber(seconds)) return "–";
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function settingName(pairs) {
  return pairs.map(([key, value]) => `${shortKey(key)} ${short(value)}`).join(", ") || "as configured";
}

/** The last part of a dotted key, unless the page knows another key that ends in it. */
function shortKey(key) {
  const keys = distinct([...data.comparison.keys, ...data.settingKeys]);
  const last = key.split(".").pop();
  return keys.filter((other) => other.split(".").pop() === last).length > 1 ? key : last;
}

// --------------------------------------------------------------------------------------------------- elements

function element(tag, text = "", attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function cell(text, order = text, className = "") {
  return element("td", text, { "data-order": order ?? "", class: className });
}

function numberCell(text, order) {
  return cell(text, isNumber(order) ? order : "", "number");
}

/** A value of a setting, in a column of numbers or of words. */
function settingCell(value, numeric) {
  return numeric ? numberCell(short(value), value) : cell(short(value), value);
}

const areNumbers = (values) => values.some(isNumber) && values.every((value) => isNumber(value) || value == null);

/** From [heading, class] of each column. */
function headRow(columns) {
  const row = element("tr");
  row.append(...columns.map(([name, className]) => element("th", name, { scope: "col", class: className })));
  return row;
}

function fillTable(table, head, rows) {
  const [top, body] = [element("thead"), element("tbody")];
  top.append(head);
  body.append(...rows);
  table.replaceChildren(top, body);
}

function fillSelect(select, options) {
  select.replaceChildren(...options.map(([value, text]) => element("option", text, { value })));
}

// ------------------------------------------------------------------------------------------------------ theme

const darkSystem = matchMedia("(prefers-color-scheme: dark)");

function remembered() {
  try {
    return localStorage.getItem("metarun-report-theme");
  } catch {
    return null; // storage may be forbidden to files
  }
}

function remember(theme) {
  try {
    localStorage.setItem("metarun-report-theme", theme);
  } catch {
    // then it holds until the page is closed
  }
}

function applyTheme() {
  const chosen = at("theme").value;
  const theme = chosen === "auto" ? (darkSystem.matches ? "dark" : "light") : chosen;
  document.documentElement.dataset.theme = theme;
  document.documentElement.classList.toggle("dark", theme === "dark"); // DataTables' word for it
}

function setUpTheme() {
  const theme = remembered();
  if (["light", "dark"].includes(theme)) at("theme").value = theme;
  applyTheme();
  at("theme").addEventListener("change", () => {
    remember(at("theme").value);
    applyTheme();
    drawPlots();
  });
  darkSystem.addEventListener("change", () => {
    applyTheme();
    drawPlots();
  });
}

// --------------------------------------------------------------------------------------------------- the head

function describePage() {
  const byStatus = STATUSES.map((status) => [runs.filter((run) => run.status === status).length, status]);
  const words = byStatus.filter(([number]) => number > 0).map(([number, status]) => `${number} ${status}`);
  at("summary").textContent = [count(runs.length, "run"), ...words].join(" · ");
  at("made").textContent = `Made ${data.made} by metarun ${data.version}.`;
}

function describeSources() {
  const sources = distinct(
    runs.filter((run) => run.paper).map(({ paper }) => `${known(paper.source)}${paper.status ? ` (${paper.status})` : ""}`),
  );
  at("sources").textContent = sources.length ? `Published figures: ${sources.join("; ")}.` : "";
}

// ------------------------------------------------------------------------------------------- the table of runs

const metrics = distinct(runs.map((run) => run.metric).filter(Boolean));
const anyPublished = runs.some((run) => run.paper);
const anyProblem = runs.some((run) => run.problem);

const numericSettings = data.settingKeys.map((_, place) => areNumbers(runs.map((run) => run.setting[place])));
const numericSeeds = areNumbers(runs.map((run) => run.seed));
const sided = (numeric) => (numeric ? "number" : "");

/** [heading, class] of each column. */
function runColumns() {
  return [
    ["", "choose"],
    ["run", ""],
    ["learner", ""],
    ["data", ""],
    ...data.settingKeys.map((key, place) => [shortKey(key), sided(numericSettings[place])]),
    ["seed", sided(numericSeeds)],
    ["status", ""],
    ...(anyProblem ? [["problem", "wrap"]] : []),
    [metrics.length === 1 ? `${metrics[0]} ± 95 %` : "result ± 95 %", "number"],
    ...(metrics.length > 1 ? [["metric", ""]] : []),
    ...(anyPublished ? [["published", "number"]] : []),
    ["iterations", "number"],
    ["training", "number"],
  ];
}

function runRow(run, index) {
  const row = element("tr", "", { "data-run": index });
  const name = element("th", run.name, { scope: "row", "data-order": run.name, class: "name", title: run.name });
  const paper = run.paper ? measure(run.paper.value, run.metric, run.paper.ci95) : "–";
  row.append(
    chooser(run, index),
    name,
    cell(run.algo),
    cell(run.data),
    ...run.setting.map((value, place) => settingCell(value, numericSettings[place])),
    settingCell(run.seed, numericSeeds),
    statusCell(run.status),
    ...(anyProblem ? [cell(run.problem ?? "", run.problem, run.problem ? "wrap" : "")] : []),
    numberCell(measure(run.mean, run.metric, run.ci95), run.mean),
    ...(metrics.length > 1 ? [cell(known(run.metric), run.metric)] : []),
    ...(anyPublished ? [numberCell(paper, run.paper?.value)] : []),
    numberCell(known(run.iterations?.toLocaleString("en")), run.iterations),
    numberCell(duration(run.seconds), run.seconds),
  );
  return row;
}

function chooser(run, index) {
  const box = element("input", "", { type: "checkbox", "aria-label": `plot ${run.name}` });
  box.addEventListener("change", () => {
    if (box.checked) selected.add(index);
    else selected.delete(index);
    showSelection();
  });
  run.box = box;
  const place = cell("");
  place.append(box);
  return place;
}

function statusCell(status) {
  const place = cell("", status);
  place.append(element("span", status, { class: "status", "data-status": status }));
  return place;
}

/** Numbers before words, what is not there after both, whichever way a column is sorted. */
function compareCells(first, second, sign) {
  if (first === "" || second === "") return (first === "") - (second === "");
  const difference = Number(first) - Number(second);
  if (!Number.isNaN(difference)) return sign * difference;
  return sign * compareCells.collator.compare(first, second);
}
compareCells.collator = new Intl.Collator("en", { numeric: true });

function buildRunsTable(DataTable) {
  const head = headRow(runColumns());
  head.firstChild.append(element("span", "selected", { class: "hidden-text" }));
  fillTable(at("runs-table"), head, runs.map(runRow));
  DataTable.ext.type.order["cell-asc"] = (first, second) => compareCells(first, second, 1);
  DataTable.ext.type.order["cell-desc"] = (first, second) => compareCells(first, second, -1);
  runsTable = new DataTable(at("runs-table"), {
    autoWidth: false,
    columnDefs: [
      { targets: 0, orderable: false, searchable: false },
      { targets: "_all", type: "cell" },
    ],
    language: {
      info: "_START_ to _END_ of _TOTAL_ runs",
      infoEmpty: "no run",
      infoFiltered: "(of _MAX_)",
      lengthMenu: "_MENU_ runs a page",
      zeroRecords: "No run matches.",
    },
    layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null, bottom: ["info", "pageLength", "paging"] },
    lengthMenu: [10, 25, 50, 100, { label: "all", value: -1 }],
    order: [],
    pageLength: matchMedia("(max-width: 40rem)").matches ? 10 : 25,
  });
  at("runs-table").tHead.addEventListener("keydown", sortBySpace);
  at("runs-paging").append(...at("runs").querySelectorAll(".dt-info, .dt-length, .dt-paging"));
}

/** DataTables sorts at Enter; what says that it is a button is expected to heed the space bar too. */
function sortBySpace(event) {
  if (event.key !== " " || event.target.getAttribute("role") !== "button") return;
  event.preventDefault();
  event.target.click();
}

function setUpFilters() {
  const present = STATUSES.filter((status) => runs.some((run) => run.status === status));
  fillSelect(at("status-filter"), [["", "any"], ...present.map((status) => [status, status])]);
  fillSelect(at("algo-filter"), [["", "any"], ...distinct(runs.map((run) => run.algo)).map((algo) => [algo, algo])]);
  at("filter").addEventListener("input", () => runsTable.search(at("filter").value).draw());
  runsTable.search.fixed("choices", (_, __, index) => {
    const [status, algo] = [at("status-filter").value, at("algo-filter").value];
    return (!status || runs[index].status === status) && (!algo || runs[index].algo === algo);
  });
  for (const id of ["status-filter", "algo-filter"]) at(id).addEventListener("change", () => runsTable.draw());
}

// -------------------------------------------------------------------------------------------------- selection

/** All runs, or as many as are still readable, in turn from each learner. */
function firstSelection() {
  const byAlgo = distinct(runs.map((run) => run.algo)).map((algo) => [...runs.keys()].filter((i) => runs[i].algo === algo));
  const inTurn = runs.flatMap((_, turn) => byAlgo.map((own) => own[turn]).filter((index) => index !== undefined));
  return inTurn.slice(0, runs.length <= FIRST_SELECTED ? runs.length : FIRST_SELECTED);
}

function select(indices) {
  selected.clear();
  for (const index of indices) selected.add(index);
  showSelection();
}

function setUpSelection() {
  at("choose-all").addEventListener("click", () => select(runs.keys()));
  at("choose-none").addEventListener("click", () => select([]));
  at("choose-filtered").addEventListener("click", () => select(runsTable.rows({ search: "applied" }).indexes().toArray()));
}

const selectedRuns = () => runs.filter((_, index) => selected.has(index));

function showSelection() {
  runs.forEach((run, index) => (run.box.checked = selected.has(index)));
  at("chosen").textContent = `${selected.size} of ${count(runs.length, "run")} selected for the plots and the differences.`;
  drawLearning();
  drawSteps();
  showDifferences();
}

// ------------------------------------------------------------------------------------------------------ plots

const byFinger = matchMedia("(pointer: coarse)").matches;
const PLOTLY = {
  displaylogo: false,
  displayModeBar: byFinger ? false : "hover",
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]], // none that would upload
  responsive: true,
};

/** Text for plotly, which takes tags and entities in it for its own. */
function plain(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

const GROUPINGS = {
  learner: (run) => run.algo,
  setting: (run) => settingName(pairsOf(run).filter((_, place) => differsAmongSelected(place))),
  run: (run) => run.name,
};

const pairsOf = (run) => [
  ["data", run.data],
  ["run.iterations", run.iterations],
  ...data.settingKeys.map((key, place) => [key, run.setting[place]]),
];

const differsAmongSelected = (place) => new Set(selectedRuns().map((run) => pairsOf(run)[place][1])).size > 1;

/** The look of each group of runs, the same whichever runs are selected. */
function stylesBy(grouping) {
  const names = distinct((grouping === "run" ? selectedRuns() : runs).map(GROUPINGS[grouping]));
  return new Map(names.map((name, index) => [name, style(index)]));
}

function style(index) {
  return {
    color: OKABE_ITO[index % OKABE_ITO.length] ?? getComputedStyle(document.body).color,
    dash: DASHES[(index + Math.floor(index / OKABE_ITO.length)) % DASHES.length],
    symbol: MARKERS[(index + Math.floor(index / OKABE_ITO.length)) % MARKERS.length],
  };
}

function layout(place, xaxis, yaxis) {
  const ink = getComputedStyle(document.body).color;
  const grid = getComputedStyle(place).borderTopColor;
  const axis = { gridcolor: grid, linecolor: grid, zerolinecolor: grid, automargin: true };
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink },
    margin: { l: 56, r: 16, t: 16, b: 44 },
    legend: { orientation: "h", x: 0, y: -0.18, yanchor: "top", maxheight: 0.3 },
    hovermode: "closest",
    hoverlabel: { bgcolor: getComputedStyle(document.body).backgroundColor, bordercolor: grid, font: { color: ink }, namelength: -1 },
    dragmode: byFinger ? false : "zoom", // a finger scrolls the page
    xaxis: { ...axis, ...xaxis },
    yaxis: { ...axis, ...yaxis },
  };
}

function titled(text) {
  return { title: { text: plain(text), standoff: 8 }, exponentformat: "e" };
}

/** The axis of a metric; on a log axis that spans some decades only these are labelled. */
function valueAxis(metric, box, traces) {
  const axis = titled(axisName(metric));
  if (!at(box).checked) return axis;
  const values = traces.flatMap((trace) => trace.y).filter((value) => value > 0);
  const decades = Math.log10(largest(values) / smallest(values));
  return { ...axis, type: "log", ...(decades > 2 && decades < 8 ? { dtick: 1 } : {}) };
}

const largest = (values) => values.reduce((first, second) => Math.max(first, second), -Infinity);
const smallest = (values) => values.reduce((first, second) => Math.min(first, second), Infinity);

function draw(place, traces, xaxis, yaxis, words) {
  const nothing = { text: "nothing to draw", showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5 };
  const whole = layout(place, xaxis, yaxis);
  if (!traces.length) whole.annotations = [nothing];
  place.setAttribute("aria-label", words);
  Plotly.react(place, traces, whole, PLOTLY);
}

function drawPlots() {
  drawLearning();
  drawSteps();
  drawRates();
}

/** One entry of the legend for each group: the first of its traces has it. */
function withLegend(traces) {
  const seen = new Set();
  return traces.map((trace) => {
    const first = trace.showlegend !== false && !seen.has(trace.name);
    if (first) seen.add(trace.name);
    return { ...trace, showlegend: first };
  });
}

// -------------------------------------------------------------------------------------------- learning curves

function curveKeys() {
  const counts = new Map();
  for (const key of runs.flatMap((run) => Object.keys(run.curves))) counts.set(key, (counts.get(key) ?? 0) + 1);
  return [...counts.keys()].sort((first, second) => rank(first) - rank(second) || counts.get(second) - counts.get(first));
}

/** Training metrics, then validation, then the loss; within these what most runs have first. */
const rank = (key) => (key === "train/loss" ? 2 : key.startsWith("val/") ? 1 : 0);

/** Exponential moving average, without the pull of its start towards zero; what is missing stays missing. */
function smoothed(values, weight) {
  let [sum, total] = [0, 0];
  return values.map((value) => {
    if (!isNumber(value)) return null;
    sum = weight * sum + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return sum / total;
  });
}

function learningTraces(drawn, key, weight, grouping) {
  const styles = stylesBy(grouping);
  const raw = [];
  const lines = [];
  for (const run of drawn) {
    const [grid, values] = run.curves[key];
    const [x, y] = [data.grids[grid], scaled(values, key)];
    const group = GROUPINGS[grouping](run);
    const { color, dash, symbol } = styles.get(group);
    const common = { x, type: "scatter", name: plain(group), legendgroup: plain(group), meta: plain(run.name) };
    if (weight > 0 && drawn.length <= MOST_RAW) {
      raw.push({ ...common, y, mode: "lines", line: { color, width: 1 }, opacity: 0.4 / Math.sqrt(drawn.length), hoverinfo: "skip", showlegend: false });
    }
    lines.push({
      ...common,
      y: smoothed(y, weight),
      mode: x.length <= 25 ? "lines+markers" : "lines",
      line: { color, dash, width: 1.6 },
      marker: { symbol, size: 6 },
      hovertemplate: "%{meta}<br>iteration %{x}: %{y:.4g}<extra></extra>",
    });
  }
  return [...raw, ...withLegend(lines)];
}

function drawLearning() {
  const key = at("curve").value;
  const weight = Number(at("smoothing").value);
  const drawn = selectedRuns().filter((run) => run.curves[key]);
  at("smoothing-value").textContent = weight.toFixed(2);
  const traces = learningTraces(drawn, key, weight, at("learning-colours").value);
  const words = `Learning curves: ${axisName(key)} against the iteration, ${count(drawn.length, "run")}`;
  draw(at("learning-plot"), traces, { ...titled("iteration"), tickformat: "~s" }, valueAxis(key, "learning-log", traces), words);
  const without = selected.size - drawn.length;
  const left = without ? [`${count(without, "selected run")} logged no ${key}.`] : [];
  const raw = weight > 0 && drawn.length > MOST_RAW ? [`Above ${MOST_RAW} runs only smoothed values are drawn.`] : [];
  const smooth = weight > 0 && !raw.length ? ["Faint: as logged, thinned."] : [];
  at("learning-note").textContent = [...smooth, ...raw, ...left].join(" ");
}

// ------------------------------------------------------------------------------------------------ step curves

function drawSteps() {
  const metric = at("steps-metric").value;
  const drawn = selectedRuns().filter((run) => run.metric === metric && run.steps.length > 1);
  const grouping = at("steps-colours").value;
  const styles = stylesBy(grouping);
  const intervals = drawn.length <= MOST_INTERVALS;
  const limit = at("steps-whole").checked ? Infinity : readableLimit(drawn);
  const traces = drawn.map((run) => stepTrace(run, GROUPINGS[grouping](run), styles, intervals ? limit : -Infinity));
  const words = `Step curves: ${axisName(metric)} after each adaptation step, ${count(drawn.length, "run")}`;
  const xaxis = { ...titled("adaptation steps"), tickformat: "d" };
  const yaxis = valueAxis(metric, "steps-log", traces);
  const beyond = drawn.filter((run) => run.steps.some((row) => row[1] > limit)).length;
  if (beyond) keepBelow(limit, yaxis, drawn);
  draw(at("steps-plot"), withLegend(traces), xaxis, yaxis, words);
  const without = selected.size - drawn.length;
  at("steps-note").textContent = [
    intervals ? "Bars: 95 % over held-out tasks." : `Above ${MOST_INTERVALS} runs no intervals are drawn.`,
    beyond ? `${count(beyond, "run")} blew up at later steps, beyond the axis.` : "",
    without ? `${count(without, "selected run")} measured no ${metric || "metric"} by steps.` : "",
  ].join(" ");
}

/** Above it runs that blow up at later steps would flatten all others: thrice the largest headline or start. */
function readableLimit(drawn) {
  const headlines = drawn.filter((run) => !run.higher).flatMap((run) => [run.steps[0][1], run.mean]);
  const limit = 3 * largest(headlines.filter(isNumber));
  return limit > 0 ? limit : Infinity;
}

function keepBelow(limit, axis, drawn) {
  const low = smallest(drawn.flatMap((run) => run.steps.map((row) => row[1])).filter((value) => value > 0)) / 1.5;
  axis.range = axis.type === "log" ? [Math.log10(low), Math.log10(limit)] : [0, limit];
  delete axis.dtick;
}

/** A run's step curve, with the intervals of the means up to a limit. */
function stepTrace(run, group, styles, limit) {
  const [steps, means, widths] = [0, 1, 2].map((column) => run.steps.map((row) => row[column]));
  const bars = widths.map((width, index) => (means[index] <= limit ? width : null));
  const { color, dash, symbol } = styles.get(group);
  return {
    x: steps,
    y: scaled(means, run.metric),
    error_y: { type: "data", array: scaled(bars, run.metric), thickness: 1, width: 2, color },
    type: "scatter",
    mode: "lines+markers",
    name: plain(group),
    legendgroup: plain(group),
    meta: plain(run.name),
    line: { color, dash, width: 1.4 },
    marker: { color, symbol, size: 6 },
    hovertemplate: "%{meta}<br>%{x} steps: %{y:.4g}<extra></extra>",
  };
}

// -------------------------------------------------------------------------------------------- the inner rate

function drawRates() {
  const plot = data.rates[Number(at("rates-setting").value)];
  if (!plot) return;
  const styles = stylesBy("learner");
  const lines = plot.lines.map((line) => onlyPositive(line));
  const top = Math.max(largest(lines.flatMap((line) => line.values.flat())), 0) * scaleOf(plot.metric);
  const traces = lines.flatMap((line, place) => {
    return rateTraces(line, plot.metric, styles.get(line.algo), top * 1.1 ** (place + 1)); // so that crosses lie apart
  });
  const rates = distinct(lines.flatMap((line) => line.rates));
  const xaxis = { ...titled("inner learning rate"), type: "log", tickvals: rates, ticktext: rates.map(short) };
  const words = `Sensitivity: ${axisName(plot.metric)} against the inner learning rate, ${settingName(plot.setting)}. ${plot.lines.map(widthWords).join("; ")}`;
  draw(at("rates-plot"), traces, xaxis, valueAxis(plot.metric, "rates-log", traces), words);
  const rows = plot.lines.map((line) => rateRow(line, plot.metric));
  const names = ["best rate", `best ${plot.metric}`, "robustness"].map((name) => [name, "number"]);
  fillTable(at("rates-table"), headRow([["learner", ""], ...names]), rows);
}

const widthWords = (line) => `${line.algo}: robustness ${isNumber(line.width) ? `${short(line.width)} decades` : "unknown"}`;

/** A line without rates that a log axis cannot show. */
function onlyPositive(line) {
  const keep = (_, index) => line.rates[index] > 0;
  const kept = Object.fromEntries(["rates", "means", "values", "bad", "counts"].map((key) => [key, line[key].filter(keep)]));
  return { ...line, ...kept };
}

function rateTraces(line, metric, { color, dash, symbol }, top) {
  const common = { type: "scatter", name: plain(line.algo), legendgroup: plain(line.algo) };
  const edge = (pick) => scaled(line.values.map((values) => (values.length ? pick(...values) : null)), metric);
  const hidden = { ...common, x: line.rates, mode: "lines", line: { width: 0 }, hoverinfo: "skip", showlegend: false };
  const band = [
    { ...hidden, y: edge(Math.min) },
    { ...hidden, y: edge(Math.max), fill: "tonexty", fillcolor: faint(color) },
  ];
  const means = {
    ...common,
    x: line.rates,
    y: scaled(line.means, metric),
    mode: "lines+markers",
    line: { color, dash, width: 1.8 },
    marker: { color, symbol, size: 8 },
    text: line.counts.map((number) => count(number, "seed")),
    hovertemplate: "%{fullData.name}, rate %{x}<br>%{y:.4g}, %{text}<extra></extra>",
  };
  return [...band, means, ...badMarks(line, metric, common, color, top)];
}

function badMarks(line, metric, common, color, top) {
  const marked = [...line.rates.keys()].filter((index) => Object.keys(line.bad[index]).length);
  if (!marked.length) return [];
  return [
    {
      ...common,
      x: marked.map((index) => line.rates[index]),
      y: marked.map((index) => (isNumber(line.means[index]) ? line.means[index] * scaleOf(metric) : top)),
      mode: "markers",
      marker: { color, symbol: "x-thin", size: 14, line: { color, width: 3 } },
      text: marked.map((index) => badWords(line.bad[index], line.counts[index])),
      hovertemplate: "%{fullData.name}, rate %{x}<br>%{text}<extra></extra>",
      showlegend: false,
    },
  ];
}

/** An Okabe-Ito colour, or a computed one, at a quarter of its strength. */
function faint(color) {
  return color.startsWith("#") ? `${color}40` : color.replace("rgb(", "rgba(").replace(")", ", 0.25)");
}

const badWords = (bad, whole) => Object.entries(bad).map(([status, number]) => `${number} of ${whole} ${status}`).join(", ");

function rateRow(line, metric) {
  const row = element("tr");
  const best = line.means[line.rates.indexOf(line.bestRate)];
  const width = isNumber(line.width) ? `${short(line.width)} decades` : "–";
  row.append(
    element("th", line.algo, { scope: "row" }),
    numberCell(short(line.bestRate), line.bestRate),
    numberCell(measure(best, metric), best),
    numberCell(width, line.width),
  );
  return row;
}

/** What tells a setting from those of the other plots. */
function differing(setting) {
  const others = data.rates.map((plot) => Object.fromEntries(plot.setting));
  return data.rates.length < 2 ? setting : setting.filter(([key, value]) => others.some((other) => other[key] !== value));
}

function setUpRates() {
  for (const part of document.querySelectorAll(".rates-only")) part.hidden = !data.rates.length;
  fillSelect(at("rates-setting"), data.rates.map((plot, index) => [index, settingName(differing(plot.setting))]));
  const sizes = data.rates.map((plot) => plot.lines.flatMap((line) => line.rates).length);
  at("rates-setting").value = sizes.indexOf(largest(sizes));
  at("rates-log").checked = data.rates.some((plot) => !isAccuracy(plot.metric));
  for (const id of ["rates-setting", "rates-log"]) at(id).addEventListener("change", drawRates);
}

// --------------------------------------------------------------------------------------- learners by settings

function showComparison() {
  const { keys, algos, rows, leftOut } = data.comparison;
  const numeric = keys.map((_, place) => areNumbers(rows.map((row) => row.setting[place])));
  const settings = keys.map((key, place) => [shortKey(key), sided(numeric[place])]);
  const head = headRow([...settings, ...algos.map((algo) => [algo, "number"])]);
  if (rows.length) fillTable(at("comparison-table"), head, rows.map((row) => comparisonRow(row, numeric)));
  const older = leftOut ? ` ${count(leftOut, "older run")} of the same learner, setting and seed left out.` : "";
  at("comparison-note").textContent = rows.length
    ? `Mean over seeds ± 95 % (one seed: over its tasks). Bold ★: best of the setting; ≈: its interval overlaps the best's.${older}`
    : "No run names its learner.";
}

function comparisonRow({ setting, entries }, numeric) {
  const row = element("tr");
  row.append(...setting.map((value, place) => settingCell(value, numeric[place])), ...entries.map(entryCell));
  return row;
}

function entryCell(entry) {
  if (!entry) return cell("", "", "number");
  const mark = entry.best ? "★ " : entry.tie ? "≈ " : "";
  const unit = metrics.length > 1 && isNumber(entry.mean) && !isAccuracy(entry.metric) ? ` ${entry.metric}` : "";
  const value = `${mark}${measure(entry.mean, entry.metric, entry.ci95)}${unit}`;
  const place = cell(value, "", entry.best ? "number best" : "number");
  if (entry.paper) {
    const paper = measure(entry.paper.value, entry.metric, entry.paper.ci95);
    place.append(element("span", `published ${paper}`, { class: "published" }));
  }
  if (Object.keys(entry.bad).length) {
    place.append(element("span", badWords(entry.bad, entry.count), { class: "badly" }));
  }
  return place;
}

// -------------------------------------------------------------------------------------------- configurations

function differingKeys() {
  const chosen = [...selected];
  return Object.keys(data.config).filter((key) => new Set(chosen.map((index) => data.config[key].at[index])).size > 1);
}

function showDifferences() {
  const keys = differingKeys();
  const chosen = [...selected].sort((first, second) => first - second);
  const byRun = chosen.length <= MOST_COLUMNS;
  at("differences-note").textContent = differencesNote(keys.length, chosen.length, byRun);
  at("differences-table").replaceChildren();
  if (!keys.length) return;
  const names = byRun ? chosen.map((index) => runs[index].name) : ["values, with the number of runs"];
  const head = headRow([["key", ""], ...names.map((name) => [name, "value"])]);
  fillTable(at("differences-table"), head, keys.map((key) => (byRun ? valuesRow(key, chosen) : countsRow(key, chosen))));
}

function differencesNote(keys, chosen, byRun) {
  if (chosen < 2) return "Select at least two runs.";
  if (!keys) return `The configurations of the ${chosen} selected runs are the same.`;
  const many = `${chosen} runs are selected; select at most ${MOST_COLUMNS} to see them side by side. `;
  return `${byRun ? "" : many}${count(keys, "key")} of ${Object.keys(data.config).length} differ.`;
}

function configValue(key, index) {
  const { values, at: indices } = data.config[key];
  return indices[index] < 0 ? "–" : values[indices[index]];
}

function valuesRow(key, chosen) {
  const row = element("tr");
  row.append(
    element("th", key, { scope: "row", class: "key" }),
    ...chosen.map((index) => cell(configValue(key, index), "", "key value")),
  );
  return row;
}

function countsRow(key, chosen) {
  const counts = new Map();
  for (const index of chosen) counts.set(configValue(key, index), (counts.get(configValue(key, index)) ?? 0) + 1);
  const shown = [...counts].slice(0, MOST_COLUMNS).map(([value, number]) => `${value} (${number})`);
  const more = counts.size > shown.length ? `, and ${counts.size - shown.length} more` : "";
  const row = element("tr");
  row.append(element("th", key, { scope: "row", class: "key" }), cell(shown.join(", ") + more, "", "key whole"));
  return row;
}

// ------------------------------------------------------------------------------------------------------ start

function setUpPlots() {
  fillSelect(at("curve"), curveKeys().map((key) => [key, axisName(key)]));
  fillSelect(at("steps-metric"), metrics.map((metric) => [metric, axisName(metric)]));
  const grouping = distinct(runs.map((run) => run.algo)).length > 1 ? "learner" : "run";
  for (const id of ["learning-colours", "steps-colours"]) {
    fillSelect(at(id), Object.keys(GROUPINGS).map((name) => [name, name]));
    at(id).value = grouping;
  }
  at("learning-log").checked = !isAccuracy(at("curve").value);
  at("steps-log").checked = !isAccuracy(at("steps-metric").value);
  at("learning").addEventListener("input", drawLearning);
  at("steps").addEventListener("input", drawSteps);
}

function blobOf(id) {
  const holder = at(id);
  const url = URL.createObjectURL(new Blob([JSON.parse(holder.textContent)], { type: "text/javascript" }));
  holder.remove();
  return url;
}

function loadPlotly() {
  return new Promise((resolve, reject) => {
    const script = element("script", "", { src: blobOf("plotly") });
    script.addEventListener("load", resolve);
    script.addEventListener("error", () => reject(new Error("plotly.js could not be read")));
    document.head.append(script);
  });
}

async function start() {
  setUpTheme();
  describePage();
  describeSources();
  showComparison();
  const { default: DataTable } = await import(blobOf("datatables"));
  buildRunsTable(DataTable);
  setUpFilters();
  setUpSelection();
  setUpPlots();
  setUpRates();
  await loadPlotly();
  select(firstSelection());
  drawRates();
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => {
  at("trouble").textContent = `The page could not be drawn whole: ${error.message}`;
  at("trouble").hidden = false;
  throw error;
});
