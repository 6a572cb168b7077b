from pathlib import Path

import numpy as np
import pytest

from index.errors import SnapshotError
from index.stores.faiss_files import FaissStore, file_name, write_vectors
from model.config import Facet

WIDTHS: dict[Facet, int] = {"subject": 12, "style": 5}
COUNT = 60


def unit(count: int, width: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def matrices() -> dict[Facet, np.ndarray]:
    return {facet: unit(COUNT, width, seed=width) for facet, width in WIDTHS.items()}


@pytest.fixture(scope="module")
def store(matrices, tmp_path_factory: pytest.TempPathFactory) -> FaissStore:
    folder = tmp_path_factory.mktemp("vectors")
    for facet, matrix in matrices.items():
        write_vectors(folder, facet, matrix)
    return FaissStore.open(folder, list(matrices))


@pytest.mark.parametrize("facet", WIDTHS)
@pytest.mark.parametrize("k", [1, 7, COUNT])
def test_search_equals_brute_force(store: FaissStore, matrices, facet: Facet, k: int) -> None:
    queries = unit(9, WIDTHS[facet], seed=1)
    exact = queries.astype(np.float64) @ matrices[facet].T.astype(np.float64)
    order = np.argsort(-exact, axis=1)[:, :k]
    similarities, rows = store.search(facet, queries, k)
    assert np.array_equal(rows, order)
    assert np.allclose(similarities, np.take_along_axis(exact, order, axis=1), atol=1e-6)


def test_search_returns_no_more_than_there_is(store: FaissStore) -> None:
    similarities, rows = store.search("style", unit(2, 5, seed=1), 10 * COUNT)
    assert similarities.shape == rows.shape == (2, COUNT)
    assert rows.min() >= 0


def test_search_finds_each_vector_first_for_itself(store: FaissStore, matrices) -> None:
    similarities, rows = store.search("subject", matrices["subject"], 1)
    assert rows[:, 0].tolist() == list(range(COUNT))
    assert np.allclose(similarities, 1, atol=1e-6)


def test_similarities_of_chosen_rows_equal_brute_force(store: FaissStore, matrices) -> None:
    query, rows = unit(1, 12, seed=1)[0], np.array([59, 0, 7, 7])
    found = store.similarities("subject", query, rows)
    assert np.allclose(found, matrices["subject"][rows] @ query, atol=1e-6)


def test_a_store_knows_its_size(store: FaissStore) -> None:
    assert store.count == COUNT
    assert {facet: store.dimension(facet) for facet in WIDTHS} == WIDTHS


@pytest.mark.parametrize("shape", [(3, 11), (3, 13), (12,)])
def test_a_query_of_another_dimension_is_refused_with_both(store: FaissStore, shape) -> None:
    with pytest.raises(SnapshotError, match=r"length 12;.*whence rebuild") as refused:
        store.search("subject", np.ones(shape, dtype=np.float32), 3)
    assert str(shape) in str(refused.value)
    if len(shape) == 2:
        with pytest.raises(SnapshotError, match="length 12"):
            store.similarities("subject", np.ones(shape[1], dtype=np.float32), np.array([0]))


def test_queries_of_another_type_or_layout_are_taken(store: FaissStore, matrices) -> None:
    queries = np.asfortranarray(unit(4, 12, seed=1).astype(np.float64))
    reference = store.search("subject", unit(4, 12, seed=1), 5)[1]
    assert np.array_equal(store.search("subject", queries, 5)[1], reference)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 2.0])
def test_vectors_that_are_not_of_unit_norm_are_never_written(tmp_path: Path, value: float) -> None:
    matrix = unit(5, 4, seed=0)
    matrix[3] = value
    with pytest.raises(SnapshotError, match=r"1 style embeddings are not unit vectors.*row 3"):
        write_vectors(tmp_path, "style", matrix)
    assert list(tmp_path.iterdir()) == []


def test_facets_of_different_length_are_refused(tmp_path: Path) -> None:
    write_vectors(tmp_path, "style", unit(5, 4, seed=0))
    write_vectors(tmp_path, "subject", unit(6, 4, seed=0))
    with pytest.raises(SnapshotError, match=r"\[5, 6\]"):
        FaissStore.open(tmp_path, ["style", "subject"])


@pytest.mark.parametrize("content", [None, b"", b"not an index at all"])
def test_a_file_that_is_no_index_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / file_name("style")).write_bytes(content)
    with pytest.raises(SnapshotError, match=r"style\.faiss cannot be read; run `whence rebuild`"):
        FaissStore.open(tmp_path, ["style"])
