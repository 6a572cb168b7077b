// The collection: its concepts by name, and one concept with all its exemplars.

import { getJson, patiently } from "./api.js";
import { rights } from "./compare.js";
import { details } from "./details.js";
import { h, prose } from "./dom.js";
import { picture } from "./picture.js";
import { count } from "./words.js";

const PAGE = 48; // concepts at once
const PICTURES = 60; // exemplars at once
const PAUSE = 200; // milliseconds without typing before a search

/** Where a list of concepts is: the words searched for and the page, as a hash. */
export function conceptsHash(words, page) {
  const query = new URLSearchParams();
  if (words) query.set("q", words);
  if (page > 1) query.set("page", page);
  return `#/concepts${query.size ? `?${query}` : ""}`;
}

/** The list; `move(hash)` changes the address without a step in the history. */
export function conceptsView(parameters, move) {
  let words = parameters.get("q") ?? "";
  let page = Math.max(1, Number.parseInt(parameters.get("page"), 10) || 1);
  let timer = 0;
  const box = h("input", { type: "search", id: "search", value: words, maxlength: 200, autocomplete: "off", placeholder: "Name of an artist, subject or collection" });
  const status = h("p", { class: "small", role: "status" });
  const found = h("div", { class: "found" });
  box.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => {
      words = box.value.trim();
      page = 1;
      move(conceptsHash(words, page));
      load();
    }, PAUSE);
  });
  const load = latest(
    (signal, onWait) => {
      const query = new URLSearchParams({ q: words, offset: (page - 1) * PAGE, limit: PAGE });
      return patiently(() => getJson(`concepts?${query}`, { signal }), { signal, onWait });
    },
    ({ total, offset, concepts }) => {
      status.textContent = !total ? "" : total <= PAGE ? count(total, "concept") : `${offset + 1} to ${offset + concepts.length} of ${count(total, "concept")}`;
      if (!concepts.length) return found.replaceChildren(nothing(words, page));
      const pages = Math.ceil(total / PAGE);
      found.replaceChildren(
        h("ul", { class: "tiles" }, concepts.map(tile)),
        pages > 1
          ? h(
              "nav",
              { class: "pages", "aria-label": "Pages" },
              page > 1 ? h("a", { class: "button", href: conceptsHash(words, page - 1), rel: "prev" }, "Previous") : h("span"),
              h("span", { class: "small" }, `Page ${page} of ${pages}`),
              page < pages ? h("a", { class: "button", href: conceptsHash(words, page + 1), rel: "next" }, "Next") : h("span"),
            )
          : "",
      );
    },
    found,
    status,
  );
  load();
  const view = h(
    "div",
    { class: "browse" },
    h("h1", { tabindex: "-1" }, "The collection"),
    h("div", { class: "search" }, h("label", { for: "search" }, "Search by name"), box),
    status,
    found,
  );
  return { view, title: "The collection", retry: load };
}

/** One concept. */
export function conceptView(id) {
  const status = h("p", { class: "small", role: "status" });
  const found = h("div", { class: "found" });
  const title = h("h1", { tabindex: "-1" }, "…");
  const load = latest(
    (signal, onWait) => patiently(() => getJson(`concepts/${encodeURIComponent(id)}`, { signal }), { signal, onWait }),
    ({ name, kind, exemplars }) => {
      title.textContent = name;
      document.title = `${name} · Whence`;
      status.textContent = [kind, count(exemplars.length, "exemplar")].filter(Boolean).join(" · ");
      const wall = h("ul", { class: "hits wall" });
      const more = h("button", { type: "button" }, "Show more");
      let shown = 0;
      const add = () => {
        const next = exemplars.slice(shown, shown + PICTURES);
        wall.append(...next.map((one, place) => exemplar(one, name, shown + place + 1)));
        shown += next.length;
        more.hidden = shown >= exemplars.length;
      };
      more.addEventListener("click", () => {
        const first = shown;
        add();
        wall.children[first].tabIndex = -1;
        wall.children[first].focus();
      });
      add();
      found.replaceChildren(wall, more);
    },
    found,
    status,
  );
  load();
  const view = h("div", { class: "browse" }, h("p", { class: "crumb" }, h("a", { href: "#/concepts" }, "The collection")), title, status, found);
  return { view, title: "Concept", retry: load };
}

function tile({ id, name, kind, exemplar_count, image_url }) {
  return h(
    "li",
    {},
    h(
      "a",
      { class: "tile", href: `#/concepts/${encodeURIComponent(id)}` },
      picture(image_url, ""),
      h("span", { class: "name" }, name),
      h("span", { class: "small" }, [kind, count(exemplar_count, "exemplar")].filter(Boolean).join(" · ")),
    ),
  );
}

function exemplar(one, name, number) {
  return h(
    "li",
    {},
    h("span", { class: "frame" }, picture(one.image_url, `${name}, exemplar ${number}`)),
    h("p", { class: "small" }, `${one.width} × ${one.height}`, h("br"), rights(one)),
    details(one.id),
  );
}

function nothing(words, page) {
  const all = h("a", { class: "button", href: "#/concepts" }, "Show all concepts");
  if (words) return h("div", { class: "empty" }, h("p", {}, `No concept has “${words}” in its name.`), all);
  if (page > 1) return h("div", { class: "empty" }, h("p", {}, "There are not that many pages."), all);
  return h("p", { class: "empty" }, "The collection is empty. Whoever runs this server can fill it with ", h("code", {}, "whence rebuild"), ".");
}

/** A function that loads and shows; a newer call overtakes an older one. */
function latest(load, show, place, status) {
  let stop = null;
  return async function again() {
    stop?.abort();
    const mine = (stop = new AbortController());
    place.setAttribute("aria-busy", "true");
    const onWait = (left) => (status.textContent = left ? `The server is busy. Trying again in ${count(left, "second")}…` : "Trying again…");
    try {
      const found = await load(mine.signal, onWait);
      if (!mine.signal.aborted) show(found);
    } catch (problem) {
      if (mine.signal.aborted) return;
      status.textContent = "";
      place.replaceChildren(
        h(
          "div",
          { class: "problem", role: "alert" },
          h("h2", {}, problem.title ?? "Something went wrong on this page"),
          h("p", {}, prose(problem.detail || problem.message)),
          h("button", { type: "button", class: "primary", onclick: again }, "Try again"),
        ),
      );
    } finally {
      if (stop === mine) place.removeAttribute("aria-busy");
    }
  };
}
