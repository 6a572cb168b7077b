import tarfile
from pathlib import Path

import pytest

from model.errors import TrainingError
from model.shards import collect_images
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
    names = {f"./n0{number % 2}_{number}.JPEG" for number in range(4)}
    assert {image.name for image in found.images} == names
    for image in found.images:
        original = shard.parent / "pictures" / image.name
        assert image.read() == original.read_bytes()
        assert (image.short_side, image.area) == (32, 48 * 32)


def test_a_folder_gives_its_files_and_its_shards(shard: Path) -> None:
    found = collect_images([shard.parent])
    assert len(found.images) == 8
    assert {image.path.name for image in found.images} == {"shard.tar"} | {
        f"n0{number % 2}_{number}.JPEG" for number in range(4)
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
    assert [name.rpartition("/")[2] for name in found.unreadable] == ["broken.jpg: broken.jpg"]


def test_a_shard_cut_short_is_an_error_that_names_it(shard: Path) -> None:
    whole = shard.read_bytes()
    with tarfile.open(shard) as archive:
        *_, last = (member for member in archive if member.isfile())
    shard.write_bytes(whole[: last.offset_data + last.size // 2])
    with pytest.raises(TrainingError, match=r"shard .*shard\.tar .*cut short"):
        collect_images([shard])


@pytest.mark.parametrize("content", [b"", b"not a tar at all" * 100])
def test_what_is_no_shard_is_an_error_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "images.tar"
    path.write_bytes(content)
    with pytest.raises(TrainingError, match=r"shard .*images\.tar cannot be read"):
        collect_images([path])


def test_a_compressed_shard_is_told_to_be_written_plain(shard: Path) -> None:
    packed = shard.with_name("packed.tar")
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(shard.parent / "pictures")
    with pytest.raises(TrainingError, match="plain tar"):
        collect_images([packed])


def test_no_images_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no readable images were found"):
        collect_images([tmp_path])
    (tmp_path / "broken.png").write_bytes(encode(patches(0))[:8])
    with pytest.raises(TrainingError, match="1 unreadable"):
        collect_images([tmp_path])


def test_a_path_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no such file or folder"):
        collect_images([tmp_path / "nowhere"])
