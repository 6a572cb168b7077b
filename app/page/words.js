// Figures and findings in words; the report says the same from the same catalogue.

import { language, rich, t } from "./texts.js";

const NAMED = 3; // candidates that a headline names, at most
const CREDIBLE = 0.9; // part of the concepts' weight that all candidates hold

const figure = (n) => new Intl.NumberFormat(language).format(n);
export const count = (what, n) => t(`count.${what}`, { n });
export const date = (iso) => new Intl.DateTimeFormat(language === "en" ? "en-GB" : language, { dateStyle: "long", timeStyle: "short" }).format(new Date(iso));
/** A time as reports write it, in UTC. */
export const utc = (iso) =>
  `${new Intl.DateTimeFormat(language === "en" ? "en-GB" : language, { dateStyle: "long", timeStyle: "medium", timeZone: "UTC" }).format(new Date(iso))} UTC`;
export const list = (words) => new Intl.ListFormat(language === "en" ? "en-GB" : language, { type: "conjunction" }).format(words);

/** A share; never rounded to all or nothing. */
export function percent(share) {
  if (share > 0 && share < 0.005) return t("percent.under");
  if (share >= 0.995 && share < 1) return t("percent.over");
  return new Intl.NumberFormat(language, { style: "percent" }).format(share);
}

/** A share with one decimal. */
export const exactPercent = (share) => new Intl.NumberFormat(language, { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 }).format(share);

/** A number to three digits. */
export const significant = (value) => new Intl.NumberFormat(language, { maximumSignificantDigits: 3 }).format(value);

/** A number with a fixed count of decimals. */
export const decimal = (value, digits) => new Intl.NumberFormat(language, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);

export function bytes(n) {
  if (n < 1000) return t("bytes.b", { n });
  const unit = new Intl.NumberFormat(language, { maximumFractionDigits: n < 1e6 ? 0 : 1 });
  return n < 1e6 ? t("bytes.kb", { size: unit.format(n / 1000) }) : t("bytes.mb", { size: unit.format(n / 1e6) });
}

function twoDigits(n) {
  const whole = Math.round(n);
  const step = 10 ** Math.max(0, String(whole).length - 2);
  return Math.floor(whole / step + 0.5) * step;
}

/** A likelihood ratio to two digits. */
export function ratio(value) {
  if (value < 1) return `1/${ratio(1 / value)}`;
  return value < 9.95 ? figure(Math.floor(10 * value + 0.5) / 10) : figure(twoDigits(value));
}

/**
 * How many test images scored as high as a concept; a sentence whose terms open their definitions.
 * A test image has one square: of an image that was compared in several, the sentence says so.
 */
export function chance(concept, { evidence, compared = [] }, set = t) {
  const [n, of] = [concept.scored_as_high, evidence.test_images];
  const squares = compared.length;
  if ("test_groups" in evidence) return set(evidence.test_groups ? "chance.group" : "chance.group_none", { p: significant(concept.p_value), of: evidence.test_groups });
  if (!of) return set("chance.unknown");
  if (squares > 1) return n ? set("chance.some_squares", { n, of, squares }) : set("chance.none_squares", { of, squares });
  return n ? set("chance.some", { n, of }) : set("chance.none", { of });
}

export const chanceNodes = (concept, answer) => chance(concept, answer, rich);

/** A degree of support as two words: "moderate support". */
export const degree = (support) => t(`support.${support.replaceAll(" ", "_")}`);

/** The degree of a likelihood ratio for the likelier proposition, in either direction. */
function degreeOf(value) {
  const either = Math.max(value, 1 / value);
  const scale = [[1e6, "extremely_strong"], [1e4, "very_strong"], [1e3, "strong"], [1e2, "moderately_strong"], [10, "moderate"], [2, "weak"]];
  return scale.find(([least]) => either >= least)?.[1] ?? "none";
}

/** The evidence for the first concept in a sentence: in English the server's own `statement`. */
export function statement(answer) {
  const images = answer.evidence.images_sha256?.length; // of a body of work
  const say = (key, values) => t(images > 1 ? `statement.group.${key}` : `statement.${key}`, { images, ...values });
  if (!answer.concepts.length) return say("empty");
  const names = candidates(answer).map(({ name }) => name);
  const { name: first, likelihood_ratio: value } = answer.concepts[0];
  const word = degreeOf(value);
  if (word === "none") return say("none", { name: first });
  const support = t(`support.${word}`);
  if (value < 1) return say("against", { name: first, times: ratio(1 / value), support });
  const sentence = say("for", { name: first, times: ratio(value), support });
  if (names.length < 2) return sentence;
  if (areAll(answer)) return `${sentence} ${names.length > NAMED ? t("statement.many", { n: names.length }) : t("statement.shared", { names: list(names) })}`;
  return `${sentence} ${names.length > NAMED ? t("statement.many_open", { n: names.length }) : t("statement.shared_open", { names: names.join(", ") })}`;
}

/** The concepts that share the evidence. */
export const candidates = (answer) => answer.concepts.filter(({ id }) => answer.candidates.includes(id));

/** True if the listed candidates are certainly all that share the evidence: an answer may list fewer. */
function areAll(answer) {
  const shared = candidates(answer);
  const held = shared.reduce((sum, { share }) => sum + share, 0);
  return shared.length < answer.concepts.length || held >= CREDIBLE * (1 - answer.no_source_share) - 1e-9;
}

/** The concepts that the sentences of the finding name. */
export function stated(answer) {
  const shared = candidates(answer);
  return shared.length > NAMED ? shared.slice(0, 1) : shared;
}

/** The concepts that the headline names. Several are named only if they are certainly all that share the evidence. */
export function named(answer) {
  if (answer.verdict === "attributed") return answer.concepts.slice(0, 1); // at a high rate even without support
  const shared = candidates(answer);
  if (answer.verdict !== "uncertain") return shared.slice(0, 1);
  return areAll(answer) && shared.length > 1 && shared.length <= NAMED ? shared : [];
}

/** The finding: a headline with its names apart, the degree of support, and sentences. */
export function verdict(answer) {
  const [best] = answer.concepts;
  const names = named(answer).map(({ name }) => name);
  const kind = answer.verdict === "no_match" && names.length ? "possible" : answer.verdict;
  const parts = {
    attributed: "verdict.closest",
    possible: "verdict.none_nearest",
    uncertain: names.length ? "verdict.closest_of" : "verdict.several",
    no_match: "verdict.none",
  };
  return {
    kind,
    before: t(parts[kind]),
    name: list(names),
    degree: kind !== "no_match" && best ? degree(best.support) : "",
    sentences: [
      statement(answer),
      kind === "no_match" ? null : chanceNodes(best, answer),
      kind === "possible" ? t("verdict.below") : null,
      kind === "no_match" && best ? t("verdict.bystanders") : null,
    ].filter(Boolean),
  };
}

/** The headline as one line, for titles and to be spoken. */
export function headline(answer) {
  const { before, name, degree: support } = verdict(answer);
  return [name ? `${before} ${name}` : before, support].filter(Boolean).join(", ");
}
