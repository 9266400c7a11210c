// One prompt, several models, side by side.

import { byId, element, nameElement } from "./dom.js";
import { Answer } from "./answer.js";
import { complete } from "./completion.js";
import { plural } from "./format.js";

// A browser opens six connections to one server: one brings the figures, five are for answers.
const MOST_MODELS = 5;

let models = [];
let running = null;
let onRound = () => {};

// "answers" is the endpoint that suits the model, null of one that makes embeddings.
export function setUp(baseName, answers, afterRound) {
  onRound = afterRound;
  byId("ask").hidden = answers === null;
  byId("no-answers").hidden = answers !== null;
  byId("dashboard").classList.toggle("no-answers", answers === null);
  byId("endpoint").value = answers ?? "completion";
  if (!models.length) addModel(baseName);
  byId("add-model").addEventListener("click", addTyped);
  byId("model-name").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    addTyped();
  });
  byId("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (addTyped()) sendAll();
  });
  byId("prompt").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    byId("ask").requestSubmit();
  });
  byId("stop").addEventListener("click", () => running?.abort());
}

export function offerNames(names) {
  const list = byId("model-names");
  names.sort(); // or a list that is open would be another one after each request
  if ([...list.children].map((option) => option.value).join("\n") === names.join("\n")) return;
  list.replaceChildren(...names.map((name) => element("option", { value: name })));
}

export function addFromTable(name) {
  addModel(name);
  byId("playground").scrollIntoView();
  byId("prompt").focus({ preventScroll: true });
}

// Adds what is in the field, if anything; false where it cannot be added.
function addTyped() {
  const field = byId("model-name");
  const name = field.value.trim();
  if (!name) return true;
  if (!addModel(name)) return false;
  field.value = "";
  return true;
}

function addModel(name) {
  problem("");
  if (models.includes(name)) return true;
  if (models.length === MOST_MODELS) {
    problem(`${MOST_MODELS} models at a time; remove one first.`);
    return false;
  }
  models = [...models, name];
  showModels();
  return true;
}

function removeModel(name) {
  models = models.filter((model) => model !== name);
  showModels();
  byId("model-name").focus();
}

function showModels() {
  byId("models").replaceChildren(...models.map((name) => {
    const remove = element("button", { type: "button", "aria-label": `Remove ${name}` }, "×");
    remove.addEventListener("click", () => removeModel(name));
    return element("li", {}, nameElement(name), remove);
  }));
}

async function sendAll() {
  if (running) return;
  if (!models.length) return problem("Name at least one model.");
  const answers = models.map((model) => new Answer(model));
  byId("answers").replaceChildren(...answers.map((answer) => answer.node));
  byId("answers").scrollIntoView({ block: "nearest" });
  setRunning(new AbortController());
  const settings = {
    endpoint: byId("endpoint").value,
    maxTokens: byId("max-tokens").valueAsNumber,
    temperature: byId("temperature").valueAsNumber,
  };
  await Promise.all(answers.map((answer) => run(answer, byId("prompt").value, settings, running.signal)));
  setRunning(null);
  tell(answers);
  onRound();
}

async function run(answer, prompt, settings, signal) {
  try {
    const figures = await complete(answer.model, prompt, settings, signal, (text, soFar) => answer.add(text, soFar));
    answer.measure(figures);
    answer.end("done");
  } catch (error) {
    if (error.name === "AbortError") answer.end("stopped", "Stopped.");
    else answer.end("failed", error.status ? error.message : "The connection to the server broke.");
  }
}

function setRunning(controller) {
  running = controller;
  byId("send").disabled = controller !== null;
  byId("stop").disabled = controller === null;
}

function tell(answers) {
  const failed = answers.filter((answer) => answer.node.dataset.state === "failed").length;
  const text = `${plural(answers.length - failed, "answer")} complete`;
  byId("announcements").textContent = failed ? `${text}, ${failed} failed.` : `${text}.`;
}

function problem(text) {
  byId("ask-problem").textContent = text;
}
