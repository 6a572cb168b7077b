// Ways to give images: choose, drop, paste, or take a sample.

import { getJson, get } from "./api.js";
import { h } from "./dom.js";
import { picture } from "./picture.js";
import { titleOf } from "./problem.js";
import { t } from "./texts.js";

const INVENTED = "image.png"; // the name that browsers give to a picture from the clipboard
const nameless = (blob) => new File([blob], "", { type: blob.type });

const at = (id) => document.getElementById(id);

/** Say something above the place where an image is given; nothing clears it. */
export function notice(...text) {
  at("notice").replaceChildren(...(text.length ? [h("p", { class: "notice", role: "alert" }, text)] : []));
}

/** Call `give(files)` with all images that are given at once, wherever on the page; `home()` shows this. */
export function installAsk(give, home) {
  const file = at("file");
  const take = (files, otherwise) => {
    const given = [...files];
    if (!given.length) return home(), notice(t(otherwise));
    notice();
    give(given);
  };

  at("choose").addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    if (file.files.length) take(file.files);
    file.value = ""; // so that the same file can be chosen again
  });

  document.addEventListener("paste", (event) => {
    if (event.target.closest?.("input, textarea")) return;
    take([...event.clipboardData.files].map((file) => (file.name === INVENTED ? nameless(file) : file)), "ask.empty_clipboard");
  });
  if (navigator.clipboard?.read) {
    at("paste").hidden = false;
    at("paste").addEventListener("click", async () => {
      try {
        for (const item of await navigator.clipboard.read()) {
          const type = item.types.find((name) => name.startsWith("image/"));
          if (type) return take([nameless(await item.getType(type))]);
        }
        take([], "ask.empty_clipboard");
      } catch {
        notice(t("ask.closed_clipboard"));
      }
    });
  }

  let depth = 0; // of the elements that the pointer has entered
  const over = (change) => {
    depth = Math.max(0, change === 0 ? 0 : depth + change);
    at("veil").hidden = depth === 0;
  };
  document.addEventListener("dragenter", (event) => (event.preventDefault(), over(1)));
  document.addEventListener("dragleave", () => over(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    over(0);
    take(event.dataTransfer.files, "ask.link");
  });
}

/** Show the sample row, where the server has any. */
export async function showSamples(give) {
  let found;
  try {
    found = (await getJson("samples", { quiet: true })).samples;
  } catch {
    return; // a nicety: what is wrong will show when something is asked
  }
  at("samples").hidden = !found.length;
  at("samples").querySelector("ul").replaceChildren(
    ...found.map(({ name, image_url }) => {
      const take = async () => {
        try {
          const blob = await (await get(image_url)).blob();
          give([new File([blob], name, { type: blob.type })]);
        } catch (problem) {
          notice(titleOf(problem));
        }
      };
      return h("li", {}, h("button", { type: "button", class: "sample", onclick: take }, picture(image_url, ""), h("span", { class: "unseen" }, t("ask.sample", { name }))));
    }),
  );
}
