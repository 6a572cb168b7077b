// An answer: the image on one side, the finding and the concepts that support it on the other.

import { all, find, pictureOf, run } from "./asked.js";
import { bystanders } from "./bystanders.js";
import { compare, heat } from "./compare.js";
import { breakable, h } from "./dom.js";
import { caveats, finding } from "./finding.js";
import { hintFor } from "./limits.js";
import { keepRatio, picture } from "./picture.js";
import { plainTitle, problemView } from "./problem.js";
import { haveGaps, isWhole, outlines, selection } from "./region.js";
import { reports } from "./reports.js";
import { rights } from "./rights.js";
import { settings } from "./settings.js";
import { rich, t } from "./texts.js";
import { bytes, candidates, chanceNodes, decimal, degree, exactPercent, headline, list, percent, ratio, significant, stated } from "./words.js";

const EAGER = 30; // pictures of an answer that are fetched before they are near the screen
const views = new WeakMap(); // entry -> its view

/** The view of an answer, and its title; nothing if there is none of that address. */
export function answerView(id, askPart) {
  const entry = find(id);
  if (!entry) return null;
  if (!views.has(entry)) views.set(entry, build(entry, askPart));
  return { view: views.get(entry).element, title: titleOf(entry), entry };
}

const titleOf = (entry) => ({ done: () => headline(entry.answer), failed: () => plainTitle(entry.problem) })[entry.state]?.() ?? t("asking.title");

/** Draw the answers again after the settings changed. */
export function redraw() {
  for (const entry of all()) if (entry.state === "done") views.get(entry)?.showResult();
}

/** Build the views anew, in another language. */
export function forgetViews() {
  for (const entry of all()) {
    entry.watchers.delete(views.get(entry)?.show);
    views.delete(entry);
  }
}

function build(entry, askPart) {
  const about = h("span");
  const tools = h("div", { class: "query-tools" });
  const frame = h("div", { class: "frame" });
  const view = { entry, frame, result: h("div", { class: "result", "aria-live": "off" }) };
  const draw = () => {
    const image = h("img", { src: pictureOf(entry), alt: t("query.alt") });
    image.addEventListener("load", () => keepRatio(image));
    image.addEventListener("error", () => image.replaceWith(h("span", { class: "missing" }, t("query.not_shown"))));
    frame.replaceChildren(image);
  };
  const showQuery = async () => {
    const size = sizeOf(entry) ?? (await entry.shape);
    if (!size) return;
    about.textContent = ` · ${size.width} × ${size.height}`;
    const { compared = [], concepts = [] } = entry.answer ?? {};
    frame.querySelectorAll(".outlines, .part-layer").forEach((layer) => layer.remove());
    const drawn = compared.length && (entry.region || !isWhole(compared, size));
    const best = compared.length > 1 ? concepts[0] : null;
    if (drawn) frame.append(outlines(compared, size, { region: entry.region, best: best?.square }));
    const select = () => {
      tools.replaceChildren(selection(frame, size, (part) => askPart(entry, part), () => (showQuery(), tools.querySelector("button")?.focus())));
    };
    tools.replaceChildren(
      ...[
        entry.region ? h("p", { class: "small" }, t("part.asked", { x: entry.region[0], y: entry.region[1], width: entry.region[2], height: entry.region[3] })) : null,
        drawn ? h("p", { class: "small" }, t("query.compared", { n: compared.length }), best ? ` ${t("query.best", { name: best.name })}` : "", haveGaps(compared) ? ` ${t("query.gaps")}` : "") : null,
        entry.file && ["done", "failed"].includes(entry.state) ? h("button", { type: "button", onclick: select }, t("part.select")) : null,
      ].filter(Boolean),
    );
  };
  view.showResult = () => {
    if (entry.state === "done") showAnswer(view);
    else if (entry.state === "failed") showProblem(view);
    else showProgress(view);
  };
  view.show = () => {
    if (entry.preview && frame.querySelector("img")?.getAttribute("src") !== entry.preview) draw();
    showQuery();
    view.showResult();
  };
  view.element = h(
    "div",
    { class: "answer" },
    h(
      "aside",
      { class: "query", "aria-label": t("query.alt") },
      h("figure", {}, frame, h("figcaption", {}, h("span", { class: "file" }, entry.name || t("query.pasted")), h("span", { class: "small" }, bytes(entry.bytes), about))),
      tools,
      entry.remark ? h("p", { class: "small" }, entry.remark) : null,
    ),
    view.result,
  );
  draw();
  entry.watchers.add(view.show);
  view.show();
  return view;
}

