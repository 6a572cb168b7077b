"""How soon the page is there to be used, beside a page of one line from the same server.

    python -m tests.benchmarks.page_paint [--loads 30] [--chromium /usr/bin/chromium]

Loads, in turn, the page over an empty cache and the server's shortest answer, each in a context of
its own, and reads when the browser first painted something and when the largest element (the
headline or the place to drop an image, both there without any script) was painted.
"""

import argparse
import shutil
import statistics
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from app.settings import Settings
from index.answering.attribution import Attributor
from tests.browser.conftest import serving
from tests.fakes import FakeEmbedder, build_snapshot, patches

PAINT = """() => new Promise((resolve) => {
    const found = {};
    new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) found.largest = entry.startTime;
    }).observe({type: "largest-contentful-paint", buffered: true});
    setTimeout(() => {
        const [first] = performance.getEntriesByName("first-contentful-paint");
        resolve([first ? first.startTime : null, found.largest ?? null]);
    }, 300);
})"""


def painted(browser: Browser, url: str) -> tuple[float, float]:
    """Milliseconds from the request to the first and to the largest paint, with nothing cached."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.goto(url, wait_until="load")
    first, largest = page.evaluate(PAINT)
    context.close()
    return first, largest


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loads", type=int, default=30)
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pictures = {f"Painter {n}": [patches(n)] for n in range(5)}
        snapshot = build_snapshot(Path(folder), pictures)
        settings = Settings(data=Path(folder), device="cpu")
        with (
            serving(settings, Attributor(FakeEmbedder(), snapshot)) as site,
            sync_playwright() as playwright,
        ):
            browser = playwright.chromium.launch(
                executable_path=arguments.chromium, args=["--no-sandbox"]
            )
            urls = {"page": site.url, "one line": f"{site.url}/health/live"}
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in urls}
            for turn in range(arguments.loads + 2):
                for name, url in urls.items():
                    paint = painted(browser, url)
                    if turn >= 2:  # the first loads start the browser's processes
                        found[name].append(paint)
            browser.close()
    for name, paints in found.items():
        first, largest = ([paint[kind] for paint in paints] for kind in (0, 1))
        print(
            f"{name:>9}: first paint {statistics.median(first):.0f} ms (worst {max(first):.0f}), "
            f"largest {statistics.median(largest):.0f} ms (worst {max(largest):.0f})"
        )
    ratio = statistics.median(p[0] for p in found["page"]) / statistics.median(
        p[0] for p in found["one line"]
    )
    print(f"the page's first paint takes {ratio:.2f} times the one line's")


if __name__ == "__main__":
    main()
