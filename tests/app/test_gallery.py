import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from app.gallery import DemoGallery, collection, draw_gallery, hanging
from app.gallery.scenes import SCENES, UNSEEN_SCENES
from app.gallery.styles import STYLES
from app.gallery.subjects import SUBJECTS

SIZE, PER_CONCEPT = 96, 6
DRAWN = len(list(collection.exemplars(PER_CONCEPT))) + len(list(collection.queries()))


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> DemoGallery:
    folder = tmp_path_factory.mktemp("demo") / "gallery"
    return draw_gallery(folder, size=SIZE, exemplars_per_concept=PER_CONCEPT)


@pytest.fixture
def two_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gallery that is drawn at once, for what happens around the drawing."""
    exemplar, query = next(collection.exemplars(1)), next(collection.queries())
    monkeypatch.setattr(collection, "exemplars", lambda per_concept: iter([exemplar]))
    monkeypatch.setattr(collection, "queries", lambda: iter([query]))


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def pairs(gallery: DemoGallery) -> list[dict[str, str]]:
    with gallery.pairs.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def colours(path: Path) -> NDArray[np.float64]:
    """A joint histogram of 64 colours that sums to one."""
    pixels = np.asarray(Image.open(path)).reshape(-1, 3) // 64
    return np.bincount(pixels @ (16, 4, 1), minlength=64) / len(pixels)


def test_holds_enough_concepts_of_both_kinds_and_enough_queries(gallery: DemoGallery) -> None:
    concepts = sorted(path.name for path in gallery.exemplars.iterdir())
    assert concepts == sorted([*STYLES, *SUBJECTS])
    assert len(concepts) >= 28
    assert min(len(STYLES), len(SUBJECTS)) >= 14
    assert all(len(list(path.iterdir())) == PER_CONCEPT for path in gallery.exemplars.iterdir())
    assert len(list(gallery.queries.iterdir())) >= 40


def test_every_picture_is_a_square_rgb_jpeg(gallery: DemoGallery) -> None:
    paths = [*gallery.exemplars.glob("*/*.jpg"), *gallery.queries.glob("*.jpg")]
    assert len(paths) == DRAWN
    for path in paths:
        with Image.open(path) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (SIZE, SIZE))


def test_no_two_pictures_are_the_same(gallery: DemoGallery) -> None:
    files = contents(gallery.exemplars) | contents(gallery.queries)
    assert len(set(files.values())) == len(files) == DRAWN


def test_pairs_name_every_query_and_only_concepts_there_are(gallery: DemoGallery) -> None:
    rows = pairs(gallery)
    named = {gallery.pairs.parent / row["path"] for row in rows}
    assert named == set(gallery.queries.iterdir())
    sources = {concept for row in rows for concept in row["concepts"].split(";") if concept}
    assert sources == {path.name for path in gallery.exemplars.iterdir()}


def test_each_kind_of_query_has_the_sources_it_should(gallery: DemoGallery) -> None:
    allowed = {
        "subject": [SUBJECTS],
        "style": [STYLES],
        "subject+style": [SUBJECTS, STYLES],
        "none": [],
    }
    kinds = [row["kind"] for row in pairs(gallery)]
    assert set(kinds) == set(allowed)
    assert kinds.count("none") == 4
    assert kinds.count("subject+style") >= 12
    for row in pairs(gallery):
        concepts = row["concepts"].split(";") if row["concepts"] else []
        for concept, table in zip(concepts, allowed[row["kind"]], strict=True):
            assert concept in table


def test_queries_show_artists_scenes_they_never_drew() -> None:
    assert not SCENES.keys() & UNSEEN_SCENES.keys()
    styled = [query for query in collection.queries() if query.kind == "style"]
    assert all(any(scene in query.path for scene in UNSEEN_SCENES) for query in styled)


def test_some_queries_wear_the_marks_of_a_generator() -> None:
    worn = [query for query in collection.queries() if query.worn]
    assert {query.kind for query in worn} >= {"subject", "style", "subject+style"}


def test_concepts_differ_more_from_each_other_than_within(gallery: DemoGallery) -> None:
    histograms = {
        folder.name: np.stack([colours(path) for path in sorted(folder.iterdir())])
        for folder in gallery.exemplars.iterdir()
    }

    def distance(first: str, second: str) -> float:
        apart = np.abs(histograms[first][:, None] - histograms[second][None]).sum(axis=2)
        if first == second:  # An exemplar's distance to itself says nothing.
            return float(apart[~np.eye(len(apart), dtype=bool)].mean())
        return float(apart.mean())

    within = np.mean([distance(name, name) for name in histograms])
    between = np.mean([distance(*pair) for pair in itertools.combinations(histograms, 2)])
    assert between > 1.2 * within
    styles = np.mean([distance(name, name) for name in STYLES])
    assert np.mean([distance(*pair) for pair in itertools.combinations(STYLES, 2)]) > 1.3 * styles


def test_the_same_seed_paints_the_same_pixels() -> None:
    for picture in [*collection.exemplars(1), *collection.queries()]:
        first, second = (picture.pixels(7, 48) for _ in range(2))
        assert np.array_equal(first, second), picture.path


def test_another_seed_paints_other_pixels() -> None:
    for picture in itertools.islice(collection.queries(), 4):
        assert not np.array_equal(picture.pixels(0, 48), picture.pixels(1, 48)), picture.path


def test_more_exemplars_leave_the_others_as_they_are() -> None:
    few = {picture.path: picture for picture in collection.exemplars(2)}
    many = {picture.path: picture for picture in collection.exemplars(3)}
    assert few.keys() < many.keys()
    path = "exemplars/Red teapot/02.jpg"
    assert np.array_equal(few[path].pixels(0, 48), many[path].pixels(0, 48))


@pytest.mark.usefixtures("two_pictures")
def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    draw_gallery(tmp_path / "a", size=48)
    draw_gallery(tmp_path / "b", size=48)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.usefixtures("two_pictures")
def test_a_complete_gallery_is_reused(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    first = draw_gallery(tmp_path / "new" / "g", size=48, progress=lambda *at: calls.append(at))
    assert calls == [(1, 2), (2, 2)]
    second = draw_gallery(tmp_path / "new" / "g", size=48, progress=lambda *at: calls.append(at))
    assert first == second
    assert len(calls) == 2


@pytest.mark.usefixtures("two_pictures")
@pytest.mark.parametrize(
    "change",
    [
        lambda folder: next(folder.glob("queries/*")).unlink(),
        lambda folder: (folder / "pairs.csv").unlink(),
        lambda folder: (folder / hanging.RECORD).write_text("{"),
        lambda folder: (folder / hanging.RECORD).write_text(json.dumps({"version": 0})),
    ],
    ids=["query missing", "pairs missing", "record broken", "older version"],
)
def test_an_incomplete_or_older_gallery_is_redrawn(tmp_path: Path, change) -> None:
    folder = tmp_path / "g"
    draw_gallery(folder, size=48)
    whole = contents(folder)
    change(folder)
    draw_gallery(folder, size=48)
    assert contents(folder) == whole
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.usefixtures("two_pictures")
def test_another_size_replaces_the_gallery(tmp_path: Path) -> None:
    draw_gallery(tmp_path / "g", size=48)
    gallery = draw_gallery(tmp_path / "g", size=64)
    assert Image.open(next(gallery.queries.iterdir())).size == (64, 64)


@pytest.mark.usefixtures("two_pictures")
def test_an_interrupted_drawing_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_gallery(tmp_path / "g", size=48, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("two_pictures")
def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="not a demo gallery"):
        draw_gallery(tmp_path, size=48)
    assert contents(tmp_path) == {"holiday.jpg": b"mine"}


@pytest.mark.usefixtures("two_pictures")
def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    (tmp_path / "g").mkdir()
    assert draw_gallery(tmp_path / "g", size=48).pairs.is_file()


@pytest.mark.usefixtures("two_pictures")
def test_a_place_that_cannot_be_written_is_an_oserror(tmp_path: Path) -> None:
    # A file where a folder should be: refused even to root, who may write into any folder.
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        draw_gallery(tmp_path / "file" / "gallery", size=48)
