// The table of adapters. Rows are kept by name and changed in place, so that focus stays.

import { byId, element, nameElement, setText, visible } from "./dom.js";
import { ago, bytes, duration, plural } from "./format.js";

const ROWS_AT_FIRST = 10;
const STAGES = ["resolve", "fetch", "read", "place"];

const COLUMNS = [
  { id: "name", label: "Name", key: (a) => a.name },
  { id: "tier", label: "Where", key: (a) => ["device", "host", "disk"].indexOf(a.tier) },
  { id: "bytes", label: "Memory", key: (a) => -a.num_bytes, number: true },
  { id: "rank", label: "Rank", key: (a) => -a.rank, number: true },
  { id: "hits", label: "Hits", key: (a) => -a.hits, number: true },
  { id: "used", label: "Last used", key: (a) => a.idle_seconds ?? Infinity },
  { id: "stages", label: "Load time by stage", key: (a) => -loadSeconds(a) },
  { id: "source", label: "Source", key: (a) => a.path },
];

const rows = new Map();
let state = null;
let sorting = { id: "used", reversed: false };
let showsAll = false;
let isPointedAt = false;
let ask = () => {};

export function setUp(onAsk) {
  ask = onAsk;
  byId("adapter-table").append(table());
  byId("adapter-rows").addEventListener("pointerenter", (event) => { isPointedAt = event.pointerType === "mouse"; });
  byId("adapter-rows").addEventListener("pointerleave", () => { isPointedAt = false; });
  byId("filter").addEventListener("input", () => render());
  byId("show-all").addEventListener("click", () => { showsAll = !showsAll; render(); });
}

export function showAdapters(newState) {
  state = newState;
  render(isInUse());
}

// No row may move away from under a pointer or from the focus.
function isInUse() {
  return isPointedAt || byId("adapter-rows").contains(document.activeElement);
}

function render(isHeld = false) {
  const wanted = byId("filter").value.trim().toLowerCase();
  const found = state.adapters.filter((adapter) => adapter.name.toLowerCase().includes(wanted));
  found.sort(comparison());
  if (isHeld) asBefore(found);
  const visible = showsAll ? found : found.slice(0, ROWS_AT_FIRST);
  const bodyRows = visible.map(rowOf);
  const body = byId("adapter-rows");
  if (bodyRows.length !== body.children.length || bodyRows.some((row, i) => row !== body.children[i])) {
    keepingFocus(() => body.replaceChildren(...bodyRows));
  }
  forget(state.adapters);
  byId("adapter-table").hidden = found.length === 0;
  byId("filter-label").hidden = state.num_adapters === 0;
  showMore(found.length);
  showEmpty(found.length);
}

function comparison() {
  const { key } = COLUMNS.find((column) => column.id === sorting.id);
  const sign = sorting.reversed ? -1 : 1;
  return (one, other) => {
    const [a, b] = [key(one), key(other)];
    const order = typeof a === "string" ? a.localeCompare(b) : (a > b) - (a < b);
    return sign * order || one.name.localeCompare(other.name);
  };
}

// What is shown already comes first, in the order it is in.
function asBefore(found) {
  const places = new Map([...byId("adapter-rows").children].map((row, index) => [row, index]));
  const place = (adapter) => places.get(rows.get(adapter.name)?.node) ?? places.size;
  found.sort((one, other) => place(one) - place(other));
}

