"""A file's stamp changes when its state does."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from model.files import FileStamp

CHANGES: dict[str, Callable[[Path], object]] = {
    "rewritten": lambda path: path.write_bytes(b"longer than before"),
    "replaced": lambda path: path.with_name("new").rename(path),
    "removed": lambda path: path.unlink(),
    "mode": lambda path: path.chmod(0o400),
    "times": lambda path: os.utime(path, (1, 1)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_change_shows(change: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "file"
    for name in ("file", "new"):
        (tmp_path / name).write_bytes(b"content")
    before = FileStamp.of(path)
    assert before == FileStamp.of(path)
    assert not before.error
    change(path)
    assert FileStamp.of(path) != before


def test_a_failure_is_part_of_the_stamp(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    missing = FileStamp.of(tmp_path / "missing")
    beneath_a_file = FileStamp.of(tmp_path / "file" / "below")
    assert missing.error
    assert beneath_a_file.error
    assert missing != beneath_a_file
