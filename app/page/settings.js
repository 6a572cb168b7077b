// What the reader may choose: how much to list, what to show, the language and the key.

import { key } from "./api.js";
import { h } from "./dom.js";
import { LANGUAGES, language, prose, speakIn, t } from "./texts.js";

const STORE = "whence-settings";
const DEFAULTS = { concepts: 5, exemplars: 3, facet: "any", regions: true };
const most = { concepts: 1000, exemplars: 50, report: Infinity }; // of the server, once it has told
const LEAST = { concepts: 1, exemplars: 0 };

function read() {
  let found = {};
  try {
    found = JSON.parse(localStorage.getItem(STORE) ?? "{}");
  } catch {
    // damaged, or a private window: the defaults hold
  }
  const whole = { ...DEFAULTS, ...found };
  for (const name of Object.keys(LEAST)) if (!allowed(name, whole[name])) whole[name] = DEFAULTS[name];
  return whole;
}

const OTHER = { concepts: "exemplars", exemplars: "concepts" };
const allowed = (name, value) => Number.isInteger(value) && value >= LEAST[name] && value <= most[name];

export const settings = read();

/** Take the server's limits; a setting above them is lowered. */
export function setLimits({ max_top_k, max_exemplars, max_report_exemplars }) {
  Object.assign(most, { concepts: max_top_k, exemplars: max_exemplars, report: max_report_exemplars });
  for (const name of Object.keys(LEAST)) settings[name] = Math.min(settings[name], most[name]);
  settings.exemplars = Math.min(settings.exemplars, Math.floor(most.report / settings.concepts));
}

/** True if a report can hold so many exemplars beside the other setting. */
const reportable = (name, value) => value * settings[OTHER[name]] <= most.report;

function change(name, value) {
  settings[name] = value;
  try {
    localStorage.setItem(STORE, JSON.stringify(settings));
  } catch {
    // a private window: they hold until it closes
  }
  document.dispatchEvent(new CustomEvent("settings-changed", { detail: name }));
}

let dialog = null;

function build() {
  const why = h("div", { id: "key-why" });
  const keyField = h("input", { id: "key", type: "password", autocomplete: "off", spellcheck: "false", "aria-describedby": "key-help key-why" });
  const built = h(
    "dialog",
    { class: "drawer", "aria-labelledby": "settings-title" },
    h(
      "form",
      { novalidate: true, onsubmit: (event) => (event.preventDefault(), close()) },
      h("div", { class: "dialog-head" }, h("h2", { id: "settings-title" }, t("settings.title")), h("button", { type: "button", class: "quiet", onclick: () => close() }, t("close"))),
      numberField("concepts"),
      numberField("exemplars"),
      h(
        "fieldset",
        {},
        h("legend", {}, t("settings.facet")),
        ["any", "subject", "style"].map((value) =>
          h("label", { class: "option" }, h("input", { type: "radio", name: "facet", value, checked: settings.facet === value, onchange: () => change("facet", value) }), t(`settings.facet_${value}`)),
        ),
      ),
      h("label", { class: "option" }, h("input", { type: "checkbox", checked: settings.regions, onchange: (event) => change("regions", event.target.checked) }), t("settings.regions")),
      h(
        "div",
        { class: "field" },
        h("label", { for: "language" }, t("settings.language")),
        h("select", { id: "language", "aria-describedby": "wrong-language", onchange: ({ target }) => changeLanguage(target) }, Object.entries(LANGUAGES).map(([code, name]) => h("option", { value: code, lang: code, selected: code === language }, name))),
        h("p", { class: "wrong small", id: "wrong-language", role: "alert" }),
      ),
      h("div", { class: "field" }, h("label", { for: "key" }, t("settings.key")), why, keyField, h("p", { class: "small", id: "key-help" }, t("settings.key_help"))),
      h("button", { class: "primary" }, t("settings.done")),
    ),
  );
  /** Close, unless a field holds what cannot be. */
  function close() {
    const wrong = built.querySelector("[aria-invalid=true]");
    if (wrong) return wrong.focus();
    built.close();
  }
  built.addEventListener("cancel", () => built.querySelectorAll("[aria-invalid=true]").forEach((field) => field.reset()));
  built.addEventListener("click", (event) => event.target === built && close());
  built.addEventListener("close", () => {
    why.replaceChildren();
    const given = keyField.value.trim();
    if (given === key.get()) return;
    key.set(given);
    document.dispatchEvent(new CustomEvent("key-given"));
  });
  return { dialog: built, why, keyField };
}

async function changeLanguage(select) {
  try {
    await speakIn(select.value);
  } catch {
    select.value = language;
    document.getElementById("wrong-language").textContent = t("settings.no_texts");
  }
}

function numberField(name) {
  const wrong = h("p", { class: "wrong small", id: `wrong-${name}`, role: "alert" });
  const field = h("input", { id: `set-${name}`, type: "number", min: LEAST[name], max: most[name], value: settings[name], inputmode: "numeric", "aria-describedby": `help-${name} wrong-${name}` });
  field.check = () => {
    const value = field.value.trim() ? Number(field.value) : NaN;
    const [inRange, fits] = [allowed(name, value), reportable(name, value)];
    field.setAttribute("aria-invalid", String(!inRange || !fits));
    wrong.textContent = !inRange ? t("settings.range", { least: LEAST[name], most: most[name] }) : fits ? "" : t("settings.too_many", { n: value * settings[OTHER[name]], most: most.report });
    if (inRange && fits && value !== settings[name]) change(name, value);
  };
  field.addEventListener("input", () => {
    field.check();
    document.getElementById(`set-${OTHER[name]}`)?.check(); // it may fit now
  });
  field.reset = () => {
    field.value = settings[name];
    field.dispatchEvent(new Event("input"));
  };
  return h("div", { class: "field" }, h("label", { for: `set-${name}` }, t(`settings.${name}`)), field, wrong, h("p", { class: "small", id: `help-${name}` }, t(`settings.${name}_help`)));
}

/** Open the drawer; with a problem, say that a key is needed. */
export function openSettings(problem) {
  if (!dialog?.dialog.open) {
    dialog?.dialog.remove();
    dialog = build();
    document.body.append(dialog.dialog);
    dialog.keyField.value = key.get();
  }
  if (problem) {
    const kind = key.get() ? "wrong_key" : "needs_key";
    dialog.why.replaceChildren(h("p", { class: "needed", role: "alert" }, h("strong", {}, t(`settings.${kind}`)), " ", t(`settings.${kind}.why`), " ", h("span", { class: "small" }, prose(problem.detail))));
  }
  if (!dialog.dialog.open) dialog.dialog.showModal();
  if (problem) dialog.keyField.focus();
}

/** Draw the open drawer again, in another language. */
export function redrawSettings() {
  if (!dialog?.dialog.open) return;
  dialog.dialog.close();
  openSettings();
  document.getElementById("language").focus();
}

export function installSettings() {
  document.getElementById("open-settings").addEventListener("click", () => openSettings());
  document.addEventListener("key-needed", (event) => openSettings(event.detail));
}
