from pathlib import Path

import faiss
import numpy as np
import pytest

from index.errors import SnapshotError
from index.snapshot import open_published
from index.stores.faiss_files import FaissStore, Inverted, file_name, inverted_name, write_vectors
from index.stores.inverted import choose_probes, read_inverted, write_inverted
from index.stores.lists import EXACT_FLOATS, wants_inverted
from index.stores.vectors import Mask
from tests.fakes import FakeEmbedder, patches
from tests.index.conftest import House

COUNT, WIDTH, K = 4000, 24, 10


def near_each_other(seed: int, count: int) -> np.ndarray:
    """Unit vectors in clusters."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((100, WIDTH))
    rows = centres[generator.integers(0, 100, count)]
    rows = rows + 0.5 * generator.standard_normal((count, WIDTH))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vectors")
    vectors = near_each_other(1, COUNT)
    write_vectors(folder, "subject", vectors)
    write_inverted(folder / inverted_name("subject"), vectors)
    return folder


@pytest.fixture(scope="module")
def probes(folder: Path) -> int:
    return choose_probes(
        folder / inverted_name("subject"), folder / file_name("subject"), near_each_other(2, 200)
    )


@pytest.fixture(scope="module")
def exact(folder: Path) -> FaissStore:
    return FaissStore.open(folder, ["subject"])


@pytest.fixture(scope="module")
def store(folder: Path, probes: int) -> FaissStore:
    return FaissStore.open(folder, ["subject"], {"subject": probes})


def test_few_lists_find_what_exact_search_finds(
    folder: Path, probes: int, store: FaissStore, exact: FaissStore
) -> None:
    assert probes < read_inverted(folder / inverted_name("subject")).nlist / 2
    queries = near_each_other(3, 300)
    truth, found = (each.search("subject", queries, K)[1] for each in (exact, store))
    hits = sum(len(np.intersect1d(a, b)) for a, b in zip(truth, found, strict=True))
    assert hits >= 0.98 * truth.size


def test_similarities_are_exact_and_in_order(store: FaissStore) -> None:
    queries = near_each_other(3, 20)
    similarities, rows = store.search("subject", queries, K)
    vectors = near_each_other(1, COUNT)
    assert np.allclose(similarities, np.einsum("qd,qkd->qk", queries, vectors[rows]), atol=1e-6)
    assert np.all(np.diff(similarities, axis=1) <= 0)
    chosen = store.similarities("subject", queries[0], rows[0])
    assert np.allclose(chosen, similarities[0], atol=1e-6)


@pytest.mark.parametrize("approximate", [False, True])
def test_masked_rows_are_never_found(
    store: FaissStore, exact: FaissStore, approximate: bool
) -> None:
    searched = store if approximate else exact
    queries = near_each_other(3, 50)
    hidden = np.unique(exact.search("subject", queries, 3)[1])
    mask = Mask(hidden, COUNT)
    assert mask.remaining == COUNT - len(hidden)
    rows = searched.search("subject", queries, K, mask)[1]
    assert not np.isin(rows, hidden).any()
    assert (rows >= 0).all()
    # The shared index is as it was.
    assert np.isin(searched.search("subject", queries, 3)[1], hidden).mean() > 0.98


def test_a_search_for_much_of_the_index_is_exact(store: FaissStore, exact: FaissStore) -> None:
    queries = near_each_other(3, 5)
    for k in (COUNT // 20, COUNT):
        assert np.array_equal(
            store.search("subject", queries, k)[1], exact.search("subject", queries, k)[1]
        )


def test_an_approximate_search_that_finds_too_few_says_so(folder: Path) -> None:
    flat = faiss.read_index(str(folder / file_name("subject")))
    index = read_inverted(folder / inverted_name("subject"))
    store = FaissStore({"subject": flat}, {"subject": Inverted(index, 1)})
    query = near_each_other(3, 1)
    mask = Mask(flat.search(query, 1500)[1][0], COUNT)
    similarities, rows = store.search("subject", query, 80, mask)
    assert rows.shape == similarities.shape == (1, 80)
    assert (rows == -1).any()
    assert (similarities[rows == -1] == -1).all()


def test_a_scan_goes_deeper_among_fewer_rows_and_finds_none_twice(
    store: FaissStore, exact: FaissStore
) -> None:
    hits = wanted = 0
    for query in near_each_other(3, 40):
        visible = np.arange(COUNT) % 3 > 0
        [scan] = store.scan("subject", query[None], K)
        for depth in (K, 2 * K, 8 * K, COUNT):
            found = scan.nearest(depth, visible)
            assert len(found) == len(np.unique(found)) == min(depth, visible.sum())
            assert visible[found].all()
            hidden = Mask(np.flatnonzero(~visible), COUNT)
            truth = exact.search("subject", query[None], depth, hidden)[1][0]
            hits += len(np.intersect1d(found, truth))
            wanted += len(truth)
            visible[truth[:K]] = False
    assert hits >= 0.98 * wanted


def test_a_scan_reads_on_until_it_has_enough_visible_rows(store: FaissStore) -> None:
    [query] = near_each_other(3, 1)
    [scan] = store.scan("subject", query[None], K)
    visible = np.zeros(COUNT, np.bool_)
    visible[::50] = True
    assert len(scan.nearest(COUNT // 50, visible)) == COUNT // 50
    assert len(scan.nearest(K, np.zeros(COUNT, np.bool_))) == 0


def test_size_decides_unless_told() -> None:
    assert not wants_inverted("auto", EXACT_FLOATS // 768, 768)
    assert wants_inverted("auto", EXACT_FLOATS // 768 + 1, 768)
    assert wants_inverted("ivf", 1, 8)
    assert not wants_inverted("exact", 10**9, 768)


@pytest.mark.parametrize("content", [None, b"", b"not an index", "flat"])
def test_a_file_that_is_no_inverted_file_is_refused_by_name(
    folder: Path, tmp_path: Path, content: bytes | str | None
) -> None:
    path = tmp_path / inverted_name("subject")
    if content == "flat":
        path.write_bytes((folder / file_name("subject")).read_bytes())
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(SnapshotError, match=r"subject\.ivf\.faiss .*run `whence rebuild`"):
        read_inverted(path)


def test_a_rebuilt_index_with_inverted_files_answers_as_an_exact_one(house: House) -> None:
    house.draw({"many": range(100, 150)})
    queries = FakeEmbedder().embed([patches(seed) for seed in (0, 11, 120, 999)])
    answers = []
    for index_type in ("exact", "ivf"):
        house.rebuild(index_type=index_type)
        snapshot = open_published(house.data.index)
        assert bool(snapshot.manifest.probes) == (index_type == "ivf")
        assert ("style.ivf.faiss" in snapshot.manifest.files) == (index_type == "ivf")
        answers.append(list(snapshot.ranker.rank(queries)))
        snapshot.close()
    for exact, other in zip(*answers, strict=True):
        assert exact.numbers.tolist() == other.numbers.tolist()
        assert exact.scores == pytest.approx(other.scores, rel=1e-5)
