"""The commands that ask a running server, which wants a key."""

import json
from pathlib import Path

import pytest

from tests.app.cli.test_main import run
from tests.app.conftest import shade


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    shade("Emerald", 1).save(path)
    return path


def test_an_image_is_asked_with_the_key(
    served: tuple[str, str], picture: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, key = served
    assert run("attribute", picture, "--url", url, "--key", key, "--json") == 0
    assert json.loads(capsys.readouterr().out)["concepts"][0]["id"] == "emerald"
    monkeypatch.setenv("WHENCE_KEY", key)
    assert run("attribute", picture, "--url", url) == 0
    assert "Emerald" in capsys.readouterr().out


def test_without_the_key_each_image_has_its_error(
    served: tuple[str, str], picture: Path, capsys
) -> None:
    url, _ = served
    assert run("attribute", picture, picture.with_name("none.png"), "--url", url) == 1
    said = capsys.readouterr().err
    assert "picture.png: error: the server answered 401: this needs an API key" in said
    assert "none.png: error: the file could not be read: No such file" in said
    assert "Traceback" not in said


def test_pairs_are_asked_with_the_key(
    served: tuple[str, str], picture: Path, tmp_path: Path, capsys
) -> None:
    url, key = served
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(f"path,concepts,kind\n{picture},Emerald,copy\n")
    report = tmp_path / "report.json"
    words = ("evaluate", "pairs", "--pairs", pairs, "--url", url, "--json", report)
    assert run(*words, "--key", key) == 0
    assert json.loads(report.read_text())["macro"]["recall_at_1"] == 1
    assert run(*words, "--key", "wrong") == 1
    assert "401" in capsys.readouterr().err


def test_which_version_is_served_needs_no_key(
    served: tuple[str, str], tmp_path: Path, capsys
) -> None:
    assert run("status", "--url", served[0], "--data", tmp_path) == 0
    assert "served" in capsys.readouterr().out
