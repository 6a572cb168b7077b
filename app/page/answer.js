// An answer: the image on one side, the verdict and the ranked concepts on the other.

import { patiently, upload } from "./api.js";
import { compare, heat, rights } from "./compare.js";
import { h, prose, s, speak } from "./dom.js";
import { keepRatio, picture } from "./picture.js";
import { settings } from "./settings.js";
import { bytes, chance, count, list, percent, ratio, verdict } from "./words.js";

const BY_CHANCE = 0.1; // from this p-value on, no facet can be said to have found a concept
const EAGER = 30; // pictures of an answer that are fetched before they are near the screen
const KEPT = 12; // answers that back and forward can reach

const asked = new Map();
let last = 0;

/** Begin to ask about an image; gives the number of its answer. */
export function ask(file, remark = "") {
  const entry = { id: ++last, file, remark, url: URL.createObjectURL(file), state: "working" };
  asked.set(entry.id, entry);
  if (asked.size > KEPT) {
    const [oldest] = asked.values();
    oldest.stop?.abort();
    URL.revokeObjectURL(oldest.url);
    asked.delete(oldest.id);
  }
  build(entry);
  run(entry);
  return entry.id;
}

/** What to show for an answer, and its title; nothing once it is gone. */
export function answerView(id) {
  const entry = asked.get(id);
  return entry && { view: entry.view, title: entry.answer ? spoken(entry.answer) : "Comparing" };
}

/** Draw the answers again after the settings changed; ask again where a key was missing. */
export function redraw({ keyGiven = false } = {}) {
  for (const entry of asked.values()) {
    if (entry.state === "done") showAnswer(entry);
    else if (keyGiven && entry.problem?.status === 401) run(entry);
  }
}

function spoken(answer) {
  const { before, name } = verdict(answer);
  return before + name;
}

function build(entry) {
  const { file } = entry;
  const size = h("span");
  const image = h("img", { src: entry.url, alt: "Your image" });
  image.addEventListener("load", () => {
    keepRatio(image);
    size.textContent = ` · ${image.naturalWidth} × ${image.naturalHeight}`;
  });
  image.addEventListener("error", () => {
    image.replaceWith(h("span", { class: "missing" }, "This browser cannot show images of this type"));
  });
  entry.frame = h("div", { class: "frame" }, image);
  entry.result = h("div", { class: "result", "aria-live": "off" });
  entry.view = h(
    "div",
    { class: "answer" },
    h(
      "aside",
      { class: "query", "aria-label": "Your image" },
      h("figure", {}, entry.frame, h("figcaption", {}, h("span", { class: "file" }, file.name || "Pasted image"), h("span", { class: "small" }, bytes(file.size), size))),
      entry.remark ? h("p", { class: "small" }, entry.remark) : null,
    ),
    entry.result,
  );
}

const query = (entry) => {
  entry.parameters = { top_k: settings.concepts, exemplars: settings.exemplars, explain: settings.regions };
  return new URLSearchParams(entry.parameters);
};

async function run(entry) {
  entry.state = "working";
  entry.problem = null;
  entry.stop = new AbortController();
  const { signal } = entry.stop;
  const bar = h("progress", { max: 1, "aria-label": "Progress" });
  const step = h("p", { class: "lead", role: "status" }, "Sending the image…");
  entry.result.replaceChildren(
    h("h1", { tabindex: "-1" }, "Comparing with the collection"),
    bar,
    step,
    h("button", { type: "button", onclick: () => entry.stop.abort() }, "Stop"),
  );
  const onProgress = (part) => {
    if (part < 1) {
      bar.value = part;
      step.textContent = `Sending the image, ${percent(part)}…`;
    } else {
      bar.removeAttribute("value"); // how long the rest takes is not known
      step.textContent = "Comparing…";
    }
  };
  const onWait = (left) => {
    bar.removeAttribute("value");
    step.textContent = left ? `The server is busy. Trying again in ${count(left, "second")}…` : "Trying again…";
  };
  try {
    const send = () => upload(`attribute?${query(entry)}`, entry.file, { signal, onProgress });
    const { body } = await patiently(send, { onWait, signal });
    entry.answer = JSON.parse(await body.text());
    entry.state = "done";
    showAnswer(entry);
    document.dispatchEvent(new CustomEvent("answered", { detail: entry.id }));
    speak(spoken(entry.answer));
  } catch (error) {
    entry.state = "failed";
    entry.problem = error;
    showProblem(entry, error);
  }
}

function again(entry) {
  return h("button", { type: "button", class: "primary", onclick: () => run(entry) }, "Try again");
}

const another = () => h("a", { class: "button", href: "#/" }, "Ask about another image");

