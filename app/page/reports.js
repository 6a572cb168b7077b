// The evidence report of an answer: every format is made from the one answer that the server keeps.

import { patiently, upload } from "./api.js";
import { h } from "./dom.js";
import { prose, rich, t } from "./texts.js";

const DATA = /id="whence-report">(.*?)<\/script>/s;

/** The buttons that save and print the report. */
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
  const again = h("button", { type: "button", hidden: true, onclick: () => document.dispatchEvent(new CustomEvent("ask-again", { detail: entry })) }, t("asking.anew"));

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
      again.hidden = !gone || !entry.file;
      wrong.replaceChildren(h("p", { class: "notice", role: "alert" }, h("strong", {}, gone ? t("report.gone") : error.title ?? t("report.failed")), ". ", gone ? t("report.gone.why") : error.own ? error.detail : prose(error.detail || error.message)));
    } finally {
      buttons.forEach((one) => one.removeAttribute("aria-disabled"));
    }
  }

  async function save(one, format) {
    const { body, name } = await fetchReport(one, format, (left) => (said.textContent = left ? t("busy.wait", { n: left }) : t("busy.again")));
    const url = URL.createObjectURL(body);
    h("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60_000);
    said.replaceChildren(...rich("report.saved", { name: h("span", { class: "file" }, name) }));
  }

  /** Print the page, with the hash of the report on the same answer. */
  async function print() {
    await fetchReport(entry, "json", () => {});
    entry.watchers.forEach((watcher) => watcher(entry)); // the hash is known now
    said.textContent = "";
    window.print();
  }

  return h(
    "div",
    { class: "reports" },
    h("div", { class: "row" }, buttons, h("a", { class: "button", href: "#/" }, t("asking.another"))),
    h("p", { class: "small" }, rich(entry.file ? "report.holds" : "report.needs_file")),
    said,
    wrong,
    again,
  );
}

/** A report as {body, name}; fetched once for each format. */
async function fetchReport(entry, format, onWait) {
  entry.files ??= {};
  if (!entry.files[format]) {
    const file = entry.file ?? (await chooseFile());
    const query = new URLSearchParams({ answer: entry.answer.id, format });
    const found = await patiently(() => upload(`attribute/report?${query}`, [file]), { onWait });
    const text = await found.body.text();
    entry.sha256 = JSON.parse(format === "json" ? text : DATA.exec(text)[1]).sha256;
    entry.file = file; // the server found it to be the same
    entry.files[format] = found;
  }
  return entry.files[format];
}

/** Let the reader choose the image again: after a reload the page has no copy of it. */
function chooseFile() {
  return new Promise((resolve, reject) => {
    const input = h("input", { type: "file" });
    input.addEventListener("change", () => resolve(input.files[0]));
    input.addEventListener("cancel", () => reject(new DOMException("stopped", "AbortError")));
    input.click();
  });
}