/** The size of the upright picture, as the server read it. */
const sizeOf = (entry) => (entry.answer?.width ? { width: entry.answer.width, height: entry.answer.height } : null);

function showProgress(view) {
  const { entry, result } = view;
  const { step, part, left } = entry.progress ?? { step: "sending", part: 0 };
  if (!result.querySelector("progress")) {
    result.replaceChildren(
      h("h1", { tabindex: "-1" }, t("asking.title")),
      h("progress", { max: 1, "aria-label": t("asking.progress") }),
      h("p", { class: "lead", role: "status" }),
      h("button", { type: "button", onclick: () => entry.stop.abort() }, t("asking.stop")),
    );
  }
  const bar = result.querySelector("progress");
  if (step === "sending") bar.value = part;
  else bar.removeAttribute("value"); // how long the rest takes is not known
  result.querySelector("[role=status]").textContent = {
    sending: () => (part ? t("asking.sending_part", { part: percent(part) }) : t("asking.sending")),
    comparing: () => t("asking.comparing"),
    busy: () => (left ? t("busy.wait", { n: left }) : t("busy.again")),
  }[step]();
}

function showProblem({ entry, result }) {
  const { problem } = entry;
  const another = h("a", { class: "button", href: "#/" }, t("asking.another"));
  result.replaceChildren(problemView(problem, { stopped: t("asking.not_compared"), hint: hintFor(problem), again: () => run(entry), more: another }));
}

function showAnswer(view) {
  const { entry, result } = view;
  const { answer } = entry;
  const strong = candidates(answer);
  const rest = answer.concepts.filter((concept) => !strong.includes(concept));
  const told = stated(answer);
  const fits = (concept) => settings.facet === "any" || concept.found_by.includes(settings.facet) || told.includes(concept);
  const shown = strong.filter(fits);
  const hidden = strong.length - shown.length;
  const pairs = shown.flatMap((concept) => concept.exemplars.map((hit) => ({ query: entry, concept, hit })));
  result.replaceChildren(
    finding(answer),
    reports(entry),
    ...(strong.length
      ? [h("h2", {}, t("cards.title")), h("ol", { class: "cards" }, shown.map((concept) => card(view, concept, pairs)))]
      : []),
    hidden ? h("p", { class: "notice" }, t(`cards.hidden_${settings.facet}`, { n: hidden })) : "",
    answer.concepts.length ? "" : h("p", { class: "empty" }, t("cards.empty")),
    ...bystanders(rest, answer),
    strong.length ? division(answer) : "", // bystanders have no weight as evidence
    caveats(entry),
  );
}

