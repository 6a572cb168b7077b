// Talking to the server: every request with the key, every error in the server's own words.

import { t } from "./texts.js";

const KEY = "whence-key"; // for this tab alone

export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (text) => (text ? sessionStorage.setItem(KEY, text) : sessionStorage.removeItem(KEY)),
};

/** An error as RFC 9457 has it. */
export class Problem extends Error {
  constructor({ status = 0, type = "", title, detail = "", errors = [], own = false }, retryAfter = 0) {
    super(detail || title);
    Object.assign(this, { status, type, title, detail, errors, own, retryAfter });
  }

  /** True if a request about any other image would fail alike: no key, no server, no index. */
  get concernsAll() {
    return [0, 401, 403, 502, 503, 504].includes(this.status);
  }

  /** True if the same request may succeed later. */
  get passing() {
    return this.concernsAll || [408, 429].includes(this.status) || this.status >= 500;
  }
}

const unreachable = () =>
  new Problem({ title: t("problem.unreachable"), detail: t("problem.unreachable.why"), own: true });

const headers = () => (key.get() ? { Authorization: `Bearer ${key.get()}` } : {});

/** A response to a GET, or a Problem thrown; `quiet` does not ask the reader for a key. */
export async function get(path, { signal, quiet = false } = {}) {
  let response;
  try {
    response = await fetch(path, { headers: headers(), signal });
  } catch (error) {
    throw error.name === "AbortError" ? error : unreachable();
  }
  if (!response.ok) {
    throw problemOf(response.status, await response.text().catch(() => ""), response.headers.get("Retry-After"), quiet);
  }
  return response;
}

export const getJson = async (path, options) => (await get(path, options)).json();

/** Upload images; gives the body as a Blob and its file name, if it has one. */
export function upload(path, files, { signal, onProgress = () => {} } = {}) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch does not tell how much was sent
    const form = new FormData();
    files.forEach((file) => form.append("image", file, file.name || "blob")); // as browsers name what has no name
    request.open("POST", path);
    for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
    request.responseType = "blob";
    request.upload.onprogress = (event) => onProgress(event.loaded / (event.total || 1));
    request.upload.onload = () => onProgress(1);
    request.onload = async () => {
      if (request.status >= 200 && request.status < 300) {
        const disposition = request.getResponseHeader("Content-Disposition") ?? "";
        resolve({ body: request.response, name: /filename="([^"]+)"/.exec(disposition)?.[1] });
      } else {
        reject(problemOf(request.status, await request.response.text(), request.getResponseHeader("Retry-After")));
      }
    };
    request.onerror = () => reject(unreachable());
    request.onabort = () => reject(new DOMException("stopped", "AbortError"));
    signal?.addEventListener("abort", () => request.abort(), { once: true });
    if (signal?.aborted) request.abort();
    else request.send(form);
  });
}

/**
 * Run a request; where the server is too busy, once more after as long as it asked for.
 * `onWait` is told the seconds left, every second.
 */
export async function patiently(run, { onWait = () => {}, signal } = {}) {
  try {
    return await run();
  } catch (error) {
    if (error.status !== 429) throw error;
    for (let left = Math.min(60, Math.max(1, error.retryAfter)); left > 0; left--) {
      onWait(left);
      await second(signal);
    }
    onWait(0);
    return run();
  }
}

function second(signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(new DOMException("stopped", "AbortError"))), { once: true });
  });
}

function problemOf(status, text, retryAfter, quiet = false) {
  let told = {};
  try {
    told = JSON.parse(text);
  } catch {
    // not from Whence: a proxy, perhaps
  }
  const problem = new Problem(
    { title: t("problem.status", { status: String(status) }), detail: t("problem.status.why"), own: !told.title, ...told, status },
    Math.ceil(Number(retryAfter) || 0),
  );
  if (status === 401 && !quiet) document.dispatchEvent(new CustomEvent("key-needed", { detail: problem }));
  return problem;
}
