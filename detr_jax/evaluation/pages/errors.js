// The report on errors. One number names an image: its place in data.example_images.

const TYPES = ["Cls", "Loc", "Both", "Dupe", "Bkg"];
const OBJECT_COLUMNS = 6, DETECTION_COLUMNS = 10;
const NOTHING_NEAR = 0, FOUND = 2;
const PAGE = 24; // pictures that appear at once
const FEW_CLASSES = 24, SHOWN_CLASSES = 20, MOST_CLASSES = 150; // of the matrix
const PAIRS = 12; // most confused
const WORDS = { missing: "Not annotated?", class: "Another class?", box: "Another box?" };

function startReport(data) {
  const classes = data.classes.map((row) => row.name);
  const images = data.example_images.map(unpack);
  const pictures = new Set(data.pictures);
  const report = { data, classes, images, pictures, background: classes.length };
  showSummary(report);
  startMatrix(report);
  showClasses(report);
  startCurves(report);
  showCalibration(report);
  showMisses(report);
  startGallery(report);
  startSuspects(report);
  showMethods(report);
}

/** The boxes of an image as records; ``at`` is [x, y, width, height] in pixels. */
function unpack(image) {
  const objects = [], detections = [];
  const at = (row, start) => row.slice(start, start + 4).map((tenths) => tenths / 10);
  for (let i = 0; i < image.objects.length; i += OBJECT_COLUMNS) {
    const [label, state] = image.objects.slice(i + 4, i + OBJECT_COLUMNS);
    objects.push({ at: at(image.objects, i), label, state, taken: false });
  }
  for (let i = 0; i < image.detections.length; i += DETECTION_COLUMNS) {
    const [label, score, type, takes, aims, iou] = image.detections.slice(i + 4, i + DETECTION_COLUMNS);
    const shown = detections.length < image.shown;
    if (shown && takes >= 0) objects[takes].taken = true;
    detections.push({ at: at(image.detections, i), label, score: score / 1e4, type: TYPES[type] ?? null, shown,
      correct: type === -1, takes: objects[takes] ?? null, aims: objects[aims] ?? null, iou: iou / 100 });
  }
  const wrong = detections.filter((one) => one.shown && one.type).length;
  const missed = objects.filter((one) => one.state !== FOUND).length;
  return { ...image, objects, detections, wrong, missed };
}

/** Shows the images of a filter: a new address, so that Back returns; the keyboard goes on from there. */
function goTo(section, chosen = {}) {
  location.hash = writeAddress(section, chosen);
  find(`#${section} h2`).focus({ preventScroll: true });
}

// ---- summary

function showSummary({ data, images }) {
  const { source } = data;
  find("#source").textContent = `${source.predictions} against ${source.annotations}: ${plural(data.images, "image")}, ` +
    `${plural(data.objects, "object")}, ${plural(data.detections, "detection")}`;
  const best = data.best_f1;
  find("#headline").append(...[
    [figure(data.AP), "AP"], [figure(data.AP50), "AP50"], [figure(data.AP75), "AP75"],
    [figure(best?.f1), best ? `best F1, at threshold ${best.threshold.toFixed(2)}` : "best F1"],
    [figure(data.oLRP), "oLRP, lower is better"], [figure(data.calibration["D-ECE"]), "D-ECE, lower is better"],
  ].map(([value, name]) => tile(value, name)));
  find("#twelve").append(...cocoTiles(data));
  find("#notes").append(...data.notes.map((text) => element("p", { class: "note small" }, text)));
  const most = Math.max(...Object.values(data.tide), 1);
  find("#costs-text").textContent = `What AP50 (now ${(100 * data.AP50).toFixed(1)}) would gain, in points, without ` +
    "the errors of one type. Choose one to see its images.";
  find("#costs").append(...Object.entries(data.meanings).map(([name, meaning]) => {
    const bar = element("i", { class: name in data.tide_counts ? null : "total" });
    bar.style.width = `${(100 * data.tide[name]) / most}%`;
    const there = data.tide_counts_at_thresholds[name];
    return element("button", { class: "cost", type: "button", "data-type": name, click: () => goTo("images", { type: name }) },
      element("b", {}, name), element("span", { class: "track" }, bar),
      element("span", { class: "value" }, data.tide[name].toFixed(1)),
      element("span", { class: "what" }, `${meaning} · ${whole(there)} at the thresholds`));
  }));
  find("#advice").append(...data.advice.map((line) => element("li", {}, line)));
  const left = data.images - images.length;
  find("#images-text").textContent = "Dashed is annotated, solid is detected; a tag names the type of error. " +
    "Detections count from the threshold of their class. " +
    (left ? `This page holds ${whole(images.length)} of ${whole(data.images)} images, those with the most to see; ` +
      "mistakes.csv lists the errors of all. " : "") +
    (data.source.photos
      ? `${plural(data.pictures.length, "small photo")} ${data.pictures.length === 1 ? "is" : "are"} in this file.`
      : "To see the photos, add --images=FOLDER to the command.");
}

