// The page put together: addresses, views, and what is known of the index.

import { answerView, ask, redraw } from "./answer.js";
import { getJson } from "./api.js";
import { installAsk, notice, showSamples } from "./ask.js";
import { conceptsView, conceptView } from "./browse.js";
import { installCompare } from "./compare.js";
import { h } from "./dom.js";
import { installSettings } from "./settings.js";
import { count, date } from "./words.js";

const at = (id) => document.getElementById(id);
const KEPT = 20; // steps of the history whose view stays as it was left
const left = new Map(); // step -> {hash, route, view, title, retry, scroll}
let steps = 0;
let here = null; // the one of them that is shown, with its step

/** #/, #/answers/3, #/concepts?q=sea&page=2, #/concepts/ukiyo-umi */
function viewOf(hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const [kind, id] = path.split("/");
  if (kind === "concepts" && id) return { route: "concepts", ...conceptView(decode(id)) };
  if (kind === "concepts") return { route: "concepts", ...conceptsView(new URLSearchParams(query), move) };
  if (kind === "answers") {
    const found = answerView(Number(id));
    if (found) return { route: "ask", ...found };
    history.replaceState(history.state, "", "#/");
    notice("That answer is gone: answers are kept only while the page is open. Give the image again.");
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
  here = known?.hash === location.hash ? known : { ...viewOf(location.hash), scroll: 0 };
  here.hash = location.hash;
  left.delete(step);
  left.set(step, here);
  if (left.size > KEPT) left.delete(left.keys().next().value);
  const { route, view, title, scroll } = here;
  at("ask").hidden = view !== null;
  at("view").hidden = view === null;
  at("view").replaceChildren(...(view ? [view] : []));
  document.title = title ? `${title} · Whence` : "Whence";
  for (const link of document.querySelectorAll("nav [data-route]")) {
    if (link.dataset.route === route) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  scrollTo(0, scroll);
  if (!first) document.querySelector("#ask:not([hidden]) h1, #view:not([hidden]) h1")?.focus({ preventScroll: true });
}

async function showIndex() {
  try {
    const ready = await getJson("health/ready");
    at("index").replaceChildren(
      `${count(ready.concepts, "concept")}, ${count(ready.exemplars, "exemplar")} · index `,
      h("code", {}, ready.index_version),
      `, built ${date(ready.index_created_at)}`,
    );
    at("collection").textContent = `${count(ready.concepts, "concept")}`.replace(/^(.*)$/, "this collection of $1");
  } catch (problem) {
    at("index").textContent = problem.title ? `${problem.title}.` : "";
  }
}

function give(file, remark) {
  const id = ask(file, remark);
  history.pushState(null, "", `#/answers/${id}`);
  show();
}

/** Go to where an image is given, unless that is where we are. */
function home() {
  if (!at("ask").hidden) return;
  history.pushState(null, "", "#/");
  show();
}

installSettings();
installCompare();
installAsk(give, home);
history.scrollRestoration = "manual";
addEventListener("scroll", () => here && (here.scroll = scrollY), { passive: true });
addEventListener("popstate", () => {
  notice("");
  show();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address is taken by the views
  at("main").focus();
});
document.addEventListener("settings-changed", () => redraw());
document.addEventListener("key-given", () => {
  redraw({ keyGiven: true });
  here.retry?.();
  showSamples(give);
});
document.addEventListener("answered", ({ detail: id }) => {
  if (location.hash !== `#/answers/${id}`) return;
  document.title = `${answerView(id).title} · Whence`;
  document.querySelector("#view h1")?.focus({ preventScroll: true });
});
show();
showIndex();
showSamples(give);
