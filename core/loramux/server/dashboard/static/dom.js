// Elements are made here and nowhere else, and text only ever becomes text: names come from
// clients and may look like markup.

const SVG = "http://www.w3.org/2000/svg";

const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

export const byId = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svgElement(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

// A name in its own direction: right-to-left text cannot turn its neighbours.
export function nameElement(name, attributes = {}) {
  return element("bdi", { class: "mono name", title: visible(name), ...attributes }, visible(name));
}

// Characters that show nothing or turn what follows are spelled out, so that no name looks like
// another one. The joiners of Persian and of emoji stay.
export function visible(text) {
  return text.replace(UNSEEN, (character) =>
    `‹U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}›`);
}

// Set text only where it differs, so that a reader's selection and a live region stay as they are.
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}
