// One column of the playground.

import { element, nameElement, setText } from "./dom.js";
import { duration, rounded } from "./format.js";

export class Answer {
  constructor(model) {
    this.model = model;
    this.text = element("p", { class: "text", dir: "auto" });
    this.problem = element("p", { class: "problem" });
    this.first = element("dd", {}, "–");
    this.rate = element("dd", {}, "–");
    this.tokens = element("dd", {}, "–");
    this.node = element("article", { class: "answer", "data-state": "waiting", "aria-label": `Answer of ${model}` },
      element("h3", {}, nameElement(model)), this.text, this.problem,
      element("dl", {},
        figure("First token", this.first), figure("Tokens/s", this.rate), figure("Tokens", this.tokens)));
  }

  add(text, figures) {
    this.text.append(text);
    this.measure(figures);
  }

  measure({ firstSeconds, tokens, tokensPerSecond }) {
    setText(this.first, duration(firstSeconds));
    setText(this.rate, tokensPerSecond === null ? "–" : rounded(tokensPerSecond));
    setText(this.tokens, String(tokens));
  }

  end(state, problem = "") {
    this.node.dataset.state = state;
    this.problem.textContent = problem;
  }
}

function figure(label, value) {
  return element("div", {}, element("dt", {}, label), value);
}
