"""The client as a distribution of its own, in projects and environments that are not ours."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

from index.answering import calibration
from model import config
from whence_client import models

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "client"

STRANGER = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "timm", "faiss", "numpy", "pyarrow", "PIL",
                                      "fastapi", "starlette", "index", "model", "tests"}:
            raise ModuleNotFoundError(f"{name} is not installed here", name=name)

sys.meta_path.insert(0, Absent())
import httpx
from app import greeting
from whence_client import AsyncWhence, Whence

def serve(request):
    assert b"the image" in request.read()
    return httpx.Response(429, json={})

with Whence("http://whence.test", retries=0, transport=httpx.MockTransport(serve)) as whence:
    try:
        whence.attribute(b"the image")
    except Exception as error:
        print(greeting, type(error).__name__, error.status, AsyncWhence.__name__)
"""


def test_it_works_in_a_project_with_an_app_of_its_own_and_without_our_libraries(
    tmp_path: Path,
) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("greeting = 'my own app'\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", STRANGER],
        cwd=tmp_path,
        env={"PYTHONPATH": str(CLIENT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "my own app ServerError 429 AsyncWhence\n", done.stderr


def test_it_has_the_server_s_version_and_python() -> None:
    server, client = (
        tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for folder in (ROOT, CLIENT)
    )
    assert client["version"] == server["version"]
    assert client["license"] == server["license"]
    assert set(client["dependencies"]) <= set(server["dependencies"])


def test_its_words_are_the_server_s() -> None:
    assert get_args(models.Facet) == get_args(config.Facet)
    assert get_args(models.Verdict) == get_args(calibration.Verdict)