function keepingFocus(change) {
  const focused = document.activeElement;
  change();
  if (focused.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
}

function showMore(count) {
  const button = byId("show-all");
  const hidden = state.num_adapters - state.adapters.length;
  button.hidden = count <= ROWS_AT_FIRST;
  button.setAttribute("aria-expanded", String(showsAll));
  const all = hidden > 0 ? `${count} of ${state.num_adapters.toLocaleString("en")}` : `all ${count}`;
  setText(button, showsAll ? "Show fewer" : `Show ${all}`);
}

function showEmpty(count) {
  const note = byId("adapters-empty");
  note.hidden = count > 0;
  if (state.num_adapters > state.adapters.length) setText(note, `None of the ${state.adapters.length} adapters used last has that in its name; this page lists no more of the ${state.num_adapters.toLocaleString("en")}.`);
  else if (state.num_adapters) setText(note, "No adapter has that in its name.");
  else if (state.takes_adapters) setText(note, `No adapter yet. Name one ${state.answers ? "in the playground below, or " : ""}as the model of any request.`);
  else setText(note, "This server was started without --enable-lora and serves the base model only.");
}

// Explicit roles: where it is narrow the rows are laid out as grids, and would be no table to readers.
function table() {
  const heads = COLUMNS.map((column) => head(column));
  heads.push(element("th", { role: "columnheader", scope: "col", class: "action" },
    element("span", { class: "visually-hidden" }, "Ask")));
  return element("table", { class: "adapters", role: "table", "aria-labelledby": "adapters-title" },
    element("colgroup", {}, ...[...COLUMNS.map((c) => c.id), "action"].map((id) => element("col", { class: `col-${id}` }))),
    element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...heads)),
    element("tbody", { role: "rowgroup", id: "adapter-rows" }));
}

function head(column) {
  const button = element("button", { type: "button" }, column.label);
  const cell = element("th", { role: "columnheader", scope: "col", id: `head-${column.id}`, class: cellClass(column) }, button);
  if (column.id === sorting.id) cell.setAttribute("aria-sort", "ascending");
  button.addEventListener("click", () => sortBy(column.id));
  return cell;
}

function sortBy(id) {
  byId(`head-${sorting.id}`).removeAttribute("aria-sort");
  sorting = { id, reversed: sorting.id === id && !sorting.reversed };
  byId(`head-${id}`).setAttribute("aria-sort", sorting.reversed ? "descending" : "ascending");
  render();
}

function rowOf(adapter) {
  if (!rows.has(adapter.name)) rows.set(adapter.name, newRow(adapter.name));
  const { node, cells } = rows.get(adapter.name);
  cells.tier.className = `place ${adapter.tier}`;
  setText(cells.tier, adapter.tier);
  setText(cells.bytes, bytes(adapter.num_bytes));
  setText(cells.rank, String(adapter.rank));
  setText(cells.hits, adapter.hits.toLocaleString("en"));
  cells.hits.classList.toggle("once", adapter.hits === 1);
  setText(cells.used, ago(adapter.idle_seconds));
  setText(cells.stages, stages(adapter));
  const foundBy = adapter.found_by ? `${adapter.found_by}: ` : "";
  setText(cells.source.firstChild, visible(foundBy + adapter.path));
  cells.source.title = visible(foundBy + adapter.path);
  return node;
}

function newRow(name) {
  const cells = Object.fromEntries(COLUMNS.slice(1).map((column) => [column.id, element("span", { class: "clip" })]));
  // The end of a path tells more than its beginning.
  cells.source.classList.add("from-end");
  cells.source.append(element("bdi", { dir: "ltr" }));
  const button = element("button", { type: "button", "aria-label": `Ask ${name} in the playground` }, "Ask");
  button.addEventListener("click", () => ask(name));
  const node = element("tr", { role: "row" },
    element("th", { role: "rowheader", scope: "row" }, nameElement(name, { class: "mono name two-lines" })),
    ...COLUMNS.slice(1).map((column) => element("td", { role: "cell", class: cellClass(column) }, cells[column.id])),
    element("td", { role: "cell", class: "action" }, button));
  return { node, cells };
}

function cellClass(column) {
  const soft = ["used", "stages", "source"].includes(column.id) ? " soft" : "";
  return `${column.id}${column.number ? " number" : ""}${soft}`;
}

function forget(adapters) {
  const names = new Set(adapters.map((adapter) => adapter.name));
  for (const name of rows.keys()) if (!names.has(name)) rows.delete(name);
}

function loadSeconds(adapter) {
  return Object.values(adapter.load_seconds).reduce((sum, seconds) => sum + seconds, 0);
}

function stages(adapter) {
  return STAGES.filter((stage) => adapter.load_seconds[stage] >= 0.0005)
    .map((stage) => `${stage} ${duration(adapter.load_seconds[stage])}`)
    .join(", ") || "under 1 ms";
}
