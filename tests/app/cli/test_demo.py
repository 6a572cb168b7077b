"""The demo's pictures, as they are kept in ``app/demo``, and their copy in the data folder."""

import csv
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from app.cli.demonstration import PICTURES, DemoError, copy_pictures
from index.building.source import read_sources
from index.evaluation.pairs import read_pairs

MEGABYTES = 5


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_manifests_name_every_picture_and_only_concepts_there_are() -> None:
    exemplars = read_sources([PICTURES / "exemplars.csv"])
    pairs = read_pairs(PICTURES / "pairs.csv")
    with (PICTURES / "pairs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    listed = {exemplar.path for exemplar in exemplars} | {PICTURES / row["path"] for row in rows}
    found = {path for path in PICTURES.rglob("*.*") if path.suffix in {".webp", ".jpg"}}
    assert listed == found
    assert {exemplar.license for exemplar in exemplars} == {"CC0-1.0"}
    counts = Counter(exemplar.concept.id for exemplar in exemplars)
    assert set(counts.values()) == {8}
    assert {concept for pair in pairs for concept in pair.concepts} == set(counts)
    kinds = Counter(row["kind"] for row in rows)
    assert kinds == {"style": 16, "subject": 15, "subject+style": 14, "none": 4}


def test_the_pictures_are_whole_and_small() -> None:
    paths = [path for path in PICTURES.rglob("*.*") if path.suffix in {".webp", ".jpg"}]
    for path in paths:
        with Image.open(path) as image:
            image.load()
            assert (image.mode, image.size) == ("RGB", (320, 320))
    assert len({path.read_bytes() for path in paths}) == len(paths)
    assert sum(path.stat().st_size for path in paths) < MEGABYTES * 2**20


def test_a_copy_is_whole_and_keeps_what_was_added(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "demo"
    copy_pictures(folder)
    assert contents(folder) == contents(PICTURES)
    (folder / "exemplars" / "mine.webp").write_bytes(b"mine")
    (folder / "pairs.csv").write_text("", encoding="utf-8")
    copy_pictures(folder)
    assert contents(folder) == {**contents(PICTURES), "exemplars/mine.webp": b"mine"}


def test_pictures_that_an_earlier_version_drew_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "exemplars" / "Red teapot").mkdir(parents=True)
    (tmp_path / "exemplars" / "Red teapot" / "01.jpg").write_bytes(b"drawn")
    (tmp_path / "gallery.json").write_text("{}", encoding="utf-8")
    copy_pictures(tmp_path)
    assert contents(tmp_path) == contents(PICTURES)


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(DemoError, match="not the demo's"):
        copy_pictures(tmp_path)
    assert contents(tmp_path) == {"holiday.jpg": b"mine"}
