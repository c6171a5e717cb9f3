// The report on a training: everything is in the data, in the order in which it is shown.

const SHOWN = ["AP", "AP50", "AP75", "AR100"];
const LINES = ["", "second", "third", "fourth", "fifth"];
const DOTS = 30; // points up to which each is marked

function startReport(data) {
  showSummary(data);
  showSample(data);
  showCurves(data);
  showClasses(data);
  showImages(data);
  showAdvice(data);
  showUsage(data);
  showSettings(data);
  showRecord(data);
}

/** A section that has nothing to show is not there, nor is its link. */
function leaveOut(id) {
  find(`#${id}`).hidden = true;
  const link = find(`nav a[href="#${id}"]`);
  if (link) link.hidden = true;
}

/** A text with its flags and paths in one piece: a browser would break a line after each hyphen. */
function unbroken(text) {
  return text.split(/(?<= )/).map((word) => (/-|\//.test(word) && word.trim().length > 6
    ? [element("span", { class: "piece" }, word.trimEnd()), word.slice(word.trimEnd().length)] : word)).flat();
}

const source = (number) => find(`#picture-${number}`).textContent;
const facts = (rows) => rows.flatMap(([term, text]) => [element("dt", {}, term), element("dd", {}, text)]);

function showSummary(data) {
  find("#title").textContent = data.title;
  const state = find("#state");
  state.textContent = data.finished ? "Finished" : "Not finished";
  state.className = data.finished ? "" : "open";
  find("#lead").textContent = data.summary.join(" ");
  find("#notes").append(...data.notes.map((text) => element("p", { class: "note small" }, text)));
  const steps = data.total_steps && !data.finished ? `${whole(data.last_step)} of ${whole(data.total_steps)}` : whole(data.last_step);
  find("#headline").append(
    ...SHOWN.map((name) => tile(figure(data.figures[name]), name === "AR100" ? "AR" : name)),
    tile(steps, "steps"), tile(data.duration.replace(/ minutes?/, " min").replace(/ seconds?/, " s"), "training time"));
  find("#meanings").append(...Object.entries(data.meanings).flatMap(([name, meaning]) =>
    [element("dt", {}, name === "AR100" ? "AR" : name), element("dd", {}, meaning)]));
  find("#twelve").append(...cocoTiles(data.figures));
  find("#figures").hidden = !data.evaluations.length;
}

function showSample(data) {
  if (!data.sample) return leaveOut("samples");
  find("#sample").append(element("img", { src: source(0), alt: "Validation images, each with its annotations and its detections" }));
}

// ---- curves

function showCurves(data) {
  if (!data.panels.length) return leaveOut("curves");
  const last = Math.max(...data.panels.flatMap((panel) => panel.lines.flatMap((line) => line.points.map(([step]) => step))), 1);
  find("#panels").append(...data.panels.map((panel) => element("figure", { class: "card keep" },
    element("figcaption", {}, panel.title),
    element("div", { class: "keys" }, panel.lines.length > 1 ? panel.lines.map((line, i) => keyOf(LINES[i], line.name)) : null),
    drawPanel(panel, last))));
  const number = (name) => ({ title: name === "AR100" ? "AR" : name, value: (row) => row[name], text: (row) => figure(row[name]) });
  const columns = [{ title: "step", value: (row) => row.step, text: (row) => whole(row.step), rising: true }, ...SHOWN.map(number)];
  find("#evaluations").append(element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of the evaluations" },
    sortableTable("All evaluations", columns, data.evaluations)));
  find("#evaluations").hidden = !data.evaluations.length;
}