// ---- confusion

function startMatrix(report) {
  const { data, classes, background } = report;
  const cells = new Map(data.cells.map(([row, column, count]) => [row * (background + 1) + column, count]));
  const count = (row, column) => cells.get(row * (background + 1) + column) ?? 0;
  const totals = Array(background + 1).fill(0), wrong = Array(background + 1).fill(0);
  for (const [row, column, number] of data.cells) {
    totals[row] += number;
    if (row !== column) {
      wrong[row] += column < background ? 2 * number : number; // first what is taken for another class
      wrong[column] += row < background ? 2 * number : number;
    }
  }
  const order = classes.map((_, label) => label).sort((a, b) => wrong[b] - wrong[a]);
  const buttons = { rates: find("#rates"), all: find("#all-classes") };
  buttons.all.hidden = classes.length <= FEW_CLASSES;
  const pressed = (button) => button.getAttribute("aria-pressed") === "true";
  const show = () => {
    const limit = classes.length <= FEW_CLASSES || pressed(buttons.all) ? MOST_CLASSES : SHOWN_CLASSES;
    const shown = order.slice(0, limit).sort((a, b) => a - b);
    find("#matrix-note").textContent = shown.length === classes.length ? ""
      : `the ${shown.length} most confused of ${classes.length} classes; confusion_matrix.csv has all`;
    find("#matrix").replaceChildren(drawMatrix(report, [...shown, background], count, totals, pressed(buttons.rates)));
  };
  for (const button of Object.values(buttons)) {
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(!pressed(button)));
      show();
    });
  }
  find("#confusion-text").textContent = "Objects by row, detections by column, at the thresholds and IoU 0.5. " +
    "Blue is right, orange is wrong; the background is what was not annotated, or not found. Choose a cell to see its " +
    "images; arrow keys move.";
  show();
  showPairs(report);
}

/** The cells off the diagonal with the highest counts, as a list: first what is taken for another class. */
function showPairs({ data, classes, background }) {
  const pairs = data.cells.filter(([row, column, count]) => row !== column && row < background && column < background && count);
  pairs.sort((a, b) => b[2] - a[2]);
  find("#pairs").append(...pairs.slice(0, PAIRS).map(([row, column, count]) => element("li", {},
    element("button", { class: "link", type: "button", click: () => goTo("images", { cell: `${row}.${column}` }) },
      `${classes[row]} → ${classes[column]}`), ` ${whole(count)} of ${whole(data.classes[row].objects)}`)));
  find("#pairs-card").hidden = !pairs.length;
}

function drawMatrix({ classes, background }, shown, count, totals, asShares) {
  const name = (label) => classes[label] ?? "background";
  const cell = (row, column) => {
    const number = count(row, column), share = number / Math.max(totals[row], 1);
    const place = { class: `${row === background ? "background" : ""} ${column === background ? "background-column" : ""}` };
    if (!number) return element("td", { ...place, role: "gridcell" });
    const step = share > 0.5 ? 4 : share > 0.2 ? 3 : share > 0.05 ? 2 : 1;
    const [object, detection] = [name(row), name(column)];
    const words = row === column ? `${object} found`
      : column === background ? `${object} not found`
        : row === background ? `${detection} where nothing is annotated` : `${object} taken for ${detection}`;
    return element("td", { role: "gridcell", tabindex: -1, "data-cell": `${row}.${column}`,
      class: `${place.class} s${step} ${row === column ? "right" : ""}`, title: `${words}: ${whole(number)}, ${percent(share)}`,
      "aria-label": `${words}: ${whole(number)}` }, asShares ? percent(share) : whole(number));
  };
  const head = (label, scope, role) => element("th", { scope, role, title: name(label), class: label === background
    ? (scope === "row" ? "background" : "background-column") : null }, element("span", {}, name(label)));
  const table = element("table", { class: "matrix", role: "grid", "aria-label": "Confusion matrix" },
    element("thead", { role: "rowgroup" }, element("tr", { role: "row" },
      element("th", { role: "columnheader", scope: "col" }, "object ↓", element("br"), "detection →"),
      shown.map((label) => head(label, "col", "columnheader")))),
    element("tbody", { role: "rowgroup" }, shown.map((row) => element("tr", { role: "row" }, head(row, "row", "rowheader"),
      shown.map((column) => cell(row, column))))));
  moveByArrows(table);
  return table;
}

