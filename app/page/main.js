// The page put together: addresses, views, and what is known of the index.

import { answerView, forgetViews, redraw } from "./answer.js";
import { getJson } from "./api.js";
import { installAsk, notice, showSamples } from "./ask.js";
import { addressOf, AT_ONCE, create, run } from "./asked.js";
import { conceptsView, conceptView } from "./browse.js";
import { closeCompare, leftCompare } from "./compare.js";
import { h, speak } from "./dom.js";
import { restore, showHistory } from "./history.js";
import { limits } from "./limits.js";
import { plainTitle, titleOf } from "./problem.js";
import { installSettings, redrawSettings, setLimits } from "./settings.js";
import { askWithKey, createGroup, forgetGroups, forgetGroupViews, groupTitle, groupView, tables } from "./several.js";
import { rich, t, translate } from "./texts.js";
import { count, date, headline } from "./words.js";

const at = (id) => document.getElementById(id);
const KEPT = 20; // steps of the history whose view stays as it was left
const left = new Map(); // step -> {hash, route, view, title, retry, scroll}
let steps = 0;
let here = null; // the one of them that is shown

/** #/, #/answers/ID, #/several/ID, #/concepts?q=sea&page=2, #/concepts/ukiyo-umi */
function viewOf(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const [kind, id] = path.split("/");
  if (kind === "concepts" && id) return Object.assign(conceptView(decode(id)), { route: "concepts" });
  if (kind === "concepts") return Object.assign(conceptsView(new URLSearchParams(query), move), { route: "concepts" });
  const found = { answers: () => answerView(id, askPart), several: () => groupView(id) }[kind]?.();
  if (found) return { route: "ask", ...found };
  if (kind === "answers" || kind === "several") {
    history.replaceState(history.state, "", "#/");
    notice(t("asking.gone"));
  }
  return { route: "ask", title: null, view: null };
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** Change the address in place. */
function move(hash) {
  history.replaceState(history.state, "", hash);
  here.hash = hash;
}

function show() {
  const returning = history.state?.step;
  const step = returning ?? ++steps;
  steps = Math.max(steps, step);
  if (!returning) history.replaceState({ step }, "");
  const first = here === null;
  const known = left.get(step);
  const stays = known?.hash === location.hash && known.route === "concepts";
  here = stays ? known : Object.assign(viewOf(location.hash), { scroll: known?.hash === location.hash ? known.scroll : 0 });
  if (here.entry && location.hash !== addressOf(here.entry)) history.replaceState(history.state, "", addressOf(here.entry));
  here.hash = location.hash;
  left.delete(step);
  left.set(step, here);
  if (left.size > KEPT) left.delete(left.keys().next().value);
  const { route, view, title, scroll, entry } = here;
  at("ask").hidden = view !== null;
  at("view").hidden = view === null;
  at("view").replaceChildren(...(view ? [view] : []));
  document.title = `${title ?? t("ask.tab")} · Whence`;
  for (const link of document.querySelectorAll("nav [data-route]")) {
    if (link.dataset.route === route) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  showHistory(route === "ask", entry?.id);
  scrollTo(0, scroll);
  if (!first) document.querySelector("#ask:not([hidden]) h1, #view:not([hidden]) h1")?.focus({ preventScroll: true });
}

let index = null; // what is known of it

async function showIndex() {
  try {
    index = await getJson("health/ready");
  } catch (problem) {
    at("index").replaceChildren(...(problem.title ? [titleOf(problem), "."] : []));
    return;
  }
  tellIndex();
}

function tellIndex() {
  if (!index) return;
  at("index").replaceChildren(
    `${count("concepts", index.concepts)}, ${count("exemplars", index.exemplars)} · ${t("index.name")} `,
    h("code", {}, index.index_version),
    t("index.built", { date: date(index.index_created_at) }),
  );
  at("collection").textContent = t("ask.collection", { concepts: count("concepts", index.concepts) });
}

function go(hash) {
  closeCompare({ left: true });
  if (history.state?.viewer) history.replaceState(null, "", hash); // the step of a comparison
  else history.pushState(null, "", hash);
  show();
}

function entitle(title) {
  here.title = title;
  document.title = `${title} · Whence`;
}

/** Give the view that is shown another title, and go to its heading. */
function present(title) {
  entitle(title);
  if (!at("history").contains(document.activeElement)) document.querySelector("#view h1")?.focus({ preventScroll: true });
}

/** Ask about images that were given at once. */
function give(files) {
  if (files.length > AT_ONCE) return home(), notice(...rich("ask.too_many", { n: files.length, most: AT_ONCE, address: new URL(".", location).href }));
  if (files.length > 1) return go(`#/several/${createGroup(files)}`);
  begin(create(files[0]));
}

function begin(entry) {
  run(entry);
  go(`#/answers/${entry.id}`);
}

function askPart(entry, region) {
  begin(create(entry.file, { region }));
}

/** Go to where an image is given, unless that is where we are. */
function home() {
  if (!at("ask").hidden) return;
  go("#/");
}

translate();
restore();
installSettings();
installAsk(give, home);
history.scrollRestoration = "manual";
addEventListener("scroll", () => here && (here.scroll = scrollY), { passive: true });
addEventListener("popstate", () => {
  if (leftCompare() || closeCompare({ left: true })) return;
  notice();
  show();
});
addEventListener("beforeunload", (event) => tables().some(({ loop }) => loop) && event.preventDefault());
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address is taken by the views
  at("main").focus();
});
document.addEventListener("settings-changed", () => redraw());
document.addEventListener("language-changed", () => {
  translate();
  tellIndex();
  forgetViews();
  forgetGroupViews();
  left.clear();
  show();
  showSamples(give);
  redrawSettings();
});
document.addEventListener("key-given", () => {
  redraw();
  askWithKey();
  here.retry?.();
  showSamples(give);
});
document.addEventListener("ask-again", ({ detail: asked }) => {
  const files = asked.given ?? (asked.entries ?? [asked]).map(({ file }) => file);
  if (asked.entries) go(`#/several/${createGroup(files)}`);
  else begin(create(files[0], { region: asked.region }));
});
document.addEventListener("group-asked", ({ detail: group }) => here.entry === group && present(groupTitle(group)));
document.addEventListener("group-counted", ({ detail: group }) => here.entry === group && entitle(groupTitle(group)));
document.addEventListener("history-cleared", () => {
  forgetGroups();
  left.clear();
  history.replaceState(history.state, "", "#/");
  show();
});
document.addEventListener("answered", ({ detail: asked }) => {
  if (here.entry !== asked) return showHistory(here.route === "ask", here.entry?.id);
  move(addressOf(asked));
  const title = asked.problem ? plainTitle(asked.problem) : headline(asked.answer);
  if (!asked.problem) speak(title);
  showHistory(true, asked.id);
  present(title);
});
show();
showIndex();
showSamples(give);
limits().then((most) => most && setLimits(most));
document.documentElement.dataset.ready = ""; // texts are there, and images are taken
