"""Draw the README's pictures of the page from the demo: ``make screenshots``.

Starts `whence demo` in a folder that goes afterwards, so that they show what a first run shows.
"""

import argparse
import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
WAIT = 600  # seconds for the demo to train and serve
COLOURS = 128  # of a picture: enough for a page, and a third of the bytes
SAMPLE = "Ask about Sample 1"


def main() -> None:
    """Take the screenshots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="of a demo that runs already")
    url = parser.parse_args().url
    with demo() if url is None else running(url) as site, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        for theme, width, height in (("light", 1280, 900), ("dark", 390, 844)):
            page = open_page(browser, site, theme, width, height)
            page.get_by_role("button", name=SAMPLE).click()
            page.locator(".card .hits img").first.wait_for()
            page.get_by_role("heading", level=1).evaluate("heading => heading.blur()")
            save(page, f"page-answer-{theme}.png")
        page = open_page(browser, site, "light", 1280, 900)
        page.get_by_role("link", name="Collection").click()
        page.locator(".tile img").nth(20).wait_for()
        save(page, "page-collection.png")
        browser.close()


def open_page(browser: Browser, url: str, theme: str, width: int, height: int) -> Page:
    """The page, as somebody with this theme and window sees it first."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if theme == "dark" else "light",
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(url, wait_until="networkidle")
    return page


def save(page: Page, name: str) -> None:
    """Save the window as a small PNG beside this file."""
    page.wait_for_timeout(500)  # for the last pictures
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(HERE / name, optimize=True)
    print(f"{HERE / name}: {(HERE / name).stat().st_size:,} bytes")  # noqa: T201


@contextmanager
def running(url: str) -> "Iterator[str]":
    """A demo that is there already."""
    yield url


@contextmanager
def demo() -> "Iterator[str]":
    """A demo of its own, serving."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", "from app.cli.main import main; main()", "demo"]
    with tempfile.TemporaryDirectory() as data:
        process = subprocess.Popen(  # noqa: S603  # our own command
            [*command, "--data", data, "--port", str(port)],
            cwd=HERE.parent,
            stdout=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + WAIT
            while not answers(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit("the demo did not start; run `whence demo` to see why")
                time.sleep(1)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=30)


def answers(url: str) -> bool:
    """Return True if the demo serves."""
    try:
        return httpx.get(f"{url}/health/ready", trust_env=False).is_success
    except httpx.HTTPError:
        return False


def chromium() -> str:
    """The system's Chromium."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    return found or sys.exit("there is no Chromium here; install one, or name it in CHROMIUM")


if __name__ == "__main__":
    main()
