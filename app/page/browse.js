// The collection: its concepts by name, and one concept with all its exemplars.

import { getJson, patiently } from "./api.js";
import { details } from "./details.js";
import { breakable, h } from "./dom.js";
import { picture } from "./picture.js";
import { detailOf, titleOf } from "./problem.js";
import { rights } from "./rights.js";
import { rich, t } from "./texts.js";
import { count } from "./words.js";

const PAGE = 48; // concepts at once
const PICTURES = 60; // exemplars at once
const PAUSE = 200; // milliseconds without typing before a search
const FILTERS = ["kind", "license", "source"];
const NEAR = 2; // pages to either side that can be jumped to

/** The address of a list of concepts: the search, the filters, the order and the page. */
export function conceptsHash({ q = "", kind = "", license = "", source = "", order = "name", page = 1 } = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries({ q, kind, license, source })) if (value) query.set(name, value);
  if (order !== "name") query.set("order", order);
  if (page > 1) query.set("page", page);
  return `#/concepts${query.size ? `?${query}` : ""}`;
}

/** The list; `move(hash)` changes the address without a step in the history. */
export function conceptsView(parameters, move) {
  const wanted = { order: "name", ...Object.fromEntries(parameters) };
  wanted.page = Math.max(1, Number.parseInt(wanted.page, 10) || 1);
  wanted.q ??= "";
  let timer = 0;
  const box = h("input", { type: "search", id: "search", value: wanted.q, maxlength: 200, autocomplete: "off", placeholder: t("collection.placeholder") });
  const status = h("p", { class: "small", role: "status" });
  const found = h("div", { class: "found" });
  const filters = h("div", { class: "filters" });
  const renew = (changes) => {
    Object.assign(wanted, { page: 1 }, changes);
    move(conceptsHash(wanted));
    load();
  };
  box.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => renew({ q: box.value.trim() }), PAUSE);
  });
  const load = latest(
    (signal, onWait) => {
      const { page, ...conditions } = wanted;
      const query = new URLSearchParams({ ...conditions, offset: (page - 1) * PAGE, limit: PAGE });
      return patiently(() => getJson(`concepts?${query}`, { signal }), { signal, onWait });
    },
    ({ total, offset, concepts }) => {
      status.textContent = !total ? "" : total <= PAGE ? count("concepts", total) : t("collection.some", { from: offset + 1, to: offset + concepts.length, n: total });
      if (!concepts.length) return found.replaceChildren(nothing(wanted, total));
      const pages = Math.ceil(total / PAGE);
      found.replaceChildren(h("ul", { class: "tiles" }, concepts.map(tile)), pages > 1 ? pager(wanted, pages, renew) : "");
    },
    found,
    status,
  );
  load();
  showFilters(filters, wanted, renew);
  const view = h(
    "div",
    { class: "browse" },
    h("h1", { tabindex: "-1" }, t("collection.title")),
    h("div", { class: "search" }, h("label", { for: "search" }, t("collection.search")), box),
    filters,
    status,
    found,
  );
  return { view, title: t("collection.title"), retry: () => (load(), showFilters(filters, wanted, renew)) };
}

/** The filters that this collection has values for, and the order. */
async function showFilters(place, wanted, renew) {
  let known = {};
  try {
    known = await getJson("collection", { quiet: true });
  } catch {
    // the list says what is wrong
  }
  const select = (name, values, any) =>
    h(
      "label",
      {},
      t(`collection.${name}`),
      h("select", { onchange: ({ target }) => renew({ [name]: target.value }) }, any ? h("option", { value: "" }, any) : null, values.map(([value, label]) => h("option", { value, selected: wanted[name] === value }, label))),
    );
  const values = { kind: known.kinds, license: known.licenses, source: known.sources };
  place.replaceChildren(
    ...FILTERS.filter((name) => values[name]?.length > 1 || wanted[name]).map((name) => {
      const listed = (values[name] ?? []).map(({ value, concepts }) => [value, `${value} (${concepts})`]);
      if (wanted[name] && !listed.some(([value]) => value === wanted[name])) listed.push([wanted[name], wanted[name]]);
      return select(name, listed, t("collection.any"));
    }),
    select("order", [["name", t("collection.order_name")], ["exemplars", t("collection.order_exemplars")]]),
  );
}

/** Links to the first, the last and the nearby pages, and a field for any other. */
function pager(wanted, pages, renew) {
  const { page } = wanted;
  const to = (number) => conceptsHash({ ...wanted, page: number });
  const near = [...new Set([1, ...Array.from({ length: 2 * NEAR + 1 }, (_, place) => page - NEAR + place), pages])].filter((number) => number >= 1 && number <= pages);
  const jump = h("input", { type: "number", min: 1, max: pages, inputmode: "numeric", "aria-label": t("pages.jump") });
  const form = h(
    "form",
    {
      class: "jump",
      novalidate: true, // the field says it itself
      onsubmit: (event) => {
        event.preventDefault();
        const number = Math.round(Number(jump.value));
        if (number >= 1 && number <= pages) location.hash = to(number);
        else jump.setAttribute("aria-invalid", "true");
      },
    },
    jump,
    h("button", {}, t("pages.go")),
  );
  return h(
    "nav",
    { class: "pages", "aria-label": t("pages.title") },
    page > 1 ? h("a", { class: "button", href: to(page - 1), rel: "prev" }, t("pages.previous")) : h("span"),
    h(
      "ol",
      {},
      near.map((number, place) => [
        place && number - near[place - 1] > 1 ? h("li", { "aria-hidden": "true" }, "…") : null,
        h("li", {}, h("a", { href: to(number), "aria-label": t("pages.page", { n: number }), "aria-current": number === page ? "page" : null }, number)),
      ]),
    ),
    pages > 2 * NEAR + 3 ? form : null,
    page < pages ? h("a", { class: "button", href: to(page + 1), rel: "next" }, t("pages.next")) : h("span"),
  );
}