/** One cell of a table is in the order of the Tab key; arrows, Home and End move it, Enter, space and a click choose. */
function moveByArrows(table) {
  const rows = [...table.tBodies[0].rows].map((row) => [...row.cells].slice(1));
  const choose = (cell) => goTo("images", { cell: cell.dataset.cell });
  const focus = (cell) => {
    table.querySelectorAll('td[tabindex="0"]').forEach((one) => one.setAttribute("tabindex", -1));
    cell.setAttribute("tabindex", 0);
    cell.focus();
  };
  table.querySelector("td[tabindex]")?.setAttribute("tabindex", 0);
  table.addEventListener("click", (event) => {
    const cell = event.target.closest("td[data-cell]");
    if (cell) choose(cell);
  });
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  table.addEventListener("keydown", (event) => {
    const cell = event.target.closest("td[data-cell]");
    if (!cell) return;
    let row = cell.parentNode.sectionRowIndex, column = cell.cellIndex - 1;
    if (event.key === "Enter" || event.key === " ") choose(cell);
    else if (event.key in steps) {
      const [down, right] = steps[event.key];
      do { // empty cells are passed over
        row += down;
        column += right;
      } while (rows[row]?.[column] && !rows[row][column].dataset.cell);
      if (rows[row]?.[column]) focus(rows[row][column]);
    } else if (event.key === "Home" || event.key === "End") {
      const full = rows[row].filter((one) => one.dataset.cell);
      focus(event.key === "Home" ? full[0] : full.at(-1));
    } else return;
    event.preventDefault();
  });
}

// ---- classes and curves

function showClasses({ data, background }) {
  const wrong = Array(background).fill(0), missed = Array(background).fill(0);
  for (const [row, column, number] of data.cells) {
    if (row !== column && column < background) wrong[column] += number;
    if (row !== column && row < background) missed[row] += number;
  }
  const rows = data.classes.map((row, label) => ({ ...row, label }));
  const number = (title, value, hint) => ({ title, hint, value, text: (row) => figure(value(row)) });
  const counted = (title, value, hint) => ({ title, hint, value, text: (row) => whole(value(row)) });
  const columns = [
    { title: "class", value: (row) => row.name, rising: true, cell: (row) => element("button", { class: "link", type: "button",
      title: row.name, click: () => goTo("images", { class: row.label }) }, row.name || "(no name)") },
    counted("objects", (row) => row.objects),
    { title: "AP", value: (row) => row.AP, cell: (row) => barOf(row.AP), hint: "mean over IoU 0.50 to 0.95" },
    number("AP50", (row) => row.AP50), number("AP75", (row) => row.AP75), number("AR100", (row) => row.AR100),
    number("threshold", (row) => row.best_f1?.threshold, "of the highest F1"),
    number("precision", (row) => row.best_f1?.precision, "at this threshold"),
    number("recall", (row) => row.best_f1?.recall, "at this threshold"), number("F1", (row) => row.best_f1?.f1),
    { ...number("oLRP", (row) => row.oLRP?.value, "0 is perfect, 1 is nothing"), rising: true },
    counted("wrong", (row) => wrong[row.label], "detections of this class off the diagonal of the matrix"),
    counted("missed", (row) => missed[row.label], "objects of this class off the diagonal of the matrix"),
  ];
  find("#class-table").append(sortableTable("Figures of each class", columns, rows, 1));
}

function startCurves({ data, classes }) {
  const chooser = find("#curve-class"), slider = find("#threshold");
  const order = classes.map((_, label) => label).sort((a, b) => data.classes[b].objects - data.classes[a].objects);
  chooser.append(...order.map((label) =>
    element("option", { value: label }, `${classes[label]} (${plural(data.classes[label].objects, "object")})`)));
  let points = [], move = () => {};
  const read = () => {
    const above = points.filter(([threshold]) => threshold >= Number(slider.value));
    const [, precision, recall, f1] = above.at(-1) ?? [0, 0, 0, 0];
    find("#readout").textContent = points.length ? `${Number(slider.value).toFixed(2)}: precision ${precision.toFixed(2)}, ` +
      `recall ${recall.toFixed(2)}, F1 ${f1.toFixed(2)}` : "no detections";
    move(precision, recall, f1);
  };
  const show = () => {
    const label = Number(chooser.value), name = classes[label] ?? "";
    points = data.curves[label] ?? [];
    const left = unitChart(`Precision over recall of ${name}`, "recall", "precision");
    const right = unitChart(`Precision, recall and F1 over the threshold, of ${name}`, "threshold", "");
    const marks = [left, right].map(() => drawing("circle", { class: "mark", r: 6 }));
    left.chart.append(linePath(left, points.map((one) => [one[2], one[1]])), marks[0]);
    right.chart.append(linePath(right, points.map((one) => [one[0], one[1]]), "second"),
      linePath(right, points.map((one) => [one[0], one[2]]), "third"),
      linePath(right, points.map((one) => [one[0], one[3]])), marks[1]);
    move = (precision, recall, f1) => {
      const places = [[left, recall, precision], [right, Number(slider.value), f1]];
      places.forEach(([{ x, y }, a, b], i) => {
        marks[i].setAttribute("cx", x(a));
        marks[i].setAttribute("cy", y(b));
      });
    };
    find("#curve-charts").replaceChildren(
      element("figure", { class: "card" }, element("figcaption", { class: "small" }, "Precision over recall"), left.chart),
      element("figure", { class: "card" }, element("figcaption", { class: "small keys" }, keyOf("", "F1"), keyOf("second", "precision"), keyOf("third", "recall")), right.chart));
    slider.value = data.classes[label]?.best_f1?.threshold ?? 0.5;
    read();
  };
  chooser.addEventListener("change", show);
  slider.addEventListener("input", read);
  show();
}

