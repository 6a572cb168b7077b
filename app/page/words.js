// Figures in plain English.

const number = new Intl.NumberFormat("en");
const day = new Intl.DateTimeFormat("en-GB", { dateStyle: "long", timeStyle: "short" });

export const count = (n, one, many = `${one}s`) => `${number.format(n)} ${n === 1 ? one : many}`;
export const date = (iso) => day.format(new Date(iso));
export const list = (words) => new Intl.ListFormat("en", { type: "conjunction" }).format(words);

/** A share; never rounded to all or nothing. The report says the same. */
export function percent(share) {
  if (share > 0 && share < 0.005) return "under 1%";
  if (share >= 0.995 && share < 1) return "over 99%";
  return `${Math.round(100 * share)}%`;
}

export function bytes(n) {
  if (n < 1000) return count(n, "byte");
  return n < 1e6 ? `${Math.round(n / 1000)} kB` : `${(n / 1e6).toFixed(1)} MB`;
}

/** A p-value in words; the report says the same (app/reports/report.py). */
export function chance(p) {
  if (p <= 0.1) return `about once in ${number.format(twoDigits(1 / p))} images from elsewhere`;
  if (p < 0.95) return `for about ${Math.round(10 * p)} in 10 images from elsewhere`;
  return "for nearly every image from elsewhere";
}

function twoDigits(n) {
  const whole = Math.round(n);
  const step = 10 ** Math.max(0, String(whole).length - 2);
  return Math.floor(whole / step + 0.5) * step;
}

/** A likelihood ratio to two digits; the report says the same. */
export function ratio(value) {
  if (value < 1) return `1/${ratio(1 / value)}`;
  return value < 9.95 ? String(Math.floor(10 * value + 0.5) / 10) : number.format(twoDigits(value));
}

/** What the answer says: a title with the name apart, a sentence, and a short form to speak. */
export function verdict(answer) {
  const [best] = answer.concepts;
  const by = best ? `A match this strong appears by chance ${chance(best.p_value)}.` : "";
  if (answer.verdict === "attributed") {
    return { before: "Most likely drawn from ", name: best.name, text: `${answer.statement} ${by}` };
  }
  if (answer.verdict === "uncertain") {
    const few = answer.candidates.length <= 3;
    return {
      before: few ? "Uncertain between " : "Uncertain: more than one concept may be the source",
      name: few ? list(answer.concepts.slice(0, answer.candidates.length).map(({ name }) => name)) : "",
      text: `${answer.statement} ${by}`,
    };
  }
  if (answer.candidates.length) {
    return {
      before: "Possibly drawn from ",
      name: best.name,
      text: `${answer.statement} ${by} That is too often for this collection to call it a match.`,
    };
  }
  return {
    before: "No match in this collection",
    name: "",
    text: best
      ? `${answer.statement} The nearest concepts are listed all the same; do not read them as sources.`
      : answer.statement,
  };
}