function showProblem(entry, error) {
  const stopped = error.name === "AbortError";
  const title = stopped ? "Stopped" : error.title ?? "Something went wrong on this page";
  const faults = error.errors?.length > 1 ? h("ul", {}, error.errors.map((fault) => h("li", {}, prose(fault.detail)))) : null;
  entry.result.replaceChildren(
    h(
      "div",
      { class: "problem", role: "alert" },
      h("h1", { tabindex: "-1" }, title),
      stopped ? h("p", {}, "The image was not compared.") : h("p", {}, prose(error.detail || error.message)),
      faults,
      error.retryAfter ? h("p", { class: "small" }, `The server asks to wait ${count(error.retryAfter, "second")}.`) : null,
      h("div", { class: "row" }, again(entry), another()),
    ),
  );
  document.dispatchEvent(new CustomEvent("answered", { detail: entry.id }));
}

function showAnswer(entry) {
  const { answer } = entry;
  const said = verdict(answer);
  const shown = answer.concepts.filter(({ found_by }) => settings.facet === "any" || found_by.includes(settings.facet));
  const hidden = answer.concepts.length - shown.length;
  const pairs = answer.concepts.flatMap((concept) => concept.exemplars.map((hit) => ({ query: entry, concept, hit })));
  const parts = [
    h(
      "header",
      { class: `verdict ${answer.verdict}` },
      mark(answer.verdict),
      h("h1", { tabindex: "-1" }, said.before, said.name ? h("em", {}, said.name) : null),
      h("p", { class: "lead" }, said.text),
    ),
    division(answer),
    reports(entry),
    h("h2", {}, answer.candidates.length ? "Ranked concepts" : "The nearest concepts"),
    answer.concepts.length ? null : h("p", { class: "empty" }, "The collection has no concept to compare with."),
    h("ol", { class: "cards" }, shown.map((concept) => card(entry, concept, pairs))),
    hidden
      ? h("p", { class: "notice" }, `${count(hidden, "concept is", "concepts are")} not shown: not found by ${settings.facet}. The settings decide.`)
      : null,
    caveats(answer),
  ];
  entry.result.replaceChildren(...parts.filter(Boolean));
}

const FILLING = { attributed: "M12 3a9 9 0 0 1 0 18a9 9 0 0 1 0-18z", uncertain: "M12 3a9 9 0 0 1 0 18z", no_match: "" };

function mark(name) {
  return s("svg", { class: "mark", viewBox: "0 0 24 24", "aria-hidden": "true" }, s("circle", { cx: 12, cy: 12, r: 9 }), s("path", { d: FILLING[name] }));
}

/** How the answer divides among the concepts and what belongs to none. */
function division(answer) {
  const parts = answer.concepts.filter(({ share }) => share >= 0.01);
  const rest = answer.unattributed_share;
  const told = [...parts.map(({ name, share }) => `${name} ${percent(share)}`), `none of these ${percent(rest)}`];
  return h(
    "figure",
    { class: `division ${answer.verdict}` },
    h(
      "div",
      { class: "stack", role: "img", "aria-label": `How the answer divides: ${list(told)}` },
      parts.map(({ share }) => h("span", { class: "part", "--share": share })),
      h("span", { class: "part rest", "--share": rest }),
    ),
    h(
      "figcaption",
      { "aria-hidden": "true" },
      parts.slice(0, 3).map(({ name, share }) => h("span", { class: "key" }, h("b", {}, percent(share)), ` ${name}`)),
      h("span", { class: "key rest" }, h("b", {}, percent(rest)), " none of these"),
    ),
  );
}

function card(entry, concept, pairs) {
  const title = `concept-${entry.id}-${concept.rank}`;
  const { subject, style } = concept.facets;
  const deviations = (value) => (value === null ? "not measured" : `${value.toFixed(2)} standard deviations above the usual`);
  return h(
    "li",
    { class: "card", "aria-labelledby": title },
    h(
      "div",
      { class: "card-head" },
      h("h3", { id: title }, h("span", { class: "rank", "aria-hidden": "true" }, concept.rank), h("a", { href: `#/concepts/${encodeURIComponent(concept.id)}` }, concept.name)),
      h("p", { class: concept.share < 0.005 ? "share slight" : "share" }, percent(concept.share), h("span", { class: "unseen" }, " of the answer")),
    ),
    h("div", { class: "meter", "aria-hidden": "true" }, h("span", { "--share": concept.share })),
    h(
      "p",
      { class: "why" },
      concept.found_by.length && concept.p_value < BY_CHANCE ? ["Found by ", concept.found_by.map((facet, place) => [place ? " and " : "", h("span", { class: `facet ${facet}` }, facet)]), ". "] : null,
      `A match this strong appears by chance ${chance(concept.p_value)}.`,
    ),
    concept.exemplars.length
      ? h("ul", { class: "hits" }, pairs.filter((pair) => pair.concept === concept).map((pair) => exemplar(entry, pair, pairs)))
      : null,
    h(
      "details",
      {},
      h("summary", {}, "Figures"),
      h(
        "dl",
        {},
        h("dt", {}, "Score"), h("dd", {}, concept.score.toFixed(3)),
        h("dt", {}, "Share"), h("dd", {}, `${(100 * concept.share).toFixed(1)}%`),
        h("dt", {}, "Ratio"), h("dd", {}, `${ratio(concept.likelihood_ratio)} (${concept.support === "none" ? "no" : concept.support} support)`),
        h("dt", {}, "p-value"), h("dd", {}, concept.p_value.toPrecision(3)),
        h("dt", {}, "Subject"), h("dd", {}, deviations(subject)),
        h("dt", {}, "Style"), h("dd", {}, deviations(style)),
        h("dt", {}, "Id"), h("dd", {}, h("code", {}, concept.id)),
      ),
    ),
  );
}

