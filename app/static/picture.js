// <whence-picture src alt>: a picture fetched with the key once it comes near the screen.

import { get, patiently } from "./api.js";
import { h } from "./dom.js";

const near = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => entry.target.load()),
  { rootMargin: "400px" },
);
const LATE_KEY = "key-given";

/** Tell the frame around a picture its shape, so that it can grow without distortion. */
export function keepRatio(image) {
  image.closest(".frame")?.style.setProperty("--ratio", image.naturalWidth / image.naturalHeight);
}

class Picture extends HTMLElement {
  #url = null;
  #stop = null;
  #again = () => !this.#url && this.load();

  connectedCallback() {
    near.observe(this);
    document.addEventListener(LATE_KEY, this.#again);
  }

  disconnectedCallback() {
    near.unobserve(this);
    document.removeEventListener(LATE_KEY, this.#again);
    this.#stop?.abort();
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.#url = null;
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
      const image = h("img", { src: this.#url, alt: this.getAttribute("alt") ?? "" });
      image.addEventListener("load", () => keepRatio(image));
      this.replaceChildren(image);
    } catch (error) {
      if (error.name === "AbortError") return;
      const gone = error.status === 404 ? "No longer in the collection" : "Picture not available";
      this.replaceChildren(h("span", { class: "missing" }, gone));
    }
  }
}

customElements.define("whence-picture", Picture);

export const picture = (src, alt) => h("whence-picture", { src, alt });
