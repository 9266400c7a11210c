// Numbers as people read them.

const UNITS = ["B", "KB", "MB", "GB", "TB"];

export function bytes(count) {
  let value = count;
  let unit = 0;
  while (value >= 1000 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? value : rounded(value)} ${UNITS[unit]}`;
}

// [number, unit] of a duration; a dash where there is none.
export function durationParts(seconds) {
  if (seconds == null) return ["–", ""];
  if (seconds < 1) return [rounded(seconds * 1000), "ms"];
  return [rounded(seconds), "s"];
}

export function duration(seconds) {
  return durationParts(seconds).join(" ").trim();
}

export function ago(seconds) {
  if (seconds == null) return "never";
  if (seconds < 2) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} d ago`;
}

export function plural(count, noun) {
  return `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
}

export function rounded(value) {
  if (value === 0) return "0";
  if (value >= 100) return Math.round(value).toLocaleString("en");
  return value >= 10 ? value.toFixed(0) : value.toFixed(1);
}
