// Several images one by one: a table of their answers, which can be saved as CSV.

import { run } from "./asked.js";
import { breakable, h, speak } from "./dom.js";
import { titleOf } from "./problem.js";
import { t } from "./texts.js";
import { chance, degree, headline, named } from "./words.js";

const isOver = ({ state }) => ["done", "failed"].includes(state);

/** Ask about a group's images, one after another. */
export async function askEach(group) {
  group.stopped = false;
  group.update?.();
  for (const entry of group.entries) {
    if (group.stopped) return;
    if (entry.state !== "done") await run(entry);
  }
  speak(t("several.finished"));
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
    const left = entries.some(({ state }) => state !== "done");
    const working = over < entries.length && !group.stopped;
    status.textContent = t(working ? "several.progress" : "several.over", { n: over, of: entries.length });
    bar.value = over;
    bar.hidden = !working;
    if (over) csv.removeAttribute("aria-disabled");
    else csv.setAttribute("aria-disabled", "true");
    const focused = document.activeElement;
    stop.hidden = !working;
    resume.hidden = working || !left || !group.stopped;
    if ([stop, resume].includes(focused) && focused.hidden) [stop, resume, csv].find(({ hidden }) => !hidden).focus();
    rows.forEach(({ update }) => update());
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
  group.stopped = true;
  group.entries.find(({ state }) => state === "working")?.stop.abort();
  group.update();
}

/** A row, and what changes it when its image's state has changed. */
function row(entry, thumbnail) {
  const [found, support, unrelated] = [0, 0, 0].map(() => h("td"));
  const element = h("tr", {}, h("th", { scope: "row" }, h("span", { class: "who" }, thumbnail(entry), h("span", { class: "file" }, entry.name || t("query.pasted")))), found, support, unrelated);
  let shown = null;
  const update = () => {
    const { answer, state } = entry;
    if (state === shown) return;
    shown = state;
    const best = answer?.concepts[0];
    element.className = state;
    const parts = {
      done: () => [h("a", { href: `#/answers/${entry.id}` }, answerOf(answer))],
      failed: () => [h("span", { class: "wrong" }, entry.problem.name === "AbortError" ? t("asking.stopped") : titleOf(entry.problem), " ", h("a", { href: `#/answers/${entry.id}` }, t("several.more")))],
      working: () => [t("asking.comparing")],
      new: () => [t("several.waiting")],
    }[state]();
    found.replaceChildren(...parts);
    support.textContent = best && named(answer).length ? degree(best.support) : "";
    unrelated.textContent = best ? chance(best, answer) : "";
  };
  return { element, update };
}

function answerOf(answer) {
  const names = named(answer);
  return names.length ? names.map(({ name }, place) => [place ? ", " : "", breakable(name)]) : headline(answer);
}

const COLUMNS = ["file", "sha256", "verdict", "headline", "closest", "support", "likelihood_ratio", "p_value", "scored_as_high", "test_images", "squares", "answer", "created_at", "index", "model", "error"];

/** The table as a CSV file (RFC 4180), with a byte order mark for spreadsheets. */
function saveCsv(entries) {
  if (!entries.some(isOver)) return;
  const lines = entries.filter(isOver).map(({ name, answer, problem, state }) => {
    if (state === "failed") return [name, ...Array(COLUMNS.length - 2).fill(""), problem.name === "AbortError" ? t("asking.stopped") : `${problem.title}: ${problem.detail}`];
    const [best] = answer.concepts;
    const { image_sha256, test_images, created_at, index_version, model_id } = answer.evidence;
    const closest = named(answer).map((concept) => concept.name).join("; "); // none where nothing matches
    return [name, image_sha256, answer.verdict, headline(answer), closest, best?.support, best?.likelihood_ratio, best?.p_value, best?.scored_as_high, test_images, answer.compared.length, answer.id, created_at, index_version, model_id, ""];
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
