// The evidence report of an answer, to an image or a body of work: every format, and the print, is
// made from the one answer that the server keeps.

import { patiently, upload } from "./api.js";
import { h } from "./dom.js";
import { printReport } from "./print.js";
import { detailOf, titleOf } from "./problem.js";
import { language, rich, t } from "./texts.js";

const DATA = /id="whence-report">(.*?)<\/script>/s;

/** The files that were asked about; null after a reload. */
function filesOf(asked) {
  const files = asked.given ?? (asked.entries ?? [asked]).map(({ file }) => file);
  return files.every(Boolean) ? files : null;
}

/** The buttons that save and print the report on an image or a body of work. */
export function reports(entry) {
  const said = h("p", { class: "small", role: "status" });
  const wrong = h("div");
  const buttons = [
    ["html", "primary", () => save(entry, "html")],
    ["json", null, () => save(entry, "json")],
    ["print", null, print],
  ].map(([kind, look, act]) => {
    const button = h("button", { type: "button", class: look, onclick: () => run(act) }, t(`report.${kind}`));
    return button;
  });
  const again = h("button", { type: "button", hidden: true, onclick: () => document.dispatchEvent(new CustomEvent("ask-again", { detail: entry })) }, t(entry.entries ? "asking.anew_all" : "asking.anew"));

  async function run(act) {
    if (buttons[0].getAttribute("aria-disabled") === "true") return;
    buttons.forEach((one) => one.setAttribute("aria-disabled", "true")); // `disabled` would lose the focus
    wrong.replaceChildren();
    said.textContent = t("report.writing");
    try {
      await act();
    } catch (error) {
      said.textContent = "";
      if (error.name === "AbortError") return;
      const gone = error.type?.endsWith(":answer-gone");
      again.hidden = !gone || !filesOf(entry);
      wrong.replaceChildren(h("p", { class: "notice", role: "alert" }, h("strong", {}, gone ? t("report.gone") : error.title ? titleOf(error) : t("report.failed")), ". ", gone ? t("report.gone.why") : detailOf(error)));
    } finally {
      buttons.forEach((one) => one.removeAttribute("aria-disabled"));
    }
  }

  const onWait = (left) => (said.textContent = left ? t("busy.wait", { n: left }) : t("busy.again"));

  async function save(one, format) {
    const { body, name } = await fetchReport(one, format, onWait);
    const url = URL.createObjectURL(body);
    h("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
    said.replaceChildren(...rich("report.saved", { name: h("span", { class: "file" }, name) }));
  }

  async function print() {
    const { body } = await fetchReport(entry, "html", onWait);
    said.textContent = "";
    await printReport(await body.text());
  }

  return h(
    "div",
    { class: "reports" },
    h("div", { class: "row" }, buttons, h("a", { class: "button", href: "#/" }, t("asking.another"))),
    h("p", { class: "small" }, rich(!filesOf(entry) ? "report.needs_file" : entry.entries ? "report.holds_all" : "report.holds")),
    said,
    wrong,
    again,
  );
}

/** A report as {body, name}; fetched once for each format and language. */
async function fetchReport(asked, format, onWait) {
  asked.reports ??= {};
  const form = format === "json" ? { format } : { format, language };
  const kind = Object.values(form).join();
  if (!asked.reports[kind]) {
    const files = filesOf(asked) ?? (await chooseFiles(Boolean(asked.entries)));
    const query = new URLSearchParams({ answer: asked.answer.id, ...form });
    const path = asked.entries ? "attribute/together/report" : "attribute/report";
    const found = await patiently(() => upload(`${path}?${query}`, files), { onWait });
    const text = await found.body.text();
    asked.sha256 = JSON.parse(format === "json" ? text : DATA.exec(text)[1]).sha256;
    asked.given = files; // the server found them to be the same
    asked.reports[kind] = found;
    asked.identified?.(asked.sha256);
  }
  return asked.reports[kind];
}

/** Let the reader choose the images again: after a reload the page has no copy of them. */
function chooseFiles(multiple) {
  return new Promise((resolve, reject) => {
    const input = h("input", { type: "file", multiple });
    input.addEventListener("change", () => resolve([...input.files]));
    input.addEventListener("cancel", () => reject(new DOMException("stopped", "AbortError")));
    input.click();
  });
}
