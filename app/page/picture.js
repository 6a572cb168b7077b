// <whence-picture src alt>: a picture fetched with the key once it comes near the screen, or at once.

import { get, patiently } from "./api.js";
import { h } from "./dom.js";
import { t } from "./texts.js";

const near = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => entry.target.load()),
  { rootMargin: "400px" },
);
const LATE_KEY = "key-given";
const PRINT = "beforeprint"; // paper shows what no screen came near

/** Tell the frame around a picture its shape, so that it can grow without distortion. */
export function keepRatio(image) {
  image.closest(".frame")?.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
}

class Picture extends HTMLElement {
  #url = null;
  #stop = null;
  #first = () => !this.#stop && this.load();
  #again = () => !this.#url && this.load();

  connectedCallback() {
    if (this.hasAttribute("eager")) this.load();
    else near.observe(this);
    document.addEventListener(LATE_KEY, this.#again);
    addEventListener(PRINT, this.#first);
  }

  disconnectedCallback() {
    near.unobserve(this);
    document.removeEventListener(LATE_KEY, this.#again);
    removeEventListener(PRINT, this.#first);
    this.#stop?.abort();
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.#url = this.#stop = null;
    this.replaceChildren();
  }

  async load() {
    near.unobserve(this);
    this.#stop = new AbortController();
    const { signal } = this.#stop;
    try {
      const response = await patiently(() => get(this.getAttribute("src"), { signal }), { signal });
      const blob = await response.blob();
      if (signal.aborted) return;
      this.#url = URL.createObjectURL(blob);
      const image = h("img", { src: this.#url, alt: this.getAttribute("alt") ?? "", draggable: "false" });
      image.addEventListener("load", () => keepRatio(image));
      this.replaceChildren(image);
    } catch (error) {
      if (error.name === "AbortError") return;
      const gone = t(error.status === 404 ? "picture.gone" : "picture.missing");
      this.replaceChildren(h("span", { class: "missing" }, gone));
    }
  }
}

customElements.define("whence-picture", Picture);

/** `eager`: at once, so that it is there when the page is printed. */
export const picture = (src, alt, eager = false) => h("whence-picture", { src, alt, eager });