// ---- scores and misses

function showCalibration({ data }) {
  const { bins, LaECE, isotonic } = data.calibration, error = data.calibration["D-ECE"];
  find("#calibration-text").textContent = `Of detections with score 0.7, 70% should be correct. D-ECE ${figure(error)}, ` +
    `LaECE ${figure(LaECE)}; with the table of calibration.json D-ECE ${figure(isotonic["D-ECE before"])} becomes ` +
    `${figure(isotonic["D-ECE after"])} on images it was not fitted on.`;
  const plot = unitChart("Share of correct detections by score", "score", "share of correct detections");
  const { chart, x, y } = plot, width = 1 / Math.max(bins.length, 1);
  const most = Math.max(...bins.map((bin) => bin.count), 1);
  bins.forEach((bin, i) => {
    const words = drawing("title", {}, `score ${(i * width).toFixed(1)} to ${((i + 1) * width).toFixed(1)}: ` +
      `${plural(bin.count, "detection")}, ${percent(bin.precision)} correct`);
    if (bin.count) {
      chart.append(drawing("rect", { class: "column", x: x(i * width) + 3, y: y(bin.precision), width: x(width) - x(0) - 6,
        height: y(0) - y(bin.precision) }, words));
    }
  });
  chart.append(drawing("line", { class: "ideal", x1: x(0), y1: y(0), x2: x(1), y2: y(1) }));
  const rows = bins.map((bin, i) => ({ ...bin, from: i * width }));
  const columns = [
    { title: "score from", value: (row) => row.from, text: (row) => row.from.toFixed(1), rising: true },
    { title: "detections", value: (row) => row.count, text: (row) => whole(row.count) },
    { title: "mean score", value: (row) => row.score, text: (row) => (row.count ? figure(row.score) : "–") },
    { title: "correct", value: (row) => row.precision, text: (row) => (row.count ? percent(row.precision) : "–") },
  ];
  const counts = drawing("svg", { class: "chart", viewBox: "0 0 460 54", role: "img", "aria-label": "Number of detections by score" },
    bins.map((bin, i) => drawing("rect", { class: "quiet", x: x(i * width) + 3, width: x(width) - x(0) - 6,
      y: 38 * (1 - bin.count / most), height: (38 * bin.count) / most })),
    drawing("text", { x: x(0.5), y: 51, "text-anchor": "middle" }, `how many detections have such a score (at most ${whole(most)})`));
  find("#calibration").append(chart, counts, element("details", {}, element("summary", {}, "As a table"),
    element("div", { class: "scroll" }, sortableTable("Reliability by score", columns, rows))));
}

function showMisses({ data }) {
  let kind = "";
  for (const group of data.misses.filter((one) => one.objects)) {
    if (group.kind !== kind) find("#misses").append(element("div", { class: "group head" }, group.kind));
    kind = group.kind;
    const bars = [group.reached, group.found].map((number, i) => {
      const bar = element("i", { class: i ? null : "weak" });
      bar.style.width = `${(100 * number) / group.objects}%`;
      return bar;
    });
    const text = `${whole(group.found)} of ${whole(group.objects)} found, ${whole(group.reached)} with any score`;
    find("#misses").append(element("div", { class: "group", title: text }, element("span", {}, group.name),
      element("span", { class: "track", role: "img", "aria-label": text }, bars),
      element("span", { class: "value" }, percent(group.found / group.objects))));
  }
}

// ---- pictures

/**
 * An image with its boxes. Options: ``matches`` (boxes that are not dimmed; null for all), ``names`` (write classes),
 * ``faint`` (draw detections below the threshold), ``crop`` [x, y, width, height], ``width`` on the screen in pixels.
 */
