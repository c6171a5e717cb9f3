"use strict";
// What every report needs: elements from data, where names are never markup; the theme; the address; tables; charts.

const SVG = "http://www.w3.org/2000/svg";
const THEME = "detr_jax-theme";

/** An HTML element. Attributes that are functions listen to the event of their name; children may be text. */
function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same in SVG. */
function drawing(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

const find = (selector) => document.querySelector(selector);
const sum = (values) => values.reduce((total, value) => total + value, 0);
const whole = (value) => value.toLocaleString("en-US");
const percent = (share) => (share > 0 && share < 0.005 ? "<1%" : `${Math.round(100 * share)}%`);
/** A figure from 0 to 1; what does not exist (-1 in COCO, null elsewhere) is a dash. */
const figure = (value) => (typeof value === "number" && value >= 0 ? value.toFixed(3) : "–");
const plural = (count, one, many = `${one}s`) => `${whole(count)} ${count === 1 ? one : many}`;

/** Themes: the system's, until the reader chooses one. */
function chosenTheme() {
  try {
    return localStorage.getItem(THEME);
  } catch {
    return null; // a browser that keeps nothing for files
  }
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem(THEME, theme);
  } catch {
    return; // it holds until the page is closed
  }
}

function startTheme(button) {
  const show = () => {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", isDark() ? "Light theme" : "Dark theme");
  };
  button.addEventListener("click", () => {
    setTheme(isDark() ? "light" : "dark");
    show();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
  show();
}

/** The address after #: a section, then what is chosen in it: "#images&type=Loc" is ["images", {type: "Loc"}]. */
function readAddress() {
  const [section, ...rest] = location.hash.slice(1).split("&");
  const chosen = {};
  for (const part of rest) {
    const [name, value = ""] = part.split("=");
    try {
      chosen[name] = decodeURIComponent(value);
    } catch {
      chosen[name] = value;
    }
  }
  return [section, chosen];
}

function writeAddress(section, chosen) {
  const parts = Object.entries(chosen).filter(([, value]) => value !== null && value !== "");
  return `#${[section, ...parts.map(([name, value]) => `${name}=${encodeURIComponent(value)}`)].join("&")}`;
}

/**
 * A table whose columns sort it. Columns: {title, hint, value(row), text(row)?, cell(row)?, rising?}; the first column
 * names its row. Rows without a value come last.
 */
function sortableTable(caption, columns, rows, sortedBy = 0) {
  const body = element("tbody");
  const heads = columns.map((column, number) =>
    element("th", { scope: "col", title: column.hint },
      element("button", { class: "sort", type: "button", click: () => sort(number) }, column.title)));
  let order = { number: -1, rising: true };
  const lines = rows.map((row) => element("tr", {}, columns.map((column, number) => {
    const content = column.cell ? column.cell(row) : column.text ? column.text(row) : String(column.value(row));
    return number ? element("td", {}, content) : element("th", { scope: "row" }, content);
  })));
  function sort(number) {
    const column = columns[number];
    order = { number, rising: order.number === number ? !order.rising : Boolean(column.rising) };
    const values = rows.map((row) => column.value(row));
    const missing = (value) => value === null || value === undefined || value === -1;
    const places = rows.map((_, place) => place).sort((a, b) => {
      const [x, y] = [values[a], values[b]];
      if (missing(x) || missing(y)) return missing(x) - missing(y);
      return (order.rising ? 1 : -1) * (typeof x === "string" ? x.localeCompare(y) : x - y);
    });
    body.replaceChildren(...places.map((place) => lines[place]));
    heads.forEach((head, i) => (i === number
      ? head.setAttribute("aria-sort", order.rising ? "ascending" : "descending") : head.removeAttribute("aria-sort")));
  }
  sort(sortedBy);
  return element("table", { class: "rows" },
    element("caption", { class: "only-read" }, caption), element("thead", {}, element("tr", {}, heads)), body);
}

/** Axes from 0 to 1 with room for what is drawn: the chart, and functions from values to places. */
function unitChart(label, xTitle, yTitle) {
  const [width, height, left, bottom, top] = [460, 320, 46, 44, 12];
  const x = (value) => left + value * (width - left - 12);
  const y = (value) => height - bottom - value * (height - bottom - top);
  const chart = drawing("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const value of [0, 0.2, 0.4, 0.6, 0.8, 1]) {
    chart.append(
      drawing("line", { class: "grid", x1: x(value), x2: x(value), y1: y(0), y2: y(1) }),
      drawing("line", { class: "grid", x1: x(0), x2: x(1), y1: y(value), y2: y(value) }),
      drawing("text", { x: x(value), y: y(0) + 17, "text-anchor": "middle" }, value.toFixed(1)),
      drawing("text", { x: x(0) - 7, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(1)),
    );
  }
  chart.append(
    drawing("text", { x: x(0.5), y: height - 6, "text-anchor": "middle" }, xTitle),
    drawing("text", { x: 12, y: y(0.5), "text-anchor": "middle", transform: `rotate(-90 12 ${y(0.5)})` }, yTitle),
  );
  return { chart, x, y };
}

/** A line through [x, y] points on a ``unitChart``. */
function linePath({ x, y }, points, kind = "") {
  const path = points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
  return drawing("path", { class: `line ${kind}`, d: path });
}

/** What a line of a chart looks like, and its name. */
function keyOf(kind, text) {
  return element("span", { class: "key" }, drawing("svg", { class: "chart", width: 34, height: 10, "aria-hidden": "true" },
    drawing("path", { class: `line ${kind}`, d: "M0 5H34" })), ` ${text}`);
}

/** A figure in large letters, and its name. */
function tile(value, name) {
  return element("div", { class: "tile" }, element("b", {}, value), element("span", {}, name));
}

/** COCO's twelve figures as tiles. */
function cocoTiles(figures) {
  const names = ["AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", "AR100", "AR_small",
    "AR_medium", "AR_large"];
  return names.map((name) => tile(figure(figures[name]), name.replace("_", " ")));
}

/** A figure from 0 to 1 with a bar, for the cell of a table. */
function barOf(value) {
  const filled = element("i");
  filled.style.width = `${100 * Math.max(value, 0)}%`;
  return element("span", { class: "in-cell" }, element("span", { class: "track" }, filled), figure(value));
}

/**
 * A dialog that shows one picture of several: by its buttons (``next`` is the one for the next) or the arrow keys.
 * ``show(item, place, count)`` fills it. Returns what opens it with some items, at one of them.
 */
function startViewer(next, show) {
  const dialog = find("#viewer");
  let items = [], place = 0;
  function refresh() {
    show(items[place], place, items.length);
    find("#previous").disabled = place === 0;
    next.disabled = place === items.length - 1;
  }
  const step = (by) => {
    if (!items[place + by]) return;
    place += by;
    refresh();
  };
  find("#previous").addEventListener("click", () => step(-1));
  next.addEventListener("click", () => step(1));
  find("#close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  return {
    open(given, start) {
      [items, place] = [given, start];
      refresh();
      dialog.showModal();
    },
  };
}

if (chosenTheme()) document.documentElement.dataset.theme = chosenTheme(); // before anything is painted
document.addEventListener("DOMContentLoaded", () => {
  startTheme(find("#theme"));
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => (one.open = true)));
  startReport(JSON.parse(find("#data").textContent));
});
