// Loads as they happen, shown as a list and told to screen readers once they end.

import { byId, element, nameElement, setText } from "./dom.js";
import { bytes, duration, plural } from "./format.js";

const NAMES_TOLD = 3;
const SHOWN = 12;
const TWO_LINES = { class: "mono name two-lines" };

let lastTold = 0;

// Shows the loads; returns whether any has ended since the last time.
export function showLoads(loads, { tell = true } = {}) {
  const rows = [...loads.under_way.map(underWay), ...loads.ended.slice(0, SHOWN).map(ended)];
  byId("loads").replaceChildren(...rows);
  byId("loads-empty").hidden = rows.length > 0;
  const unknown = byId("unknown-names");
  unknown.hidden = loads.num_unknown_names === 0;
  setText(unknown, `${plural(loads.num_unknown_names, "request")} for names that nobody has.`);
  const fresh = loads.ended.filter((load) => load.number > lastTold && load.times === 1);
  lastTold = Math.max(lastTold, ...loads.ended.map((load) => load.number));
  if (tell && fresh.length) announce(fresh);
  return fresh.length > 0;
}

function underWay(load) {
  return element("li", { class: "under-way" },
    nameElement(load.name, TWO_LINES), element("span", { class: "outcome" }, `${load.stage}…`));
}

function ended(load) {
  const outcome = load.stage === "loaded"
    ? `${bytes(load.num_bytes)} in ${duration(load.seconds)}`
    : `failed ${load.times > 1 ? plural(load.times, "time") : `after ${duration(load.seconds)}`}`;
  const reason = load.reason ? element("span", { class: "reason", dir: "auto" }, load.reason) : null;
  return element("li", {}, nameElement(load.name, TWO_LINES), element("span", { class: "outcome" }, outcome), reason);
}

function announce(loads) {
  const told = loads.slice(0, NAMES_TOLD).map((load) =>
    load.stage === "loaded" ? `${load.name} loaded in ${duration(load.seconds)}` : `${load.name} failed to load`);
  const more = loads.length - NAMES_TOLD;
  if (more > 0) told.push(`and ${more} more`);
  byId("announcements").textContent = `${told.join(", ")}.`;
}
