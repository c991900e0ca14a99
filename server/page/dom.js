/** Elements without HTML strings: whatever a model or a server says becomes text. */

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. Attributes that are functions are listeners; false, null and undefined leave an attribute out. */
export function el(tag, attributes = {}, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return furnish(document.createElementNS(SVG, tag), attributes, children);
}

export function find(selector, root = document) {
  return root.querySelector(selector);
}

function furnish(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

/** Moves the focus among `items` with the arrow keys, Home and End: only one of them is in the tab order. */
export function roveFocus(container, items, onFocus = () => {}) {
  const focus = (item) => {
    for (const other of items()) other.tabIndex = other === item ? 0 : -1;
    item.focus();
  };
  container.addEventListener("focusin", (event) => items().includes(event.target) && onFocus(event.target));
  container.addEventListener("keydown", (event) => {
    const all = items();
    const at = all.indexOf(document.activeElement);
    const last = all.length - 1;
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: last }[event.key];
    if (at < 0 || next === undefined) return;
    event.preventDefault();
    focus(all[(next + all.length) % all.length]);
  });
}