function drawPicture(report, image, label, { matches = null, names = false, faint = false, crop = null, width = 300 } = {}) {
  const [x, y, w, h] = crop ?? [0, 0, image.width, image.height];
  const unit = Math.max(w, h / 0.75) / width; // pixels of the image in one of the screen
  const picture = drawing("svg", { viewBox: `${x} ${y} ${w} ${h}`, role: "img", "aria-label": label });
  if (report.pictures.has(image.number)) {
    const photo = drawing("image", { width: image.width, height: image.height, preserveAspectRatio: "none" });
    picture.append(photo);
    whenSeen(picture, () => photo.setAttribute("href", find(`#picture-${image.number}`).textContent));
  } else {
    picture.append(drawing("rect", { width: image.width, height: image.height, fill: "var(--canvas)", stroke: "#8b939b",
      "vector-effect": "non-scaling-stroke" }));
  }
  const boxes = [...image.objects, ...image.detections.filter((one) => one.shown || faint)];
  const important = (box) => Number(matches ? matches.has(box) : isError(box));
  boxes.sort((a, b) => important(a) - important(b)); // what matters is on top
  const tags = [];
  for (const box of boxes) {
    const dim = matches && !matches.has(box);
    picture.append(drawBox(box, dim));
    const text = dim ? "" : tagOf(report, box, names);
    if (text) tags.push([text, box]);
  }
  picture.append(drawTags(tags.reverse(), unit, [x, y, w]));
  return picture;
}

const isObject = (box) => box.state !== undefined;
const isError = (box) => (isObject(box) ? box.state !== FOUND : Boolean(box.shown && box.type));

/** What a box is: a word of the legend. */
function kindOf(box) {
  if (isObject(box)) return box.state === FOUND ? "found" : box.state === NOTHING_NEAR ? "Miss" : "late";
  return box.correct ? "correct" : box.type ?? "ignored";
}

const KINDS = {
  found: "annotated and found", correct: "correct detection", Cls: "wrong class", Loc: "wrong box",
  Both: "wrong class and box", Dupe: "found already", Bkg: "nothing there", Miss: "annotated, nothing comes near",
  late: "annotated, not found at the threshold",
};

function drawBox(box, dim) {
  const [x, y, width, height] = box.at, thin = isError(box) ? "" : "thin";
  const shape = (className) => drawing("rect", { class: className, x, y, width: Math.max(width, 0), height: Math.max(height, 0) });
  const line = shape(`box stroke ${thin} ${isObject(box) ? "annotated" : box.shown ? "" : "faint"}`);
  line.style.stroke = `var(--${kindOf(box)}, #c3c9d0)`;
  const group = drawing("g", { class: dim ? "dim" : null }, shape(`box halo ${thin}`), line);
  group.box = box;
  return group;
}

/** The type of an error; on request also the class, and the score of a detection. */
function tagOf(report, box, names) {
  const kind = kindOf(box), words = isError(box) ? [kind === "late" ? "FN" : kind] : [];
  if (names) words.push(report.classes[box.label], ...(isObject(box) ? [] : [box.score.toFixed(2)]));
  return words.join(" ");
}

/** Tags above their boxes, each where it covers no tag before it; without such a place it is left out. */
function drawTags(tags, unit, [left, top, width]) {
  const size = 11 * unit, high = 1.3 * size, taken = [], drawn = [];
  for (const [text, box] of tags) {
    const wide = (text.length * 0.62 + 0.7) * size, [boxX, boxY, , boxHeight] = box.at;
    const x = Math.min(Math.max(boxX, left), Math.max(left, left + width - wide));
    const free = (y) => !taken.some(([a, b, c]) => x < a + c && a < x + wide && y < b + high && b < y + high);
    const y = [boxY - high, boxY, boxY + boxHeight].map((one) => Math.max(one, top)).find(free);
    if (y === undefined) continue;
    taken.push([x, y, wide]);
    const back = drawing("rect", { x, y, width: wide, height: high });
    back.style.fill = `var(--${kindOf(box)}, #c3c9d0)`;
    drawn.push(drawing("g", { class: "tag" }, back,
      drawing("text", { x: x + 0.35 * size, y: y + size, "font-size": size }, text)));
  }
  return drawing("g", {}, drawn);
}

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((one) => one.isIntersecting)) {
    seen.unobserve(entry.target);
    entry.target.whenSeen();
  }
}, { rootMargin: "400px" });

/** Calls a function when an element comes near the window, or is printed. */
function whenSeen(node, then) {
  node.whenSeen = then;
  seen.observe(node);
}
addEventListener("beforeprint", () => document.querySelectorAll(".picture svg").forEach((one) => one.whenSeen?.()));

function describeBox(report, box) {
  const name = report.classes[box.label];
  if (isObject(box)) return `${name}: ${KINDS[kindOf(box)]}`;
  if (box.correct) return `${name}: correct, IoU ${box.iou.toFixed(2)}`;
  const aimed = box.aims ? ` (${report.classes[box.aims.label]}, IoU ${box.iou.toFixed(2)})` : "";
  return `${name}: ${KINDS[box.type] ?? "in a crowd, not counted"}${aimed}`;
}

// ---- gallery

