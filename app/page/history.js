// The answers of this tab as a strip of thumbnails; kept over a reload if the reader wants it.

import { add, addressOf, all, forgetAll, pictureOf } from "./asked.js";
import { h } from "./dom.js";
import { addGroup, bodiesOfWork, groupTitle, tables } from "./several.js";
import { language, t } from "./texts.js";
import { headline } from "./words.js";

const STORE = "whence-answers"; // in the session's storage: gone when the tab is closed
const SIDE = 480; // pixels of a kept picture
const SIDE_OF_MANY = 200; // of one of a body of work
const SHOWN = 24;

const place = document.getElementById("history");
let parts = null; // {language, strip}: what stays while answers come

const kept = () => sessionStorage.getItem(STORE) !== null;

/** Take up the answers that were kept before the page was loaded again. */
export function restore() {
  let records = [];
  try {
    records = JSON.parse(sessionStorage.getItem(STORE) ?? "[]");
  } catch {
    // damaged: there is nothing to take up
  }
  const revive = (record) => ({ ...record, file: null, url: record.picture, shape: Promise.resolve(record.size), watchers: new Set() });
  for (const record of records) {
    const { answer, entries } = record;
    if (entries) addGroup({ ...record, state: "together", entries: entries.map((one, place) => ({ ...revive(one), state: "new", seen: answer.seen?.[place] })) });
    else add({ ...revive(record), state: "done", seen: answer });
  }
}

/** The answers of this tab, the oldest first: to images, and to bodies of work. */
const answered = () =>
  [...all().filter(({ state }) => state === "done"), ...bodiesOfWork()]
    .sort((one, other) => Date.parse(one.answer.evidence.created_at) - Date.parse(other.answer.evidence.created_at))
    .slice(-SHOWN);

async function recordOf(asked, side) {
  return {
    name: asked.name,
    bytes: asked.bytes,
    region: asked.region,
    remark: asked.remark,
    size: await asked.shape,
    picture: (asked.picture ??= asked.file ? await small(pictureOf(asked), side) : asked.url),
  };
}

async function keep() {
  const records = await Promise.all(
    answered().map(async (asked) => ({
      id: asked.id,
      answer: asked.answer,
      ...(asked.entries ? { entries: await Promise.all(asked.entries.map((one) => recordOf(one, SIDE_OF_MANY))) } : await recordOf(asked, SIDE)),
    })),
  );
  while (kept()) {
    try {
      return sessionStorage.setItem(STORE, JSON.stringify(records));
    } catch {
      if (!records.shift()) return; // the storage is full: the oldest go first
    }
  }
}

/** A JPEG of a picture, of so many pixels on a side at most, as a data URL. */
function small(url, side) {
  return new Promise((resolve) => {
    const image = new Image();
    image.onload = () => {
      const scale = Math.min(1, side / Math.max(image.naturalWidth, image.naturalHeight));
      const canvas = h("canvas", { width: Math.max(1, Math.round(image.naturalWidth * scale)), height: Math.max(1, Math.round(image.naturalHeight * scale)) });
      const context = canvas.getContext("2d");
      context.fillStyle = "#fff";
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.drawImage(image, 0, 0, canvas.width, canvas.height);
      resolve(canvas.toDataURL("image/jpeg", 0.8));
    };
    image.onerror = () => resolve("");
    image.src = url;
  });
}

/** Draw the strip; `visible` on the views that it belongs to. */
export function showHistory(visible, current = null) {
  const done = [...tables(), ...answered().reverse()];
  const focused = place.contains(document.activeElement) ? document.activeElement : null;
  place.hidden = !visible || !done.length;
  if (place.hidden) return (parts = null);
  if (parts?.language !== language) parts = build();
  parts.strip.replaceChildren(
    ...done.map((asked) =>
      h(
        "li",
        {},
        h(
          "a",
          { href: addressOf(asked), "aria-current": asked.id === current ? "page" : null, title: titleOf(asked) },
          h("img", { src: pictureOf(asked.entries?.[0] ?? asked), alt: "", loading: "lazy" }),
          asked.entries ? h("span", { class: "badge", "aria-hidden": "true" }, asked.entries.length) : null,
          h("span", { class: "unseen" }, `${asked.entries ? t("several.title", { n: asked.entries.length }) : asked.name || t("query.pasted")}: ${titleOf(asked)}`),
        ),
      ),
    ),
  );
  if (focused) (place.contains(focused) ? focused : [...parts.strip.querySelectorAll("a")].find(({ href }) => href === focused.href))?.focus({ preventScroll: true });
}

function build() {
  const strip = h("ul", { class: "strip" });
  const box = h("input", { type: "checkbox", checked: kept(), onchange: ({ target }) => (target.checked ? (sessionStorage.setItem(STORE, "[]"), keep()) : sessionStorage.removeItem(STORE)) });
  const row = h("div", { class: "row" }, h("label", { class: "option" }, box, t("history.keep", { n: SHOWN })), clearing());
  place.replaceChildren(h("h2", {}, t("history.title")), strip, row);
  return { language, strip };
}

const titleOf = (asked) => (asked.entries ? groupTitle(asked) : headline(asked.answer));

/** The button that forgets all, once the reader has confirmed it. */
function clearing() {
  const button = (look, onclick, key) => h("button", { type: "button", class: look, onclick }, t(key));
  const turn = (sure) => {
    question.hidden = !sure;
    begin.hidden = sure;
    (sure ? question.querySelector("button") : begin).focus();
  };
  const begin = button("quiet", () => turn(true), "history.clear");
  const question = h("span", { class: "row", hidden: true }, t("history.sure"), button("", clear, "history.clear_all"), button("quiet", () => turn(false), "part.cancel"));
  return [begin, question];
}

function clear() {
  sessionStorage.removeItem(STORE);
  forgetAll();
  document.dispatchEvent(new CustomEvent("history-cleared"));
}

document.addEventListener("answered", () => kept() && keep());
