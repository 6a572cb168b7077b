// The finding of an answer: its headline, its limits and its identity, for one image or several.

import { breakable, h, s } from "./dom.js";
import { rich, t } from "./texts.js";
import { utc, verdict } from "./words.js";

const FILLING = { attributed: "M12 3a9 9 0 0 1 0 18a9 9 0 0 1 0-18z", uncertain: "M12 3a9 9 0 0 1 0 18z", possible: "M12 9a3 3 0 0 1 0 6a3 3 0 0 1 0-6z", no_match: "" };

/** The headline, with `before` ahead of its sentences. */
export function finding(answer, before = null) {
  const { kind, before: words, name, degree, sentences } = verdict(answer);
  return h(
    "header",
    { class: `verdict ${kind}` },
    s("svg", { class: "mark", viewBox: "0 0 24 24", "aria-hidden": "true" }, s("circle", { cx: 12, cy: 12, r: 9 }), s("path", { d: FILLING[kind] })),
    h("h1", { tabindex: "-1" }, words, name ? [" ", h("em", {}, breakable(name))] : null, degree ? h("span", { class: "degree" }, h("span", { class: "unseen" }, ", "), degree) : null),
    h("p", { class: "lead" }, [before, ...sentences].filter(Boolean).map((sentence) => [sentence, " "])),
  );
}

/** The limits, with `more` of them by their keys, and the identity of an answer to an image or a body of work. */
export function caveats(asked, ...more) {
  const { answer, sha256 } = asked;
  const { evidence } = answer;
  const rows = [
    ["answer", answer.id],
    ["time", utc(evidence.created_at)],
    ...(evidence.images_sha256 ?? [evidence.image_sha256]).map((hash) => ["image", hash]),
    ["index", evidence.index_version],
    ["model", evidence.model_id],
    ["calibration", evidence.calibration],
    ...(sha256 ? [["report", sha256]] : []),
  ];
  const row = ([key, value]) => [h("dt", {}, t(`identity.${key}`)), h("dd", {}, key === "time" ? value : h("code", {}, value))];
  const list = h("dl", { class: "identity small" }, rows.flatMap(row));
  let reported = sha256;
  asked.identified = (hash) => {
    if (!reported) list.append(...row(["report", hash])); // once a report was made
    reported = hash;
  };
  return h(
    "section",
    { class: "caveats" },
    h("h2", {}, t("limits.title")),
    h("ul", {}, ["proof", "generator", "collection", "prior", ...more].map((key) => h("li", {}, rich(`limits.${key}`)))),
    list,
  );
}
