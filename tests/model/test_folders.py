"""What is found in folders, and why the rest is not used."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from model.errors import TrainingError
from model.files import this_user
from model.folders import MACHINE_FOLDERS, Skip, Skipped, find_images, ignore
from model.images import read_image
from model.sources.listing import list_pictures
from tests.fakes import patches
from tests.pictures import encode


def listed(paths: list[Path], skip: Skip = ignore) -> list[Path]:
    return [Path(one.address) for one in list_pictures(paths, skip)]


class Log(list[Skipped]):
    """Collects what was skipped."""

    def reasons(self, root: Path) -> dict[str, str]:
        return {str(Path(one.path).relative_to(root)): one.reason for one in self}


def touch(root: Path, *names: str, content: bytes = b"x") -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def test_images_are_found_at_any_depth_and_all_else_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "b.png", "a/c.JPG", "a/notes.txt", ".hidden/d.png", "a/.e.png")
    log = Log()
    assert find_images(tmp_path, log.append) == [tmp_path / "a/c.JPG", tmp_path / "b.png"]
    assert log.reasons(tmp_path) == {
        "a/notes.txt": "not an image",
        ".hidden": "a hidden folder",
        "a/.e.png": "a hidden file",
    }


PICTURES: dict[str, bytes] = {
    name: encode(patches(1), kind)
    for name, kind in {
        "b.jfif": "JPEG", "c.jpe": "JPEG", "d": "JPEG", "e.jpg_large": "JPEG", "f.apng": "PNG",
        "g.mpo": "MPO", "photo.png!w700": "PNG", "IMG_0001.tmp": "WEBP", "scan.001": "TIFF",
        "x.jpg.download": "BMP", "wrong.txt": "GIF", "wrong.json": "AVIF", "wrong.jpg": "PNG",
    }.items()
}  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
def test_an_image_is_one_by_its_content_whatever_its_name(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name, content=PICTURES[name])
    log = Log()
    assert find_images(tmp_path, log.append) == [tmp_path / name]
    assert log == []
    assert read_image(tmp_path / name).pixels.size == patches(1).size


# Bytes that files of these kinds begin with, from the formats' own descriptions.
OTHERS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not an image: empty"),
    "text": (b"a caption", "not an image"),
    "a.psd": (b"8BPS\0\1" + bytes(20), "not an image: of type Photoshop"),
    "a.svg": (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "not an image: of type SVG"),
    "a.pdf": (b"%PDF-1.7\n", "not an image: of type PDF"),
    "a.mp4": (b"\0\0\0\x18ftypisom" + bytes(9), "not an image: of type MP4 or QuickTime video"),
    "a.zip": (b"PK\x03\x04" + bytes(20), "not an image: of type ZIP archive"),
    "a.ppm": (b"P6\n2 2\n255\n" + bytes(12), "not an image: of type Netpbm"),
    "a.bin": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "not an image: a Git LFS pointer: fetch the file itself with `git lfs pull`",
    ),
    "a.dvc": (
        b"outs:\n- md5: 0\n  path: a.jpg\n",
        "not an image: a DVC pointer: fetch the file itself with `dvc pull`",
    ),
    "a.nef": (b"II*\0" + bytes(20), "a camera's raw file: convert it to JPEG or TIFF"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_image_is_told_with_its_kind(tmp_path: Path, name: str) -> None:
    content, reason = OTHERS[name]
    touch(tmp_path, name, content=content)
    log = Log()
    assert find_images(tmp_path, log.append) == []
    assert log.reasons(tmp_path) == {name: reason}


@pytest.mark.parametrize(
    "name",
    [
        "@eaDir", "#recycle", "$RECYCLE.BIN", "$Recycle.Bin", "System Volume Information",
        "lost+found", ".Trash-1000", ".Trashes", "__MACOSX", ".git", ".ipynb_checkpoints",
        ".thumbnails", "@Recycle", "found.000", "FOUND.017", "RECYCLER", "Recycled", "$WINDOWS.~BT",
        "$Windows.~WS", "@sharebin", "msdownld.tmp",
    ],
)  # fmt: skip
@pytest.mark.parametrize("below", ["", "Ada/deep"])
def test_folders_of_systems_and_programs_are_no_users_own(tmp_path, name: str, below: str) -> None:
    touch(tmp_path / below / name, "a.png", "b/c.png")
    touch(tmp_path, "kept.png")
    log = Log()
    assert find_images(tmp_path, log.append) == [tmp_path / "kept.png"]
    [(path, reason)] = log.reasons(tmp_path).items()
    assert path == str(Path(below) / name)
    assert reason in {"a hidden folder", "a folder of the system or of a program"}


def test_folders_with_a_name_like_a_systems_are_a_users_own(tmp_path: Path) -> None:
    names = ["found.1", "found.cats", "Recycled paper", "windows"]
    for name in names:
        touch(tmp_path / name, "a.png")
    assert [image.parent.name for image in find_images(tmp_path)] == sorted(names)


@pytest.mark.parametrize("name", ["A.raw", "B.DNG", "C.mos"])
def test_an_image_named_like_a_raw_file_is_one_by_its_content(tmp_path: Path, name: str) -> None:
    for place, head in enumerate([b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"]):
        touch(tmp_path, f"{place}{name}", content=head + bytes(20))
    for place, head in enumerate([b"II*\0", b"MM\0*", b"IIRO", b"IIU\0", b"FUJIFILMCCD-RAW", b"?"]):
        touch(tmp_path, f"raw{place}{name}", content=head + bytes(20))
    log = Log()
    assert [image.name for image in find_images(tmp_path, log.append)] == [f"0{name}", f"1{name}"]
    assert set(log.reasons(tmp_path).values()) == {
        "a camera's raw file: convert it to JPEG or TIFF"
    }
    assert len(log.reasons(tmp_path)) == 6


def test_the_list_of_such_folders_is_lower_case() -> None:
    assert all(name == name.lower() for name in MACHINE_FOLDERS)


def test_links_and_special_files_are_told_with_their_fault(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "gone.jpg").symlink_to(".git/annex/objects/x.jpg")
    (tmp_path / "self").symlink_to("self")
    (tmp_path / "x").symlink_to("y")
    (tmp_path / "y").symlink_to("x")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe")
    log = Log()
    assert find_images(tmp_path, log.append) == [tmp_path / "a.png"]
    loop = "which cannot be followed: Too many levels of symbolic links"
    assert log.reasons(tmp_path) == {
        "gone.jpg": "a link to .git/annex/objects/x.jpg, which is not there",
        "self": f"a link to self, {loop}",
        "x": f"a link to y, {loop}",
        "y": f"a link to x, {loop}",
        "zero.png": "it is a character device, not a file",
        "pipe.png": "it is a FIFO (named pipe), not a file",
        "pipe": "it is a FIFO (named pipe), not a file",
    }


def test_linked_folders_are_searched_once_and_never_upwards(tmp_path: Path) -> None:
    touch(tmp_path, "set/a/1.png", "set/b/2.png", "store/3.png", "top.png")
    folder = tmp_path / "set"
    (folder / "a" / "back").symlink_to(folder)
    (folder / "a" / "above").symlink_to(tmp_path)
    (folder / "a" / "aside").symlink_to(folder / "b")
    (folder / "b" / "aside").symlink_to(folder / "a")
    (folder / "link").symlink_to(tmp_path / "store")
    (folder / "again").symlink_to(tmp_path / "store")
    log = Log()
    found = find_images(folder, log.append)
    assert sorted(path.name for path in found) == ["1.png", "2.png", "3.png"]
    assert folder / "again" / "3.png" in found
    assert listed([folder]) == [path.resolve() for path in found]
    assert log.reasons(folder) == {
        "a/back": f"the same folder as {folder}",
        "a/above": f"the same folder as {tmp_path}",
        "a/aside": f"the same folder as {folder}/b",
        "b/aside": f"the same folder as {folder}/a",
        "link": f"the same folder as {folder}/again",
    }


def test_folders_may_be_nested_deeper_than_calls(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(1800):  # more than Python's limit of nested calls
            os.mkdir("d", dir_fd=here)
            below = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
        os.close(os.open("a.png", os.O_CREAT, dir_fd=here))
    finally:
        os.close(here)
    try:
        assert [path.name for path in find_images(tmp_path)] == ["a.png"]
    finally:  # pytest's own tidying calls itself for each folder
        subprocess.run(["/bin/rm", "-rf", tmp_path / "d"], check=True)


def refuse(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """As the system does to whoever may not list a folder; tests may run as root, who may."""
    scandir = os.scandir

    def refusing(path: Path) -> Any:
        if Path(path).name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)


def test_a_folder_that_cannot_be_read_does_not_stop_training(tmp_path, monkeypatch) -> None:
    touch(tmp_path, "a/closed/2.png", "a/1.png")
    refuse(monkeypatch, "closed")
    log = Log()
    assert listed([tmp_path], log.append) == [tmp_path / "a" / "1.png"]
    fault = f"it cannot be read by {this_user()}; check its permissions and owner"
    assert log.reasons(tmp_path) == {"a/closed": fault}
    with pytest.raises(TrainingError, match=r"a/closed: it cannot be read by user \d+"):
        listed([tmp_path / "a" / "closed"])


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch) -> None:
    touch(tmp_path, "a.png", "closed")
    opened = os.open

    def refusing(path: Path, *more: Any) -> int:
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *more)

    monkeypatch.setattr(os, "open", refusing)
    log = Log()
    assert find_images(tmp_path, log.append) == [tmp_path / "a.png"]
    assert log.reasons(tmp_path) == {"closed": "the file could not be read: Permission denied"}


def test_training_images_are_listed_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "link.png").symlink_to("a.png")
    assert listed([tmp_path, tmp_path / "a.png"]) == [tmp_path / "a.png"]


NOTHING: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty": (Path.mkdir, "no images were found below"),
    "gone": (lambda _: None, "there is no such file or folder"),
    "pipe": (os.mkfifo, "it is a FIFO"),
    "loop": (lambda path: path.symlink_to(path.name), "Too many levels of symbolic links"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_training_on_nothing_says_so(tmp_path: Path, name: str) -> None:
    make, fault = NOTHING[name]
    make(tmp_path / name)
    with pytest.raises(TrainingError, match=fault):
        listed([tmp_path / name])
    touch(tmp_path, "set/notes.txt")
    with pytest.raises(TrainingError, match=r"1 files or folders were skipped, .*notes\.txt"):
        listed([tmp_path / "set"])
