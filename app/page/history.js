// The answers of this tab as a strip of thumbnails; kept over a reload if the reader wants it.

import { add, all, forgetAll, pictureOf } from "./asked.js";
import { h } from "./dom.js";
import { t } from "./texts.js";
import { headline } from "./words.js";

const STORE = "whence-answers"; // in the session's storage: gone when the tab is closed
const SIDE = 480; // pixels of a kept picture
const SHOWN = 24;

const place = document.getElementById("history");

const kept = () => sessionStorage.getItem(STORE) !== null;

/** Take up the answers that were kept before the page was loaded again. */
export function restore() {
  let records = [];
  try {
    records = JSON.parse(sessionStorage.getItem(STORE) ?? "[]");
  } catch {
    // damaged: there is nothing to take up
  }
  for (const record of records) {
    add({ ...record, file: null, url: record.picture, shape: Promise.resolve(record.size), state: "done", watchers: new Set() });
  }
}

async function keep() {
  const done = all().filter(({ state, answer }) => state === "done" && answer.concepts).slice(-SHOWN);
  const records = await Promise.all(
    done.map(async (entry) => ({
      id: entry.id,
      name: entry.name,
      bytes: entry.bytes,
      region: entry.region,
      parameters: entry.parameters,
      remark: entry.remark,
      answer: { ...entry.answer, preview: null },
      size: await entry.shape,
      picture: (entry.picture ??= entry.file ? await small(pictureOf(entry)) : entry.url),
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

/** A small JPEG of a picture, as a data URL. */
function small(url) {
  return new Promise((resolve) => {
    const image = new Image();
    image.onload = () => {
      const scale = Math.min(1, SIDE / Math.max(image.naturalWidth, image.naturalHeight));
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
  const done = all().filter(({ state }) => state === "done").slice(-SHOWN).reverse();
  place.hidden = !visible || !done.length;
  if (place.hidden) return;
  const box = h("input", { type: "checkbox", checked: kept(), onchange: ({ target }) => (target.checked ? (sessionStorage.setItem(STORE, "[]"), keep()) : sessionStorage.removeItem(STORE)) });
  place.replaceChildren(
    h("h2", {}, t("history.title")),
    h(
      "ul",
      { class: "strip" },
      done.map((entry) =>
        h(
          "li",
          {},
          h(
            "a",
            { href: `#/answers/${entry.id}`, "aria-current": entry.id === current ? "page" : null, title: headline(entry.answer) },
            h("img", { src: pictureOf(entry), alt: "", loading: "lazy" }),
            h("span", { class: "unseen" }, `${entry.name || t("query.pasted")}: ${headline(entry.answer)}`),
          ),
        ),
      ),
    ),
    h(
      "div",
      { class: "row" },
      h("label", { class: "option" }, box, t("history.keep")),
      h("button", { type: "button", class: "quiet", onclick: clear }, t("history.clear")),
    ),
  );
}

function clear() {
  sessionStorage.removeItem(STORE);
  forgetAll();
  document.dispatchEvent(new CustomEvent("history-cleared"));
}

document.addEventListener("answered", () => kept() && keep());
