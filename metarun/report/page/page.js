// What changes while the page is open: the theme, which runs are selected and listed, and what the plots show of them.
// Tables, figures' traces, axes and colours are made in Python; text of runs reaches the page as textContent only.

const data = JSON.parse(document.getElementById("data").textContent);
const { runs, groups, figures } = data;
const at = (id) => document.getElementById(id);

const MOST_COLUMNS = 12; // of runs, in the table of differences
const MOST_RAW = 40; // runs whose values as logged are drawn behind the smoothed ones
const MOST_INTERVALS = 40; // runs whose intervals are drawn
const MOST_MARKED = 25; // points of a curve that are marked one by one

const boxes = [...document.querySelectorAll("#runs-table tbody input")]; // one a run, also of those not listed
const selected = () => boxes.flatMap((box, run) => (box.checked ? [run] : []));
const count = (number, word) => `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
const isNumber = (value) => typeof value === "number";
const scaled = (values, scale) => values.map((value) => (isNumber(value) ? value * scale : null));
const largest = (values) => values.reduce((first, second) => Math.max(first, second), -Infinity);
const smallest = (values) => values.reduce((first, second) => Math.min(first, second), Infinity);

// ------------------------------------------------------------------------------------------------------ theme

const darkSystem = matchMedia("(prefers-color-scheme: dark)");
const theme = () => document.documentElement.dataset.theme;

function remembered() {
  try {
    return localStorage.getItem("metarun-report-theme");
  } catch {
    return null; // storage may be forbidden to files
  }
}

function remember(choice) {
  try {
    localStorage.setItem("metarun-report-theme", choice);
  } catch {
    // then it holds until the page is closed
  }
}

function applyTheme() {
  const choice = at("theme").value;
  document.documentElement.dataset.theme = choice === "auto" ? (darkSystem.matches ? "dark" : "light") : choice;
  document.documentElement.classList.toggle("dark", theme() === "dark"); // DataTables' word for it
}

function setUpTheme() {
  if (["light", "dark"].includes(remembered())) at("theme").value = remembered();
  applyTheme();
  at("theme").addEventListener("change", () => remember(at("theme").value));
  for (const source of [at("theme"), darkSystem]) {
    source.addEventListener("change", () => {
      applyTheme();
      drawPlots();
    });
  }
}

// -------------------------------------------------------------------------------- the table of runs, selection

/** Numbers before words, what is missing after both, whichever way a column is sorted. */
function compareCells(first, second, sign) {
  if (first === "" || second === "") return (first === "") - (second === "");
  const difference = Number(first) - Number(second);
  return sign * (Number.isNaN(difference) ? compareCells.collator.compare(first, second) : difference);
}
compareCells.collator = new Intl.Collator("en", { numeric: true });

function setUpTable(DataTable) {
  DataTable.ext.type.order["cell-asc"] = (first, second) => compareCells(first, second, 1);
  DataTable.ext.type.order["cell-desc"] = (first, second) => compareCells(first, second, -1);
  const pageLength = matchMedia("(max-width: 40rem)").matches ? 10 : 25;
  const table = new DataTable(at("runs-table"), { ...data.table, pageLength });
  at("runs-paging").append(...at("runs").querySelectorAll(".dt-info, .dt-length, .dt-paging")); // out of what scrolls
  at("runs-table").tHead.addEventListener("keydown", sortBySpace);
  at("filter").addEventListener("input", () => table.search(at("filter").value).draw());
  for (const [id, column] of [["status-filter", "status:name"], ["algo-filter", "learner:name"]]) {
    at(id).addEventListener("change", () => {
      const { value } = at(id);
      table.column(column).search(value, { exact: value !== "", caseInsensitive: false }).draw();
    });
  }
  at("runs-table").addEventListener("change", showSelection);
  at("choose-all").addEventListener("click", () => select([...runs.keys()]));
  at("choose-none").addEventListener("click", () => select([]));
  at("choose-filtered").addEventListener("click", () => select(table.rows({ search: "applied" }).indexes().toArray()));
}

/** DataTables sorts at Enter; a button is expected to heed the space bar too. */
function sortBySpace(event) {
  if (event.key !== " " || event.target.getAttribute("role") !== "button") return;
  event.preventDefault();
  event.target.click();
}

function select(indices) {
  const chosen = new Set(indices);
  boxes.forEach((box, run) => (box.checked = chosen.has(run)));
  showSelection();
}

function showSelection() {
  const words = `${selected().length} of ${count(runs.length, "run")} selected`;
  at("chosen").textContent = `${words} for the plots and the differences.`;
  drawLearning();
  drawSteps();
  showDifferences();
}

// ------------------------------------------------------------------------------------------------------ plots

const byFinger = matchMedia("(pointer: coarse)").matches;

/** Draw traces on a figure's axes, the vertical one on a log scale or cut to a range where that is wanted. */
function draw(id, figure, traces, isLog, words, range = null) {
  const layout = structuredClone(figure.layout); // plotly writes into it
  if (isLog) Object.assign(layout.yaxis, { type: "log", dtick: range ? null : logTicks(traces) });
  if (range) layout.yaxis.range = range;
  layout.template = figures.templates[theme()];
  if (byFinger) layout.dragmode = false; // a finger scrolls the page
  if (!traces.length) layout.annotations = [figures.nothing];
  at(id).setAttribute("aria-label", words);
  Plotly.react(id, traces, layout, { ...figures.config, displayModeBar: byFinger ? false : "hover" });
}

/** Ticks of a log axis: a label a decade where it spans several, at 1, 2 and 5 where two; null leaves it to plotly. */
function logTicks(traces) {
  const values = traces.flatMap((trace) => trace.y).filter((value) => value > 0);
  const decades = Math.log10(largest(values) / smallest(values));
  if (decades > 2) return decades < 8 ? 1 : null;
  return decades > 1 ? "D2" : null;
}

/** A trace in the look of a group, by the group's place. */
function dressed(trace, place) {
  const { dashes, symbols, templates } = figures;
  const { colorway } = templates[theme()].layout;
  const color = colorway[place % colorway.length];
  const turn = place + 2 * Math.floor(place / colorway.length); // then a colour comes again with another dash
  const symbol = trace.marker?.symbol ?? symbols[turn % symbols.length];
  return {
    ...trace,
    line: { ...trace.line, color, dash: dashes[turn % dashes.length] },
    marker: { ...trace.marker, color, symbol, line: { ...trace.marker?.line, color } },
    error_y: trace.error_y && { ...trace.error_y, color },
    fillcolor: `${color}40`,
  };
}

/** A run's trace in the look of its group: the same whichever runs are selected, unless each run has its own. */
function traceOf(run, trace, grouping, chosen) {
  const { names, of } = groups[grouping];
  const name = names[of[run]];
  const place = grouping === "run" ? chosen.indexOf(run) : of[run];
  return dressed({ ...trace, name, legendgroup: name, meta: groups.run.names[run] }, place);
}

/** One entry of the legend for each group: the first of its traces has it. */
function withLegend(traces) {
  const seen = new Set();
  return traces.map((trace) => {
    const isFirst = !seen.has(trace.name);
    seen.add(trace.name);
    return { ...trace, showlegend: isFirst };
  });
}

function drawPlots() {
  drawLearning();
  drawSteps();
  drawRates();
}

// -------------------------------------------------------------------------------------------- learning curves

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

function drawLearning() {
  const key = at("curve").value;
  const weight = Number(at("smoothing").value);
  const figure = figures.curves[key];
  const chosen = selected();
  const drawn = chosen.filter((run) => runs[run].curves[key]);
  const logged = drawn.map((run) => {
    const [grid, values] = runs[run].curves[key];
    const trace = { ...figures.curve, x: data.grids[grid], y: scaled(values, figure.scale) };
    return traceOf(run, trace, at("learning-colours").value, chosen);
  });
  const isFaint = weight > 0 && drawn.length <= MOST_RAW;
  const faint = isFaint ? logged.map((trace) => faded(trace, drawn.length)) : [];
  const lines = withLegend(
    logged.map((trace) => {
      const mode = trace.x.length <= MOST_MARKED ? "lines+markers" : "lines";
      return { ...trace, y: smoothed(trace.y, weight), mode };
    }),
  );
  const words = `Learning curves: ${figure.name} against the iteration, ${count(drawn.length, "run")}`;
  draw("learning-plot", figure, [...faint, ...lines], at("learning-log").checked, words);
  at("smoothing-value").textContent = weight ? weight.toFixed(2) : "off";
  const without = chosen.length - drawn.length;
  at("learning-note").textContent = [
    drawn.length ? figure.note : "",
    isFaint ? "Faint: as logged, thinned." : "",
    weight > 0 && !isFaint ? `Above ${MOST_RAW} runs only smoothed values are drawn.` : "",
    without ? `${count(without, "selected run")} logged no ${key || "curve"}.` : "",
  ]
    .filter(Boolean)
    .join(" ");
}

/** The values as logged, behind the smoothed ones of so many runs. */
function faded(trace, many) {
  const line = { ...figures.logged.line, color: trace.line.color };
  return { ...trace, ...figures.logged, line, opacity: 0.4 / Math.sqrt(many) };
}

// ------------------------------------------------------------------------------------------------ step curves

function drawSteps() {
  const metric = at("steps-metric").value;
  const figure = figures.metrics[metric];
  const chosen = selected();
  const drawn = chosen.filter((run) => runs[run].metric === metric && runs[run].steps.length > 1);
  const hasIntervals = drawn.length <= MOST_INTERVALS;
  const limit = at("steps-whole").checked ? Infinity : readableLimit(drawn);
  const traces = drawn.map((run) => {
    const [steps, means, widths] = [0, 1, 2].map((column) => runs[run].steps.map((row) => row[column]));
    const bars = widths.map((width, index) => (hasIntervals && means[index] <= limit ? width : null));
    const error_y = { ...figures.step.error_y, array: scaled(bars, figure.scale) };
    const trace = { ...figures.step, x: steps, y: scaled(means, figure.scale), error_y };
    return traceOf(run, trace, at("steps-colours").value, chosen);
  });
  const isLog = at("steps-log").checked;
  const beyond = drawn.filter((run) => runs[run].steps.some((row) => row[1] > limit)).length;
  const range = beyond ? rangeBelow(limit, drawn, isLog) : null;
  const words = `Step curves: ${figure.name} after each adaptation step, ${count(drawn.length, "run")}`;
  draw("steps-plot", figure, withLegend(traces), isLog, words, range);
  const atOnce = chosen.filter((run) => runs[run].metric === metric && runs[run].steps.length === 1).length;
  const without = chosen.length - drawn.length - atOnce;
  const noIntervals = `Above ${MOST_INTERVALS} runs no intervals are drawn.`;
  at("steps-note").textContent = [
    !drawn.length ? "" : hasIntervals ? "Bars: 95\u00a0% interval of the mean over held-out tasks." : noIntervals,
    beyond ? `${count(beyond, "run")} blew up at later steps, beyond the axis.` : "",
    atOnce ? `${count(atOnce, "selected run")} of a learner that adapts at once, without steps: see the table.` : "",
    without ? `${count(without, "selected run")} measured no ${metric || "metric"} by steps.` : "",
  ]
    .filter(Boolean)
    .join(" ");
}

/** Above it runs that blow up at later steps would flatten all others: thrice the largest headline or start. */
function readableLimit(drawn) {
  const errors = drawn.map((run) => runs[run]).filter((run) => !run.higher);
  const headlines = errors.flatMap((run) => [run.steps[0][1], run.mean]);
  const limit = 3 * largest(headlines.filter(isNumber));
  return limit > 0 ? limit : Infinity;
}

function rangeBelow(limit, drawn, isLog) {
  const low = smallest(drawn.flatMap((run) => runs[run].steps.map((row) => row[1])).filter((value) => value > 0)) / 1.5;
  return isLog ? [Math.log10(low), Math.log10(limit)] : [0, limit];
}

// -------------------------------------------------------------------------------------------- the inner rate

function drawRates() {
  if (!figures.rates.length) return;
  const chosen = at("rates-setting").value;
  const figure = figures.rates[chosen];
  const traces = figure.data.map((trace) => dressed(trace, trace.meta)); // the place of its learner
  draw("rates-plot", figure, traces, at("rates-log").checked, figure.words);
  for (const table of at("rates-tables").children) table.hidden = table.dataset.setting !== chosen;
}

// -------------------------------------------------------------------------------------------- configurations

function showDifferences() {
  const chosen = selected();
  const keys = Object.keys(data.config).filter((key) => {
    return new Set(chosen.map((run) => data.config[key].at[run])).size > 1;
  });
  const byRun = chosen.length <= MOST_COLUMNS;
  at("differences-note").textContent = differencesNote(keys.length, chosen.length, byRun);
  at("differences-table").replaceChildren();
  if (!keys.length) return;
  const names = byRun ? chosen.map((run) => runs[run].name) : ["values, with the number of runs"];
  at("differences-table").createTHead().append(tableRow(["key", ...names], "col", ["", "value"]));
  const cells = (key) => [key, ...(byRun ? chosen.map((run) => configValue(key, run)) : [countedValues(key, chosen)])];
  const rows = keys.map((key) => tableRow(cells(key), "row", ["key", byRun ? "key value" : "key whole"]));
  at("differences-table").createTBody().append(...rows);
}

function differencesNote(keys, chosen, byRun) {
  if (chosen < 2) return "Select at least two runs.";
  if (!keys) return `The configurations of the ${chosen} selected runs are the same.`;
  const many = `${chosen} runs are selected; select at most ${MOST_COLUMNS} to see them side by side. `;
  return `${byRun ? "" : many}${count(keys, "key")} of ${Object.keys(data.config).length} differ.`;
}

/** A row of texts: all are headings of columns, or the first is the heading of the row. */
function tableRow(texts, scope, [first, others]) {
  const row = document.createElement("tr");
  texts.forEach((text, index) => {
    const cell = document.createElement(scope === "col" || index === 0 ? "th" : "td");
    if (cell.tagName === "TH") cell.scope = scope;
    cell.className = index === 0 ? first : others;
    cell.textContent = text;
    row.append(cell);
  });
  return row;
}

function configValue(key, run) {
  const { values, at: indices } = data.config[key];
  return indices[run] < 0 ? "–" : values[indices[run]];
}

function countedValues(key, chosen) {
  const counts = new Map();
  for (const value of chosen.map((run) => configValue(key, run))) counts.set(value, (counts.get(value) ?? 0) + 1);
  const shown = [...counts].slice(0, MOST_COLUMNS).map(([value, number]) => `${value} (${number})`);
  return shown.join(", ") + (counts.size > shown.length ? `, and ${counts.size - shown.length} more` : "");
}

// ------------------------------------------------------------------------------------------------------ start

function blobOf(id) {
  const holder = at(id);
  const url = URL.createObjectURL(new Blob([JSON.parse(holder.textContent)], { type: "text/javascript" }));
  holder.remove();
  return url;
}

function loadPlotly() {
  return new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.addEventListener("load", resolve);
    script.addEventListener("error", () => reject(new Error("plotly.js could not be read")));
    script.src = blobOf("plotly");
    document.head.append(script);
  });
}

async function start() {
  setUpTheme();
  const { default: DataTable } = await import(blobOf("datatables"));
  setUpTable(DataTable);
  await loadPlotly();
  at("learning").addEventListener("input", drawLearning);
  at("steps").addEventListener("input", drawSteps);
  at("rates").addEventListener("input", drawRates);
  showSelection();
  drawRates();
  document.documentElement.dataset.ready = "yes";
}

start().catch((error) => {
  at("trouble").textContent = `The page could not be drawn completely: ${error.message}`;
  at("trouble").hidden = false;
  throw error;
});
