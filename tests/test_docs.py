"""The documentation is complete, and agrees with the settings."""

import re
import runpy
from pathlib import Path

import pytest

from app.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


def test_the_configuration_page_is_written_from_the_settings() -> None:
    page = ROOT / "docs" / "configuration.md"
    render = runpy.run_path(str(page.with_suffix(".py")))["render"]
    assert page.read_text(encoding="utf-8") == render(), "run `make docs`"


def test_every_link_of_a_page_leads_to_a_file() -> None:
    link = re.compile(r"\]\((?!https?:|#)([^)#\s]+)")
    missing = [
        f"{page.name}: {target}"
        for page in PAGES
        for target in link.findall(page.read_text(encoding="utf-8"))
        if not (page.parent / target).exists()
    ]
    assert not missing


def test_the_front_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 170


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_describes_itself(field: str) -> None:
    assert Settings.model_fields[field].description


def test_no_text_names_a_stranger_s_distribution() -> None:
    # The distribution `whence` on the package index is another project: `pip install 'whence[x]'`
    # would install that. Ours is installed from its folder: `pip install '.[x]'`.
    folders = ("app", "client", "deploy", "docs", "index", "model", "tests")
    files = [path for name in folders for path in (ROOT / name).rglob("*") if path.is_file()]
    wrong = [
        str(path.relative_to(ROOT))
        for path in [*files, *(path for path in ROOT.iterdir() if path.is_file())]
        if re.search(rb"whence\\?\[[a-z,]+\\?\]|pip install '?whence\b", path.read_bytes())
    ]
    assert wrong == [str(Path(__file__).relative_to(ROOT))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_has_a_gap(page: Path) -> None:
    assert "@@" not in page.read_text(encoding="utf-8")
