"""A real server, a real Chromium, and a page that must stay silent and talk to nobody else."""

import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import uvicorn
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, BrowserContext, Page, Request, sync_playwright

from app.main import create_app
from app.settings import Settings
from index.answering.attribution import Attributor
from index.building.rebuild import RebuildOptions, rebuild
from index.building.source import read_sources
from index.layout import DataFolder
from index.snapshot import open_published
from tests.fakes import FakeEmbedder, patches
from tests.pictures import encode, noise
from tests.waiting import wait_until

CONCEPTS = 1000
NAMES = {0: "Amber Vale", 1: "Blue Harbour", 2: "Étude in ochre", 6: "style_starry_night"}
TRIPLETS = (3, 4, 5)  # concepts of nearly the same picture
SIDE = 96
# What Chromium writes when a server answers with an error: no fault of the page's.
FAILED_LOAD = "Failed to load resource"


def _chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@dataclass
class Site:
    """A server that answers on this machine, and what its data is."""

    url: str
    data: Path


@dataclass
class Watch:
    """What a page did that it should not have."""

    host: str
    faults: list[str] = field(default_factory=list)
    errors_expected: bool = False  # of the server

    def on(self, page: Page) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.on("request", self._request)

    def _console(self, message: object) -> None:
        kind, text = getattr(message, "type", ""), getattr(message, "text", "")
        if kind in {"error", "warning"} and not (self.errors_expected and FAILED_LOAD in text):
            self.faults.append(f"{kind}: {text}")

    def _request(self, request: Request) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in {"blob", "data"} and parts.netloc != self.host:
            self.faults.append(f"asked another host: {request.url}")


def picture(number: int, *, side: int = SIDE) -> Image.Image:
    """The picture of a concept."""
    return patches(number, side=side)


def marked(image: Image.Image, turn: int) -> Image.Image:
    """It with a small mark, another one every turn; without one the first time."""
    if turn:
        ImageDraw.Draw(image).rectangle((8 * turn, 8, 8 * turn + 6, 14), fill="white")
    return image


def _beside(image: Image.Image, times: int) -> Image.Image:
    """A picture at the left end of a canvas so many times as wide."""
    canvas = Image.new("RGB", (times * image.width, image.height), "grey")
    canvas.paste(image)
    return canvas


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Files to give: one for every verdict and for every way to be wrong."""
    folder = tmp_path_factory.mktemp("images")
    files = {
        "known.png": encode(picture(0)),
        "tall.png": encode(picture(1).resize((60, 120))),
        "shared.png": encode(picture(TRIPLETS[0])),
        "strange.png": encode(noise(SIDE, SIDE, seed=7)),
        "damaged.png": encode(picture(0, side=400))[:700],
        "words.png": b"these are words",
        "tiny.png": encode(picture(0, side=8)),
        "wide.png": encode(Image.new("1", (6000, 20))),
        "heavy.bmp": encode(Image.new("RGB", (900, 900)), "BMP"),
        "known.tiff": encode(picture(0), "TIFF"),
        "long.png": encode(_beside(picture(0), 4)),
        "double.png": encode(_beside(picture(0), 2)),
        "page.pdf": b"%PDF-1.7 no image",
        "empty.png": b"",
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return lambda name: folder / name


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A thousand concepts, some with several exemplars, licences and sources, and samples."""
    root = tmp_path_factory.mktemp("browser")
    source = root / "source"
    source.mkdir()
    lines = ["path,concept,name,kind,source_url,license,year,accession"]
    for number in range(CONCEPTS):
        name = NAMES.get(number, f"Painter {number:04d}")
        for turn in range(3 if number < 3 else 1):
            image = marked(picture(number), turn)
            if number in TRIPLETS:
                image = marked(picture(TRIPLETS[0]), 1 + number - TRIPLETS[0])
            file = f"{number}-{turn}.png"
            image.save(source / file)
            # The host cannot be reached, and need not be: nothing is ever fetched from it.
            url = f"https://museum.example/{number}/{turn}" if turn != 2 else "javascript:alert(1)"
            kind = "style" if name.startswith("style") else "artist"
            lines.append(f"{file},c{number},{name},{kind},{url},{'' if turn else 'CC0-1.0'}")
            lines[-1] += ",c. 1900,<b>12345678901234567890</b>" if number == 0 else ",,"
    (source / "m.csv").write_text("\n".join(lines), encoding="utf-8")
    folder = DataFolder(root / "data")
    rebuild(folder, read_sources([source / "m.csv"]), FakeEmbedder(), RebuildOptions(canary_rate=0))
    samples = folder.samples(open_published(folder.index).version)
    samples.mkdir(parents=True)
    picture(0).save(samples / "Sample 1.jpg", quality=95)
    picture(9).save(samples / "Sample 2.jpg", quality=95)
    return folder.root


@contextmanager
def serving(settings: Settings, attributor: Attributor | None) -> Iterator[Site]:
    """A server in a thread of this process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = uvicorn.Server(
        uvicorn.Config(create_app(settings, attributor), port=port, log_level="error")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started or not thread.is_alive())
    assert server.started
    try:
        yield Site(f"http://127.0.0.1:{port}", settings.data)
    finally:
        server.should_exit = True
        thread.join(timeout=20)


@pytest.fixture(scope="session")
def attributor(data: Path) -> Attributor:
    return Attributor(FakeEmbedder(), open_published(DataFolder(data).index))


@pytest.fixture(scope="session")
def site(data: Path, attributor: Attributor) -> Iterator[Site]:
    settings = Settings(data=data, device="cpu", max_upload_bytes=1_000_000, max_side=5000)
    with serving(settings, attributor) as site:
        yield site


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    executable = _chromium()
    if executable is None:
        pytest.skip("no Chromium on this machine; install one, or name it in CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1200, "height": 900}, accept_downloads=True)
    context.set_default_timeout(30_000)
    yield context
    context.close()


@pytest.fixture
def watch(site: Site) -> Watch:
    return Watch(urlsplit(site.url).netloc)


@pytest.fixture
def page(context: BrowserContext, site: Site, watch: Watch) -> Iterator[Page]:
    """The page, opened; at the end of the test it has said nothing and asked nobody else."""
    page = context.new_page()
    watch.on(page)
    page.goto(site.url)
    ready(page)
    yield page
    assert watch.faults == []


def ready(page: Page) -> None:
    """Wait until the page's modules have run."""
    page.wait_for_selector("html[data-ready]", state="attached")


def give(page: Page, *files: Path) -> None:
    """Choose files, and wait for what comes of them."""
    ready(page)
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose images").click()
    chooser.value.set_files(list(files))
    page.wait_for_selector(".verdict, .problem, .choices")