function drawPanel(panel, last) {
  const [width, height, left, right, bottom, top] = [400, 230, 48, 12, 30, 10];
  const values = panel.lines.flatMap((line) => line.points.map(([, value]) => value));
  const { low, high, ticks } = panel.logarithmic ? logarithmicAxis(values) : linearAxis(values);
  const scale = panel.logarithmic ? Math.log : (value) => value;
  const x = (step) => left + (step / last) * (width - left - right);
  const y = (value) => height - bottom - ((scale(value) - scale(low)) / (scale(high) - scale(low))) * (height - bottom - top);
  const ends = panel.lines.map((line) => `${line.name} ${shortNumber(line.points.at(-1)[1])}`).join(", ");
  const chart = drawing("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `${panel.title} over the steps; at the end ${ends}` });
  for (const value of ticks) {
    chart.append(drawing("line", { class: "grid", x1: x(0), x2: x(last), y1: y(value), y2: y(value) }),
      drawing("text", { x: left - 7, y: y(value) + 4, "text-anchor": "end" }, shortNumber(value)));
  }
  const steps = linearAxis([0, last], 4).ticks.filter((step) => step <= last);
  for (const step of steps) {
    chart.append(drawing("line", { class: "grid", x1: x(step), x2: x(step), y1: height - bottom, y2: top }),
      drawing("text", { x: x(step), y: height - bottom + 17, "text-anchor": "middle" }, shortNumber(step)));
  }
  panel.lines.forEach((line, i) => {
    chart.append(linePath({ x, y }, line.points, LINES[i]));
    if (line.points.length <= DOTS && !i) {
      chart.append(...line.points.map(([step, value]) => drawing("circle", { class: "dot", cx: x(step), cy: y(value), r: 3.5 },
        drawing("title", {}, `step ${whole(step)}: ${line.name} ${shortNumber(value)}`))));
    }
  });
  return chart;
}

/** Ticks at 1, 2 or 5 times a power of ten, about so many, from 0 where all values are above it. */
function linearAxis(values, wanted = 5) {
  const high = Math.max(...values), low = Math.min(...values, 0);
  const rough = (high - low || 1) / wanted, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((times) => times * power >= rough) ?? 10);
  const first = Math.floor(low / step), end = Math.max(Math.ceil(high / step), first + 1);
  const ticks = Array.from({ length: end - first + 1 }, (_, i) => Number(((first + i) * step).toPrecision(12)));
  return { low: ticks[0], high: ticks.at(-1), ticks };
}

function logarithmicAxis(values) {
  const [low, high] = [Math.min(...values) / 1.05, Math.max(...values) * 1.05];
  const powers = Array.from({ length: 40 }, (_, i) => 10 ** (i - 20));
  const within = (factors) => powers.flatMap((power) => factors.map((factor) => Number((factor * power).toPrecision(3))))
    .filter((value) => value >= low && value <= high);
  const ticks = [[1], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 4, 5, 7]].map(within).find((some) => some.length >= 3);
  return { low, high, ticks: ticks ?? [low * 1.05, high / 1.05] };
}

function shortNumber(value) {
  if (Math.abs(value) >= 1e4) return `${Number((value / 1000).toPrecision(3))}k`;
  const text = Number(value.toPrecision(3));
  return Math.abs(text) < 1e-3 && text ? text.toExponential().replace("e-", "e−") : String(text);
}

// ---- classes and images

function showClasses({ classes }) {
  if (!classes.length) return leaveOut("classes");
  const number = (title, name, hint) => ({ title, hint, value: (row) => row[name], text: (row) => figure(row[name]) });
  const counted = (title, name, hint) => ({ title, hint, value: (row) => row[name],
    text: (row) => (row[name] < 0 ? "–" : whole(row[name])) });
  const columns = [
    { title: "class", value: (row) => row.name, rising: true },
    { title: "AP", value: (row) => row.AP, cell: (row) => barOf(row.AP), hint: "mean over IoU 0.50 to 0.95", rising: true },
    number("AP50", "AP50"), number("AR", "AR100"), counted("objects", "objects", "in the validation images"),
    counted("detections", "detections", "with any score"), counted("objects in training", "trained"),
  ];
  find("#class-table").append(sortableTable("Figures of each class", columns, classes, 1));
}

