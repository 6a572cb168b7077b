// The catalogue of texts: one JSON file for each language, and the words that are defined in it.

import { h } from "./dom.js";

const STORE = "whence-language";
export const LANGUAGES = { en: "English", de: "Deutsch" };

let texts = {};
let plural = null;
let made = 0; // definitions on the page, for their ids
export let language = "en";

function preferred() {
  let chosen = null;
  try {
    chosen = localStorage.getItem(STORE);
  } catch {
    // a private window: the browser's own languages decide
  }
  const wishes = [chosen, ...navigator.languages].filter(Boolean).map((code) => code.slice(0, 2));
  return wishes.find((code) => code in LANGUAGES) ?? "en";
}

async function load(code) {
  const response = await fetch(`static/texts/${code}.json`);
  if (!response.ok) throw new Error(`the texts in ${code} have the status ${response.status}`);
  texts = await response.json();
  language = code;
  plural = new Intl.PluralRules(code);
  document.documentElement.lang = code;
}

await load(preferred());

/** Change the language, and remember it. Throws if its texts cannot be had; the old ones stay. */
export async function speakIn(code) {
  await load(code);
  try {
    localStorage.setItem(STORE, code);
  } catch {
    // it holds until the page is left
  }
  document.dispatchEvent(new CustomEvent("language-changed"));
}

/** A text with its {values}; `n` chooses between singular and plural. */
export function t(key, values = {}) {
  return pattern(key, values)
    .replace(/\[\[\w+\|([^\]]+)\]\]/g, "$1")
    .replace(/\{(\w+)\}/g, (_, name) => shown(values[name]));
}

/** The same as nodes: values may be elements, `code` is set as such, and [[name|words]] open a definition. */
export function rich(key, values = {}) {
  const filled = (text) => text.replace(/\{(\w+)\}/g, (_, name) => shown(values[name]));
  return pattern(key, values)
    .split(/(\[\[\w+\|[^\]]+\]\]|\{\w+\}|`[^`]+`)/)
    .filter(Boolean)
    .map((part) => {
      const defined = /^\[\[(\w+)\|([^\]]+)\]\]$/.exec(part);
      if (defined) return term(defined[1], filled(defined[2]));
      if (part.startsWith("`")) return h("code", {}, filled(part.slice(1, -1)));
      const value = /^\{(\w+)\}$/.exec(part);
      return value ? shown(values[value[1]]) : part;
    });
}

function pattern(key, { n }) {
  const text = texts[key];
  if (text === undefined) throw new Error(`the catalogue has no text ${key}`);
  return typeof text === "string" ? text : text[plural.select(n)] ?? text.other;
}

const shown = (value) => (typeof value === "number" ? new Intl.NumberFormat(language).format(value) : value);

/** Words of the server's, which are English. */
export const english = (words) => (language === "en" ? words : h("span", { lang: "en" }, words));

/** A sentence of the server's, which is English: capitalised, ended, `code` set as such. */
export function prose(text) {
  const whole = text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
  const parts = whole.split("`").map((part, place) => (place % 2 ? h("code", {}, part) : part));
  return english(parts);
}

/** Words that open their definition. */
export function term(name, words) {
  const id = `definition-${++made}`;
  const note = h("span", { id, popover: "auto", class: "definition", role: "note" }, t(`define.${name}`));
  const button = h("button", { type: "button", class: "term", popovertarget: id }, words);
  note.addEventListener("toggle", ({ newState }) => {
    if (newState !== "open") return;
    const at = button.getBoundingClientRect();
    const left = Math.max(8, Math.min(at.left, innerWidth - note.offsetWidth - 8));
    const below = at.bottom + 6 + note.offsetHeight < innerHeight;
    note.style.left = `${left}px`;
    note.style.top = `${below ? at.bottom + 6 : Math.max(8, at.top - 6 - note.offsetHeight)}px`;
  });
  return h("span", { class: "defined" }, button, note);
}

/** Set the texts of the page's own elements: data-text="key", or data-text-placeholder and the like. */
export function translate(root = document) {
  for (const element of root.querySelectorAll("[data-text]")) {
    if (element.textContent !== t(element.dataset.text)) element.replaceChildren(...rich(element.dataset.text));
  }
  for (const element of root.querySelectorAll("[data-label]")) element.setAttribute("aria-label", t(element.dataset.label));
}
