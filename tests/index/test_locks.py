"""Locks of the data folder, and file systems that have none."""

import errno
import fcntl
from pathlib import Path

import filelock
import pytest

from index.errors import RebuildError, TakedownError
from index.layout import DataFolder
from index.locks import file_lock
from index.takedowns.log import TakedownLog
from index.versions import named_failures, rebuild_lock


def test_a_lock_keeps_others_out_and_is_released(tmp_path: Path) -> None:
    with (
        file_lock(tmp_path / "x", seconds=0),
        pytest.raises(filelock.Timeout),
        file_lock(tmp_path / "x", seconds=0),
    ):
        pass
    with file_lock(tmp_path / "x", seconds=0):
        pass


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch, code: int) -> None:
    """The codes are those of flock(2) on NFS without a lock server, and on FUSE and 9p."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(code, "as the system says")

    monkeypatch.setattr(fcntl, "flock", refuse)
    told = r"its file system has no file locks \(as the system says\); put the data folder on one"
    with pytest.raises(OSError, match=told), file_lock(tmp_path / "x", seconds=0):
        pass
    with pytest.raises(TakedownError, match=f"cannot be written .*{told}"):
        TakedownLog(tmp_path / "takedowns.jsonl").add("image", "a", [], reason="r")
    data = DataFolder(tmp_path)
    with pytest.raises(RebuildError, match=told), named_failures(data), rebuild_lock(data.index):
        pass
    assert TakedownLog(tmp_path / "takedowns.jsonl").read().active == ()


def test_a_soft_lock_is_not_taken_for_a_lock(tmp_path: Path, monkeypatch) -> None:
    """filelock takes the file's existence for a lock where flock is not implemented."""

    def missing(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    told = "its file system has no file locks"
    with pytest.raises(OSError, match=told), file_lock(tmp_path / "x", seconds=0):
        pass
    data = DataFolder(tmp_path)
    with pytest.raises(RebuildError, match=told), named_failures(data), rebuild_lock(data.index):
        pass


def test_a_lock_that_does_not_exclude_is_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda descriptor, operation: None)
    told = r"two processes can hold one lock at once"
    with pytest.raises(OSError, match=told), file_lock(tmp_path / "x", seconds=0):
        pass


def test_a_second_rebuild_is_refused(tmp_path: Path) -> None:
    with (
        rebuild_lock(tmp_path),
        pytest.raises(RebuildError, match="another rebuild is running"),
        rebuild_lock(tmp_path),
    ):
        pass
