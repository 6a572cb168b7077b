// What the source says of an exemplar, fetched when somebody wants to read it.

import { get } from "./api.js";
import { h } from "./dom.js";
import { prose, t } from "./texts.js";

/** A closed list of an exemplar's metadata; it is filled when it is opened. */
export function details(id) {
  const place = h("div", {}, "…");
  let asked = false;
  const fill = async ({ target }) => {
    if (!target.open || asked) return;
    asked = true;
    try {
      place.replaceChildren(table(metadataOf(await (await get(`exemplars/${id}`)).text())));
    } catch (problem) {
      asked = false;
      place.replaceChildren(...[problem.own ? problem.detail : prose(problem.detail || problem.message)].flat());
    }
  };
  return h("details", { class: "record", ontoggle: fill }, h("summary", {}, t("details.title")), place);
}

/** The metadata in a record, with the digits of numbers as they are written: JavaScript would round long ones. */
function metadataOf(text) {
  const written = (name, value, context) => (typeof value === "number" && context ? new Written(context.source) : value);
  return JSON.parse(text, written).metadata;
}

class Written {
  constructor(source) {
    this.source = source;
  }
}

function table(metadata) {
  const names = Object.keys(metadata);
  if (!names.length) return h("p", {}, t("details.none"));
  return h("dl", {}, names.map((name) => [h("dt", {}, name), h("dd", {}, words(metadata[name]))]));
}

/** A value for people: texts as they are, lists and objects as JSON. */
function words(value) {
  return typeof value === "string" ? value : json(value);
}

function json(value) {
  if (value instanceof Written) return value.source;
  if (Array.isArray(value)) return `[${value.map(json).join(", ")}]`;
  if (value && typeof value === "object") return `{${Object.entries(value).map(([name, part]) => `${JSON.stringify(name)}: ${json(part)}`).join(", ")}}`;
  return JSON.stringify(value);
}
