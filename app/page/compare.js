// Image and exemplar side by side: zoomed and moved in step, with the regions that correspond.

import { pictureOf } from "./asked.js";
import { details } from "./details.js";
import { breakable, h } from "./dom.js";
import { keepRatio, picture } from "./picture.js";
import { isWhole, outlines } from "./region.js";
import { rights } from "./rights.js";
import { t } from "./texts.js";
import { decimal } from "./words.js";

const MOST = 8; // times as large
const STEP = 1.5; // of a zoom
const PAN = 0.1; // of a picture, for an arrow key
const THRESHOLD = "#heat-outline"; // the filter of index.html

let dialog = null;
let returning = false; // from the step of the history that the open dialog has
let pairs = [];
let current = 0;
let regions = 0.8; // opacity
let outlined = false;
let view = { zoom: 1, x: 0, y: 0 }; // the point in the middle, from it as parts of a picture
let frames = [];

/** An overlay over a whole picture; it says so when it is no longer to be had. */
export function heat(url, onGone = () => {}) {
  return h("img", { class: "heat", src: url, alt: "", onerror: ({ target }) => (target.remove(), onGone()) });
}

/** Open on one of `pairs`: {query, concept, hit}. Back closes it. */
export function compare(all, one) {
  pairs = all;
  current = all.indexOf(one);
  view = { zoom: 1, x: 0, y: 0 };
  build();
  show();
  dialog.showModal();
  history.pushState({ ...history.state, viewer: true }, "");
}

/** Close, if open; true if it was. `left`: the address has changed by itself. */
export function closeCompare({ left = false } = {}) {
  if (!dialog) return false;
  const closing = dialog;
  dialog = null; // first: closing is told to the listener below
  closing.close();
  closing.remove();
  if (!left && history.state?.viewer) {
    returning = true;
    history.back();
  }
  return true;
}

/** True once, for the step back that closing made. */
export function leftCompare() {
  const own = returning;
  returning = false;
  return own;
}

const at = (name) => dialog.querySelector(`[data-part=${name}]`);

function build() {
  dialog = h(
    "dialog",
    { class: "compare", "aria-labelledby": "compare-title" },
    h("div", { class: "dialog-head" }, h("h2", { id: "compare-title" }), h("button", { type: "button", class: "quiet", onclick: () => closeCompare() }, t("close"))),
    h("div", { class: "compare-body", "data-part": "body" }),
    h(
      "div",
      { class: "dialog-foot" },
      h("button", { type: "button", "data-part": "back", onclick: () => step(-1) }, t("pages.previous")),
      h("p", { class: "small", role: "status", "data-part": "place" }),
      h("button", { type: "button", "data-part": "on", onclick: () => step(1) }, t("pages.next")),
    ),
  );
  dialog.addEventListener("click", (event) => event.target === dialog && closeCompare());
  dialog.addEventListener("cancel", (event) => (event.preventDefault(), closeCompare()));
  dialog.addEventListener("close", () => dialog && closeCompare());
  dialog.addEventListener("keydown", keys);
  document.body.append(dialog);
}

function keys(event) {
  const { key, target, ctrlKey, metaKey } = event;
  if (ctrlKey || metaKey) return;
  const busy = target.closest("input, a, summary"); // its own arrow keys
  const [x, y] = busy ? [] : { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key] ?? [];
  if (key === "+" || key === "=") zoom(STEP);
  else if (key === "-") zoom(1 / STEP);
  else if (key === "0") zoom(0);
  else if (x !== undefined && view.zoom > 1) move(x * PAN, y * PAN);
  else if (x) step(x);
  else return;
  event.preventDefault();
}

function step(by) {
  current = Math.min(pairs.length - 1, Math.max(0, current + by));
  show();
}

function zoom(by) {
  view.zoom = by ? Math.min(MOST, Math.max(1, view.zoom * by)) : 1;
  move(0, 0);
}

/** Move the middle by parts of what is shown, no further than the edge. */
function move(x, y) {
  const most = (1 - 1 / view.zoom) / 2;
  const within = (value) => Math.min(most, Math.max(-most, value));
  view.x = within(view.x + x / view.zoom);
  view.y = within(view.y + y / view.zoom);
  for (const frame of frames) frame.style.transform = `scale(${view.zoom}) translate(${-100 * view.x}%, ${-100 * view.y}%)`;
  at("zoom").textContent = t("compare.zoom", { n: Math.round(10 * view.zoom) / 10 });
  frames.forEach((frame) => frame.parentElement?.classList.toggle("zoomed", view.zoom > 1));
  at("in").disabled = view.zoom >= MOST;
  at("out").disabled = at("fit").disabled = view.zoom === 1;
}

