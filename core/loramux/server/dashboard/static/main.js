// Opens the page, keeps it true, and says so when it cannot.

import { ApiError, events, forgetKey, get, hasKey, setKey } from "./api.js";
import * as adapters from "./adapters.js";
import { addGap, describe, keepSize, showGaps } from "./chart.js";
import { byId, setText } from "./dom.js";
import { showFigures } from "./figures.js";
import { showLoads } from "./loads.js";
import * as playground from "./playground.js";
import { showTiers } from "./tiers.js";

const REFRESH_MILLISECONDS = 5000;
const LONGEST_PAUSE_MILLISECONDS = 10000;
// Figures come every second; a server that hangs breaks no connection.
const PATIENCE_MILLISECONDS = 5000;

let isOpen = false;
let refreshing = null;

async function open() {
  show("loading");
  try {
    const state = await get("dashboard/state");
    begin(state);
  } catch (error) {
    if (isLocked(error)) askForKey(error);
    else fail(error);
  }
}

function begin(state) {
  show("dashboard");
  if (!isOpen) {
    isOpen = true;
    adapters.setUp(playground.addFromTable);
    playground.setUp(state.base_names[0], state.answers, refresh);
    keepSize();
    setInterval(() => isSeen() && refresh(), REFRESH_MILLISECONDS);
    setInterval(noticeSilence, 1000);
  }
  setText(byId("model"), state.base_names[0]);
  byId("model").title = state.model;
  setText(byId("footer"), `loramux ${state.version}, serving ${state.model}`);
  byId("forget-key").hidden = !hasKey();
  apply(state);
  showLoads(state.loads, { tell: false });
  follow();
}

function apply(state) {
  adapters.showAdapters(state);
  showTiers(state);
  showGaps(state.gaps);
  showNow(state.now);
  playground.offerNames([...state.base_names, ...state.adapters.map((adapter) => adapter.name)]);
}

function showNow(now) {
  showFigures(now);
  describe(now.last_minute);
}

// One refresh at a time; whoever asks during one gets another after it.
async function refresh() {
  if (refreshing) {
    refreshing.again = true;
    return;
  }
  refreshing = { again: false };
  try {
    apply(await get("dashboard/state"));
  } catch (error) {
    if (isLocked(error)) askForKey(error);
  }
  const { again } = refreshing;
  refreshing = null;
  if (again) refresh();
}

let following = null;
let latestNews = 0;

async function follow() {
  following?.abort();
  const mine = new AbortController();
  following = mine;
  let pause = 1000;
  while (!mine.signal.aborted) {
    try {
      for await (const event of events("dashboard/events", { signal: mine.signal })) {
        pause = 1000;
        latestNews = performance.now();
        connection("live", "Live");
        receive(event);
      }
    } catch (error) {
      if (mine.signal.aborted) return;
      if (isLocked(error)) return askForKey(error);
    }
    connection("lost", "Reconnecting");
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(2 * pause, LONGEST_PAUSE_MILLISECONDS);
    await refresh();
  }
}

function receive({ name, data }) {
  const payload = JSON.parse(data);
  if (name === "loads" && showLoads(payload)) refresh();
  if (name === "now") {
    showNow(payload);
    addGap(payload.last_second);
  }
}

function noticeSilence() {
  const isLive = byId("connection").dataset.state === "live";
  if (isLive && isSeen() && performance.now() - latestNews > PATIENCE_MILLISECONDS) connection("lost", "No news");
}

function connection(state, text) {
  const node = byId("connection");
  node.dataset.state = state;
  setText(node, text);
  byId("dashboard").classList.toggle("stale", state === "lost");
}

function askForKey(error) {
  following?.abort();
  show("key-view");
  connection("locked", "Locked");
  setText(byId("key-problem"), hasKey() ? refusal(error) : "");
  forgetKey();
  byId("forget-key").hidden = true;
  byId("key").value = "";
  byId("key").focus();
}

function isLocked(error) {
  return error instanceof ApiError && [401, 403].includes(error.status);
}

function isSeen() {
  return !document.hidden && !byId("dashboard").hidden;
}

function refusal(error) {
  return error.status === 403 ? error.message : "The server does not take this key.";
}

function fail(error) {
  show("failure");
  connection("lost", "No connection");
  setText(byId("failure-reason"), error.status ? error.message : "It may be starting, or it has been stopped.");
}

function show(id) {
  const before = document.activeElement;
  for (const view of ["loading", "failure", "key-view", "dashboard"]) byId(view).hidden = view !== id;
  byId("sections").hidden = id !== "dashboard";
  // Who pressed a button that is gone goes on from the content, not from the top of the page.
  if (before?.closest("[hidden]")) byId("content").focus({ preventScroll: true });
}

byId("retry").addEventListener("click", open);
byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(byId("key").value.trim());
  open();
});
byId("forget-key").addEventListener("click", () => {
  forgetKey();
  location.reload();
});
open();
