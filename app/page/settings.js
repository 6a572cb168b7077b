// What the reader may choose: how much to list, what to show, and the key.

import { key } from "./api.js";
import { h, prose } from "./dom.js";

const STORE = "whence-settings";
const DEFAULTS = { concepts: 5, exemplars: 3, facet: "any", regions: true };
const LIMITS = { concepts: [1, 100], exemplars: [0, 20] };

function read() {
  try {
    return { ...DEFAULTS, ...JSON.parse(localStorage.getItem(STORE) ?? "{}") };
  } catch {
    return { ...DEFAULTS };
  }
}

export const settings = read();

function change(name, value) {
  settings[name] = value;
  try {
    localStorage.setItem(STORE, JSON.stringify(settings));
  } catch {
    // a private window: they hold until it closes
  }
  document.dispatchEvent(new CustomEvent("settings-changed", { detail: name }));
}

const why = h("div", { id: "key-why" });
const keyField = h("input", { id: "key", type: "password", autocomplete: "off", spellcheck: "false", "aria-describedby": "key-help key-why" });

const dialog = h(
  "dialog",
  { class: "drawer", "aria-labelledby": "settings-title" },
  h(
    "form",
    { onsubmit: (event) => (event.preventDefault(), dialog.close()) },
    h("div", { class: "dialog-head" }, h("h2", { id: "settings-title" }, "Settings"), h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Close")),
    numberField("concepts", "Concepts to list", "How many possible sources an answer names, from the next image on."),
    numberField("exemplars", "Exemplars of each", "How many works are shown for each of them, from the next image on."),
    h(
      "fieldset",
      {},
      h("legend", {}, "Show concepts found by"),
      ...[["any", "Subject or style"], ["subject", "Subject: what is shown"], ["style", "Style: how it is made"]].map(([value, label]) =>
        h("label", { class: "option" }, h("input", { type: "radio", name: "facet", value, checked: settings.facet === value, onchange: () => change("facet", value) }), label),
      ),
    ),
    h(
      "label",
      { class: "option" },
      h("input", { type: "checkbox", checked: settings.regions, onchange: (event) => change("regions", event.target.checked) }),
      "Find the regions that correspond",
    ),
    h(
      "div",
      { class: "field" },
      h("label", { for: "key" }, "Key"),
      why,
      keyField,
      h("p", { class: "small", id: "key-help" }, "Only for servers that ask for one. It is kept until this tab is closed."),
    ),
    h("button", { class: "primary" }, "Done"),
  ),
);
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
dialog.addEventListener("close", () => (why.replaceChildren(), keep()));

function numberField(name, label, help) {
  const [min, max] = LIMITS[name];
  const onchange = ({ target }) => {
    const value = Math.round(Number(target.value));
    if (target.value.trim() && value >= min && value <= max) change(name, value);
    else target.value = settings[name];
  };
  return h(
    "div",
    { class: "field" },
    h("label", { for: `set-${name}` }, label),
    h("input", { id: `set-${name}`, type: "number", min, max, value: settings[name], onchange, "aria-describedby": `help-${name}` }),
    h("p", { class: "small", id: `help-${name}` }, help),
  );
}

function keep() {
  if (keyField.value.trim() === key.get()) return;
  key.set(keyField.value.trim());
  document.dispatchEvent(new CustomEvent("key-given"));
}

/** Open the drawer; with a problem, say that a key is needed. */
export function openSettings(problem) {
  keyField.value = key.get();
  if (problem) {
    const title = key.get() ? "This key is not accepted" : "This server needs a key";
    why.replaceChildren(h("p", { class: "needed", role: "alert" }, h("strong", {}, title), " ", key.get() ? "Check it, or ask whoever runs the server for another." : "Ask whoever runs it for one and enter it here.", " ", h("span", { class: "small" }, prose(problem.detail))));
  }
  if (!dialog.open) dialog.showModal();
  if (problem) keyField.focus();
}

export function installSettings() {
  document.body.append(dialog);
  document.getElementById("open-settings").addEventListener("click", () => openSettings());
  document.addEventListener("key-needed", (event) => openSettings(event.detail));
}
