// Prints a report: the stored one, not the page that is open.

import { h } from "./dom.js";

const STYLE = /<style>(.*?)<\/style>/s;

/**
 * Print a report's HTML from a frame. Its style is taken over as a style sheet object, since the
 * page's policy, which holds in the frame, too, permits no style inside a document.
 */
export async function printReport(html) {
  const [element, rules] = STYLE.exec(html);
  const report = new DOMParser().parseFromString(html.replace(element, ""), "text/html");
  const frame = h("iframe", { class: "printed", tabindex: "-1", "aria-hidden": "true" });
  document.querySelector("iframe.printed")?.remove();
  document.body.append(frame);
  const { contentDocument: inside, contentWindow: view } = frame;
  const style = new view.CSSStyleSheet();
  style.replaceSync(rules);
  inside.adoptedStyleSheets = [style];
  inside.title = report.title;
  inside.documentElement.lang = report.documentElement.lang;
  report.querySelectorAll("script").forEach((data) => data.remove());
  inside.body.replaceWith(inside.adoptNode(report.body));
  await Promise.allSettled([...inside.images].map((image) => image.decode()));
  view.addEventListener("afterprint", () => frame.remove(), { once: true });
  view.print();
}
