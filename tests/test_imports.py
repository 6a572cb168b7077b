"""The import direction: app -> index -> model, and nothing runs back up."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "model": {"model"},
    "index": {"index", "model"},
    "app": {"app", "index", "model"},
}
OURS = {*MAY_IMPORT, "tests"}
MODULES = [path for package in MAY_IMPORT for path in sorted((ROOT / package).rglob("*.py"))]


def imported_packages(source: str, package: str) -> Iterator[str]:
    """Top-level names that a module of ``package`` imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield package if node.level else str(node.module).partition(".")[0]


def test_there_are_modules_to_look_at() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in MODULES} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    imported = OURS & set(imported_packages(path.read_text(encoding="utf-8"), package))
    wrong = imported - MAY_IMPORT[package]
    assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import app.main", {"app"}),
        ("import index as i, numpy", {"index", "numpy"}),
        ("def f():\n    from app.settings import Settings", {"app"}),
        ("if TYPE_CHECKING:\n    from index.catalog import Catalog", {"index"}),
        ("from .head import AttributionHead", {"model"}),
    ],
)
def test_no_way_of_importing_is_overlooked(source: str, expected: set[str]) -> None:
    assert set(imported_packages(source, "model")) == expected
