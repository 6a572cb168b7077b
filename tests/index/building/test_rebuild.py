import os
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch
from PIL import Image

from index.building.embedding import BATCH
from index.building.rebuild import RebuildOptions, rebuild
from index.building.source import SourceConcept, SourceExemplar, read_sources
from index.errors import RebuildError, SnapshotError
from index.snapshot import list_versions, open_published, published_version
from index.stores import faiss_files
from model.decoding.colour import PRIMARIES, rgb_profile
from model.folders import Skipped
from model.images import ImageLimits
from model.sources.local import LocalFile
from tests.fakes import FakeEmbedder, patches
from tests.index.conftest import House


def stop_at(stage: str, done: int = 1) -> Callable[[str, int, int], None]:
    def progress(now: str, count: int, total: int) -> None:
        if now == stage and count >= done:
            raise KeyboardInterrupt

    return progress


# What a rebuild publishes


def test_a_rebuild_publishes_every_exemplar_with_its_vectors(house: House) -> None:
    summary = house.rebuild(sources=["gallery"])
    assert (summary.concepts, summary.exemplars) == (2, 5)
    assert (summary.added, summary.kept, summary.removed, summary.embedded) == (5, 0, 0, 5)
    assert (summary.skipped, summary.empty_concepts) == ([], [])
    assert summary.version == published_version(house.data.index)
    snapshot = open_published(house.data.index)
    assert snapshot.manifest.sources == ["gallery"]
    assert snapshot.model_id == summary.model_id == "fake-colours"
    for exemplar in snapshot.catalog.exemplars():
        with Image.open(exemplar.path) as image:
            expected = FakeEmbedder().embed([image.convert("RGB")])
            assert (exemplar.width, exemplar.height) == image.size
        for facet, vectors in expected.items():
            own = snapshot.vectors.similarities(facet, vectors[0], np.arange(5))
            assert own[exemplar.row] == pytest.approx(1, abs=1e-5)
        assert snapshot.catalog.thumbnail(exemplar.id)[:2] == b"\xff\xd8"  # JPEG
    snapshot.close()


def test_what_a_source_says_of_an_exemplar_is_in_the_catalog(house: House) -> None:
    concept = SourceConcept("ada", "Ada Lovelace", "person")
    exemplar = SourceExemplar(
        LocalFile(house.source / "one" / "000.png"),
        concept,
        "https://example.org",
        "CC0-1.0",
        {"year": 1843},
    )
    rebuild(house.data, [exemplar], house.embedder)
    snapshot = open_published(house.data.index)
    (found,) = snapshot.catalog.exemplars_of("ada")
    assert (found.source_url, found.license) == ("https://example.org", "CC0-1.0")
    assert found.metadata == {"year": 1843}
    assert snapshot.catalog.concept("ada").kind == "person"
    snapshot.close()


def test_progress_is_reported_through_every_stage(house: House) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    house.rebuild(
        progress=lambda stage, done, total: seen.setdefault(stage, []).append((done, total))
    )
    assert list(seen) == ["scanning", "embedding", "calibrating"]
    assert [stage[-1] for stage in seen.values()] == [(5, 5), (5, 5), (10, 10)]  # 20 less a half


# Skipped images


def test_unreadable_images_are_counted_and_listed_with_the_reason(house: House) -> None:
    text, cut = house.source / "one" / "text.png", house.source / "two" / "cut.png"
    text.write_text("not an image")
    cut.write_bytes((house.source / "one" / "000.png").read_bytes()[:60])
    summary = house.rebuild()
    assert summary.exemplars == 5
    reasons = {skipped.path: skipped.reason for skipped in summary.skipped}
    assert set(reasons) == {str(text), str(cut)}
    assert "not an image" in reasons[str(text)]
    assert "decoded" in reasons[str(cut)]


def test_the_limits_are_those_that_are_set(house: House) -> None:
    with Image.open(house.source / "one" / "000.png") as image:
        pixels = image.width * image.height
    patches(77).resize((80, 60)).save(house.source / "one" / "large.png")
    summary = house.rebuild(limits=ImageLimits(max_pixels=pixels))
    [skipped] = summary.skipped
    assert skipped.reason.startswith(f"the image is 80 x 60 pixels; at most {pixels:,} pixels")
    assert house.rebuild().exemplars == summary.exemplars + 1


def test_what_an_earlier_decoding_read_otherwise_is_embedded_anew(house: House) -> None:
    profile = rgb_profile(PRIMARIES[12], None)
    wide = house.source / "one" / "wide.png"
    patches(77).save(wide, icc_profile=profile)
    first = house.rebuild()
    assert house.rebuild(force=False).unchanged
    cache = house.data.embeddings(house.embedder.model_id)
    with sqlite3.connect(cache) as database:
        database.execute("PRAGMA user_version = 0")  # as caches of that time have it
    database.close()
    again = house.rebuild(force=False)
    assert (again.embedded, again.unchanged, again.exemplars) == (1, False, first.exemplars)
    assert house.rebuild(force=False).unchanged


