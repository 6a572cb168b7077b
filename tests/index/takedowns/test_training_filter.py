import tarfile
from pathlib import Path

import pytest

from index.takedowns import training_filter as training
from index.takedowns.log import TakedownLog
from index.takedowns.records import content_of_file
from index.takedowns.training_filter import (
    leave_out_withdrawn,
    leave_out_withdrawn_references,
)
from model.pretraining.shards import collect_images
from model.sources.local import local_files
from tests.fakes import patches


def test_withdrawn_files_and_copies_are_not_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "STEP", 2)
    files = [tmp_path / name for name in ("a.png", "same.png", "copy.jpg", "b.png", "no.png")]
    for path in files[:2]:
        patches(0, side=64).save(path)
    patches(0, side=128).save(files[2], quality=70)
    patches(1, side=64).save(files[3])
    files[4].write_text("no image")
    pictures = local_files(files)
    log = TakedownLog(tmp_path / "takedowns.jsonl")
    told: list[int] = []
    assert leave_out_withdrawn(pictures, log.read()) == (pictures, [])
    log.add("image", "a.png", [content_of_file(files[0])], reason="r")
    used, withdrawn = leave_out_withdrawn(
        pictures, log.read(), workers=2, progress=lambda _, done, total: told.append(done)
    )
    assert (used, withdrawn) == (pictures[3:], pictures[:3])
    assert told == [2, 4, 5]


def test_withdrawn_images_in_files_and_shards_are_not_pre_trained_on(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    patches(0, side=64).save(folder / "a.png")
    patches(0, side=128).save(folder / "copy.jpg", quality=70)
    patches(1, side=64).save(folder / "b.png")
    with tarfile.open(folder / "shard.tar", "w") as shard:
        for path in sorted(folder.glob("*.*g")):
            shard.add(path, f"in-shard-{path.name}")
    images = collect_images([folder]).images
    assert len(images) == 6
    log = TakedownLog(tmp_path / "takedowns.jsonl")
    assert leave_out_withdrawn_references(images, log.read()) == (images, [])
    log.add("image", "a.png", [content_of_file(folder / "a.png")], reason="r")
    kept, withdrawn = leave_out_withdrawn_references(images, log.read(), workers=2)
    assert sorted(image.picture.name for image in kept) == ["b.png", "in-shard-b.png"]
    assert len(withdrawn) == 4
