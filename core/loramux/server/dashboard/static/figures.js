// The row of figures.

import { byId, element, setText } from "./dom.js";
import { durationParts, rounded } from "./format.js";

const shown = new Map();

export function showFigures(now) {
  set("Gap p50", ...durationParts(now.last_minute.p50));
  set("Gap p99", ...durationParts(now.last_minute.p99));
  set("Tokens", now.last_second.tokens.toLocaleString("en"), "/s");
  set("Running", now.running.toLocaleString("en"), "");
  set("Waiting", now.waiting.toLocaleString("en"), "");
  set("KV cache", rounded(100 * now.kv_cache_use), "%");
}

function set(label, value, unit) {
  if (!shown.has(label)) shown.set(label, add(label));
  const { number, small } = shown.get(label);
  setText(number, value);
  setText(small, unit);
}

function add(label) {
  const number = element("span");
  const small = element("small");
  byId("figures").append(
    element("div", {}, element("dt", {}, label), element("dd", {}, number, small)),
  );
  return { number, small };
}
