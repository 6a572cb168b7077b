"""Tar archives of one and of many parts."""

import io
import tarfile
from pathlib import Path

import pytest

from index.errors import EvaluationError
from index.evaluation.abc_images import list_distractors
from model.errors import SourceError, WhenceError
from model.sources.tar import JoinedFile, find_parts
from tests.pictures import noise


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    noise(16, 16, seed=seed).save(buffer, "PNG")
    return buffer.getvalue()


CONTENT = {f"laion_subset_jpeg/{i:06d}.png": png(i) for i in range(7)}
LONG = f"laion_subset_jpeg/{'x' * 150}.png"


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    path = tmp_path / "laion_subset_jpeg.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        folder = tarfile.TarInfo("laion_subset_jpeg")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in {**CONTENT, LONG: png(99), "laion_subset_jpeg/list.txt": b"x"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("laion_subset_jpeg/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "000000.png"
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("laion_subset_jpeg/.hidden.png"))
    return path


def split(path: Path, names: list[str]) -> list[Path]:
    data = path.read_bytes()
    size = -(-len(data) // len(names))
    parts = [path.with_name(name) for name in names]
    for number, part in enumerate(parts):
        part.write_bytes(data[number * size : (number + 1) * size])
    path.unlink()
    return parts


def contents(source: Path) -> dict[str, bytes]:
    return {one.address.rpartition(".tar")[2]: one.read() for one in list_distractors([source])}


def test_images_are_read_in_place(tar: Path) -> None:
    found = list_distractors([tar])
    expected = {f"{tar}#{name}": data for name, data in {**CONTENT, LONG: png(99)}.items()}
    assert {one.address: one.read() for one in found} == expected
    assert [one.read(8) for one in found] == [data[:8] for data in expected.values()]
    assert [one.size for one in found] == [len(data) for data in expected.values()]


@pytest.mark.parametrize(
    "endings",
    [
        [".tar.001", ".tar.002", ".tar.003"],
        [f".tar.part{i}" for i in range(12)],
        [".tar.aa", ".tar.ab"],
        [".taraa", ".tarab", ".tarac"],
    ],
)
def test_parts_are_one_archive(tar: Path, endings: list[str]) -> None:
    whole = {one.address: one.read() for one in list_distractors([tar])}
    parts = split(tar, [tar.stem + ending for ending in endings])
    for source in [tar, parts[0], parts[1], parts[-1]]:
        assert [one.read() for one in list_distractors([source])] == list(whole.values())
    assert find_parts(tar) == tuple(parts)


@pytest.mark.parametrize("ends", ["1 2 3 4 5", "00 01 02 03 04", "aa ab ac ad ae"])
def test_a_missing_part_is_named(tar: Path, ends: str) -> None:
    parts = split(tar, [f"{tar.name}.{end}" for end in ends.split()])
    parts[2].rename(parts[2].with_name("elsewhere"))
    with pytest.raises(SourceError, match=rf"jpeg\.tar is missing after {parts[1].name}"):
        list_distractors([tar])
    parts[2].with_name("elsewhere").rename(parts[2])
    for part in parts[-2:]:
        part.unlink()
    with pytest.raises(SourceError, match=r"cut short|cannot be read"):
        list_distractors([tar])


@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.75])
def test_an_archive_that_is_cut_short_is_named(tar: Path, kept: float) -> None:
    data = tar.read_bytes()
    tar.write_bytes(data[: int(len(data) * kept) // 512 * 512])
    with pytest.raises(SourceError, match=r"cut short|cannot be read"):
        list_distractors([tar])


@pytest.mark.parametrize(("mode", "name"), [("w:gz", "gzip"), ("w:xz", "xz"), ("w:bz2", "bzip2")])
def test_a_compressed_archive_is_named(tmp_path: Path, mode: str, name: str) -> None:
    for ending in (".tar", f".tar.{mode[2:]}"):
        path = tmp_path / f"images{ending}"
        with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
            archive.add(__file__, "x.png")
        with pytest.raises(WhenceError, match=rf"{name}.* unpack it"):
            list_distractors([path])


def test_a_tar_without_images_is_named(tmp_path: Path) -> None:
    path = tmp_path / "texts.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "test.py")
    with pytest.raises(EvaluationError, match="no images were found below"):
        list_distractors([path])
    path.write_bytes(b"no tar at all" * 100)
    with pytest.raises(SourceError, match="cannot be read"):
        list_distractors([path])


def test_bytes_are_read_across_parts(tar: Path) -> None:
    data = tar.read_bytes()
    parts = split(tar, [f"{tar.name}.{i}" for i in range(1, 12)])
    archive = JoinedFile(tuple(parts))
    assert archive.size == len(data)
    for offset, size in [(0, len(data)), (5, 2000), (len(data) - 3, 10), (len(data), 5)]:
        assert archive.read(size, offset) == data[offset : offset + size]
