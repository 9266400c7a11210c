// Talks to the server. The key lives in this tab's sessionStorage and travels in a header only.

const STORED_KEY = "loramux.key";

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const hasKey = () => sessionStorage.getItem(STORED_KEY) !== null;
export const setKey = (key) => sessionStorage.setItem(STORED_KEY, key);
export const forgetKey = () => sessionStorage.removeItem(STORED_KEY);

export async function get(path) {
  return (await send(path, {})).json();
}

// Server-sent events of a GET, or of a POST where there is a body, as { name, data }.
export async function* events(path, { body, signal } = {}) {
  const options = body
    ? { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } }
    : {};
  const response = await send(path, { ...options, signal });
  let rest = "";
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) yield parseEvent(block);
  }
}

async function send(path, options) {
  const headers = { ...options.headers };
  if (hasKey()) headers.authorization = `Bearer ${asBytes(sessionStorage.getItem(STORED_KEY))}`;
  const response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  if (!response.ok) throw new ApiError(response.status, await reasonOf(response));
  return response;
}

// A header holds bytes, one in each character; a key may be any text.
function asBytes(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

async function reasonOf(response) {
  const text = await response.text();
  try {
    return JSON.parse(text).error.message;
  } catch {
    return `The server answered ${response.status}.`;
  }
}

function parseEvent(block) {
  const event = { name: "message", data: "" };
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) event.name = line.slice(7);
    if (line.startsWith("data: ")) event.data += line.slice(6);
  }
  return event;
}
