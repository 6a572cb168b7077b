// Images that were given at once: the choice between one by one and one body of work.

import { Addresses, all, create, pictureOf, runEach } from "./asked.js";
import { h } from "./dom.js";
import { knownLimits } from "./limits.js";
import { plainTitle } from "./problem.js";
import { isWhole, outlines } from "./region.js";
import { askEach, counted, tableView } from "./table.js";
import { t } from "./texts.js";
import { askTogether, togetherView } from "./together.js";
import { headline } from "./words.js";

const SHOWN = 24; // images of a strip

const groups = new Addresses();

/** A group of images that were given at once; gives its address. */
export function createGroup(files) {
  const entries = files.map((file) => create(file));
  return addGroup({ id: entries[0].id, entries, state: "new" }).id;
}

/** Add a group, such as one that was kept over a reload. */
export const addGroup = (group) => groups.add(group);

export function forgetGroups() {
  groups.all().forEach(({ stop }) => stop?.abort());
  groups.clear();
}

/** The groups that have an answer as one body of work. */
export const bodiesOfWork = () => groups.all().filter((group) => group.answer && !isForgotten(group));

/** The groups that were asked about one by one. */
export const tables = () => groups.all().filter((group) => group.state === "each" && !isForgotten(group));

const needsKey = ({ problem, halted }) => (problem ?? halted)?.status === 401;

/** Ask again where a key was missing: images by themselves first, then the tables, one image at a time. */
export async function askWithKey() {
  const halted = tables().filter(needsKey);
  const theirs = new Set(halted.flatMap(({ entries }) => entries));
  if (await runEach(all().filter((entry) => needsKey(entry) && !theirs.has(entry)))) return;
  for (const group of halted) if (await askEach(group)) return;
}

/** True if the tab has given up images of a group, to take others. */
const isForgotten = ({ entries }) => entries.some(({ forgotten }) => forgotten);

/** Build the views anew, in another language. */
export function forgetGroupViews() {
  for (const group of groups.all()) group.view = null;
}

/** The view of a group and its title; nothing if there is none of that address. */
export function groupView(id) {
  const group = groups.find(id);
  if (!group || isForgotten(group)) return null;
  group.view ??= build(group);
  return { view: group.view, title: groupTitle(group), entry: group };
}

/** The title of a group's tab. */
export function groupTitle({ state, answer, problem, entries }) {
  if (state === "new") return t("several.title", { n: entries.length });
  if (state === "each") return counted(entries);
  return answer ? headline(answer) : problem ? plainTitle(problem) : t("asking.title");
}

function build(group) {
  const place = h("div", { class: "several" });
  const heading = () => h("h1", { tabindex: "-1" }, t("several.title", { n: group.entries.length }));
  const begin = (state) => {
    group.state = state;
    group.show();
    if (state === "together") askTogether(group, (address) => groups.rename(group, address));
    if (state === "each") askEach(group);
    document.dispatchEvent(new CustomEvent("group-asked", { detail: group }));
  };
  group.show = () => {
    const parts = {
      new: () => choice(group, heading(), begin),
      each: () => tableView(group, heading(), thumbnail),
      together: () => togetherView(group, strip, { again: () => begin("together"), back: () => begin("new") }),
    }[group.state]();
    place.replaceChildren(...parts.filter(Boolean));
  };
  group.show();
  return place;
}

function strip(entries) {
  const more = entries.length - SHOWN;
  return h("ul", { class: "strip" }, entries.slice(0, SHOWN).map((entry) => h("li", {}, framed(entry))), more > 0 ? h("li", { class: "small" }, t("several.not_shown", { n: more })) : null);
}

/** A thumbnail; with the outlines of what was compared, once that is known. */
function framed(entry) {
  const { seen } = entry;
  if (!seen) return thumbnail(entry);
  return h("span", { class: "frame", "--ratio": seen.width / seen.height }, thumbnail(entry), isWhole(seen.compared, seen) ? null : outlines(seen.compared, seen));
}

function thumbnail(entry) {
  const image = h("img", { src: pictureOf(entry), alt: "", loading: "lazy" });
  image.addEventListener("error", () => image.replaceWith(h("span", { class: "missing" })));
  return image;
}

/** The question that decides what is asked. */
function choice(group, heading, begin) {
  const n = group.entries.length;
  const most = knownLimits()?.max_group_images ?? n;
  const option = (state, act) => h("li", {}, h("h2", {}, t(`several.${state}`)), h("p", {}, t(`several.${state}.why`)), act);
  return [
    heading,
    h("p", { class: "lead" }, t("several.question")),
    strip(group.entries),
    h(
      "ul",
      { class: "choices" },
      option("each", h("button", { type: "button", class: "primary", onclick: () => begin("each") }, t("several.each.do"))),
      option("together", n > most ? h("p", { class: "notice" }, t("several.too_many", { n, most })) : h("button", { type: "button", class: "primary", onclick: () => begin("together") }, t("several.together.do"))),
    ),
  ];
}
