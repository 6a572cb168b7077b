import io
import os
import tarfile
from pathlib import Path

import pytest

from model.errors import SourceError, TrainingError
from model.images import FORMATS, ImageLimits
from model.pretraining.shards import collect_images
from model.sources.picture import MAX_BYTES_PER_PIXEL
from tests.fakes import patches
from tests.pictures import encode


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    """A tar of four pictures of 48 x 32 pixels and a text."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(4):
        patches(number).resize((48, 32)).save(pictures / f"n0{number % 2}_{number}.JPEG")
    (pictures / "README.txt").write_text("not an image")
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(pictures, arcname=".")
    return path


def test_a_shard_is_read_in_place(shard: Path) -> None:
    found = collect_images([shard])
    names = {f"n0{number % 2}_{number}.JPEG" for number in range(4)}
    assert {image.picture.name for image in found.images} == names
    for image in found.images:
        original = shard.parent / "pictures" / image.picture.name
        assert image.read() == original.read_bytes()
        assert (image.short_side, image.area) == (32, 48 * 32)


def test_a_folder_gives_its_files_and_its_shards(shard: Path) -> None:
    found = collect_images([shard.parent])
    assert len(found.images) == 8
    assert {Path(image.picture.address).parent.name for image in found.images} == {
        "shard.tar#.",
        "pictures",
    }


def test_what_is_named_twice_counts_once(shard: Path) -> None:
    assert len(collect_images([shard, shard.parent, shard]).images) == 8


def test_a_files_name_begins_with_its_class(shard: Path) -> None:
    assert {image.label for image in collect_images([shard]).images} == {"n00", "n01"}
    patches(0).save(shard.parent / "plain.png")
    [plain] = collect_images([shard.parent / "plain.png"]).images
    assert plain.label is None


def test_damaged_images_are_left_out_and_named(shard: Path) -> None:
    (shard.parent / "broken.jpg").write_bytes(b"no image")
    found = collect_images([shard.parent])
    assert len(found.images) == 8
    reasons = {Path(one.path).name: one.reason for one in found.skipped}
    assert reasons.keys() == {"broken.jpg", "README.txt"}
    assert reasons["broken.jpg"].startswith("these bytes are not an image of an accepted type")
    assert reasons["README.txt"] == "not an image"


def test_a_shard_cut_short_is_an_error_that_names_it(shard: Path) -> None:
    whole = shard.read_bytes()
    with tarfile.open(shard) as archive:
        *_, last = (member for member in archive if member.isfile())
    shard.write_bytes(whole[: last.offset_data + last.size // 2])
    with pytest.raises(SourceError, match=r"shard .*shard\.tar .*cut short"):
        collect_images([shard])


def test_a_damaged_header_halfway_is_an_error(shard: Path) -> None:
    with tarfile.open(shard) as archive:
        third = archive.getmembers()[2]
    data = bytearray(shard.read_bytes())
    data[third.offset + 100] ^= 1  # of its mode, so that the checksum is wrong
    shard.write_bytes(data)
    with pytest.raises(SourceError, match=r"shard .*shard\.tar .*damaged"):
        collect_images([shard])


def test_headers_blanked_halfway_are_an_error(shard: Path) -> None:
    with tarfile.open(shard) as archive:
        third = archive.getmembers()[2]
    data = bytearray(shard.read_bytes())
    data[third.offset : third.offset + 1024] = bytes(1024)  # as where an archive ends
    shard.write_bytes(data)
    with pytest.raises(SourceError, match=r"shard .*shard\.tar .*damaged"):
        collect_images([shard])


@pytest.mark.parametrize("blocks", [0, 1])
def test_a_shard_cut_between_two_members_is_an_error(shard: Path, blocks: int) -> None:
    with tarfile.open(shard) as archive:
        third = archive.getmembers()[2]
    shard.write_bytes(shard.read_bytes()[: third.offset] + bytes(512 * blocks))
    with pytest.raises(SourceError, match=r"shard .*shard\.tar .*cut short"):
        collect_images([shard])


@pytest.mark.parametrize("size", [-512, -(2**40), 2**40, 2**70])
def test_a_forged_size_is_an_error(shard: Path, size: int) -> None:
    with tarfile.open(shard) as archive:
        third = archive.getmembers()[2]
    data = bytearray(shard.read_bytes())
    header = data[third.offset : third.offset + 512]
    header[124:136] = bytes([0o200 if size > 0 else 0o377]) + (size % 256**11).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[third.offset : third.offset + 512] = header
    shard.write_bytes(data)
    with pytest.raises(SourceError, match=r"shard .*shard\.tar cannot be read"):
        collect_images([shard])


def test_a_shard_is_known_by_the_name_it_is_given_under(shard: Path) -> None:
    blob = shard.rename(shard.with_name("0123abcd"))
    (shard.parent / "link.tar").symlink_to(blob)
    assert len(collect_images([shard.parent / "link.tar"]).images) == 4
    (shard.parent / "link.tar").unlink()
    blob.rename(shard.with_name("SHARD.TAR"))
    assert len(collect_images([shard.parent]).images) == 8


def test_a_folder_may_be_named_like_a_shard(tmp_path: Path) -> None:
    folder = tmp_path / "pictures.tar"
    folder.mkdir()
    patches(0).save(folder / "one.png")
    assert len(collect_images([tmp_path]).images) == 1
    assert len(collect_images([folder]).images) == 1


def test_images_too_large_are_left_out_and_named(shard: Path, tmp_path: Path) -> None:
    short, long = tmp_path / "short.png", tmp_path / "long.png"
    patches(0, side=16).save(short)
    long.write_bytes(short.read_bytes() + bytes(MAX_BYTES_PER_PIXEL * 256))
    [skipped] = collect_images([short, long], ImageLimits(max_pixels=256)).skipped
    assert (skipped.path, skipped.reason.endswith("bytes, over 1,024")) == (str(long), True)
    with pytest.raises(TrainingError, match="5 files or folders were skipped"):
        collect_images([shard], ImageLimits(max_pixels=48 * 32 - 1))


@pytest.mark.parametrize("content", [b"", b"not a tar at all" * 100])
def test_what_is_no_shard_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "images.tar"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"shard .*images\.tar cannot be read"):
        collect_images([path])


def test_a_compressed_shard_is_told_to_be_written_plain(shard: Path) -> None:
    packed = shard.with_name("packed.tar")
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(shard.parent / "pictures")
    with pytest.raises(SourceError, match="plain tar"):
        collect_images([packed])


def test_no_images_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no images were found"):
        collect_images([tmp_path])
    (tmp_path / "broken.png").write_bytes(encode(patches(0))[:8])
    with pytest.raises(TrainingError, match=r"1 files or folders were skipped.*broken\.png"):
        collect_images([tmp_path])


def test_a_path_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no such file or folder"):
        collect_images([tmp_path / "nowhere"])


def test_everything_in_folders_and_shards_is_taken_or_told(shard: Path) -> None:
    folder = shard.parent
    members = {
        "a.jfif": encode(patches(5), "JPEG"),
        "b": encode(patches(6)),
        "c.json": b"{}",
        "d.jpg": b"no image",
        "__MACOSX/._a.jpg": encode(patches(7)),
        "._e.jpg": b"x",
    }
    with tarfile.open(folder / "more.tar", "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "a.jfif"
        archive.addfile(link)
    os.mkfifo(folder / "pipe.tar")
    (folder / "gone.png").symlink_to("nowhere")
    (folder / "@eaDir").mkdir()
    patches(8).save(folder / "@eaDir" / "thumb.jpg")
    found = collect_images([folder])
    taken = {one.picture.name for one in found.images if "more.tar#" in one.picture.address}
    assert taken == {"a.jfif", "b"}
    assert {
        one.path.rpartition("/")[2]: one.reason for one in found.skipped if "more" in one.path
    } == {
        "more.tar#c.json": "not an image",
        "more.tar#d.jpg": "these bytes are not an image of an accepted type "
        f"({', '.join(FORMATS)})",
        "._a.jpg": "a folder of the system or of a program",
        "more.tar#._e.jpg": "a hidden file",
        "more.tar#link.jpg": "a link or a special file in a shard",
    }
    others = {Path(one.path).name: one.reason for one in found.skipped if "more" not in one.path}
    assert others == {
        "README.txt": "not an image",
        "pipe.tar": "it is a FIFO (named pipe), not a file",
        "gone.png": "a link to nowhere, which is not there",
        "@eaDir": "a folder of the system or of a program",
    }
