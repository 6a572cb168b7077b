from pathlib import Path

import numpy as np
import pytest

from index.answering.neighbours import (
    LISTED,
    NEIGHBOURS,
    Neighbours,
    read_neighbours,
    write_neighbours,
)
from index.building import neighbours
from index.building.neighbours import find_neighbours, known_lists, sample_rows
from tests.fakes import neighbours_of

SUBJECT: dict = {"subject": 12}


def unit(count: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((count, 12)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


class Gallery:
    """Exemplars by id, each of a concept that its id begins with."""

    def __init__(self, vectors: dict[str, np.ndarray]) -> None:
        self.ids = list(vectors)
        self.vectors = np.stack(list(vectors.values()))
        self.concepts = np.array([int(name.split("-")[0]) for name in self.ids])
        self.sample = sample_rows(self.ids)

    def find(self, folder: Path, before: "tuple[Path, Gallery] | None" = None) -> Neighbours:
        known = None
        if before:
            older, gallery = before
            known = known_lists(older, SUBJECT, gallery.ids, self.ids, self.sample)
            assert known is not None
        rows = np.arange(len(self.ids))
        lists = [
            find_neighbours(
                "subject",
                part,
                self.vectors[part],
                self.concepts,
                self.sample,
                self.vectors[self.sample],
                known,
            )
            for part in np.array_split(rows, 3)
        ]
        found = Neighbours({"subject": np.concatenate(lists)})
        folder.mkdir()
        write_neighbours(folder, found)
        return read_neighbours(folder, SUBJECT, len(self.ids))


def drawn(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {f"{random.integers(count // 3)}-{n:03d}": v for n, v in enumerate(unit(count, seed))}


def same(found: Neighbours, gallery: Gallery, among: np.ndarray | None = None) -> None:
    """The lists name the nearest strangers, as comparing one by one finds them."""
    expected = neighbours_of({"subject": gallery.vectors}, gallery.concepts).lists["subject"]
    for row, listed in enumerate(found.lists["subject"]):
        strangers = [
            one
            for one in expected[row]
            if one["row"] >= 0 and (among is None or one["row"] in among)
        ]
        listed = listed[listed["row"] >= 0]
        assert len(listed) >= min(NEIGHBOURS, len(strangers))
        for one, other in zip(listed, strangers, strict=False):
            assert one["similarity"] == pytest.approx(other["similarity"], abs=1e-6)
            near = gallery.vectors[one["row"]] @ gallery.vectors[row]
            assert near == pytest.approx(other["similarity"], abs=1e-6)
            assert gallery.concepts[one["row"]] != gallery.concepts[row]


def test_lists_name_the_nearest_exemplars_of_other_concepts(tmp_path: Path) -> None:
    gallery = Gallery(drawn(90))
    same(gallery.find(tmp_path / "a"), gallery)


def test_a_concept_alone_has_no_neighbours(tmp_path: Path) -> None:
    gallery = Gallery({"0-1": unit(1, 1)[0], "0-2": unit(1, 2)[0]})
    found = gallery.find(tmp_path / "a")
    assert np.isnan(found.usual("subject", np.arange(2))).all()


@pytest.mark.parametrize("gone", [0, 3, 40, 85])
def test_lists_that_are_taken_over_are_those_made_anew(tmp_path: Path, gone: int) -> None:
    vectors = drawn(90)
    before = Gallery(vectors)
    before.find(tmp_path / "a")
    random = np.random.default_rng(gone)
    kept = random.permutation(90)[gone:]
    changed = {before.ids[n]: before.vectors[n] for n in kept}
    changed |= {f"{n}-new": v for n, v in enumerate(unit(7, 99))}
    after = Gallery(changed)
    same(after.find(tmp_path / "b", (tmp_path / "a", before)), after)


def test_a_large_index_is_compared_with_a_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "SAMPLE", 50)
    before = Gallery(drawn(90))
    assert len(before.sample) == 50
    same(before.find(tmp_path / "a"), before, before.sample)
    changed = {name: before.vectors[n] for n, name in enumerate(before.ids) if n % 9}
    changed |= {f"{n}-0new": v for n, v in enumerate(unit(7, 99))}
    after = Gallery(changed)
    same(after.find(tmp_path / "b", (tmp_path / "a", before)), after, after.sample)


def test_lists_of_another_form_are_not_taken_over(tmp_path: Path) -> None:
    gallery = Gallery(drawn(30))
    assert known_lists(tmp_path, SUBJECT, gallery.ids, gallery.ids, gallery.sample) is None
    np.save(tmp_path / "subject.neighbours.npy", np.zeros((30, LISTED)))
    assert known_lists(tmp_path, SUBJECT, gallery.ids, gallery.ids, gallery.sample) is None
    with pytest.raises(ValueError, match="subject"):
        read_neighbours(tmp_path, SUBJECT, 30)


def test_what_is_hidden_does_not_count(tmp_path: Path) -> None:
    gallery = Gallery(drawn(90))
    found = gallery.find(tmp_path / "a")
    hidden = np.arange(90) % 3 == 0
    usual = found.usual("subject", np.arange(90), lambda rows: hidden[rows])
    visible = np.flatnonzero(~hidden)
    for row in visible:
        cosines = sorted(
            float(gallery.vectors[row] @ gallery.vectors[other])
            for other in visible
            if gallery.concepts[other] != gallery.concepts[row]
        )
        assert usual[row] == pytest.approx(np.mean(cosines[-NEIGHBOURS:]), abs=1e-6)


def test_beyond_a_list_others_are_at_most_as_near(tmp_path: Path) -> None:
    gallery = Gallery(drawn(90))
    found = gallery.find(tmp_path / "a")
    none = found.usual("subject", np.arange(90), lambda rows: np.ones(rows.shape, np.bool_))
    assert none == pytest.approx(found.lists["subject"]["similarity"][:, -1], abs=1e-6)
