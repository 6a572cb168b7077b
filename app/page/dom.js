// Elements in one expression; text is always text, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element: h("p", {class: "small", onclick: f}, "text", child, [more], null). */
export function h(tag, props = {}, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same for SVG. */
export function s(tag, props = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) element.style.setProperty(name, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Tell a screen reader what happened. */
export function speak(text) {
  document.getElementById("spoken").textContent = text;
}

/** A name that may break after its underscores, dashes and dots, and at spaces, but not inside a word. */
export function breakable(name) {
  return name.split(/(?<=[_.\-\/])/).flatMap((part, place) => (place ? [h("wbr"), part] : [part]));
}
