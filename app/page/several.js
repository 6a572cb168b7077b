// Several images at once: a table of answers one by one, or one answer for a body of work.

import { patiently, upload } from "./api.js";
import { create, pictureOf, run } from "./asked.js";
import { breakable, h, speak } from "./dom.js";
import { limits } from "./limits.js";
import { settings } from "./settings.js";
import { prose, t } from "./texts.js";
import { groupAnswer } from "./together.js";
import { bytes, chance, degree, headline, named, percent } from "./words.js";

const MOST = 64; // images of a body of work
const groups = new Map(); // address -> group

/** A group of images that were given at once; gives its address. */
export function createGroup(files) {
  const entries = files.map((file) => create(file));
  const group = { id: entries[0].id, entries, state: "new" };
  groups.set(group.id, group);
  return group.id;
}

export const forgetGroups = () => groups.clear();

/** Build the views anew, in another language. */
export function forgetGroupViews() {
  for (const group of groups.values()) delete group.view;
}

export function groupView(id) {
  const group = groups.get(id);
  if (!group) return null;
  group.view ??= build(group);
  return { view: group.view, title: t("several.title", { n: group.entries.length }) };
}

function build(group) {
  const place = h("div", { class: "several" });
  const show = (...parts) => place.replaceChildren(...parts.flat().filter(Boolean));
  group.show = () => {
    if (group.state === "new") show(...choice(group));
    if (group.state === "each") show(...table(group));
    if (group.state === "together") show(...together(group));
  };
  group.show();
  return place;
}

function title(group) {
  return h("h1", { tabindex: "-1" }, t("several.title", { n: group.entries.length }));
}

const strip = (entries) => h("ul", { class: "strip" }, entries.map((entry) => h("li", {}, thumbnail(entry))));

function thumbnail(entry) {
  const image = h("img", { src: pictureOf(entry), alt: "", loading: "lazy" });
  image.addEventListener("error", () => image.replaceWith(h("span", { class: "missing" })));
  return image;
}

/** The question that decides what is asked. */
function choice(group) {
  const n = group.entries.length;
  const option = (state, act) =>
    h("li", {}, h("h2", {}, t(`several.${state}`)), h("p", {}, t(`several.${state}.why`)), act);
  const begin = (state, start) => () => {
    group.state = state;
    start(group);
    group.show();
    group.view.querySelector("h1").focus();
  };
  return [
    title(group),
    h("p", { class: "lead" }, t("several.question")),
    strip(group.entries),
    h(
      "ul",
      { class: "choices" },
      option("each", h("button", { type: "button", class: "primary", onclick: begin("each", askEach) }, t("several.each.do"))),
      option(
        "together",
        n > MOST ? h("p", { class: "notice" }, t("several.too_many", { n, most: MOST })) : h("button", { type: "button", class: "primary", onclick: begin("together", askTogether) }, t("several.together.do")),
      ),
    ),
  ];
}

// One by one

async function askEach(group) {
  group.stopped = false;
  for (const entry of group.entries) {
    if (group.stopped) return;
    if (entry.state === "done") continue;
    entry.watchers.add(() => group.show());
    await run(entry);
  }
  speak(t("several.finished"));
}

function table(group) {
  const { entries } = group;
  const over = entries.filter(({ state }) => ["done", "failed"].includes(state)).length;
  const working = over < entries.length && !group.stopped;
  const stop = () => {
    group.stopped = true;
    entries.find(({ state }) => state === "working")?.stop.abort();
    group.show();
  };
  return [
    title(group),
    h("p", { class: "lead", role: "status" }, working ? t("several.progress", { n: over, of: entries.length }) : t("several.over", { n: over, of: entries.length })),
    working ? h("progress", { max: entries.length, value: over, "aria-label": t("asking.progress") }) : null,
    h(
      "div",
      { class: "row" },
      h("button", { type: "button", class: "primary", onclick: () => saveCsv(entries), "aria-disabled": over ? null : "true" }, t("several.csv")),
      working ? h("button", { type: "button", onclick: stop }, t("asking.stop")) : null,
      !working && over < entries.length ? h("button", { type: "button", onclick: () => (askEach(group), group.show()) }, t("several.resume")) : null,
      h("a", { class: "button", href: "#/" }, t("asking.another")),
    ),
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": t("several.table") },
      h(
        "table",
        {},
        h("thead", {}, h("tr", {}, ["image", "finding", "support", "chance"].map((column) => h("th", { scope: "col" }, t(`several.column_${column}`))))),
        h("tbody", {}, entries.map(row)),
      ),
    ),
  ];
}

