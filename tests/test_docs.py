"""What the documentation promises to be complete about."""

import re
from pathlib import Path

import pytest

from app.settings import Settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]


@pytest.fixture(scope="module")
def text() -> str:
    return "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_is_documented(field: str, text: str) -> None:
    name = f"WHENCE_{field.upper()}"
    assert re.search(rf"\b{name}\b", text), f"{name} is in neither README.md nor docs/"


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