/** The boxes of an image that a filter means: an error of a type, a class, a cell of the matrix. */
function matchBoxes(report, image, { type, label, cell }) {
  const ofClass = (box) => label === null || box.label === label || (box.type === "Cls" && box.aims?.label === label);
  const ofType = (box) => {
    if (!type) return true;
    if (isObject(box)) return type === "FN" ? box.state !== FOUND : type === "Miss" && box.state === NOTHING_NEAR;
    return type === "FP" ? Boolean(box.type) : box.type === type;
  };
  const inCell = (box) => {
    if (!cell) return true;
    const [row, column] = cell;
    if (isObject(box)) return column === report.background && box.label === row && !box.taken;
    return box.type !== null || box.correct ? box.label === column && (box.takes?.label ?? report.background) === row : false;
  };
  const boxes = [...image.detections.filter((one) => one.shown), ...image.objects];
  return boxes.filter((box) => ofClass(box) && ofType(box) && inCell(box));
}

function startGallery(report) {
  const { data, classes, images, background } = report;
  const inputs = Object.fromEntries(["type", "class", "find"].map((name) => [name, find(`#filter-${name}`)]));
  inputs.type.append(element("option", { value: "" }, "any"), ...Object.entries(data.meanings).map(([name, meaning]) =>
    element("option", { value: name }, `${name}: ${meaning}`)));
  inputs.class.append(element("option", { value: "" }, "any"),
    ...classes.map((name, label) => element("option", { value: label }, name)));
  const cellButton = find("#filter-cell"), count = find("#count"), gallery = find("#gallery"), more = find("#more");
  const name = (label) => classes[label] ?? "background";
  let chosen = {}, found = [], shown = 0;

  function readFilter() {
    const [section, given] = readAddress();
    if (section === "images" || !section) chosen = given; // another section of the page keeps the filter
    const label = /^\d+$/.test(chosen.class) && Number(chosen.class) < background ? Number(chosen.class) : null;
    const cell = (chosen.cell ?? "").split(".").map(Number);
    const isCell = cell.length === 2 && cell.every((one) => Number.isInteger(one) && one >= 0 && one <= background);
    const type = Object.hasOwn(data.meanings, chosen.type) ? chosen.type : "";
    return { type, label, cell: isCell ? cell : null, text: chosen.find ?? "" };
  }

  function apply() {
    const filter = readFilter();
    inputs.type.value = filter.type;
    inputs.class.value = filter.label ?? "";
    if (document.activeElement !== inputs.find) inputs.find.value = filter.text;
    cellButton.hidden = !filter.cell;
    if (filter.cell) cellButton.textContent = `${name(filter.cell[0])} → ${name(filter.cell[1])} ✕`;
    cellButton.setAttribute("aria-label", `Remove the filter ${cellButton.textContent}`);
    const isFiltered = Boolean(filter.type || filter.label !== null || filter.cell);
    const text = filter.text.toLowerCase();
    found = [];
    for (const image of images) {
      if (text && !image.file_name.toLowerCase().includes(text)) continue;
      const boxes = isFiltered ? matchBoxes(report, image, filter) : null;
      if (!boxes || boxes.length) found.push({ image, matches: boxes && new Set(boxes) });
    }
    const weight = ({ image, matches }) => (matches ? matches.size : image.wrong + image.missed);
    found.sort((a, b) => weight(b) - weight(a));
    const boxes = isFiltered ? `${countBoxes(filter)} in ` : "";
    report.countText = `${boxes}${plural(found.length, "image")}${isFiltered || text ? ` of ${whole(images.length)}` : ""}`;
    shown = 0;
    gallery.replaceChildren();
    showMore();
  }

  /** "3 boxes", or "3 of 40 boxes" where this page does not hold all images. */
  function countBoxes({ type, label, cell, text }) {
    const here = sum(found.map((one) => one.matches.size)), boxes = plural(here, "box", "boxes");
    if (label !== null || text || Boolean(type) === Boolean(cell)) return boxes;
    const all = type ? data.tide_counts_at_thresholds[type]
      : data.cells.find(([row, column]) => row === cell[0] && column === cell[1])?.[2] ?? 0;
    return here === all ? boxes : `${whole(here)} of ${plural(all, "box", "boxes")}`;
  }

  function showMore() {
    const next = found.slice(shown, shown + PAGE);
    const cards = next.map((one, i) => drawCard(one, shown + i));
    gallery.append(...cards);
    shown += next.length;
    more.hidden = shown >= found.length;
    count.textContent = found.length ? `${report.countText}${shown < found.length ? `; the first ${shown} are shown` : ""}`
      : "No image matches. Clear the filters to see all.";
    return cards[0];
  }

  function drawCard(one, place) {
    const { image, matches } = one;
    const words = `${plural(image.wrong, "wrong detection")}, ${plural(image.missed, "missed object")}`;
    return element("button", { class: "picture", type: "button", "data-image": image.image_id, click: () => viewer.open(found, place) },
      drawPicture(report, image, `${image.file_name} with its boxes`,
        { matches, names: find("#names").checked, faint: find("#faint").checked }),
      element("span", { class: "caption" }, element("b", {}, image.file_name || `image ${image.image_id}`),
        element("span", { class: "muted" }, matches ? `${plural(matches.size, "box matches", "boxes match")} · ${words}` : words)));
  }

  const set = (values, replace = false) => {
    const address = writeAddress("images", { ...chosen, ...values });
    if (replace) history.replaceState(null, "", address); // every letter of a search would be a step of Back
    else history.pushState(null, "", address);
    apply();
  };
  inputs.type.addEventListener("change", () => set({ type: inputs.type.value }));
  inputs.class.addEventListener("change", () => set({ class: inputs.class.value }));
  inputs.find.addEventListener("input", () => set({ find: inputs.find.value }, true));
  cellButton.addEventListener("click", () => set({ cell: "" }));
  find("#clear").addEventListener("click", () => {
    inputs.find.value = "";
    chosen = {};
    set({});
  });
  find("#filters").addEventListener("submit", (event) => event.preventDefault());
  for (const name of ["#names", "#faint"]) find(name).addEventListener("change", apply);
  more.addEventListener("click", () => showMore()?.focus());
  const viewer = startViewer(find("#next"), (...shown) => showLarge(report, ...shown));
  report.viewer = viewer;
  const follow = () => {
    const section = readAddress()[0];
    if (section === "images" || !section) apply();
    document.getElementById(section)?.scrollIntoView();
  };
  addEventListener("hashchange", follow);
  find("#legend").append(...Object.entries(KINDS).map(([kind, meaning]) => {
    const error = !["found", "correct"].includes(kind), annotated = ["found", "Miss", "late"].includes(kind);
    const line = drawing("rect", { x: 3, y: 3, width: 22, height: 12, class: `box stroke ${error ? "" : "thin"} ${annotated ? "annotated" : ""}` });
    line.style.stroke = `var(--${kind})`;
    const tag = error ? element("b", {}, kind === "late" ? "FN" : kind) : null;
    return element("li", {}, drawing("svg", { width: 28, height: 18, "aria-hidden": "true" }, line), tag, meaning);
  }));
  apply();
  if (readAddress()[0] === "images") requestAnimationFrame(() => find("#images").scrollIntoView());
}

