// One answer to a body of work: asking for it, its finding, and what each image contributes.

import { patiently, upload } from "./api.js";
import { pictureOf, see, tellAnswered } from "./asked.js";
import { bystanders } from "./bystanders.js";
import { compare } from "./compare.js";
import { breakable, h } from "./dom.js";
import { caveats, finding } from "./finding.js";
import { checkAll } from "./limits.js";
import { picture } from "./picture.js";
import { problemView } from "./problem.js";
import { isWhole } from "./region.js";
import { reports } from "./reports.js";
import { rights } from "./rights.js";
import { settings } from "./settings.js";
import { rich, t } from "./texts.js";
import { candidates, chanceNodes, decimal, degree, percent, ratio } from "./words.js";

const nameOf = (entry) => entry.name || t("query.pasted");

/** Ask about a group's images as one body of work. Never throws. `renamed(id)` is told the answer's id. */
export async function askTogether(group, renamed) {
  group.stop = new AbortController();
  const { signal } = group.stop;
  Object.assign(group, { problem: null, answer: null, step: t("asking.sending") });
  const tell = (step) => {
    group.step = step;
    const place = group.view?.querySelector("[role=status]");
    if (place) place.textContent = step;
  };
  try {
    await checkAll(group.entries);
    const query = new URLSearchParams({ top_k: settings.concepts, exemplars: settings.exemplars, keep: true });
    const shapes = await Promise.all(group.entries.map(({ shape }) => shape));
    const previews = shapes.flatMap((shape, place) => (shape ? [] : place + 1));
    if (previews.length) query.set("previews", previews);
    const files = group.entries.map(({ file }) => file);
    const onProgress = (part) => tell(part < 1 ? t("asking.sending_part", { part: percent(part) }) : t("asking.comparing"));
    const onWait = (left) => tell(left ? t("busy.wait", { n: left }) : t("busy.again"));
    const { body } = await patiently(() => upload(`attribute/together?${query}`, files, { signal, onProgress }), { signal, onWait });
    const answer = JSON.parse(await body.text());
    renamed(answer.id);
    answer.seen.forEach((seen, place) => see(group.entries[place], seen));
    group.answer = answer;
  } catch (error) {
    group.problem = error;
  }
  group.show();
  tellAnswered(group);
}

/** The parts of the view of a group that was asked about as one. `again()` asks anew, `back()` goes to the choice. */
export function togetherView(group, strip, { again, back }) {
  if (group.answer) return answered(group, strip);
  const choose = h("button", { type: "button", onclick: back }, t("several.back"));
  if (group.problem) return [problemView(group.problem, { stopped: t("several.not_compared"), again, more: choose })];
  return [
    h("h1", { tabindex: "-1" }, t("asking.title")),
    strip(group.entries),
    h("progress", { "aria-label": t("asking.progress") }),
    h("p", { class: "lead", role: "status" }, group.step),
    h("div", { class: "row" }, h("button", { type: "button", onclick: () => group.stop.abort() }, t("asking.stop"))),
  ];
}

function answered(group, strip) {
  const { answer, entries } = group;
  const strong = candidates(answer);
  const rest = answer.concepts.filter((concept) => !strong.includes(concept));
  const pairs = strong.flatMap((concept) => concept.exemplars.map((hit) => ({ query: entries, concept, hit })));
  return [
    finding(answer, t("together.all", { n: entries.length })),
    strip(entries),
    entries.some(({ seen }) => seen && !isWhole(seen.compared, seen)) ? h("p", { class: "small" }, t("together.compared")) : null,
    reports(group),
    ...(strong.length ? [h("h2", {}, t("cards.title")), h("ol", { class: "cards" }, strong.map((concept) => card(concept, group, pairs)))] : []),
    ...bystanders(rest, answer),
    caveats(group, "group"),
  ];
}

function card(concept, { answer, entries, id }, pairs) {
  const title = `concept-${id}-${concept.rank}`;
  return h(
    "li",
    { class: "card", "aria-labelledby": title },
    h(
      "div",
      { class: "card-head" },
      h("h3", { id: title }, h("span", { class: "rank", "aria-hidden": "true" }, concept.rank), h("a", { href: `#/concepts/${encodeURIComponent(concept.id)}` }, breakable(concept.name))),
      h("p", { class: "support" }, rich("card.support", { degree: degree(concept.support) })),
    ),
    h("p", { class: "why" }, chanceNodes(concept, answer)),
    h("ul", { class: "hits" }, pairs.filter((pair) => pair.concept === concept).map((pair) => exemplar(pair, pairs))),
    h("details", { open: true }, h("summary", {}, t("together.parts")), parts(concept, entries)),
  );
}

function exemplar(pair, pairs) {
  const { concept, hit, query } = pair;
  const image = nameOf(query[hit.image - 1]);
  return h(
    "li",
    {},
    h("button", { type: "button", class: "hit", "aria-haspopup": "dialog", "aria-label": t("together.compare", { name: concept.name, image }), onclick: () => compare(pairs, pair) }, h("span", { class: "frame" }, picture(hit.image_url, ""))),
    h("p", { class: "small" }, t(`hit.similarity_${hit.facet}`, { similarity: decimal(hit.similarity, 2) }), h("br"), t("together.nearest", { image }), h("br"), rights(hit)),
  );
}

function parts(concept, entries) {
  return h(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": t("together.parts_of", { name: concept.name }) },
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
            h("th", { scope: "row" }, h("span", { class: "who" }, h("img", { src: pictureOf(entry), alt: "", loading: "lazy" }), h("span", { class: "file" }, nameOf(entry)))),
            h("td", {}, percent(part.share)),
            h("td", {}, `${ratio(part.likelihood_ratio)} (${degree(part.support)})`),
          );
        }),
      ),
    ),
  );
}
