// Which memory holds what: one strip for each tier, one block for each adapter, as wide as its bytes
// and the stronger in colour the more it is asked for.

import { byId, element } from "./dom.js";
import { bytes, plural } from "./format.js";

const LABELS = { device: "Device", host: "Host", disk: "Disk" };

export function showTiers(state) {
  const largest = Math.max(1, ...Object.values(state.tiers).map((tier) => tier.num_bytes));
  const mostHits = Math.max(1, ...state.adapters.map((adapter) => adapter.hits));
  byId("tiers").replaceChildren(...Object.entries(LABELS).map(([tier, label]) => {
    const sum = state.tiers[tier];
    return element("div", {},
      element("dt", {}, label),
      element("dd", { class: "strip", "aria-hidden": "true" }, strip(state, tier, sum.num_bytes / largest, mostHits)),
      element("dd", { class: "sum" }, `${plural(sum.adapters, "adapter")}, ${bytes(sum.num_bytes)}`));
  }));
}

function strip(state, tier, share, mostHits) {
  const adapters = state.adapters.filter((adapter) => adapter.tier === tier);
  adapters.sort((one, other) => other.hits - one.hits);
  const fill = element("div", { class: "strip-fill" }, ...adapters.map((adapter) => block(adapter, mostHits)));
  fill.style.width = `${100 * share}%`;
  return fill;
}

function block(adapter, mostHits) {
  const node = element("span", { class: "tier-block", title: `${adapter.name}, ${bytes(adapter.num_bytes)}` });
  node.style.flexGrow = adapter.num_bytes;
  node.style.setProperty("--heat", `${25 + (75 * adapter.hits) / mostHits}%`);
  return node;
}