// ---- one image, large

/** What fills the viewer with an image, its boxes drawn and listed. */
function showLarge(report, { image, matches }, place, count) {
  find("#viewer-title").textContent = image.file_name || `image ${image.image_id}`;
  find("#viewer-text").textContent = `image ${image.image_id} · ${image.width} × ${image.height} · ` +
    `${plural(image.wrong, "wrong detection")}, ${plural(image.missed, "missed object")} · ${place + 1} of ${count}`;
  const picture = drawPicture(report, image, `${image.file_name} with its boxes`,
    { matches, names: true, faint: find("#faint").checked, width: Math.min(720, innerWidth - 80) });
  find("#viewer-picture").replaceChildren(picture);
  const boxes = [...image.detections.filter((one) => one.shown || find("#faint").checked), ...image.objects];
  boxes.sort((a, b) => isError(b) - isError(a));
  const mark = (box, chosen) => picture.querySelectorAll("g").forEach((group) => {
    if (group.box === box) group.classList.toggle("chosen", chosen);
  });
  find("#viewer-boxes").replaceChildren(element("table", { class: "rows" },
    element("caption", { class: "only-read" }, "Boxes"),
    element("thead", {}, element("tr", {}, ["box", "type", "score"].map((text) => element("th", { scope: "col" }, text)))),
    element("tbody", {}, boxes.map((box) => element("tr", { mouseenter: () => mark(box, true), mouseleave: () => mark(box, false) },
      element("th", { scope: "row" }, element("button", { class: "link", type: "button",
        focus: () => mark(box, true), blur: () => mark(box, false) }, describeBox(report, box))),
      element("td", {}, isError(box) ? (kindOf(box) === "late" ? "FN" : kindOf(box)) : "–"),
      element("td", {}, isObject(box) ? "–" : box.score.toFixed(2)))))));
}

// ---- doubtful annotations

