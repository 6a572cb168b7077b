"""`whence rebuild --every`."""

from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import typer

from app.cli.repeating import duration, repeat
from index.errors import RebuildError
from index.layout import DataFolder
from index.snapshot import published_version
from model.checkpoint import save_model
from tests.app.cli.test_main import run
from tests.fakes import patches, tiny_model


class StopError(Exception):
    """Ends a repetition that would go on."""


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("10m", 600), ("2 h", 7200), ("1D", 86_400)]
)
def test_durations(text: str, seconds: int) -> None:
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text", ["", "0s", "10", "m", "-5m", "1.5h", "10m5s", "367d", "999999d", "∞s"]
)
def test_no_durations(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="30s, 10m, 2h or 1d"):
        duration(text)


def test_an_error_with_a_name_does_not_end_it(capsys: pytest.CaptureFixture[str]) -> None:
    share = OSError(5, "the share is gone")
    outcomes: list[Exception | None] = [None, RebuildError("the disk is full"), share]
    pauses: list[float] = []

    def work() -> None:
        if not outcomes:
            raise StopError
        if error := outcomes.pop(0):
            raise error

    with pytest.raises(StopError):
        repeat(work, timedelta(minutes=10), sleep=pauses.append)
    assert pauses == [600, 600, 600]
    said = capsys.readouterr().err
    assert "the disk is full" in said
    assert "the share is gone; check the path" in said
    assert "the next look at the sources is in 0:10:00" in said


def test_images_that_are_added_reach_the_next_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, images = DataFolder(tmp_path / "data"), tmp_path / "images/concept"
    save_model(data.models, tiny_model(), {})
    images.mkdir(parents=True)
    patches(0, side=64).save(images / "0.png")
    versions: list[str | None] = []

    def look(_seconds: float) -> None:
        versions.append(published_version(data.index))
        if len(versions) == 1:
            patches(1, side=64).save(images / "1.png")
        if len(versions) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("app.cli.rebuild.repeat", partial(repeat, sleep=look))
    status = run(
        "rebuild", "--source", images.parent, "--data", data.root, "--every", "10m",
        "--canary-rate", "0", "--workers", "0", "--engine", "eager",
    )  # fmt: skip
    assert status != 0  # interrupted
    assert versions[0] != versions[1] == versions[2]
    assert "added 1, kept 1" in capsys.readouterr().out


def test_forced_versions_are_not_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("rebuild", "--source", "x", "--every", "10m", "--force") == 2
    assert "would write a version each time" in capsys.readouterr().err