/** A picture that is moved by dragging, and zoomed by wheel, pinch or double click. */
function stage(frame) {
  const place = h("div", { class: "stage" }, frame);
  const fingers = new Map();
  place.addEventListener("wheel", (event) => (event.preventDefault(), zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15)), { passive: false });
  place.addEventListener("dblclick", () => zoom(view.zoom > 1 ? 0 : STEP * STEP));
  place.addEventListener("pointerdown", (event) => {
    place.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, event);
  });
  place.addEventListener("pointermove", (event) => {
    const before = fingers.get(event.pointerId);
    if (!before) return;
    const other = [...fingers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) {
      const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      zoom(apart(event) / Math.max(1, apart(before)));
    } else {
      const { offsetWidth, offsetHeight } = frame;
      move((before.clientX - event.clientX) / offsetWidth, (before.clientY - event.clientY) / offsetHeight);
    }
    fingers.set(event.pointerId, event);
  });
  const lift = (event) => fingers.delete(event.pointerId);
  place.addEventListener("pointerup", lift);
  place.addEventListener("pointercancel", lift);
  return place;
}

function show() {
  const { query, concept, hit } = pairs[current];
  const { heatmaps } = hit;
  const gone = h("p", { class: "small", role: "status" });
  const lapse = () => gone.replaceChildren(t("compare.gone"));
  const source = hit.image === undefined ? query : query[hit.image - 1]; // of a body of work: the image that it is nearest to
  const image = h("img", { src: pictureOf(source), alt: t("query.alt"), draggable: "false", onload: () => keepRatio(image) });
  image.addEventListener("error", () => image.replaceWith(h("span", { class: "missing" }, t("query.not_shown"))));
  const mine = h("div", { class: "frame" }, image);
  const theirs = h("div", { class: "frame" }, picture(hit.image_url, t("compare.exemplar_alt", { name: concept.name })));
  frames = [mine, theirs];
  const lay = () => {
    for (const [frame, name] of [[mine, "query_url"], [theirs, "exemplar_url"]]) {
      frame.querySelector(".heat")?.remove();
      if (!regions || !heatmaps) continue;
      const layer = heat(heatmaps[name], lapse);
      layer.style.opacity = regions;
      if (outlined) layer.style.filter = `url(${THRESHOLD})`;
      frame.append(layer);
    }
  };
  at("body").replaceChildren(
    h(
      "div",
      { class: "pair" },
      h("figure", {}, stage(mine), h("figcaption", {}, source.name || t("query.pasted"))),
      h("figure", {}, stage(theirs), h("figcaption", {}, t(`hit.similarity_${hit.facet}`, { similarity: decimal(hit.similarity, 2) }), rights(hit), details(hit.id))),
    ),
    h(
      "div",
      { class: "viewer-tools" },
      h(
        "div",
        { class: "row", role: "group", "aria-label": t("compare.zoom_group") },
        h("button", { type: "button", "data-part": "out", "aria-label": t("compare.out"), onclick: () => zoom(1 / STEP) }, "−"),
        h("button", { type: "button", "data-part": "in", "aria-label": t("compare.in"), onclick: () => zoom(STEP) }, "+"),
        h("button", { type: "button", "data-part": "fit", onclick: () => zoom(0) }, t("compare.fit")),
        h("span", { class: "small", role: "status", "data-part": "zoom" }),
      ),
      heatmaps
        ? h(
            "div",
            { class: "row", role: "group", "aria-label": t("compare.regions") },
            h("label", { class: "slider" }, t("compare.regions"), h("input", { type: "range", min: 0, max: 100, step: 5, value: 100 * regions, oninput: ({ target }) => ((regions = target.value / 100), lay()) })),
            h("label", { class: "option" }, h("input", { type: "checkbox", checked: outlined, onchange: ({ target }) => ((outlined = target.checked), lay()) }), t("compare.outlines")),
          )
        : h("p", { class: "small" }, t("compare.no_regions")),
    ),
    gone,
  );
  lay();
  move(0, 0);
  at("place").textContent = t("compare.place", { n: current + 1, of: pairs.length });
  dialog.querySelector("#compare-title").replaceChildren(...breakable(concept.name));
  const [back, on] = [at("back"), at("on")];
  const focused = document.activeElement;
  back.disabled = current === 0;
  on.disabled = current === pairs.length - 1;
  if (focused?.disabled) (focused === on ? back : on).focus();
  const { seen, region } = source;
  const best = seen?.compared.length > 1 ? concept.square : null; // of a body of work the mean counts
  if (seen && !isWhole(seen.compared, seen)) mine.append(outlines(seen.compared, seen, { region, best }));
}
