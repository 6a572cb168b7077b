import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from index.errors import SnapshotError
from index.snapshot import MANIFEST, Manifest, file_record
from index.stores.faiss_files import write_vectors
from index.takedowns.log import TakedownLog
from index.verify import Verification, verify
from tests.fakes import FakeEmbedder, patches
from tests.index.conftest import House


def failed(found: Verification) -> list[str]:
    return [check.name for check in found.checks if not check.passed]


def check(house: House, **options: object) -> Verification:
    return verify(house.data, embedder=FakeEmbedder(), **options)  # type: ignore[arg-type]


def sign(folder: Path) -> None:
    """Make the manifest fit files that were changed."""
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    files = {name: file_record(folder / name) for name in manifest.files}
    (folder / MANIFEST).write_text(manifest.model_copy(update={"files": files}).model_dump_json())


def test_a_sound_version_passes_every_check(house: House) -> None:
    version = house.rebuild().version
    found = check(house)
    assert found.passed
    assert found.version == version
    assert [c.name for c in found.checks] == [
        "files", "counts", "catalog", "vectors of style", "vectors of subject", "takedowns",
        "embeddings",
    ]  # fmt: skip
    assert "5 exemplars embedded again" in found.checks[-1].text
    assert found.as_dict()["passed"] is True


def test_a_damaged_file_is_named(house: House) -> None:
    folder = house.data.index / house.rebuild().version
    path = folder / "cohort.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    found = check(house)
    assert failed(found) == ["files"]
    assert "cohort.safetensors" in found.checks[0].text


def swap_vectors(folder: Path) -> None:
    rows = FakeEmbedder().embed([patches(seed) for seed in (1, 0, 2, 10, 11)])["style"]
    write_vectors(folder, "style", rows)


def shrink_vectors(folder: Path) -> None:
    import faiss

    rows = FakeEmbedder().embed([patches(seed) for seed in (0, 1, 2, 10, 11)])["style"]
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(np.concatenate([rows[:-1], 0.5 * rows[-1:]]))
    faiss.write_index(index, str(folder / "style.faiss"))


def drop_thumbnail(folder: Path) -> None:
    with sqlite3.connect(folder / "catalog.sqlite") as db:
        db.execute("DELETE FROM thumbnails WHERE sha256 = (SELECT min(sha256) FROM thumbnails)")
    db.close()


def add_concept(folder: Path) -> None:
    with sqlite3.connect(folder / "catalog.sqlite") as db:
        db.execute("INSERT INTO concepts VALUES (9, 'nine', 'Nine', NULL)")
    db.close()


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (swap_vectors, ["embeddings"]),
        (shrink_vectors, ["vectors of style", "embeddings"]),
        (drop_thumbnail, ["catalog"]),
        (add_concept, ["counts"]),
    ],
)
def test_what_checksums_cannot_tell_is_found(
    house: House, damage: Callable[[Path], None], name: list[str]
) -> None:
    folder = house.data.index / house.rebuild().version
    damage(folder)
    sign(folder)
    assert failed(check(house)) == name


def test_files_that_moved_or_changed_are_passed_over(house: House) -> None:
    house.rebuild()
    (house.source / "one" / "000.png").unlink()
    patches(99).save(house.source / "one" / "001.png")
    found = check(house)
    assert found.passed
    assert "3 exemplars embedded again" in found.checks[-1].text
    assert "2 files have moved or changed" in found.checks[-1].text


def test_others_are_compared_instead_of_files_that_are_gone(house: House) -> None:
    house.rebuild()
    for path in sorted((house.source / "one").iterdir()):
        path.unlink()
    found = check(house, sample=2)
    assert found.passed
    assert "2 exemplars embedded again" in found.checks[-1].text


def test_with_nothing_to_compare_it_does_not_pass(house: House) -> None:
    house.rebuild()
    house.source.rename(house.source.with_name("moved"))
    found = check(house)
    assert failed(found) == ["embeddings"]
    assert "not checked" in found.checks[-1].text
    assert "cosine" not in found.checks[-1].text
    assert check(house, sample=0).passed


def test_a_missing_model_is_told_and_can_be_done_without(house: House) -> None:
    house.rebuild()
    assert failed(verify(house.data)) == ["embeddings"]
    assert verify(house.data, sample=0).passed


def test_a_damaged_takedown_log_is_told(house: House) -> None:
    house.rebuild()
    TakedownLog(house.data.takedowns).path.write_text("garbage\n")
    assert failed(check(house)) == ["takedowns"]


def test_without_an_index_there_is_nothing_to_check(house: House) -> None:
    with pytest.raises(SnapshotError, match="whence rebuild"):
        check(house)
