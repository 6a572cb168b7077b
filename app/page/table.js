// Several images one by one: a table of their answers, which can be saved as CSV.

import { runEach } from "./asked.js";
import { breakable, h, speak } from "./dom.js";
import { plainTitle, titleOf } from "./problem.js";
import { t } from "./texts.js";
import { chance, headline, named, verdict } from "./words.js";

const isStopped = ({ state, problem }) => state === "failed" && problem.name === "AbortError";
const statusOf = (entry) => (isStopped(entry) ? "stopped" : { done: "answered", failed: "failed" }[entry.state] ?? "not asked");
const isOver = (entry) => ["answered", "failed"].includes(statusOf(entry));

/** True if asking about an image can still give an answer. */
const canBeAsked = ({ state, problem }) => state !== "done" && !(state === "failed" && problem.passing === false);

/** How many images are answered and how many failed, in words. */
export function counted(entries) {
  const n = entries.filter(({ state }) => state === "done").length;
  const failed = entries.filter(isOver).length - n;
  return t(failed ? "several.counts_failed" : "several.counts", { n, of: entries.length, failed });
}

/** Ask about a group's images, one after another; gives back what ended it early: `group.halted`, a problem or null. */
export async function askEach(group) {
  if (group.loop) return null;
  const loop = {};
  Object.assign(group, { loop, halted: null });
  group.update();
  const halted = await runEach(group.entries.filter(canBeAsked), ({ forgotten }) => group.loop === loop && !forgotten);
  if (group.loop && group.loop !== loop) return null; // stopped, and continued since
  Object.assign(group, { loop: null, halted });
  group.update();
  speak(counted(group.entries));
  return halted;
}

/** The parts of the table's view, which are changed in place as answers come: a focus stays where it is. */
export function tableView(group, heading, thumbnail) {
  const { entries } = group;
  const status = h("p", { class: "lead", role: "status" });
  const bar = h("progress", { max: entries.length, "aria-label": t("asking.progress") });
  const csv = h("button", { type: "button", class: "primary", onclick: () => saveCsv(entries) }, t("several.csv"));
  const stop = h("button", { type: "button", onclick: () => stopAll(group) }, t("asking.stop"));
  const resume = h("button", { type: "button", onclick: () => askEach(group) }, t("several.resume"));
  const rows = entries.map((entry) => row(entry, thumbnail));

  group.update = () => {
    const over = entries.filter(isOver).length;
    const working = Boolean(group.loop);
    const counts = counted(entries);
    status.textContent = working ? t("several.so_far", { counts }) : `${counts}.${group.halted ? ` ${plainTitle(group.halted)}.` : ""}`;
    bar.value = over;
    bar.hidden = !working;
    if (over) csv.removeAttribute("aria-disabled");
    else csv.setAttribute("aria-disabled", "true");
    const focused = document.activeElement;
    stop.hidden = !working;
    resume.hidden = working || !entries.some(canBeAsked);
    if ([stop, resume].includes(focused) && focused.hidden) [stop, resume, csv].find(({ hidden }) => !hidden).focus();
    rows.forEach(({ update }) => update());
    document.dispatchEvent(new CustomEvent("group-counted", { detail: group }));
  };
  if (!group.watching) entries.forEach(({ watchers }) => watchers.add(() => group.update()));
  group.watching = true; // whichever view is the latest
  group.update();
  return [
    heading,
    status,
    bar,
    h("div", { class: "row" }, csv, stop, resume, h("a", { class: "button", href: "#/" }, t("asking.another"))),
    h(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": t("several.table") },
      h(
        "table",
        {},
        h("thead", {}, h("tr", {}, ["image", "finding", "support", "chance"].map((column) => h("th", { scope: "col" }, t(`several.column_${column}`))))),
        h("tbody", {}, rows.map(({ element }) => element)),
      ),
    ),
  ];
}

function stopAll(group) {
  group.loop = null;
  group.entries.find(({ state }) => state === "working")?.stop.abort();
  group.update();
}

/** A row, and what changes it when its image's state has changed. */
function row(entry, thumbnail) {
  const [found, support, unrelated] = [0, 0, 0].map(() => h("td"));
  const who = h("span", { class: "who" }, thumbnail(entry), h("span", { class: "file" }, entry.name || t("query.pasted")));
  const element = h("tr", {}, h("th", { scope: "row" }, who), found, support, unrelated);
  let shown = null;
  const update = () => {
    const { answer, state } = entry;
    if (state === shown) return;
    shown = state;
    if (entry.preview) who.firstChild.replaceWith(thumbnail(entry)); // of what the browser cannot show
    const best = answer?.concepts[0];
    const told = answer && verdict(answer);
    element.className = state;
    const parts = {
      done: () => [h("a", { href: `#/answers/${entry.id}` }, answerOf(answer, told))],
      failed: () => [h("span", { class: "wrong" }, isStopped(entry) ? t("asking.stopped") : titleOf(entry.problem), " ", h("a", { href: `#/answers/${entry.id}` }, t("several.more")))],
      working: () => [t("asking.comparing")],
      new: () => [t("several.waiting")],
    }[state]();
    found.replaceChildren(...parts);
    support.textContent = told?.degree ?? "";
    unrelated.textContent = best ? chance(best, answer) : "";
  };
  return { element, update };
}

function answerOf(answer, { before, name }) {
  const names = closest(answer);
  return names.length ? names.map((one, place) => [place ? ", " : "", breakable(one)]) : [before, name ? [" ", breakable(name)] : null];
}

/** The names of the closest matches; none where the verdict is that nothing matches. */
const closest = (answer) => (answer.verdict === "no_match" ? [] : named(answer).map(({ name }) => name));

const COLUMNS = ["file", "status", "sha256", "verdict", "headline", "closest", "figures_of", "support", "likelihood_ratio", "p_value", "scored_as_high", "test_images", "squares", "answer", "created_at", "index", "model", "error"];

/** The table as a CSV file (RFC 4180), with a byte order mark for spreadsheets. */
function saveCsv(entries) {
  if (!entries.some(isOver)) return;
  const lines = entries.map((entry) => {
    const { name, answer, problem } = entry;
    const status = statusOf(entry);
    const error = status === "failed" ? `${plainTitle(problem)}: ${problem.detail ?? problem.message}` : "";
    if (status !== "answered") return [name, status, ...Array(COLUMNS.length - 3).fill(""), error];
    const [best] = answer.concepts;
    const { image_sha256, test_images, created_at, index_version, model_id } = answer.evidence;
    return [name, status, image_sha256, answer.verdict, headline(answer), closest(answer).join("; "), best?.name, best?.support, best?.likelihood_ratio, best?.p_value, best?.scored_as_high, test_images, answer.compared.length, answer.id, created_at, index_version, model_id, ""];
  });
  const text = [COLUMNS, ...lines].map((cells) => cells.map(cell).join(",")).join("\r\n");
  const url = URL.createObjectURL(new Blob(["\ufeff", text, "\r\n"], { type: "text/csv" }));
  h("a", { href: url, download: "whence-answers.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** A cell; a text that a spreadsheet would compute begins with an apostrophe. */
function cell(value) {
  let text = String(value ?? "");
  if (typeof value === "string" && /^[=+\-@＝＋－＠\t\r\n]/.test(text)) text = `'${text}`;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
