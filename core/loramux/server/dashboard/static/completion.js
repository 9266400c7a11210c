// One streamed answer of one model, measured as a client sees it.

import { ApiError, events } from "./api.js";

// Calls onText with each piece; resolves to { firstSeconds, tokens, tokensPerSecond }.
export async function complete(model, prompt, settings, signal, onText) {
  const clock = new Clock();
  const { path, body } = asRequest(model, prompt, settings);
  for await (const { data } of events(path, { body, signal })) {
    if (data === "[DONE]") break;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(chunk.error.code, chunk.error.message);
    const choice = chunk.choices[0];
    const text = choice?.delta?.content ?? choice?.text ?? "";
    clock.saw(text, chunk.usage);
    if (text) onText(text, clock.figures());
  }
  return clock.figures();
}

function asRequest(model, prompt, { endpoint, maxTokens, temperature }) {
  const shared = {
    model,
    max_tokens: maxTokens,
    temperature,
    stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true },
  };
  if (endpoint === "completion") return { path: "v1/completions", body: { ...shared, prompt } };
  return { path: "v1/chat/completions", body: { ...shared, messages: [{ role: "user", content: prompt }] } };
}

class Clock {
  #started = performance.now();
  #first = null;
  #last = null;
  #tokensAtFirst = 0;
  #tokens = 0;

  saw(text, usage) {
    const now = performance.now();
    if (usage) this.#tokens = usage.completion_tokens;
    if (!text) return;
    if (this.#first === null) {
      this.#first = now;
      this.#tokensAtFirst = this.#tokens;
    }
    this.#last = now;
  }

  // The rate is that of the tokens after the first ones: what came before is the time to them.
  figures() {
    const seconds = (this.#last - this.#first) / 1000;
    const later = this.#tokens - this.#tokensAtFirst;
    return {
      firstSeconds: this.#first === null ? null : (this.#first - this.#started) / 1000,
      tokens: this.#tokens,
      tokensPerSecond: seconds > 0 && later > 0 ? later / seconds : null,
    };
  }
}