/** The relative weight of the concepts that share the evidence, of all others together, and of no source. */
function division(answer) {
  const parts = candidates(answer).filter(({ share }) => share >= 0.005);
  const absent = answer.no_source_share;
  const others = [
    ["weight.others", Math.max(0, 1 - absent - parts.reduce((sum, { share }) => sum + share, 0))],
    ["weight.absent", absent],
  ].filter(([, share]) => share >= 0.0005);
  const told = [...parts.map(({ name, share }) => `${name} ${percent(share)}`), ...others.map(([key, share]) => `${t(key)} ${percent(share)}`)];
  return h(
    "figure",
    { class: `division ${answer.verdict}` },
    h("figcaption", { class: "small" }, rich("weight.title")),
    h(
      "div",
      { class: "stack", role: "img", "aria-label": `${t("weight.title")}: ${list(told)}` },
      parts.map(({ share }) => h("span", { class: "part", "--share": share })),
      others.map(([key, share]) => h("span", { class: `part rest ${key.split(".")[1]}`, "--share": share })),
    ),
    h(
      "div",
      { class: "keys", "aria-hidden": "true" },
      parts.slice(0, 3).map(({ name, share }) => h("span", { class: "key" }, h("b", {}, percent(share)), " ", breakable(name))),
      others.map(([key, share]) => h("span", { class: "key rest" }, h("b", {}, percent(share)), ` ${t(key)}`)),
    ),
  );
}

function card(view, concept, pairs) {
  const { entry } = view;
  const title = `concept-${entry.id}-${concept.rank}`;
  const { subject, style } = concept.facets;
  const deviations = (value) => (value === null ? t("figures.not_measured") : t("figures.deviations", { value: decimal(value, 2) }));
  const resembles = concept.found_by.length ? rich(`resembles.${[...concept.found_by].sort().reverse().join("_")}`) : [];
  return h(
    "li",
    { class: "card", "aria-labelledby": title },
    h(
      "div",
      { class: "card-head" },
      h("h3", { id: title }, h("span", { class: "rank", "aria-hidden": "true" }, concept.rank), h("a", { href: `#/concepts/${encodeURIComponent(concept.id)}` }, breakable(concept.name))),
      h("p", { class: "support" }, rich("card.support", { degree: degree(concept.support) })),
    ),
    h("p", { class: "why" }, resembles, " ", chanceNodes(concept, entry.answer)),
    concept.exemplars.length ? h("ul", { class: "hits" }, pairs.filter((pair) => pair.concept === concept).map((pair) => exemplar(view, pair, pairs))) : null,
    h(
      "details",
      {},
      h("summary", {}, t("figures.title")),
      h(
        "dl",
        {},
        ...[
          ["weight", exactPercent(concept.share)],
          ["ratio", `${ratio(concept.likelihood_ratio)} (${degree(concept.support)})`],
          ["p", significant(concept.p_value)],
          ["score", decimal(concept.score, 3)],
          ["subject", deviations(subject)],
          ["style", deviations(style)],
          ["id", h("code", {}, concept.id)],
        ].flatMap(([key, value]) => [h("dt", {}, t(`figures.${key}`)), h("dd", {}, value)]),
      ),
    ),
  );
}

function exemplar(view, pair, pairs) {
  const { hit, concept } = pair;
  const frame = h("span", { class: "frame" }, picture(hit.image_url, "", pairs.length <= EAGER));
  const clear = () => [frame, view.frame].forEach((one) => one.querySelectorAll(".heat").forEach((layer) => layer.remove()));
  const show = () => {
    if (!hit.heatmaps || !settings.regions) return;
    clear();
    frame.append(heat(hit.heatmaps.exemplar_url));
    view.frame.append(heat(hit.heatmaps.query_url));
  };
  const similarity = decimal(hit.similarity, 2);
  const button = h(
    "button",
    {
      type: "button",
      class: "hit",
      "aria-label": t(`hit.compare_${hit.facet}`, { name: concept.name, similarity }),
      "aria-haspopup": "dialog",
      onclick: () => (clear(), compare(pairs, pair)),
      onpointerenter: (event) => event.pointerType === "mouse" && show(),
      onpointerleave: clear,
      onfocus: (event) => event.target.matches(":focus-visible") && show(),
      onblur: clear,
    },
    frame,
  );
  return h("li", {}, button, h("p", { class: "small" }, t(`hit.similarity_${hit.facet}`, { similarity }), h("br"), rights(hit)));
}
