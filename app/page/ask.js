// Ways to give an image: choose, drop, paste, or take a sample.

import { getJson, get } from "./api.js";
import { h, prose } from "./dom.js";
import { picture } from "./picture.js";

const at = (id) => document.getElementById(id);

/** Say something above the place where an image is given; nothing clears it. */
export function notice(text) {
  at("notice").replaceChildren(...(text ? [h("p", { class: "notice", role: "alert" }, text)] : []));
}

/** Call `ask(file)` with every image that is given, wherever on the page; `home()` shows this. */
export function installAsk(ask, home) {
  const file = at("file");
  const take = (files, what) => {
    const [first, ...others] = [...files];
    if (!first) return home(), notice(what);
    notice("");
    ask(first, others.length ? `One image at a time: this is the first of ${others.length + 1}.` : "");
  };

  at("choose").addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    if (file.files.length) take(file.files);
    file.value = ""; // so that the same file can be chosen again
  });

  document.addEventListener("paste", (event) => {
    if (event.target.closest?.("input, textarea")) return;
    take(event.clipboardData.files, "The clipboard holds no image. Copy the image itself, not its address.");
  });
  if (navigator.clipboard?.read) {
    at("paste").hidden = false;
    at("paste").addEventListener("click", async () => {
      try {
        for (const item of await navigator.clipboard.read()) {
          const type = item.types.find((name) => name.startsWith("image/"));
          if (type) return take([new File([await item.getType(type)], "pasted image", { type })]);
        }
        take([], "The clipboard holds no image. Copy the image itself, not its address.");
      } catch {
        notice("The browser does not let this page read the clipboard. Press Ctrl+V or ⌘V instead.");
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
    const why = "That was a link, not a file. Save the image first, then drop the file here.";
    take(event.dataTransfer.files, why);
  });
}

/** Show the sample row, where the server has any. */
export async function showSamples(ask) {
  let found;
  try {
    found = (await getJson("samples", { quiet: true })).samples;
  } catch {
    return; // a nicety: what is wrong will show when something is asked
  }
  at("samples").hidden = !found.length;
  at("samples").querySelector("ul").replaceChildren(
    ...found.map(({ name, image_url }) => {
      const give = async () => {
        try {
          const blob = await (await get(image_url)).blob();
          ask(new File([blob], name, { type: blob.type }));
        } catch (problem) {
          notice(prose(problem.message));
        }
      };
      return h("li", {}, h("button", { type: "button", class: "sample", onclick: give }, picture(image_url, ""), h("span", { class: "unseen" }, `Ask about ${name}`)));
    }),
  );
}
