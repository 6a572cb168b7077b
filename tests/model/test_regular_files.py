import os
import socket
from pathlib import Path

import pytest

from model.regular_files import open_file, read_file, shown


def test_a_file_is_read_through_links(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "link").symlink_to("a")
    assert read_file(tmp_path / "link") == b"content"


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


SPECIAL = {
    "a folder": Path.mkdir,
    "a FIFO (named pipe)": os.mkfifo,
    "a socket": make_socket,
    "a character device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize(("kind", "make"), SPECIAL.items(), ids=SPECIAL.keys())
def test_everything_else_is_refused_and_never_waited_for(tmp_path: Path, kind, make) -> None:
    make(tmp_path / "x")
    with pytest.raises(OSError, match="not a file") as caught:
        read_file(tmp_path / "x")
    assert caught.value.strerror == f"it is {kind}, not a file"


def test_a_fifo_that_takes_a_files_place_is_refused(tmp_path: Path, monkeypatch) -> None:
    """The path is a file when it is looked at, and a FIFO when it is opened."""
    path = tmp_path / "x"
    path.write_bytes(b"content")
    opened = os.open

    def swapping(name: Path, flags: int) -> int:
        path.unlink()
        os.mkfifo(path)
        return opened(name, flags)

    monkeypatch.setattr(os, "open", swapping)
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="FIFO"):
        open_file(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_names_that_are_not_utf_8_can_be_shown() -> None:
    assert shown(os.fsdecode(b"caf\xe9.png")) == "caf\\xe9.png"
