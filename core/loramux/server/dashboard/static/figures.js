// The row of figures.

import { byId, element, setText } from "./dom.js";
import { durationParts, rounded } from "./format.js";

// Figures come twice a second at times; a rate over less than this would jump.
const LEAST_SECONDS = 0.8;

const shown = new Map();
let before = null;
let rate = "–";

export function showFigures(now) {
  set("Gap p50", ...durationParts(now.last_minute.p50));
  set("Gap p99", ...durationParts(now.last_minute.p99));
  set("Tokens", tokenRate(now), "/s");
  set("Running", now.running.toLocaleString("en"), "");
  set("Waiting", now.waiting.toLocaleString("en"), "");
  set("KV cache", rounded(100 * now.kv_cache_use), "%");
}

function tokenRate({ generated_tokens: tokens, uptime_seconds: at }) {
  if (before && at < before.at) before = null; // the server has been started anew
  if (before && at - before.at < LEAST_SECONDS) return rate;
  if (before) rate = rounded((tokens - before.tokens) / (at - before.at));
  before = { tokens, at };
  return rate;
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
