// What can be said of a file before it is sent: the server's limits, and files that are no images.

import { getJson, Problem } from "./api.js";
import { t } from "./texts.js";
import { bytes } from "./words.js";

const FORM = 1000; // bytes of a form around one image, at most
const PART = 500; // bytes of a form around each of several images, at most
const HEAD = 512;

let asked = null;
let known = null;

/** The server's limits; null where it does not tell. */
export function limits() {
  asked ??= getJson("limits", { quiet: true }).then(
    (found) => (known = found),
    () => (asked = null),
  );
  return asked;
}

/** The limits, if the server has told them already. */
export const knownLimits = () => known;

const text = (head, from, to) => String.fromCharCode(...head.slice(from, to));

// What a file is by its first bytes, where the server does not read it; each has a hint.
const OTHERS = [
  ["pdf", (head) => text(head, 0, 4) === "%PDF"],
  ["svg", (head) => text(head, 0, HEAD).includes("<svg")],
  ["photoshop", (head) => text(head, 0, 4) === "8BPS"],
  ["archive", (head) => ["PK\u0003\u0004", "Rar!", "7z\u00bc\u00af"].some((begin) => text(head, 0, 4) === begin)],
  ["video", (head) => text(head, 4, 8) === "ftyp" && /^(isom|iso2|mp4|M4V|qt  |avc1)/.test(text(head, 8, 12))],
  ["video", (head) => text(head, 0, 4) === "\u001aE\u00df\u00a3"],
  ["text", (head) => head.length > 0 && head.every((byte) => byte > 31 && byte < 127 || [9, 10, 13].includes(byte))],
];
const RAW = /\.(3fr|arw|cr2|cr3|crw|dcr|dng|erf|nef|nrw|orf|pef|raf|raw|rw2|srw|x3f)$/i;

/**
 * Throw a Problem if the server would refuse an image.
 * `shape`: {width, height} as the browser reads it, or null where it cannot show the image.
 */
export async function check(file, shape) {
  if (!file.size) throw refusal("empty");
  const kind = await kindOf(file);
  if (kind) throw refusal("not_image", { hint: t(`hint.${kind}`) });
  const most = await limits();
  if (!most) return;
  if (file.size + FORM > most.max_upload_bytes) {
    throw refusal("too_large", { size: bytes(file.size), most: bytes(most.max_upload_bytes) });
  }
  if (!shape) return;
  const { width, height } = shape;
  if (width > most.max_side || height > most.max_side) throw refusal("too_long", { width, height, most: most.max_side });
  if (width * height > most.max_pixels) throw refusal("too_many_pixels", { width, height, most: most.max_pixels });
  if (width < most.min_side || height < most.min_side) throw refusal("too_small", { width, height, least: most.min_side });
}

/** Throw a Problem if the server would refuse a body of work; it names the image. */
export async function checkAll(entries) {
  const most = await limits();
  if (most && entries.length > most.max_group_images) {
    throw refusal("too_many", { n: entries.length, most: most.max_group_images });
  }
  for (const { file, name, shape } of entries) {
    try {
      await check(file, await shape);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      throw new Problem({ ...problem, detail: t("refused.one_of", { name: name || t("query.pasted"), why: problem.detail }) });
    }
  }
  const size = entries.reduce((sum, { file }) => sum + file.size + PART, FORM);
  if (most && size > most.max_batch_bytes) throw refusal("group_too_large", { size: bytes(size), most: bytes(most.max_batch_bytes) });
}

async function kindOf(file) {
  if (RAW.test(file.name)) return "raw";
  const read = await file.slice(0, HEAD).arrayBuffer().catch(() => {
    throw refusal("unreadable");
  });
  const head = [...new Uint8Array(read)];
  return OTHERS.find(([, is]) => is(head))?.[0] ?? null;
}

/** A problem found on the page: told in its language, and not to be tried again. */
function refusal(kind, values = {}) {
  return new Problem({ status: 400, title: t(`refused.${kind}`), detail: t(`refused.${kind}.why`, values), own: true });
}

/** A hint for a problem that the server found, or null. */
export function hintFor(problem) {
  const kind = problem.type?.split(":").pop();
  return { "unsupported-image-type": t("hint.convert"), "undecodable-image": t("hint.damaged") }[kind] ?? null;
}
