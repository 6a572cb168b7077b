"""Copies that the fingerprint misses and the embedding finds."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from index.answering.attribution import Attributor, open_attributor
from index.building.rebuild import RebuildSummary
from index.takedowns.copies import (
    FACET,
    WithdrawnEmbeddings,
    embed_works,
    look_for_copies,
    measure_limits,
    withdraw_copies,
)
from index.takedowns.fingerprints import as_fingerprints, fingerprint
from index.takedowns.log import TakedownLog
from index.takedowns.withdrawal import withdraw
from tests.fakes import FakeEmbedder, patches
from tests.index.conftest import House

ALTERED = {
    "brighter": lambda image: Image.fromarray(
        np.clip(np.asarray(image).astype(int) + 12, 0, 255).astype(np.uint8)
    ),
    "framed": lambda image: ImageOps.expand(image, 2, (255, 255, 255)),
    "cropped": lambda image: image.crop((3, 3, 61, 61)),
    "mirrored": ImageOps.mirror,
}


@pytest.fixture
def gallery(house: House) -> House:
    """Forty unrelated works, and altered copies of one in a concept of their own."""
    house.draw({f"c{n}": [100 + n] for n in range(40)})
    folder = house.source / "thief"
    folder.mkdir()
    original = patches(500, side=64)
    (house.source / "artist").mkdir()
    original.save(house.source / "artist" / "work.png")
    for name, alter in ALTERED.items():
        alter(original).save(folder / f"{name}.png")
    return house


def rebuilt(house: House) -> RebuildSummary:
    return house.rebuild(canary_rate=0)


def opened(house: House) -> Attributor:
    return open_attributor(house.data, embedder=FakeEmbedder())


def names(house: House) -> set[str]:
    return {Path(one.path).stem for one in opened(house).snapshot.catalog.exemplars()}


def test_copies_are_found_and_each_is_a_takedown_of_its_own(gallery: House) -> None:
    rebuilt(gallery)
    one = withdraw(gallery.data, "concept", "artist", reason="asked for")
    assert names(gallery) & ALTERED.keys() == ALTERED.keys()  # the fingerprint finds none
    log = TakedownLog(gallery.data.takedowns)
    attributor = opened(gallery)
    copies = look_for_copies(gallery.data, attributor, [one], log.read())
    found = {Path(copy.exemplar.path).stem: copy for copy in copies}
    assert found.keys() == ALTERED.keys()
    assert all(copy.certain for copy in copies)
    assert [name for name, copy in found.items() if copy.mirrored] == ["mirrored"]
    taken = withdraw_copies(log, attributor.snapshot, copies, one.reason)
    assert all("a copy by its embedding" in t.reason or "mirrored" in t.reason for t in taken)
    assert not names(gallery) & ALTERED.keys()
    log.lift(taken[0].id, reason="it is another work")
    spared = {Path(copies[0].exemplar.path).stem}
    assert names(gallery) & ALTERED.keys() == spared
    again = look_for_copies(gallery.data, opened(gallery), [one], log.read())
    assert again == []  # what a person has judged is not found again


def test_copies_that_come_later_stay_out_of_a_rebuild(gallery: House) -> None:
    copies = [path.rename(gallery.source.parent / path.name) for path in
              sorted((gallery.source / "thief").iterdir())]  # fmt: skip
    rebuilt(gallery)
    one = withdraw(gallery.data, "concept", "artist", reason="asked for")
    rebuilt(gallery)  # embeds the withdrawn work, which is among the sources
    (gallery.source / "artist" / "work.png").unlink()
    for path in copies:
        path.rename(gallery.source / "c0" / path.name)
    summary = rebuilt(gallery)
    left_out = {Path(one.path).stem: one.reason for one in summary.skipped}
    assert left_out.keys() >= ALTERED.keys()
    assert all(one.id in left_out[name] for name in ALTERED)
    assert not names(gallery) & ALTERED.keys()
    log = TakedownLog(gallery.data.takedowns)
    [mirrored] = [t for t in log.read().active if t.target == "mirrored.png"]
    log.lift(mirrored.id, reason="it is another work")
    rebuilt(gallery)
    assert names(gallery) & ALTERED.keys() == {"mirrored"}


def test_a_possible_copy_is_a_warning(gallery: House) -> None:
    rebuilt(gallery)
    model = gallery.data.models / FakeEmbedder.model_id
    model.mkdir(parents=True)
    limits = {"pairs": 10**9, "possible": 0.5, "certain": 1.0}
    (model / "copies.json").write_text(json.dumps(limits))
    one = withdraw(gallery.data, "concept", "artist", reason="asked for")
    copies = look_for_copies(
        gallery.data, opened(gallery), [one], TakedownLog(gallery.data.takedowns).read()
    )
    assert not [copy for copy in copies if copy.certain and not copy.mirrored]
    summary = rebuilt(gallery)
    told = [warning for warning in summary.warnings if "takedown add --image" in warning]
    assert any("framed.png" in warning for warning in told)
    assert "framed" in names(gallery)


def test_limits_lie_above_unrelated_pictures_and_leave_out_near_duplicates() -> None:
    images = [patches(seed, side=64) for seed in range(60)]
    images.append(patches(0, side=128))  # the same in another concept
    vectors = FakeEmbedder().embed(images)[FACET]
    prints = as_fingerprints(map(fingerprint, images))
    limits = measure_limits(vectors, range(61), prints)
    assert limits.pairs == 61 * 60 // 2 - 1
    cosines = (vectors[:60] @ vectors[:60].T)[np.triu_indices(60, 1)]
    assert limits.possible == pytest.approx(cosines.max())
    assert limits.certain == pytest.approx((1 + cosines.max()) / 2)


def test_copies_in_the_gallery_do_not_raise_the_limits_beyond_themselves() -> None:
    originals = [patches(seed, side=64) for seed in range(100)]
    images = [*originals, *(ALTERED["framed"](image) for image in originals[:50])]
    vectors = FakeEmbedder().embed(images)[FACET]
    limits = measure_limits(vectors, range(150), as_fingerprints(map(fingerprint, images)))
    assert limits.possible <= 0.7
    assert limits.certain <= 0.9


def test_a_model_that_tells_nothing_apart_finds_no_copies() -> None:
    images = [patches(seed, side=64) for seed in range(30)]
    vectors = np.ones((30, 8), dtype=np.float32) / np.sqrt(np.float32(8))
    limits = measure_limits(vectors, range(30), as_fingerprints(map(fingerprint, images)))
    assert limits.certain == pytest.approx(1)
    assert limits.possible == pytest.approx(1)


def test_without_pairs_there_is_no_copy() -> None:
    image = patches(0)
    vectors = FakeEmbedder().embed([image])[FACET]
    limits = measure_limits(vectors, [0], as_fingerprints([fingerprint(image)]))
    assert (limits.pairs, limits.possible, limits.certain) == (0, 1, 1)


def test_embeddings_of_withdrawn_works_are_kept(tmp_path: Path) -> None:
    store = WithdrawnEmbeddings(tmp_path / "m.safetensors")
    assert store.read() == {}
    works = embed_works(FakeEmbedder(), {"a": patches(1), "b": patches(2)})
    store.add({"a": works["a"]})
    store.add({"b": works["b"]})
    read = store.read()
    assert list(read) == ["a", "b"]
    np.testing.assert_allclose(read["b"], works["b"], atol=1e-3)
    store.path.write_bytes(b"damaged")
    assert store.read() == {}
    store.add(works)
    assert len(store.read()) == 2
