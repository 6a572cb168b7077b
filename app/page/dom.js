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

/** A sentence of the server's: capitalised, ended, `code` set as such. */
export function prose(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
  return whole.split("`").map((part, place) => (place % 2 ? h("code", {}, part) : part));
}

/** A link to where an exemplar was found; plain text unless it leads to the web. */
export function sourceLink(url) {
  let web = null;
  try {
    web = new URL(url);
  } catch {
    return url;
  }
  if (!["http:", "https:"].includes(web.protocol)) return url;
  return h("a", { href: web.href, rel: "noopener noreferrer", target: "_blank" }, web.host.replace(/^www\./, ""), h("span", { class: "unseen" }, " (source, opens in a new tab)"));
}

/** Tell a screen reader what happened. */
export function speak(text) {
  document.getElementById("spoken").textContent = text;
}
