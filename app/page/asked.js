// The images that were asked about in this tab, each with its answer.
// A body of work has the same fields as an image, and `entries`: its images.

import { patiently, upload } from "./api.js";
import { check } from "./limits.js";
import { settings } from "./settings.js";

export const AT_ONCE = 1000; // images that are given at once, at most
const KEPT = 2 * AT_ONCE; // images of a tab
const RANDOM = 12; // bytes of the address of an image that has no answer yet

/** Things by their addresses, which change once: when an answer gives its id. */
export class Addresses {
  #things = new Map();
  #renamed = new Map(); // address before the answer -> address

  add(thing) {
    this.#things.set(thing.id, thing);
    return thing;
  }

  find = (id) => this.#things.get(this.#renamed.get(id) ?? id);
  all = () => [...this.#things.values()];

  rename(thing, id) {
    if (!this.#things.delete(thing.id)) return; // it was forgotten meanwhile
    this.#renamed.set(thing.id, id);
    thing.id = id;
    this.add(thing);
  }

  remove(thing) {
    this.#things.delete(thing.id);
  }

  clear() {
    this.#things.clear();
  }
}

const entries = new Addresses();
export const { find, all } = entries;

/** The address of an image's or a body of work's view. */
export const addressOf = (asked) => `#/${asked.entries ? "several" : "answers"}/${asked.id}`;

/** Tell the page that an image or a body of work has its answer, or a problem. */
export const tellAnswered = (asked) => document.dispatchEvent(new CustomEvent("answered", { detail: asked }));

/** An address of random bytes: none is ever another image's. */
function address() {
  const bytes = crypto.getRandomValues(new Uint8Array(RANDOM));
  return btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_");
}

/** An entry for an image to ask about, or about a part of it: [x, y, width, height] in pixels. */
export function create(file, { remark = "", region = null } = {}) {
  const url = URL.createObjectURL(file);
  let shape = null; // of thousands of files, those are read that are asked about
  const entry = {
    id: address(),
    file,
    name: file.name,
    bytes: file.size,
    url,
    remark,
    region,
    state: "new",
    watchers: new Set(),
    get shape() {
      return (shape ??= shapeOf(url));
    },
  };
  add(entry);
  return entry;
}

/** Add an entry that was kept over a reload. */
export function add(entry) {
  entries.add(entry);
  const known = all();
  known.slice(0, Math.max(0, known.length - KEPT)).forEach(forget);
}

function forget(entry) {
  entry.stop?.abort();
  entry.forgotten = true;
  if (entry.file) URL.revokeObjectURL(entry.url);
  if (entry.preview) URL.revokeObjectURL(entry.preview);
  entries.remove(entry);
}

/** Forget all answers. */
export const forgetAll = () => all().forEach(forget);

/** {width, height} of a picture; null if the browser cannot show it. */
function shapeOf(url) {
  return new Promise((resolve) => {
    const image = new Image();
    image.onload = () => resolve({ width: image.naturalWidth, height: image.naturalHeight });
    image.onerror = () => resolve(null);
    image.src = url;
  });
}

function tell(entry, changes) {
  Object.assign(entry, changes);
  entry.watchers.forEach((watcher) => watcher(entry));
}

/** Ask; the entry's `state` becomes done or failed. One that has its answer, or is being asked about, is left alone. Never throws. */
export async function run(entry) {
  if (["working", "done"].includes(entry.state)) return;
  const stop = new AbortController();
  tell(entry, { state: "working", problem: null, progress: { step: "sending", part: 0 }, stop });
  const { signal } = stop;
  try {
    const shape = await unlessStopped(signal, entry.shape);
    await unlessStopped(signal, check(entry.file, shape));
    const query = new URLSearchParams({ top_k: settings.concepts, exemplars: settings.exemplars, explain: settings.regions, keep: true });
    if (entry.region) query.set("region", entry.region.join(","));
    if (!shape) query.set("preview", true);
    const onProgress = (part) => tell(entry, { progress: part < 1 ? { step: "sending", part } : { step: "comparing" } });
    const onWait = (left) => tell(entry, { progress: { step: "busy", left } });
    const send = () => upload(`attribute?${query}`, [entry.file], { signal, onProgress });
    const { body } = await patiently(send, { onWait, signal });
    const answer = JSON.parse(await body.text());
    entries.rename(entry, answer.id);
    see(entry, answer);
    tell(entry, { state: "done", answer });
  } catch (error) {
    tell(entry, { state: "failed", problem: error });
  }
  tellAnswered(entry);
}

/** The outcome of a promise; throws at once where the reader stops it. */
function unlessStopped(signal, promise) {
  return new Promise((resolve, reject) => {
    const stop = () => reject(signal.reason);
    if (signal.aborted) stop();
    signal.addEventListener("abort", stop, { once: true });
    promise.then(resolve, reject);
  });
}

/** Ask about images one after another while `goesOn(entry)`; a problem that concerns all of them ends it, and is given back. */
export async function runEach(entries, goesOn = () => true) {
  for (const entry of entries) {
    if (!goesOn(entry)) return null;
    await run(entry);
    if (entry.problem?.concernsAll) return entry.problem;
  }
  return null;
}

/** Take up what the server saw of an image: {width, height, compared, preview}. */
export function see(entry, seen) {
  entry.seen = seen;
  if (!seen.preview) return;
  const jpeg = Uint8Array.from(atob(seen.preview.split(",")[1]), (one) => one.charCodeAt(0));
  seen.preview = null; // the browser keeps a blob out of the page's memory
  entry.preview = URL.createObjectURL(new Blob([jpeg], { type: "image/jpeg" }));
}

/** The picture to show for an entry. */
export const pictureOf = (entry) => entry.preview ?? entry.url;