function row(entry) {
  const name = h("span", { class: "file" }, entry.name || t("query.pasted"));
  const { answer, state } = entry;
  const best = answer?.concepts[0];
  const finding = {
    done: () => h("a", { href: `#/answers/${entry.id}` }, answerOf(answer)),
    failed: () => h("span", { class: "wrong" }, entry.problem.name === "AbortError" ? t("asking.stopped") : entry.problem.title ?? t("problem.page"), " ", h("a", { href: `#/answers/${entry.id}` }, t("several.more"))),
    working: () => t("asking.comparing"),
    new: () => t("several.waiting"),
  }[state]();
  return h(
    "tr",
    { class: state },
    h("th", { scope: "row" }, h("span", { class: "who" }, thumbnail(entry), name)),
    h("td", {}, finding),
    h("td", {}, best && named(answer).length ? degree(best.support) : ""),
    h("td", {}, best ? chance(best, answer.evidence) : ""),
  );
}

function answerOf(answer) {
  const names = named(answer);
  return names.length ? names.map(({ name }, place) => [place ? ", " : "", breakable(name)]) : headline(answer);
}

const COLUMNS = ["file", "sha256", "verdict", "headline", "closest", "support", "likelihood_ratio", "p_value", "scored_as_high", "test_images", "answer", "created_at", "index", "model", "error"];

/** The table as a CSV file (RFC 4180), with a byte order mark for spreadsheets. */
function saveCsv(entries) {
  const lines = entries
    .filter(({ state }) => ["done", "failed"].includes(state))
    .map(({ name, answer, problem, state }) => {
      if (state === "failed") return [name, ...Array(COLUMNS.length - 2).fill(""), problem.name === "AbortError" ? t("asking.stopped") : `${problem.title}: ${problem.detail}`];
      const [best] = answer.concepts;
      const { image_sha256, test_images, created_at, index_version, model_id } = answer.evidence;
      return [name, image_sha256, answer.verdict, headline(answer), best?.name, best?.support, best?.likelihood_ratio, best?.p_value, best?.scored_as_high, test_images, answer.id, created_at, index_version, model_id, ""];
    });
  const text = [COLUMNS, ...lines].map((cells) => cells.map(cell).join(",")).join("\r\n");
  const url = URL.createObjectURL(new Blob(["\ufeff", text, "\r\n"], { type: "text/csv" }));
  h("a", { href: url, download: "whence-answers.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** A cell; a text that a spreadsheet would compute begins with an apostrophe. */
function cell(value) {
  let text = String(value ?? "");
  if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

// As one body of work

async function askTogether(group) {
  group.stop = new AbortController();
  const { signal } = group.stop;
  Object.assign(group, { problem: null, answer: null, step: t("asking.sending") });
  const tell = (step) => {
    group.step = step;
    const place = group.view?.querySelector("[role=status]");
    if (place) place.textContent = step;
  };
  try {
    const most = await limits();
    const size = group.entries.reduce((sum, entry) => sum + entry.file.size + 500, 0);
    if (most && size > most.max_batch_bytes) {
      throw Object.assign(new Error(t("refused.group_too_large.why", { size: bytes(size), most: bytes(most.max_batch_bytes) })), { title: t("refused.group_too_large"), own: true, passing: false });
    }
    const query = new URLSearchParams({ top_k: settings.concepts, exemplars: settings.exemplars });
    const files = group.entries.map(({ file }) => file);
    const onProgress = (part) => tell(part < 1 ? t("asking.sending_part", { part: percent(part) }) : t("asking.comparing"));
    const onWait = (left) => tell(left ? t("busy.wait", { n: left }) : t("busy.again"));
    const { body } = await patiently(() => upload(`attribute/together?${query}`, files, { signal, onProgress }), { signal, onWait });
    group.answer = JSON.parse(await body.text());
    speak(headline(group.answer));
  } catch (error) {
    group.problem = error;
  }
  group.show();
  group.view.querySelector("h1")?.focus({ preventScroll: true });
}

function together(group) {
  if (group.answer) return groupAnswer(group, strip);
  if (group.problem) {
    const { name, title: problemTitle, detail, message, own, passing } = group.problem;
    const stopped = name === "AbortError";
    return [
      h(
        "div",
        { class: "problem", role: "alert" },
        h("h1", { tabindex: "-1" }, stopped ? t("asking.stopped") : problemTitle ?? t("problem.page")),
        h("p", {}, stopped ? t("several.not_compared") : own ? detail || message : prose(detail || message)),
        h(
          "div",
          { class: "row" },
          stopped || passing !== false ? h("button", { type: "button", class: "primary", onclick: () => (askTogether(group), group.show()) }, t("asking.again")) : null,
          h("button", { type: "button", onclick: () => ((group.state = "new"), group.show()) }, t("several.back")),
        ),
      ),
    ];
  }
  return [
    h("h1", { tabindex: "-1" }, t("asking.title")),
    strip(group.entries),
    h("progress", { "aria-label": t("asking.progress") }),
    h("p", { class: "lead", role: "status" }, group.step),
    h("div", { class: "row" }, h("button", { type: "button", onclick: () => group.stop.abort() }, t("asking.stop"))),
  ];
}
