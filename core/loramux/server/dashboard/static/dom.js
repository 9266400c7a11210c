// Elements are made here and nowhere else, and text only ever becomes text: names come from
// clients and may look like markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

export function element(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svgElement(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

// A name in its own direction: right-to-left text or control characters cannot turn its neighbours.
export function nameElement(name, attributes = {}) {
  return element("bdi", { class: "mono name", title: name, ...attributes }, name);
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