def test_missing_files_are_counted_and_listed(house: House) -> None:
    exemplars = read_sources([house.source])
    gone = house.source / "one" / "001.png"
    gone.unlink()
    summary = rebuild(house.data, exemplars, house.embedder)
    assert [skipped.path for skipped in summary.skipped] == [str(gone)]
    assert "No such file" in summary.skipped[0].reason


def test_what_is_no_file_is_listed_and_never_waited_for(house: House) -> None:
    """A manifest names a FIFO without a writer, a folder and a device: reading them would hang."""
    os.mkfifo(house.source / "pipe.png")
    (house.source / "zero.png").symlink_to("/dev/zero")
    lines = ["path,concept", "pipe.png,one", ".,one", "zero.png,one", "one/000.png,one"]
    manifest = house.source / "m.csv"
    manifest.write_text("\n".join(lines))
    summary = rebuild(
        house.data, read_sources([manifest]), house.embedder, RebuildOptions(canary_rate=0)
    )
    assert summary.exemplars == 1
    assert [one.reason for one in summary.skipped] == [
        f"it cannot be read: it is {kind}, not a file"
        for kind in ("a FIFO (named pipe)", "a folder", "a character device")
    ]


def test_what_the_source_skipped_is_in_the_summary(house: House) -> None:
    (house.source / "one" / "notes.txt").write_text("a caption")
    skipped: list[Skipped] = []
    exemplars = read_sources([house.source], skip=skipped.append)
    for _ in range(2):  # the second changes nothing
        summary = rebuild(house.data, exemplars, house.embedder, skipped=skipped)
        assert [Path(one.path).name for one in summary.skipped] == ["notes.txt"]
        assert summary.as_dict()["skipped"] == [
            {"path": str(house.source / "one" / "notes.txt"), "reason": "not an image"}
        ]
    assert summary.unchanged


def test_an_image_twice_in_one_concept_is_counted_once_and_listed(house: House) -> None:
    first, copy = house.source / "one" / "000.png", house.source / "one" / "zzz.png"
    shutil.copy(first, copy)
    summary = house.rebuild()
    assert summary.exemplars == 5
    (skipped,) = summary.skipped
    assert skipped.path == str(copy)
    assert str(first) in skipped.reason


def test_an_image_in_two_concepts_speaks_for_both(house: House) -> None:
    shutil.copy(house.source / "one" / "000.png", house.source / "two" / "shared.png")
    summary = house.rebuild()
    assert (summary.exemplars, summary.embedded, summary.skipped) == (6, 5, [])


def test_a_concept_without_a_usable_image_is_named_and_left_out(house: House) -> None:
    (house.source / "Empty One").mkdir()
    (house.source / "Empty One" / "x.png").write_text("not an image")
    summary = house.rebuild()
    assert summary.empty_concepts == ["Empty One"]
    assert summary.concepts == 2


def test_an_empty_concept_is_named_even_if_another_bears_its_name(house: House) -> None:
    (house.source / "bad.png").write_text("not an image")
    exemplars = [
        SourceExemplar(LocalFile(house.source / "one" / "000.png"), SourceConcept("ada-1", "Ada")),
        SourceExemplar(LocalFile(house.source / "bad.png"), SourceConcept("ada-2", "Ada")),
    ]
    assert rebuild(house.data, exemplars, house.embedder).empty_concepts == ["Ada"]


def test_nothing_is_published_when_no_image_can_be_used(house: House) -> None:
    house.rebuild()
    before = published_version(house.data.index)
    for path in house.source.rglob("*.png"):
        path.write_text("not an image")
    with pytest.raises(RebuildError, match=r"none of the 5 exemplars.*not an image"):
        house.rebuild()
    assert published_version(house.data.index) == before
    assert len(list_versions(house.data.index)) == 1


# Rebuilding again


def test_a_second_rebuild_embeds_nothing(house: House) -> None:
    first = house.rebuild()
    assert house.counts() == (0, 5, 0, 0)
    assert house.embedder.count == 0  # the null queries are known, too
    assert published_version(house.data.index) != first.version


def test_only_what_is_new_is_embedded_and_what_is_gone_is_counted(house: House) -> None:
    house.rebuild()
    house.draw({"two": [12], "three": [20]})
    shutil.rmtree(house.source / "one")
    assert house.counts() == (2, 2, 3, 2)


def test_a_moved_file_is_the_same_exemplar_and_a_changed_one_is_another(house: House) -> None:
    house.rebuild()
    (house.source / "one" / "000.png").rename(house.source / "one" / "moved.png")
    patches(77).save(house.source / "one" / "001.png")
    assert house.counts() == (1, 4, 1, 1)


def test_a_source_that_has_moved_is_not_embedded_again(house: House) -> None:
    house.rebuild()
    house.source = house.source.rename(house.source.with_name("moved"))
    assert house.counts() == (0, 5, 0, 0)
    assert house.embedder.count == 0  # nor are the null queries


