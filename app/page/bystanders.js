// The concepts beside those that share the evidence: closed lists without pictures.

import { breakable, h } from "./dom.js";
import { t } from "./texts.js";
import { chance, degree } from "./words.js";

/** A list of the concepts with some support of their own, and one of those with none. */
export function bystanders(concepts, answer) {
  const supported = concepts.filter(({ support }) => support !== "none");
  const others = concepts.filter(({ support }) => support === "none");
  return [
    supported.length ? row(t("supported.title", { n: supported.length }), t("supported.why"), supported, answer) : null,
    others.length ? row(t("others.title", { n: others.length }), t("others.why"), others, answer) : null,
  ].filter(Boolean);
}

function row(title, why, concepts, answer) {
  const beside = ({ support, ...concept }) => (support === "none" ? "" : `${degree(support)}; `) + chance(concept, answer);
  return h(
    "details",
    { class: "bystanders" },
    h("summary", {}, title),
    h("p", { class: "small" }, why),
    h(
      "ol",
      {},
      concepts.map((concept) =>
        h("li", { value: concept.rank }, h("a", { href: `#/concepts/${encodeURIComponent(concept.id)}` }, breakable(concept.name)), " ", h("span", { class: "small" }, beside(concept))),
      ),
    ),
  );
}