function exemplar(entry, pair, pairs) {
  const { hit, concept } = pair;
  const frame = h("span", { class: "frame" }, picture(hit.image_url, "", pairs.length <= EAGER));
  const show = () => {
    if (!hit.heatmaps || !settings.regions) return;
    clear();
    frame.append(heat(hit.heatmaps.exemplar_url));
    entry.frame.append(heat(hit.heatmaps.query_url));
  };
  const clear = () => [frame, entry.frame].forEach((one) => one.querySelectorAll(".heat").forEach((layer) => layer.remove()));
  const button = h(
    "button",
    {
      type: "button",
      class: "hit",
      "aria-label": `Compare your image with an exemplar of ${concept.name}, similarity ${hit.similarity.toFixed(2)} in ${hit.facet}`,
      "aria-haspopup": "dialog",
      onclick: () => (clear(), compare(pairs, pair)),
      onpointerenter: (event) => event.pointerType === "mouse" && show(),
      onpointerleave: clear,
      onfocus: (event) => event.target.matches(":focus-visible") && show(),
      onblur: clear,
    },
    frame,
  );
  return h("li", {}, button, h("p", { class: "small" }, h("b", {}, hit.similarity.toFixed(2)), ` in ${hit.facet}`, h("br"), rights(hit)));
}

function caveats(answer) {
  return h(
    "section",
    { class: "caveats" },
    h("h2", {}, "What this does not say"),
    h(
      "ul",
      {},
      h("li", {}, "Similarity is not proof. It does not show that a work was copied, or used to train a model."),
      h("li", {}, "It does not name the generator that made the image."),
      h("li", {}, "It knows this collection and nothing beyond it; two artists who work alike look alike to it."),
    ),
    h("p", { class: "small identity" }, "Index ", h("code", {}, answer.evidence.index_version), ", model ", h("code", {}, answer.evidence.model_id), ", calibration ", h("code", {}, answer.evidence.calibration)),
  );
}

/** The buttons that fetch the evidence report. */
function reports(entry) {
  const said = h("p", { class: "small", role: "status" });
  const wrong = h("div");
  const fetchReport = (format) => async ({ currentTarget: button }) => {
    if (button.getAttribute("aria-disabled") === "true") return;
    const { top_k, exemplars, explain } = entry.parameters;
    const busy = [...button.parentElement.querySelectorAll("button")];
    busy.forEach((one) => one.setAttribute("aria-disabled", "true")); // `disabled` would lose the focus
    wrong.replaceChildren();
    said.textContent = "Writing the report…";
    const onWait = (left) => (said.textContent = left ? `The server is busy. Trying again in ${count(left, "second")}…` : "Trying again…");
    try {
      const path = `attribute/report?${new URLSearchParams({ top_k, exemplars, explain, format })}`;
      const { body, name } = await patiently(() => upload(path, entry.file), { onWait });
      save(body, name);
      const report = dataOf(await body.text(), format);
      const moved = report.index.version !== entry.answer.evidence.index_version;
      said.replaceChildren(
        h("span", {}, "Saved as ", h("span", { class: "file" }, name), "."),
        moved ? " The collection was renewed since this answer, so the report has the newer one." : "",
      );
    } catch (error) {
      said.textContent = "";
      wrong.replaceChildren(h("p", { class: "notice", role: "alert" }, h("strong", {}, error.title ?? "The report could not be saved"), ". ", prose(error.detail || error.message)));
    } finally {
      busy.forEach((one) => one.removeAttribute("aria-disabled"));
    }
  };
  return h(
    "div",
    { class: "reports" },
    h(
      "div",
      { class: "row" },
      h("button", { type: "button", class: "primary", onclick: fetchReport("html") }, "Save evidence report"),
      h("button", { type: "button", onclick: fetchReport("json") }, "as JSON"),
      another(),
    ),
    h("p", { class: "small" }, "The report holds the image file as you gave it, its metadata included."),
    said,
    wrong,
  );
}

function save(blob, name) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

function dataOf(text, format) {
  return JSON.parse(format === "json" ? text : /id="whence-report">(.*?)<\/script>/s.exec(text)[1]);
}
