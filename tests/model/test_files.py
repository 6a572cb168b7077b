"""A file's stamp changes when its state does."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from model.files import FileStamp, sync_to_disk

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


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS])
def test_a_folder_that_its_file_system_cannot_sync_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """As fsync(2) tells of file systems that do not support it for a folder."""

    def refuse(descriptor: int) -> None:
        raise OSError(code, "not supported")

    monkeypatch.setattr(os, "fsync", refuse)
    sync_to_disk(tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="not supported"):  # what a file holds must be safe
        sync_to_disk(tmp_path / "file")


def test_a_disk_that_fails_is_told_of_a_folder_as_well(tmp_path: Path, monkeypatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="input/output"):
        sync_to_disk(tmp_path)
