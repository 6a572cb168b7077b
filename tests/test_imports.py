"""The import direction, app -> index -> model, with the client apart; and the dependencies."""

import ast
import importlib
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT = {
    "model": {"model"},
    "index": {"index", "model"},
    "app": {"app", "index", "model", "whence_client"},
    "whence_client": {"whence_client"},
}
FOLDERS = {package: ROOT / package for package in MAY_IMPORT} | {
    "whence_client": ROOT / "client" / "whence_client"
}
OURS = {*MAY_IMPORT, "tests"}
MODULES = [
    (package, path) for package, folder in FOLDERS.items() for path in sorted(folder.rglob("*.py"))
]


def imported_packages(source: str, package: str) -> Iterator[str]:
    """Top-level names that a module of ``package`` imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield package if node.level else str(node.module).partition(".")[0]


def test_there_are_modules_to_look_at() -> None:
    assert {package for package, _ in MODULES} == set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("package", "path"), MODULES, ids=[str(path.relative_to(ROOT)) for _, path in MODULES]
)
def test_imports_run_one_way(package: str, path: Path) -> None:
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


# Benchmarks run seldom, and so nobody would notice that they do not any more.


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests" / "benchmarks").glob("*.py")), ids=lambda path: path.stem
)
def test_every_benchmark_can_be_imported(path: Path) -> None:
    importlib.import_module(f"tests.benchmarks.{path.stem}")


# Every library that is imported is declared, and every one declared is imported.

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RUNTIME = PROJECT["dependencies"]
EXTRAS = [
    *PROJECT["optional-dependencies"]["openvino"],
    *PROJECT["optional-dependencies"]["signing"],
]
ALL = RUNTIME + [entry for extra in PROJECT["optional-dependencies"].values() for entry in extra]
DISTRIBUTIONS = packages_distributions()
# uvicorn imports uvloop for its event loop, and PyTorch onnxscript to export a model.
USED_UNSEEN = {"onnxscript", "uvloop"}


def canonical(requirement: str) -> str:
    """The name in a requirement, in the one spelling that counts."""
    name = re.match(r"[\w.-]+", requirement)
    assert name
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def undeclared(imported: Iterable[str], declared: Iterable[str]) -> set[str]:
    """The libraries among ``imported`` that no declared distribution provides."""
    names = {canonical(requirement) for requirement in declared}
    return {
        library
        for library in set(imported) - OURS - sys.stdlib_module_names
        if not names & {canonical(found) for found in DISTRIBUTIONS.get(library, [library])}
    }


def imported_by(paths: Iterable[Path]) -> set[str]:
    return {
        library
        for path in paths
        for library in imported_packages(path.read_text(encoding="utf-8"), "model")
    }


def product(*packages: str) -> list[Path]:
    return [path for package, path in MODULES if package in packages]


def test_every_library_the_product_imports_is_declared() -> None:
    assert undeclared(imported_by(product(*MAY_IMPORT)), RUNTIME + EXTRAS) == set()


def test_the_client_needs_what_it_declares_and_no_more() -> None:
    client = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text(encoding="utf-8"))
    imported = imported_by(product("whence_client"))
    declared = client["project"]["dependencies"]
    pillow = client["project"]["optional-dependencies"]["pillow"]
    assert undeclared(imported, declared + pillow) == set()
    assert {canonical(entry) for entry in declared} <= imported


def test_every_library_the_tests_import_is_declared() -> None:
    assert undeclared(imported_by((ROOT / "tests").rglob("*.py")), ALL) == set()


def test_every_declared_library_is_imported() -> None:
    provided = {
        canonical(found)
        for name in imported_by(product(*MAY_IMPORT))
        for found in DISTRIBUTIONS.get(name, [])
    }
    assert {canonical(entry) for entry in RUNTIME} - provided == USED_UNSEEN


def test_an_undeclared_library_is_told() -> None:
    imported = {"json", "model", "PIL", "torchvision", "no_such_library"}
    assert undeclared(imported, ["pillow>=11", "torch"]) == {"torchvision", "no_such_library"}