function startSuspects(report) {
  const { data, images } = report, { suspects } = data;
  const chooser = find("#suspect-kind"), gallery = find("#suspects"), more = find("#more-suspects");
  find("#labels-text").textContent = suspects.length
    ? "Sure detections that the annotations contradict, the surest first. A person should look at them before the next training. suspects.csv lists them."
    : "No sure detection contradicts an annotation.";
  const kinds = Object.keys(WORDS).filter((kind) => suspects.some((one) => one.kind === kind));
  chooser.append(element("option", { value: "" }, `any (${suspects.length})`), ...kinds.map((kind) =>
    element("option", { value: kind }, `${WORDS[kind]} (${suspects.filter((one) => one.kind === kind).length})`)));
  let shown = 0;
  function drawSuspect(suspect) {
    const boxes = [{ at: suspect.detected_bbox, label: data.classes.findIndex((row) => row.name === suspect.detected),
      type: { missing: "Bkg", class: "Cls", box: "Loc" }[suspect.kind], shown: true, score: suspect.score }];
    if (suspect.annotated_bbox) {
      boxes.push({ at: suspect.annotated_bbox, label: data.classes.findIndex((row) => row.name === suspect.annotated), state: FOUND });
    }
    const known = images[suspect.place];
    const frame = around(boxes.map((box) => box.at), known);
    const image = { number: -1, width: frame[0] + frame[2], height: frame[1] + frame[3], ...known, objects: boxes.slice(1), detections: boxes.slice(0, 1) };
    const text = suspect.kind === "missing" ? `${suspect.detected} ${suspect.score.toFixed(2)}, and nothing is annotated`
      : suspect.kind === "class" ? `annotated as ${suspect.annotated}, detected as ${suspect.detected} ${suspect.score.toFixed(2)}`
        : `${suspect.detected} ${suspect.score.toFixed(2)} with another box than annotated`;
    return element("button", { class: "picture", type: "button", disabled: !known,
      click: () => report.viewer.open([{ image: known, matches: null }], 0) },
      drawPicture(report, image, text, { crop: frame }),
      element("span", { class: "caption" }, element("b", {}, WORDS[suspect.kind]), element("span", {}, text),
        element("span", { class: "muted" }, suspect.file_name)));
  }
  function show(restart) {
    if (restart) {
      shown = 0;
      gallery.replaceChildren();
    }
    const chosen = suspects.filter((one) => !chooser.value || one.kind === chooser.value);
    const cards = chosen.slice(shown, shown + PAGE / 2).map(drawSuspect);
    gallery.append(...cards);
    shown += cards.length;
    more.hidden = shown >= chosen.length;
    find("#suspect-count").textContent = chosen.length ? `${shown} of ${chosen.length} shown` : "";
    return cards[0];
  }
  chooser.parentNode.parentNode.hidden = !suspects.length;
  chooser.addEventListener("change", () => show(true));
  more.addEventListener("click", () => show(false)?.focus());
  show(true);
}

/** A frame of 4 to 3 around boxes, with room beside them, within the image. */
function around(boxes, image) {
  const [left, top] = [0, 1].map((i) => Math.min(...boxes.map((box) => box[i])));
  const [right, bottom] = [0, 1].map((i) => Math.max(...boxes.map((box) => box[i] + box[i + 2])));
  const height = Math.max(1.8 * Math.max(bottom - top, (right - left) * 0.75), 40), width = height / 0.75;
  const [x, y] = [(left + right - width) / 2, (top + bottom - height) / 2];
  if (!image) return [x, y, width, height];
  const within = (start, length, limit) => Math.max(0, Math.min(start, limit - length));
  return [within(x, width, image.width), within(y, height, image.height), Math.min(width, image.width), Math.min(height, image.height)];
}

function showMethods({ data }) {
  const rows = {
    "Correct": "By descending score, each detection takes the nearest free object of its class at IoU 0.5. The best 100 detections of an image count.",
    ...Object.fromEntries(Object.entries({
      Cls: "IoU from 0.5 with an object of another class.", Loc: "IoU 0.1 to 0.5 with an object of its class.",
      Both: "IoU 0.1 to 0.5 with an object of another class only.", Dupe: "IoU from 0.5 with an object of its class that a better detection has found.",
      Bkg: "IoU below 0.1 with every object.", Miss: "An object that no detection of the types Cls and Loc comes near.",
    }).map(([name, text]) => [`${name}: ${data.meanings[name]}`, text])),
    "Cost": "What AP50 would gain if the errors of one type were corrected and no others (TIDE, Bolya et al. 2020). Costs do not add up.",
    "Thresholds": "Of each class, the score with the highest F1. Errors that are listed one by one, and the matrix, count detections from there; costs and AP count all.",
    "Confusion": "For the matrix, each detection takes the nearest free object whatever its class.",
    "D-ECE, LaECE": "Mean difference between score and share of correct detections (10 bins), or IoU (25 bins of each class).",
    "oLRP": "Boxes, false detections and misses in one figure at the best threshold (Oksuz et al. 2018): 0 is perfect, 1 is nothing.",
    "Files": "The same is in errors.json, mistakes.csv, per_class.csv, curves.csv, confusion_matrix.csv, misses.csv, suspects.csv, worst_images.csv and calibration.json beside this page. Crowd regions are not drawn.",
  };
  find("#definitions").append(...Object.entries(rows).flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]));
}
