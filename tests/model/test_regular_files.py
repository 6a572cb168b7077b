import hashlib
import os
import socket
from pathlib import Path

import pytest

from model import regular_files
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


def test_a_file_without_bytes_for_now_is_refused_and_never_waited_for(
    tmp_path: Path, monkeypatch
) -> None:
    """A FIFO with a writer answers as /proc/kmsg does, but says that it is no regular file."""
    os.mkfifo(tmp_path / "x")
    writer = os.open(tmp_path / "x", os.O_RDWR)
    monkeypatch.setattr(regular_files, "require_regular", lambda *_: None)
    reads = [lambda file: file.read(), lambda file: file.read(9), lambda file: file.readinto(room)]
    reads += [lambda file: file.peek(), lambda file: hashlib.file_digest(file, "sha256")]
    room = bytearray(9)
    for read in reads:
        with open_file(tmp_path / "x") as file, pytest.raises(OSError, match="it does not end"):
            read(file)
    os.close(writer)


def test_names_that_are_not_utf_8_can_be_shown() -> None:
    assert shown(os.fsdecode(b"caf\xe9.png")) == "caf\\xe9.png"