function showImages(data) {
  if (!data.images.length) return leaveOut("images");
  find("#measure").textContent = `${data.measure} Annotations are left, detections right. Choose an image to see it large.`;
  const viewer = startViewer(find("#next-picture"), showLarge);
  for (const kind of ["worst", "best"]) {
    const shown = data.images.filter((one) => one.kind === kind);
    if (!shown.length) continue;
    find("#galleries").append(element("h3", {}, `The ${kind}`), element("div", { class: "gallery" }, shown.map((one) =>
      element("button", { class: "picture", type: "button", click: () => viewer.open(data.images, data.images.indexOf(one)) },
        element("img", { src: source(one.picture), alt: `${one.name}: annotations and detections` }),
        element("span", { class: "caption" }, element("b", {}, one.name), element("span", { class: "muted" }, one.caption))))));
  }
}

function showLarge(one, place, count) {
  find("#viewer-title").textContent = one.name;
  find("#viewer-text").textContent = `${one.caption} · ${place + 1} of ${count}`;
  find("#viewer-picture").replaceChildren(element("img", { src: source(one.picture), alt: "Annotations left, detections right" }));
}

// ---- what to do, and the record

function showAdvice(data) {
  if (!data.progress.length && !data.advice.length) return leaveOut("next");
  const command = data.commands.find((one) => one.command.includes("analyze errors"));
  if (data.advice.length && command) {
    find("#next-text").append("The files that are named here are written by ", element("code", {}, unbroken(command.command)));
  }
  for (const name of ["progress", "advice"]) {
    find(`#${name}`).append(...data[name].map((line) => element("li", {}, unbroken(line))));
    find(`#${name}-card`).hidden = !data[name].length;
  }
}

function showUsage(data) {
  const card = (purpose, text) => element("div", { class: "card" }, element("p", {}, purpose), element("pre", {}, text));
  find("#commands").append(...data.commands.map((one) => card(one.purpose, unbroken(one.command))),
    card("In Python", data.python.trimEnd()));
}

/** A table of texts: the first column names its row. */
function textTable(caption, titles, rows) {
  return element("table", { class: "rows texts" }, element("caption", { class: "only-read" }, caption),
    element("thead", {}, element("tr", {}, titles.map((title) => element("th", { scope: "col" }, title)))),
    element("tbody", {}, rows.map((row) => element("tr", {}, row.map((text, i) => (i
      ? element("td", { class: text.length > 24 ? "wide" : null }, text) : element("th", { scope: "row" }, text)))))));
}

function showSettings(data) {
  find("#data-facts").append(...facts(data.data));
  if (!data.data.length) leaveOut("data-section");
  if (!data.settings.length) return leaveOut("settings");
  find("#settings-text").textContent = data.changed.length
    ? "What differs from the defaults, which are the published recipe of DETR with a ResNet-50."
    : "Nothing differs from the defaults, which are the published recipe of DETR with a ResNet-50.";
  find("#changed").append(textTable("Settings that differ", ["setting", "value", "default", "meaning"],
    data.changed.map((one) => [one.name, one.value, one.default, one.meaning])));
  find("#changed").hidden = !data.changed.length;
  find("#all-settings").append(element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of all settings" },
    textTable("All settings", ["setting", "value"], data.settings)));
}

function showRecord(data) {
  const rows = [...data.loaded.map((text) => element("pre", {}, text))];
  if (data.weights.length) {
    rows.push(element("dl", { class: "facts card below" }, facts(data.weights.map(([file, digest]) => [file, `sha256 ${digest}`]))));
  }
  find("#loaded").append(...(rows.length ? rows : [element("p", {}, data.nothing_loaded)]));
  find("#machine").append(...facts(data.machine));
  find("#starts").hidden = !data.starts.length;
  if (!data.starts.length) return;
  find("#starts").append(textTable("Starts of the run",
    ["start", "from step", "to step", "duration", "host", "devices", "ended"],
    data.starts.map((one) => [one.time, whole(one.from), whole(one.to), one.duration, one.host, one.devices, one.ended])));
  find("#last-command").append(element("p", { class: "small muted" }, "The command of the last start:"),
    element("pre", {}, unbroken(data.starts.at(-1).command)));
}
