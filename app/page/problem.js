// What went wrong, in the words of the page or of the server, which are English.

import { h } from "./dom.js";
import { english, prose, t } from "./texts.js";

/** The title of an error as nodes. */
export const titleOf = (error) => (error.title ? (error.own ? error.title : english(error.title)) : t("problem.page"));

/** The same as text, for the titles of tabs. */
export const plainTitle = (error) => (error.name === "AbortError" ? t("asking.stopped") : error.title ?? t("problem.page"));

/** The cause as nodes. */
export const detailOf = (error) => (error.own ? error.detail : prose(error.detail || error.message));

/**
 * A view of an error. `stopped`: the text where the reader stopped it; `hint`: a text or null;
 * `again()`: tries again, offered where that may help; `more`: further elements of its row.
 */
export function problemView(error, { stopped, hint = null, again, more }) {
  const left = error.name === "AbortError";
  const faults = error.errors?.length > 1 ? h("ul", {}, error.errors.map((fault) => h("li", {}, prose(fault.detail)))) : null;
  return h(
    "div",
    { class: "problem", role: "alert" },
    h("h1", { tabindex: "-1" }, left ? t("asking.stopped") : titleOf(error)),
    h("p", {}, left ? stopped : detailOf(error)),
    faults,
    hint && !left ? h("p", {}, hint) : null,
    error.retryAfter ? h("p", { class: "small" }, t("busy.asks", { n: error.retryAfter })) : null,
    h("div", { class: "row" }, left || error.passing !== false ? h("button", { type: "button", class: "primary", onclick: again }, t("asking.again")) : null, more),
  );
}