/** One concept. */
export function conceptView(id) {
  const status = h("p", { class: "small", role: "status" });
  const found = h("div", { class: "found" });
  const title = h("h1", { tabindex: "-1" }, "…");
  const entitle = (text) => {
    view.title = text;
    if (view.view.isConnected) document.title = `${text} · Whence`;
  };
  const page = (offset, options) => getJson(`concepts/${encodeURIComponent(id)}?offset=${offset}`, options);
  const load = latest(
    (signal, onWait) => patiently(() => page(0, { signal }), { signal, onWait }),
    ({ name, kind, exemplar_count, exemplars }) => {
      title.replaceChildren(...breakable(name));
      entitle(name);
      status.textContent = [kind, count("exemplars", exemplar_count)].filter(Boolean).join(" · ");
      const wall = h("ul", { class: "hits wall" });
      const more = h("button", { type: "button" }, t("collection.more"));
      let shown = 0;
      const add = () => {
        const next = exemplars.slice(shown, shown + PICTURES);
        wall.append(...next.map((one, place) => exemplar(one, name, shown + place + 1)));
        shown += next.length;
        more.hidden = shown >= exemplar_count;
      };
      more.addEventListener("click", async () => {
        const first = shown;
        if (shown === exemplars.length) {
          more.disabled = true;
          try {
            exemplars.push(...(await page(shown, {})).exemplars);
          } catch (problem) {
            status.textContent = problem.message;
          } finally {
            more.disabled = false;
          }
        }
        add();
        if (!wall.children[first]) return;
        wall.children[first].tabIndex = -1;
        wall.children[first].focus();
      });
      add();
      found.replaceChildren(wall, more);
    },
    found,
    status,
    (problem) => {
      if (problem.status !== 404) return null;
      title.textContent = t("concept.unknown");
      entitle(t("concept.unknown"));
      return h(
        "div",
        { class: "empty", role: "alert" },
        h("p", {}, t("concept.unknown.why", { id })),
        h("div", { class: "row" }, h("a", { class: "button", href: conceptsHash({ q: id.replace(/[-_]+/g, " ") }) }, t("concept.search", { words: id.replace(/[-_]+/g, " ") })), h("a", { class: "button", href: "#/concepts" }, t("collection.all"))),
      );
    },
  );
  const view = {
    view: h("div", { class: "browse" }, h("p", { class: "crumb" }, h("a", { href: "#/concepts" }, t("collection.title"))), title, status, found),
    title: t("concept.title"),
    retry: load,
  };
  load();
  return view;
}

function tile({ id, name, kind, exemplar_count, image_url }) {
  return h(
    "li",
    {},
    h(
      "a",
      { class: "tile", href: `#/concepts/${encodeURIComponent(id)}` },
      picture(image_url, ""),
      h("span", { class: "name" }, breakable(name)),
      h("span", { class: "small" }, [kind, count("exemplars", exemplar_count)].filter(Boolean).join(" · ")),
    ),
  );
}

function exemplar(one, name, number) {
  return h(
    "li",
    {},
    h("span", { class: "frame" }, picture(one.image_url, t("collection.exemplar_alt", { name, n: number }))),
    h("p", { class: "small" }, `${one.width} × ${one.height}`, h("br"), rights(one)),
    details(one.id),
  );
}

/** Why nothing is shown, and what to do. */
function nothing(wanted, total) {
  const all = h("a", { class: "button", href: "#/concepts" }, t("collection.all"));
  const filtered = FILTERS.some((name) => wanted[name]);
  if (total) return h("div", { class: "empty" }, h("p", {}, t("collection.past_end", { n: Math.ceil(total / PAGE) })), h("a", { class: "button", href: conceptsHash({ ...wanted, page: 1 }) }, t("collection.first_page")));
  if (wanted.q) {
    return h(
      "div",
      { class: "empty" },
      h("p", {}, t(filtered ? "collection.nothing_filtered" : "collection.nothing", { words: wanted.q })),
      h("p", {}, t("collection.advice")),
      h("div", { class: "row" }, filtered ? h("a", { class: "button", href: conceptsHash({ q: wanted.q }) }, t("collection.no_filters")) : null, all),
    );
  }
  if (filtered) return h("div", { class: "empty" }, h("p", {}, t("collection.none_fits")), all);
  return h("p", { class: "empty" }, rich("collection.empty"));
}

/** A function that loads and shows; a newer call overtakes an older one. `explain(problem)` may give its own element. */
function latest(load, show, place, status, explain = () => null) {
  let stop = null;
  return async function again() {
    stop?.abort();
    const mine = (stop = new AbortController());
    place.setAttribute("aria-busy", "true");
    const onWait = (left) => (status.textContent = left ? t("busy.wait", { n: left }) : t("busy.again"));
    try {
      const found = await load(mine.signal, onWait);
      if (!mine.signal.aborted) show(found);
    } catch (problem) {
      if (mine.signal.aborted) return;
      status.textContent = "";
      place.replaceChildren(
        explain(problem) ??
          h(
            "div",
            { class: "problem", role: "alert" },
            h("h2", {}, titleOf(problem)),
            h("p", {}, detailOf(problem)),
            problem.passing === false ? null : h("button", { type: "button", class: "primary", onclick: again }, t("asking.again")),
          ),
      );
    } finally {
      if (stop === mine) place.removeAttribute("aria-busy");
    }
  };
}
