// The gap between tokens, one point a second for a minute, as SVG with a sentence beside it.

import { byId, svgElement } from "./dom.js";
import { duration } from "./format.js";

const SECONDS = 60;
const LEFT = 52;
const RIGHT = 8;
const TOP = 8;
const BOTTOM = 22;

let points = [];

export function showGaps(gaps) {
  points = gaps.slice(-SECONDS);
  draw();
}

export function addGap(gap) {
  points = [...points, gap].slice(-SECONDS);
  draw();
}

export function describe(lastMinute) {
  const text = lastMinute.p50 == null
    ? "No streamed tokens in the last minute."
    : `In the last minute half of the gaps between tokens were under ${duration(lastMinute.p50)}, `
      + `99 of 100 under ${duration(lastMinute.p99)}.`;
  byId("chart").setAttribute("aria-label", text);
}

export function keepSize() {
  new ResizeObserver(draw).observe(byId("chart"));
}

function draw() {
  const plot = byId("chart");
  const { clientWidth: width, clientHeight: height } = plot;
  if (!width) return;
  const top = niceMaximum(Math.max(0, ...points.map((point) => point.p99 ?? 0)));
  const x = (index) => LEFT + ((index + 1) / SECONDS) * (width - LEFT - RIGHT);
  const y = (gap) => height - BOTTOM - (gap / top) * (height - TOP - BOTTOM);
  plot.replaceChildren(svgElement("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
    ...gridLines(top, width, y),
    ...emptyNote(width, height),
    label("60 s ago", LEFT, height - 4, "start"),
    label("now", width - RIGHT, height - 4, "end"),
    svgElement("path", { class: "p99", d: line("p99", x, y) }),
    svgElement("path", { class: "p50", d: line("p50", x, y) })));
}

function emptyNote(width, height) {
  if (points.some((point) => point.p50 != null)) return [];
  const place = { class: "nothing", x: (LEFT + width) / 2, y: 0.32 * height, "text-anchor": "middle" };
  return [svgElement("text", place, "No stream in the last minute")];
}

function gridLines(top, width, y) {
  return [0, 0.5, 1].flatMap((share) => [
    svgElement("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(share * top), y2: y(share * top) }),
    label(share === 0 ? "0" : duration(share * top), LEFT - 8, y(share * top) + 4, "end"),
  ]);
}

function label(text, x, y, anchor) {
  return svgElement("text", { x, y, "text-anchor": anchor }, text);
}

// Quiet seconds leave a hole in the line; a lone second is drawn as a dot.
function line(figure, x, y) {
  const first = SECONDS - points.length;
  let path = "";
  let isDrawing = false;
  points.forEach((point, index) => {
    const gap = point[figure];
    if (gap != null) path += `${isDrawing ? "L" : "M"}${x(first + index).toFixed(1)},${y(gap).toFixed(1)}`;
    if (gap != null && !isDrawing) path += "h0";
    isDrawing = gap != null;
  });
  return path;
}

function niceMaximum(value) {
  if (!value) return 0.1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((step) => step * power >= value) * power;
}
