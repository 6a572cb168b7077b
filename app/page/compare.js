// Image and exemplar side by side, with the regions that correspond.

import { details } from "./details.js";
import { h, sourceLink } from "./dom.js";
import { keepRatio, picture } from "./picture.js";

const body = h("div", { class: "compare-body" });
const place = h("p", { class: "small", role: "status" });
const dialog = h(
  "dialog",
  { class: "compare", "aria-labelledby": "compare-title" },
  h(
    "div",
    { class: "dialog-head" },
    h("h2", { id: "compare-title" }),
    h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Close"),
  ),
  body,
  h(
    "div",
    { class: "dialog-foot" },
    h("button", { type: "button", id: "compare-back", onclick: () => step(-1) }, "Previous"),
    place,
    h("button", { type: "button", id: "compare-on", onclick: () => step(1) }, "Next"),
  ),
);
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
dialog.addEventListener("close", () => body.replaceChildren());
dialog.addEventListener("keydown", ({ key, target }) => {
  if (target.closest("input, a, summary")) return;
  if (key === "ArrowRight") step(1);
  if (key === "ArrowLeft") step(-1);
});

let pairs = [];
let current = 0;
let regions = true;

/** An overlay over a whole picture; it says so when it is no longer to be had. */
export function heat(url, onGone = () => {}) {
  return h("img", { class: "heat", src: url, alt: "", onerror: ({ target }) => (target.remove(), onGone()) });
}

/** Open on one of `pairs`: {query, concept, hit}. */
export function compare(all, one) {
  pairs = all;
  current = all.indexOf(one);
  show();
  if (!dialog.open) dialog.showModal();
}

export const installCompare = () => document.body.append(dialog);

function step(by) {
  current = Math.min(pairs.length - 1, Math.max(0, current + by));
  show();
}

function show() {
  const { query, concept, hit } = pairs[current];
  const { heatmaps } = hit;
  const gone = h("p", { class: "small", role: "status" });
  const lapse = () => gone.replaceChildren("The regions are kept for a short time only. Ask again to see them.");
  const image = h("img", { src: query.url, alt: "Your image", onload: () => keepRatio(image) });
  const mine = h("div", { class: "frame" }, image);
  const theirs = h("div", { class: "frame" }, picture(hit.image_url, `Exemplar of ${concept.name}`));
  const lay = () => {
    for (const [frame, name] of [[mine, "query_url"], [theirs, "exemplar_url"]]) {
      frame.querySelector(".heat")?.remove();
      if (regions && heatmaps) frame.append(heat(heatmaps[name], lapse));
    }
  };
  lay();
  dialog.querySelector("#compare-title").textContent = concept.name;
  body.replaceChildren(
    h(
      "div",
      { class: "pair" },
      h("figure", {}, mine, h("figcaption", {}, "Your image")),
      h("figure", {}, theirs, h("figcaption", {}, `Similarity ${hit.similarity.toFixed(2)} in ${hit.facet}`, rights(hit), details(hit.id))),
    ),
    heatmaps
      ? h(
          "label",
          { class: "option" },
          h("input", { type: "checkbox", checked: regions, onchange: ({ target }) => ((regions = target.checked), lay()) }),
          "Show the regions that correspond",
        )
      : h("p", { class: "small" }, "No regions were drawn for this pair."),
    gone,
  );
  place.textContent = `${current + 1} of ${pairs.length}`;
  const [back, on] = [dialog.querySelector("#compare-back"), dialog.querySelector("#compare-on")];
  const focused = document.activeElement;
  back.disabled = current === 0;
  on.disabled = current === pairs.length - 1;
  if (focused?.disabled) (focused === on ? back : on).focus();
}

/** Licence and source of an exemplar. */
export function rights({ license, source_url }) {
  return h(
    "span",
    { class: "rights" },
    license ?? "No licence recorded",
    source_url ? [" · ", sourceLink(source_url)] : null,
  );
}
