// Parts of a picture: those that were compared, drawn on it, and one that the reader selects.

import { h, s } from "./dom.js";
import { t } from "./texts.js";

const LEAST = 16; // pixels of a part's sides, at least
const STEP = 10; // moves of an arrow key across a picture: a fiftieth each
const WHOLE = 0.98; // of a picture; a square that covers as much is the whole

/** True if the squares are the whole picture. */
export function isWhole(squares, { width, height }) {
  return squares.length === 1 && squares[0].width * squares[0].height >= WHOLE * width * height;
}

/** True if the squares leave parts of the picture between them. */
export const haveGaps = ([first, second]) => Boolean(second) && (second.x > first.x + first.width || second.y > first.y + first.height);

/**
 * Outlines of squares over a whole picture: [{x, y, width, height}] in its pixels.
 * `region`: the part that was asked about, dashed; `best`: the square that the evidence is from, bold.
 */
export function outlines(squares, { width, height }, { region = null, best = null } = {}) {
  const box = ({ x, y, width: w, height: hgt }) => `M${x} ${y}h${w}v${hgt}h${-w}z`;
  const each = squares.map(box).join("");
  return s(
    "svg",
    { class: "outlines", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    s("path", { class: "aside", d: `M0 0h${width}v${height}h${-width}z${each}`, "fill-rule": squares.length === 1 ? "evenodd" : "nonzero" }),
    s("path", { class: "halo", d: each }),
    s("path", { class: "edge", d: each }),
    region ? s("path", { class: "asked", d: box({ x: region[0], y: region[1], width: region[2], height: region[3] }) }) : null,
    squares[best] ? s("path", { class: "best", d: box(squares[best]) }) : null,
  );
}

/**
 * A box over `frame`, to be drawn with the pointer or moved by keys, and fields of its sides.
 * `done([x, y, width, height])` gets the part in pixels; `cancel()` nothing. Gives the form.
 */
export function selection(frame, { width, height }, done, cancel) {
  let part = [width / 4, height / 4, width / 2, height / 2].map(Math.round);
  const box = h("div", { class: "part-box", tabindex: "0", role: "application", "aria-roledescription": t("part.box"), "aria-describedby": "part-help" });
  const layer = h("div", { class: "part-layer" }, box);
  const fields = ["left", "top", "width", "height"].map((name, place) => {
    const input = h("input", { type: "number", min: place < 2 ? 0 : LEAST, max: place % 2 ? height : width, inputmode: "numeric", onchange: ({ target }) => set(part.map((old, other) => (other === place ? Math.round(Number(target.value)) || 0 : old))) });
    return { input, label: h("label", {}, t(`part.${name}`), input) };
  });
  const set = (wish) => {
    const [w, hgt] = [Math.min(width, Math.max(LEAST, wish[2])), Math.min(height, Math.max(LEAST, wish[3]))];
    part = [Math.min(width - w, Math.max(0, wish[0])), Math.min(height - hgt, Math.max(0, wish[1])), w, hgt].map(Math.round);
    const whole = [width, height, width, height];
    ["left", "top", "width", "height"].forEach((name, place) => (box.style[name] = `${(100 * part[place]) / whole[place]}%`));
    fields.forEach(({ input }, place) => (input.value = part[place]));
    box.setAttribute("aria-label", t("part.is", { x: part[0], y: part[1], width: part[2], height: part[3] }));
  };

  box.addEventListener("keydown", (event) => {
    const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [];
    if (x === undefined) return;
    event.preventDefault();
    const by = [Math.max(1, width / STEP / 5) * x, Math.max(1, height / STEP / 5) * y];
    const at = event.shiftKey ? 2 : 0;
    set(part.map((old, place) => (place === at || place === at + 1 ? old + by[place - at] : old)));
  });
  const point = (event) => {
    const on = layer.getBoundingClientRect();
    return [((event.clientX - on.left) / on.width) * width, ((event.clientY - on.top) / on.height) * height];
  };
  layer.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    event.preventDefault();
    layer.setPointerCapture(event.pointerId);
    const begin = point(event);
    const old = part;
    const moves = event.target === box;
    const drag = (moved) => {
      const [x, y] = point(moved);
      if (moves) return set([old[0] + x - begin[0], old[1] + y - begin[1], old[2], old[3]]);
      const [fromX, toX] = [begin[0], Math.min(width, Math.max(0, x))].sort((a, b) => a - b);
      const [fromY, toY] = [begin[1], Math.min(height, Math.max(0, y))].sort((a, b) => a - b);
      set([fromX, fromY, toX - fromX, toY - fromY]);
    };
    layer.addEventListener("pointermove", drag);
    layer.addEventListener("lostpointercapture", () => layer.removeEventListener("pointermove", drag), { once: true });
    box.focus();
  });

  const end = (then) => {
    layer.remove();
    then();
  };
  const form = h(
    "form",
    { class: "part-form", onsubmit: (event) => (event.preventDefault(), end(() => done(part))), onkeydown: (event) => event.key === "Escape" && end(cancel) },
    h("p", { class: "small", id: "part-help" }, t("part.help")),
    h("div", { class: "part-fields" }, fields.map(({ label }) => label)),
    h("div", { class: "row" }, h("button", { class: "primary" }, t("part.ask")), h("button", { type: "button", onclick: () => end(cancel) }, t("part.cancel"))),
  );
  box.addEventListener("keydown", ({ key }) => {
    if (key === "Enter") form.requestSubmit();
    if (key === "Escape") end(cancel);
  });
  set(part);
  frame.append(layer);
  box.focus({ preventScroll: true });
  return form;
}
