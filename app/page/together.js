// The one answer to a body of work: its finding, and what each image contributes.

import { pictureOf } from "./asked.js";
import { bystanders } from "./bystanders.js";
import { compare } from "./compare.js";
import { breakable, h } from "./dom.js";
import { picture } from "./picture.js";
import { rights } from "./rights.js";
import { rich, t } from "./texts.js";
import { candidates, chanceNodes, decimal, degree, percent, ratio, utc, verdict } from "./words.js";

/** The parts of the view of an answered group. */
export function groupAnswer(group, strip) {
  const { answer, entries } = group;
  const found = verdict(answer);
  const strong = candidates(answer);
  const rest = answer.concepts.filter((concept) => !strong.includes(concept));
  const pairs = strong.flatMap((concept) => concept.exemplars.map((hit) => ({ query: entries, concept, hit })));
  return [
    h(
      "header",
      { class: `verdict ${found.kind}` },
      h("h1", { tabindex: "-1" }, found.before, found.name ? [" ", h("em", {}, breakable(found.name))] : null, found.degree ? h("span", { class: "degree" }, h("span", { class: "unseen" }, ", "), found.degree) : null),
      h("p", { class: "lead" }, t("together.all", { n: entries.length }), " ", found.sentences.map((sentence) => [sentence, " "])),
    ),
    strip(entries),
    h("div", { class: "row" }, h("button", { type: "button", onclick: () => saveJson(group) }, t("together.json")), h("a", { class: "button", href: "#/" }, t("asking.another"))),
    strong.length ? h("ol", { class: "cards" }, strong.map((concept) => card(concept, answer, entries, pairs))) : null,
    ...bystanders(rest, answer.evidence),
    h(
      "section",
      { class: "caveats" },
      h("h2", {}, t("limits.title")),
      h("ul", {}, ["proof", "generator", "collection", "prior", "group"].map((key) => h("li", {}, rich(`limits.${key}`)))),
      h("p", { class: "small" }, t("identity.time"), ": ", utc(answer.evidence.created_at), " · ", t("identity.index"), ": ", h("code", {}, answer.evidence.index_version)),
    ),
  ];
}

function card(concept, answer, entries, pairs) {
  const title = `together-${concept.rank}`;
  return h(
    "li",
    { class: "card", "aria-labelledby": title },
    h("div", { class: "card-head" }, h("h2", { id: title }, h("a", { href: `#/concepts/${encodeURIComponent(concept.id)}` }, breakable(concept.name))), h("p", { class: "support" }, rich("card.support", { degree: degree(concept.support) }))),
    h("p", { class: "why" }, chanceNodes(concept, answer.evidence)),
    h(
      "ul",
      { class: "hits" },
      pairs
        .filter((pair) => pair.concept === concept)
        .map((pair) =>
          h(
            "li",
            {},
            h("button", { type: "button", class: "hit", "aria-haspopup": "dialog", "aria-label": t("together.compare", { name: concept.name, image: entries[pair.hit.image - 1].name || String(pair.hit.image) }), onclick: () => compare(pairs, pair) }, h("span", { class: "frame" }, picture(pair.hit.image_url, ""))),
            h("p", { class: "small" }, t(`hit.similarity_${pair.hit.facet}`, { similarity: decimal(pair.hit.similarity, 2) }), h("br"), t("together.nearest", { image: entries[pair.hit.image - 1].name || String(pair.hit.image) }), h("br"), rights(pair.hit)),
          ),
        ),
    ),
    h(
      "details",
      { open: true },
      h("summary", {}, t("together.parts")),
      h(
        "div",
        { class: "scroll", tabindex: "0", role: "region", "aria-label": t("together.parts") },
        h(
          "table",
          {},
          h("thead", {}, h("tr", {}, ["image", "part", "alone"].map((column) => h("th", { scope: "col" }, t(`together.column_${column}`))))),
          h(
            "tbody",
            {},
            concept.images.map((part) => {
              const entry = entries[part.image - 1];
              return h(
                "tr",
                {},
                h("th", { scope: "row" }, h("span", { class: "who" }, h("img", { src: pictureOf(entry), alt: "", loading: "lazy" }), h("span", { class: "file" }, entry.name || t("query.pasted")))),
                h("td", {}, percent(part.share)),
                h("td", {}, `${ratio(part.likelihood_ratio)} (${degree(part.support)})`),
              );
            }),
          ),
        ),
      ),
    ),
  );
}

function saveJson({ answer, entries }) {
  const record = { ...answer, files: entries.map(({ name }) => name) };
  const url = URL.createObjectURL(new Blob([JSON.stringify(record, null, 1), "\n"], { type: "application/json" }));
  h("a", { href: url, download: `whence-together-${answer.evidence.images_sha256[0].slice(0, 12)}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
