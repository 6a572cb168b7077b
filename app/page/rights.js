// Licence and source of an exemplar.

import { h } from "./dom.js";
import { t } from "./texts.js";

/** A link to where an exemplar was found; plain text unless it leads to the web. */
function sourceLink(url) {
  let web = null;
  try {
    web = new URL(url);
  } catch {
    return url;
  }
  if (!["http:", "https:"].includes(web.protocol)) return url;
  return h("a", { href: web.href, rel: "noopener noreferrer", target: "_blank" }, web.host.replace(/^www\./, ""), h("span", { class: "unseen" }, ` (${t("rights.new_tab")})`));
}

export function rights({ license, source_url }) {
  return h("span", { class: "rights" }, license ?? t("rights.none"), source_url ? [" · ", sourceLink(source_url)] : null);
}