def test_an_image_moved_to_another_concept_is_another_exemplar_but_not_embedded(house) -> None:
    house.rebuild()
    (house.source / "one" / "000.png").rename(house.source / "two" / "000.png")
    assert house.counts() == (1, 4, 1, 0)


def test_equal_sources_give_equal_answers_whatever_was_there_before(house: House) -> None:
    first = house.rebuild()
    house.draw({"three": [20]})
    house.rebuild()
    shutil.rmtree(house.source / "three")
    again = house.rebuild()
    files = [
        next(m.files for m in list_versions(house.data.index) if m.version == summary.version)
        for summary in (first, again)
    ]
    assert {name: record.sha256 for name, record in files[0].items()} == {
        name: record.sha256 for name, record in files[1].items()
    }


def test_another_model_embeds_everything_anew(house: House) -> None:
    house.rebuild()
    house.embedder.model_id = "another"
    assert house.counts() == (0, 5, 0, 5)
    assert open_published(house.data.index).model_id == "another"


# When things go wrong


def test_a_rebuild_beside_another_is_refused(house: House) -> None:
    house.rebuild()
    before = published_version(house.data.index)
    with (
        filelock.FileLock(house.data.index / ".rebuild.lock"),
        pytest.raises(RebuildError, match=r"another rebuild is running.*wait"),
    ):
        house.rebuild()
    assert published_version(house.data.index) == before
    house.rebuild()  # the lock is free again


@pytest.mark.parametrize("stage", ["scanning", "embedding", "calibrating"])
def test_a_rebuild_killed_in_any_stage_keeps_the_old_version(house: House, stage: str) -> None:
    house.rebuild()
    before = published_version(house.data.index)
    house.draw({"three": [20]})
    with pytest.raises(KeyboardInterrupt):
        house.rebuild(progress=stop_at(stage))
    assert published_version(house.data.index) == before
    assert len(list_versions(house.data.index)) == 1
    assert house.counts()[:3] == (1, 5, 0)


def test_a_killed_rebuild_goes_on_without_embedding_again(house: House) -> None:
    many = range(100, 100 + 2 * BATCH)
    house.draw({"many": many})
    with pytest.raises(KeyboardInterrupt):
        house.rebuild(progress=stop_at("embedding", BATCH))
    assert house.embedder.count == BATCH
    summary = house.rebuild()
    assert summary.embedded == 5 + len(many) - BATCH
    assert summary.exemplars == 5 + len(many)


def test_a_version_that_cannot_be_written_leaves_nothing_behind(house: House, monkeypatch) -> None:
    house.rebuild()
    before = sorted(path.name for path in house.data.index.iterdir())

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(faiss_files, "write_vectors", fail)
    with pytest.raises(RebuildError, match=r"no space left.*nothing was published: make room"):
        house.rebuild()
    assert sorted(path.name for path in house.data.index.iterdir()) == before


def test_what_a_killed_process_left_behind_does_no_harm(house: House) -> None:
    house.rebuild()
    (house.data.index / ".building-left").mkdir()
    (house.data.index / ".CURRENT-left").write_text("left\n")
    assert house.counts() == (0, 5, 0, 0)
    assert len(list_versions(house.data.index)) == 2


@pytest.mark.parametrize("damage", ["catalog", "version", "manifest"])
def test_a_damaged_index_is_mended_by_a_rebuild(house: House, damage: str) -> None:
    version = house.data.index / house.rebuild().version
    if damage == "catalog":
        (version / "catalog.sqlite").write_bytes(b"no longer a database" * 200)
    elif damage == "version":
        shutil.rmtree(version)
    else:
        (version / "manifest.json").unlink()
    summary = house.rebuild()
    assert summary.exemplars == 5
    assert open_published(house.data.index).version == summary.version


@pytest.mark.parametrize("value", [float("nan"), 0.0])
def test_an_embedding_that_is_no_unit_vector_is_never_published(house: House, value) -> None:
    class Broken(FakeEmbedder):
        def embed_pixels(self, pixels: Sequence[torch.Tensor]) -> dict:
            return {f: np.full_like(m, value) for f, m in super().embed_pixels(pixels).items()}

    with pytest.raises(SnapshotError, match="not unit vectors"):
        rebuild(house.data, read_sources([house.source]), Broken())
    assert published_version(house.data.index) is None


# Small indexes


def test_one_concept_alone_is_published_and_never_a_match(house: House) -> None:
    shutil.rmtree(house.source / "two")
    house.rebuild()
    snapshot = open_published(house.data.index)
    assert snapshot.calibration.p_value(1e9) == 1
    snapshot.close()


def test_one_exemplar_alone_is_published(house: House) -> None:
    shutil.rmtree(house.source / "two")
    for seed in (1, 2):
        (house.source / "one" / f"{seed:03}.png").unlink()
    assert house.rebuild().exemplars == 1
