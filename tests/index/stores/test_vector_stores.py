"""One contract for every store of vectors: what FAISS does, Milvus does, here Milvus Lite."""

import importlib.util
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from index.answering.attribution import Attributor, open_attributor
from index.answering.calibration import Scaling
from index.answering.ranking import Cohort, Ranker
from index.answering.together import GroupRanking, mean_of
from index.building.rebuild import RebuildOptions, rebuild
from index.building.source import read_sources
from index.errors import RebuildError, SnapshotError, VectorStoreError, VectorStoreUnavailableError
from index.layout import DataFolder
from index.snapshot import CATALOG, Snapshot, list_versions, new_version, open_published
from index.stores.faiss_files import file_name, write_vectors
from index.stores.milvus import (
    MAX_HITS,
    MilvusAddress,
    MilvusEngine,
    _Connection,
    _libraries,
)
from index.stores.registry import VectorStores
from index.stores.vectors import ADDRESS, Mask, VectorEngine, VectorStore
from index.takedowns.log import TakedownLog
from index.takedowns.purge import purge
from index.takedowns.withdrawal import withdraw
from index.verify import verify
from index.versions import rollback
from model.config import Facet
from tests.fakes import FakeEmbedder, neighbours_of, patches
from tests.index.conftest import House

DIMENSIONS: dict[Facet, int] = {"style": 5, "subject": 12}
COUNT = 60
RETRIED = {
    "has_collection", "create_collection", "upsert", "flush", "create_index", "describe_index",
    "list_indexes", "load_collection", "query", "list_aliases", "create_alias",
}  # fmt: skip
needs_milvus = pytest.mark.skipif(
    importlib.util.find_spec("pymilvus") is None or importlib.util.find_spec("milvus_lite") is None,
    reason="needs the extra: pip install '.[milvus]'",
)


@pytest.fixture(scope="module", params=["faiss", pytest.param("milvus", marks=needs_milvus)])
def engine(request, tmp_path_factory: pytest.TempPathFactory) -> VectorEngine:
    if request.param == "faiss":
        return VectorStores().engine(None)
    return VectorStores().engine(str(tmp_path_factory.mktemp("milvus") / "vectors.db"))


@pytest.fixture
def milvus(tmp_path: Path) -> VectorEngine:
    return VectorStores().engine(str(tmp_path / "own.db"))


def unit(count: int, length: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, length)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def draw(count: int = COUNT, seed: int = 0) -> dict[Facet, np.ndarray]:
    return {facet: unit(count, length, seed + length) for facet, length in DIMENSIONS.items()}


class Version:
    """A version that only has vectors."""

    def __init__(self, engine: VectorEngine, folder: Path, count: int = COUNT) -> None:
        self.engine, self.folder, self.count = engine, folder / new_version(), count
        self.folder.mkdir(parents=True)
        self.writer = engine.write(self.folder, self.folder.name, count, DIMENSIONS)

    def open(self, **changes: object) -> VectorStore:
        given = {"count": self.count, "dimensions": DIMENSIONS, "probes": {}, **changes}
        return self.engine.open(self.folder, self.folder.name, **given)  # type: ignore[arg-type]


def written(engine: VectorEngine, folder: Path, vectors: dict[Facet, np.ndarray]) -> VectorStore:
    count = len(vectors["style"])
    version = Version(engine, folder, count)
    version.writer.upsert(np.arange(count), vectors)
    assert version.writer.finish("auto", {}) == {}
    return version.open()


@pytest.fixture(scope="module")
def vectors() -> dict[Facet, np.ndarray]:
    return draw()


@pytest.fixture(scope="module")
def store(engine: VectorEngine, vectors, tmp_path_factory: pytest.TempPathFactory) -> VectorStore:
    return written(engine, tmp_path_factory.mktemp("version"), vectors)


# Search


@pytest.mark.parametrize("facet", DIMENSIONS)
@pytest.mark.parametrize("k", [1, 7, COUNT, 10 * COUNT])
@pytest.mark.parametrize("hidden", [[], [0], [59, 3, 3, 20], list(range(1, 59)), list(range(60))])
def test_search_is_brute_force_over_the_visible_rows(
    store: VectorStore, vectors, facet: Facet, k: int, hidden: list[int]
) -> None:
    queries = unit(9, DIMENSIONS[facet], seed=1)
    exact = queries.astype(np.float64) @ vectors[facet].T.astype(np.float64)
    exact[:, hidden] = -np.inf
    visible = COUNT - len(set(hidden))
    order = np.argsort(-exact, axis=1)[:, : min(k, visible)]
    mask = Mask(np.array(hidden, dtype=np.int64), COUNT) if hidden else None
    similarities, rows = store.search(facet, queries, k, mask)
    assert np.array_equal(rows, order)
    assert np.allclose(similarities, np.take_along_axis(exact, order, axis=1), atol=1e-6)
    assert (similarities.dtype, rows.dtype) == (np.float32, np.int64)


def test_each_vector_is_found_first_for_itself_in_every_facet(store, vectors) -> None:
    for facet, matrix in vectors.items():
        similarities, rows = store.search(facet, matrix, 1)
        assert rows[:, 0].tolist() == list(range(COUNT))
        assert np.allclose(similarities, 1, atol=1e-6)


def test_vectors_come_back_as_they_were_written(store: VectorStore, vectors) -> None:
    rows = np.array([59, 0, 7, 7])
    for facet, matrix in vectors.items():
        assert np.array_equal(store.vectors(facet, rows), matrix[rows])
        assert store.dimension(facet) == DIMENSIONS[facet]
    assert store.count == COUNT


def test_similarities_of_chosen_rows_are_exact(store: VectorStore, vectors) -> None:
    query, rows = unit(1, 12, seed=1)[0], np.array([59, 0, 7, 7])
    found = store.similarities("subject", query, rows)
    assert np.allclose(found, vectors["subject"][rows] @ query, atol=1e-6)
    assert store.similarities("subject", query, rows[:0]).shape == (0,)


@pytest.mark.parametrize("shape", [(2, 11), (2, 13), (12,)])
def test_a_query_of_another_dimension_is_refused(store: VectorStore, shape) -> None:
    with pytest.raises(SnapshotError, match="the index holds vectors of length 12"):
        store.search("subject", np.ones(shape, np.float32), 3)


def test_a_store_that_can_be_searched_says_nothing(store: VectorStore) -> None:
    store.check()


def test_an_inverted_file_finds_the_nearest_and_tells_exact_similarities(
    engine: VectorEngine, tmp_path: Path
) -> None:
    centres = {facet: unit(20, length, seed=3) for facet, length in DIMENSIONS.items()}
    vectors = {}
    for facet, matrix in centres.items():
        near = np.repeat(matrix, 100, axis=0) + 0.3 * unit(2000, matrix.shape[1], seed=4)
        vectors[facet] = near / np.linalg.norm(near, axis=1, keepdims=True)
    asked = {facet: matrix[::40] for facet, matrix in vectors.items()}
    version = Version(engine, tmp_path, 2000)
    version.writer.upsert(np.arange(2000), vectors)
    probes = version.writer.finish("ivf", asked)
    assert probes.keys() == DIMENSIONS.keys()
    store = version.open(probes=probes)
    for facet, queries in asked.items():
        exact = queries @ vectors[facet].T
        truth = np.argsort(-exact, axis=1)[:, :10]
        similarities, rows = store.search(facet, queries, 10)
        pairs = zip(truth, rows, strict=True)
        assert np.mean([len(np.intersect1d(*pair)) / 10 for pair in pairs]) >= 0.99
        assert np.allclose(similarities, np.take_along_axis(exact, rows, axis=1), atol=1e-5)
        # Far ones, too, which no search would have looked at.
        every = np.random.default_rng(0).permutation(2000)
        assert np.allclose(store.similarities(facet, queries[0], every), exact[0][every], atol=1e-5)


# Ranking


def test_a_group_is_ranked_alike_by_every_store(engine: VectorEngine, tmp_path: Path) -> None:
    numbers = np.repeat(np.arange(40), 3)
    vectors = {facet: unit(120, length, seed=5) for facet, length in DIMENSIONS.items()}
    cohort = Cohort(np.arange(60), {facet: matrix[:60] for facet, matrix in vectors.items()})
    near = neighbours_of(vectors, numbers)
    queries = {facet: unit(4, length, seed=6) for facet, length in DIMENSIONS.items()}
    groups = []
    for number, one in enumerate((engine, VectorStores().engine(None))):
        (tmp_path / str(number)).mkdir()
        store = written(one, tmp_path / str(number), vectors)
        hidden = np.arange(9)
        images = [{f: matrix[[place]] for f, matrix in queries.items()} for place in range(4)]
        [mean] = Ranker(store, numbers, cohort, near, hidden).rank(mean_of(images), depth=30)
        groups.append(GroupRanking.of(mean, Scaling()))
    found, expected = groups
    assert found.numbers.tolist() == expected.numbers.tolist()
    assert not {0, 1, 2} & set(found.numbers.tolist())  # taken down
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


def test_an_answer_has_as_many_concepts_as_asked_for_however_large_they_are(
    engine: VectorEngine, tmp_path: Path
) -> None:
    concepts, size = 20, 300
    numbers = np.repeat(np.arange(concepts), size)
    centres = draw(concepts, seed=3)
    vectors = {}
    for facet, length in DIMENSIONS.items():
        spread = centres[facet][numbers] + 0.2 * unit(len(numbers), length, seed=4)
        vectors[facet] = spread / np.linalg.norm(spread, axis=1, keepdims=True)
    store = written(engine, tmp_path, vectors)
    members = np.arange(0, len(numbers), 40)
    cohort = Cohort(members, {facet: matrix[members] for facet, matrix in vectors.items()})
    near = neighbours_of(vectors, numbers)
    queries = {facet: matrix[:: 2 * size] for facet, matrix in vectors.items()}
    hidden = np.flatnonzero((numbers == 0) | (numbers == 7) | (np.arange(len(numbers)) % 3 == 0))
    for rows in (None, hidden):
        ranker = Ranker(store, numbers, cohort, near, rows)
        there = concepts if rows is None else concepts - 2
        whole = list(ranker.rank(queries, depth=len(numbers)))
        found = {top: list(ranker.rank(queries, concepts=top)) for top in (1, 5, 10, 99)}
        again = list(ranker.rank(queries, concepts=10))
        for place, every in enumerate(whole):
            assert len(every) == there
            scores = dict(zip(every.numbers.tolist(), every.statistics[0].tolist(), strict=True))
            for top, rankings in found.items():
                one = rankings[place]
                assert len(one) >= min(top, there)
                for number, score in zip(one.numbers.tolist(), one.statistics[0], strict=True):
                    assert score == pytest.approx(scores[number], abs=1e-5)
            assert found[99][place].numbers.tolist() == every.numbers.tolist()
            assert found[10][place].numbers.tolist() == again[place].numbers.tolist()


# Writing


def test_rows_come_in_any_order_and_the_last_of_a_number_counts(
    engine: VectorEngine, vectors, tmp_path: Path
) -> None:
    version = Version(engine, tmp_path)
    other = draw(seed=50)
    order = np.random.default_rng(0).permutation(COUNT)
    for part in (order[40:], order[:45]):  # five of them twice
        version.writer.upsert(part, {f: other[f][part] for f in DIMENSIONS})
    version.writer.upsert(
        np.concatenate([order, order]),  # and all of them twice in one call
        {f: np.concatenate([other[f][order], vectors[f][order]]) for f in DIMENSIONS},
    )
    version.writer.finish("auto", {})
    store = version.open()
    assert store.count == COUNT
    for facet, matrix in vectors.items():
        assert np.array_equal(store.vectors(facet, np.arange(COUNT)), matrix)
        assert store.search(facet, matrix, 1)[1][:, 0].tolist() == list(range(COUNT))


def test_vectors_of_another_dimension_are_not_written(engine, vectors, tmp_path: Path) -> None:
    version = Version(engine, tmp_path)
    with pytest.raises(SnapshotError, match=r"\(60, 5\); the index needs vectors of length 12"):
        version.writer.upsert(np.arange(COUNT), {**vectors, "subject": vectors["style"]})


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 2.0])
def test_vectors_that_are_not_of_unit_norm_are_not_written(
    engine: VectorEngine, vectors, tmp_path: Path, value: float
) -> None:
    wrong = vectors["style"].copy()
    wrong[3] = value
    version = Version(engine, tmp_path)
    with pytest.raises(SnapshotError, match=r"1 style embeddings are not unit vectors.*row 3"):
        version.writer.upsert(np.arange(COUNT), {**vectors, "style": wrong})


def test_a_version_that_lacks_rows_is_not_finished(engine, vectors, tmp_path: Path) -> None:
    version = Version(engine, tmp_path)
    version.writer.upsert(np.arange(50), {f: matrix[:50] for f, matrix in vectors.items()})
    with pytest.raises(SnapshotError, match="50 of 60 vectors were written"):
        version.writer.finish("auto", {})


def test_an_empty_store_finds_nothing(engine: VectorEngine, tmp_path: Path) -> None:
    store = written(engine, tmp_path, draw(0))
    assert store.count == 0
    similarities, rows = store.search("style", unit(2, 5, seed=1), 3)
    assert similarities.shape == rows.shape == (2, 0)


# Versions


def test_versions_are_apart(engine: VectorEngine, vectors, tmp_path: Path) -> None:
    first = written(engine, tmp_path, vectors)
    second = written(engine, tmp_path, draw(seed=90))
    for facet, matrix in vectors.items():
        assert np.array_equal(first.vectors(facet, np.arange(COUNT)), matrix)
        assert not np.array_equal(second.vectors(facet, np.arange(COUNT)), matrix)


@pytest.fixture
def built(house: House, engine: VectorEngine) -> Callable[..., Snapshot]:
    """Rebuild the house on the engine, and open what is published then."""

    def build(**options: object) -> Snapshot:
        house.rebuild(engine=engine, **options)
        return open_published(house.data.index)

    return build


@pytest.fixture
def build(house: House) -> Callable[[VectorEngine], Snapshot]:
    """Make another version on an engine, and open it."""

    def build(engine: VectorEngine) -> Snapshot:
        house.rebuild(engine=engine, force=True)
        return open_published(house.data.index)

    return build


def collections(engine: VectorEngine) -> set[str]:
    """The Milvus collections that there are; none if it is no Milvus."""
    if not isinstance(engine, MilvusEngine):
        return set()
    return set(engine._connect("", ["style"])["style"].client.list_collections())


def names(version: str, facets: Iterable[Facet] = DIMENSIONS) -> set[str]:
    """A version's collections."""
    return {f"whence_{facet}_{version.replace('-', '_')}" for facet in facets}


def aliases(engine: VectorEngine) -> dict[str, str]:
    """The collection that each alias points to."""
    assert isinstance(engine, MilvusEngine)
    client = engine._connect("", ["style"])["style"].client
    found = client.list_aliases()["aliases"]
    return {alias: str(client.describe_alias(alias)["collection_name"]) for alias in found}


def test_a_rebuild_publishes_rolls_back_and_prunes(house, engine, built) -> None:
    others = collections(engine)
    made = []
    for number in range(4):
        house.draw({"three": [30 + number]})
        snapshot = built(keep=3)
        assert snapshot.vectors.count == 6 + number
        assert verify(house.data, embedder=FakeEmbedder()).passed
        made.append(snapshot.version)
    assert [manifest.version for manifest in list_versions(house.data.index)] == made[1:]
    if engine.address:
        assert collections(engine) - others == set().union(*map(names, made[1:]))
        assert set(aliases(engine).values()) == names(made[3])
    house_with_model(house)
    assert rollback(house.data).version == made[2]
    with closing(open_published(house.data.index)) as snapshot:
        assert (snapshot.version, snapshot.vectors.count) == (made[2], 8)
        assert snapshot.manifest.store == engine.address
    if engine.address:
        assert set(aliases(engine).values()) == names(made[2])


@needs_milvus
def test_each_facet_has_its_collection_and_its_alias(milvus, vectors, tmp_path: Path) -> None:
    two = Version(milvus, tmp_path)
    two.writer.upsert(np.arange(COUNT), vectors)
    two.writer.finish("auto", {})
    one = tmp_path / new_version()
    one.mkdir()
    writer = milvus.write(one, one.name, COUNT, {"style": DIMENSIONS["style"]})
    writer.upsert(np.arange(COUNT), vectors)
    writer.finish("auto", {})

    def pointing(version: str, facets: Iterable[Facet]) -> dict[str, str]:
        return {f"whence_{facet}": names(version, [facet]).pop() for facet in facets}

    assert collections(milvus) == names(two.folder.name) | names(one.name, ["style"])
    assert aliases(milvus) == {}
    milvus.publish(two.folder.name)
    assert aliases(milvus) == pointing(two.folder.name, DIMENSIONS)
    milvus.publish(one.name)
    assert aliases(milvus) == pointing(one.name, ["style"])
    milvus.publish(two.folder.name)
    assert aliases(milvus) == pointing(two.folder.name, DIMENSIONS)
    milvus.remove(two.folder.name)
    assert collections(milvus) == names(one.name, ["style"])
    assert aliases(milvus) == {}


@needs_milvus
@pytest.mark.parametrize("keep", [1, 2])
def test_after_a_rollback_the_version_that_servers_may_still_ask_stays(
    house: House, milvus, keep: int
) -> None:
    def there() -> list[str]:
        return [manifest.version for manifest in list_versions(house.data.index)]

    made = [house.rebuild(engine=milvus).version for _ in range(3)]
    house_with_model(house)
    rollback(house.data, made[0])
    made.append(house.rebuild(engine=milvus, keep=keep).version)
    left = [made[0], *made[4 - keep :]]
    assert there() == left
    assert collections(milvus) == set().union(*map(names, left))
    # Which version was before this one is not known any more.
    assert house.rebuild(engine=milvus, keep=1, force=False).unchanged
    assert there() == left
    made.append(house.rebuild(engine=milvus, keep=1).version)
    assert there() == made[3:]
    assert collections(milvus) == set().union(*map(names, made[3:]))


def test_a_rebuild_that_publishes_nothing_leaves_nothing_behind(house, engine, built) -> None:
    built().close()
    before = collections(engine), sorted(house.data.index.iterdir())
    with pytest.raises(RebuildError, match="canary"):
        house.rebuild(engine=engine, canary_rate=1.1)
    assert (collections(engine), sorted(house.data.index.iterdir())) == before


def house_with_model(house: House) -> None:
    """A rollback asks that the model be there, and does not load it."""
    folder = house.data.models / FakeEmbedder.model_id
    folder.mkdir(parents=True)
    (folder / "training.json").write_text("{}")


def test_nothing_changed_is_noticed_and_another_store_is_a_change(house, engine, built) -> None:
    before = built()
    assert house.rebuild(force=False, engine=engine).unchanged
    other = VectorStores().engine(None) if engine.address else None
    if other:
        summary = house.rebuild(force=False, engine=other)
        assert not summary.unchanged
        assert (house.data.index / summary.version / file_name("style")).exists()
        assert open_published(house.data.index).manifest.store is None
        # The version before is still whole.
        assert Snapshot.open(house.data.index / before.version).vectors.count == 5


def test_another_model_is_refused(house: House, built) -> None:
    with closing(built()) as snapshot, pytest.raises(SnapshotError, match="built with model"):
        snapshot.require_model("another")


def test_vectors_of_another_version_in_its_place_are_refused(house, engine, built) -> None:
    with closing(built()) as snapshot:
        folder, manifest = snapshot.folder, snapshot.manifest
    other = {
        facet: unit(manifest.exemplars, length, seed=8)
        for facet, length in manifest.dimensions.items()
    }
    if engine.address:
        engine.remove(manifest.version)
        with pytest.raises(SnapshotError, match=r"not in .* any more.*run `whence rebuild`"):
            Snapshot.open(folder)
        writer = engine.write(folder, manifest.version, manifest.exemplars, manifest.dimensions)
        writer.upsert(np.arange(manifest.exemplars), other)
        writer.finish("auto", {})
    else:
        write_vectors(folder, "style", other["style"])
    with pytest.raises(SnapshotError, match=r"not those it was built with|changed since"):
        Snapshot.open(folder)


@pytest.mark.parametrize(
    "change", [{"count": COUNT + 1}, {"dimensions": {"style": 6, "subject": 12}}]
)
@needs_milvus
def test_a_collection_that_does_not_fit_is_refused(milvus, vectors, tmp_path, change) -> None:
    version = Version(milvus, tmp_path)
    version.writer.upsert(np.arange(COUNT), vectors)
    version.writer.finish("auto", {})
    with pytest.raises(SnapshotError, match=r"holds 60 vectors for 61|of dimension"):
        version.open(**change)


# Takedown


def test_what_is_taken_down_is_gone_at_once_and_after_the_next_rebuild_for_good(
    house: House, engine: VectorEngine, built
) -> None:
    old = built()
    attributor = Attributor(FakeEmbedder(), old)
    picture = patches(0)
    [own] = [e for e in old.catalog.exemplars_of("one") if Path(e.path).name == "000.png"]

    def shows(attributor: Attributor) -> bool:
        [answer] = attributor.attribute([picture], top_k=9, exemplars=9)
        return any(e.exemplar.id == own.id for c in answer.concepts for e in c.exemplars)

    assert shows(attributor)
    log = TakedownLog(house.data.takedowns)
    takedown = withdraw(house.data, "exemplar", own.id, reason="r")
    assert not shows(attributor.masked(log.read()))
    new = built()
    assert new.vectors.count == old.vectors.count - 1
    assert not shows(Attributor(FakeEmbedder(), new))
    # Lifted, it may show again where its vectors still are: in files, which never change.
    log.lift(takedown.id, reason="r")
    with closing(Snapshot.open(old.folder)) as again:
        reopened = Attributor(FakeEmbedder(), again)
        assert shows(reopened) == (engine.address is None)
        assert reopened.masked(log.read()) is reopened
        if engine.address:
            assert again.vectors.erased.tolist() == [own.row]
            with pytest.raises(SnapshotError, match="1 of 1 style vectors are not in"):
                again.vectors.vectors("style", again.vectors.erased)
    house_with_model(house)
    assert rollback(house.data).version == old.version
    assert verify(house.data, embedder=FakeEmbedder()).passed
    # And with the next rebuild it is back.
    assert shows(Attributor(FakeEmbedder(), built()))


@needs_milvus
def test_a_server_sees_what_was_erased_since_it_opened(house: House, milvus, build) -> None:
    opened = Attributor(FakeEmbedder(), build(milvus))
    snapshot = opened.snapshot
    own = snapshot.catalog.exemplars()[0]
    log = TakedownLog(house.data.takedowns)
    takedown = withdraw(house.data, "exemplar", own.id, reason="r")
    masked = opened.masked(log.read())
    with closing(Snapshot.open(snapshot.folder)) as elsewhere:
        elsewhere.vectors.erase(masked.snapshot.hidden)
    log.lift(takedown.id, reason="r")
    lifted = masked.masked(log.read()).snapshot
    assert not lifted.hidden_rows
    assert lifted.hidden.tolist() == [own.row]
    assert own.id not in lifted.catalog.exemplar_ids()


@needs_milvus
def test_what_is_lifted_while_a_rebuild_runs_keeps_its_vectors(house: House, milvus, build) -> None:
    old = build(milvus)
    log = TakedownLog(house.data.takedowns)
    own = old.catalog.exemplars()[0]
    takedown = withdraw(house.data, "exemplar", own.id, reason="r")

    def lift(stage: str, done: int, total: int) -> None:
        if log.read().active:
            log.lift(takedown.id, reason="r")

    assert house.rebuild(engine=milvus, progress=lift).exemplars == 4
    assert not log.read().active
    assert old.vectors.erased.tolist() == []


@needs_milvus
def test_a_purge_drops_older_versions_and_erases_from_the_published_one(
    house: House, milvus, build
) -> None:
    for _ in range(2):
        old = build(milvus)
    [older] = [m for m in list_versions(house.data.index) if m.version != old.version]
    own = old.catalog.exemplars()[0]
    withdraw(house.data, "exemplar", own.id, reason="r")
    done = purge(house.data)
    assert done.versions == [older.version]
    assert [old.version in left for left in done.left] == [True]
    assert collections(milvus) == names(old.version)
    assert old.vectors.erased.tolist() == [own.row]
    with pytest.raises(SnapshotError, match="1 of 1 style vectors are not in"):
        old.vectors.vectors("style", np.array([own.row]))
    build(milvus)
    done = purge(house.data)
    assert (done.versions, done.left) == ([old.version], [])


@needs_milvus
def test_a_purge_tells_what_it_could_not_delete(house: House, milvus, build, monkeypatch) -> None:
    for _ in range(3):
        last = build(milvus)
    own = last.catalog.exemplars()[0]
    withdraw(house.data, "exemplar", own.id, reason="r")

    def away(*_: object, **__: object) -> None:
        raise VectorStoreUnavailableError("away")

    with monkeypatch.context() as patch:
        patch.setattr("index.stores.milvus.MilvusEngine.remove", away)
        done = purge(house.data)
    assert done.versions == []
    removed = [left for left in done.left if "once that store answers" in left]
    assert len(removed) == 2
    with monkeypatch.context() as patch:
        patch.setattr("index.stores.milvus.MilvusEngine.open", away)
        [left, *removed] = purge(house.data).left
    assert "(away)" in left
    assert removed == []  # these were gone through once more
    assert collections(milvus) == names(last.version)


@needs_milvus
def test_erasing_that_was_cut_short_is_finished(milvus, vectors, tmp_path, monkeypatch) -> None:
    store = written(milvus, tmp_path, vectors)
    with monkeypatch.context() as patch:
        patch.setattr("index.stores.milvus._Connection.ask", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            store.erase(np.array([3, 5]))
    version = next(tmp_path.glob("2*"))
    store = milvus.open(version, version.name, COUNT, DIMENSIONS, {})
    assert store.erased.tolist() == [3, 5]
    store.erase(np.array([5]))
    with pytest.raises(SnapshotError, match="2 of 60"):
        store.vectors("style", np.arange(COUNT))
    (version / "erased.json").write_text("[3]")
    with pytest.raises(SnapshotError, match="holds 58 vectors for 60 exemplars, of which 1"):
        milvus.open(version, version.name, COUNT, DIMENSIONS, {})


# Kills

WRITE = """
import os, signal, sys
from pathlib import Path
import numpy as np
from index.stores.registry import VectorStores
from tests.index.stores.test_vector_stores import DIMENSIONS, draw
index, address, *names = Path(sys.argv[1]), sys.argv[2] or None, *sys.argv[3:]
for name, until in zip(names, (60, 30)):
    (index / name).mkdir(parents=True)
    writer = VectorStores().engine(address).write(index / name, name, 60, DIMENSIONS)
    for start in range(0, until, 10):
        rows = np.arange(start, start + 10)
        writer.upsert(rows, {f: m[rows] for f, m in draw().items()})
    if until == 60:
        assert writer.finish("auto", {}) == {}
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["faiss", pytest.param("milvus", marks=needs_milvus)])
def test_after_a_kill_what_was_finished_is_whole_and_the_rest_is_removed(
    house: House, kind: str, vectors, tmp_path: Path
) -> None:
    index, finished, begun = house.data.index, new_version(), new_version()
    address = "" if kind == "faiss" else str(tmp_path / "killed.db")
    ended = subprocess.run(
        [sys.executable, "-c", WRITE, index, address, finished, begun],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    engine = VectorStores().engine(address or None)
    store = engine.open(index / finished, finished, COUNT, DIMENSIONS, {})
    for facet, matrix in vectors.items():
        assert np.array_equal(store.vectors(facet, np.arange(COUNT)), matrix)
        assert store.search(facet, matrix, 1)[1][:, 0].tolist() == list(range(COUNT))
    if address:
        assert collections(engine) == names(finished) | names(begun)
    left = index / f".building-{begun}"  # what a rebuild calls it until it is complete
    (index / begun).rename(left)
    summary = house.rebuild(engine=engine)
    assert not left.exists()
    if address:
        assert collections(engine) == names(finished) | names(summary.version)
    with closing(open_published(index)) as snapshot:
        assert (snapshot.version, snapshot.vectors.count) == (summary.version, 5)


# The same answers


@needs_milvus
def test_both_stores_give_the_same_answers(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for seed in range(40):
        (source / f"c{seed // 4}").mkdir(parents=True, exist_ok=True)
        patches(seed).save(source / f"c{seed // 4}" / f"{seed}.png")
    answers = []
    for address in (None, str(tmp_path / "same.db")):
        data = DataFolder(tmp_path / ("milvus" if address else "faiss"))
        rebuild(
            data,
            read_sources([source]),
            FakeEmbedder(),
            RebuildOptions(engine=VectorStores().engine(address)),
        )
        attributor = open_attributor(data, embedder=FakeEmbedder())
        assert attributor.snapshot.manifest.store == address
        queries = [patches(seed, cells=cells) for seed in range(50) for cells in (4, 5)]
        answers.append(attributor.attribute(queries, top_k=10))
        attributor.snapshot.close()
    for one, other in zip(*answers, strict=True):
        assert one.verdict == other.verdict
        assert [c.concept for c in one.concepts] == [c.concept for c in other.concepts]
        for a, b in zip(one.concepts, other.concepts, strict=True):
            assert (a.score, a.share) == pytest.approx((b.score, b.share), abs=1e-4)
            assert [e.exemplar.id for e in a.exemplars] == [e.exemplar.id for e in b.exemplars]


# What only a Milvus meets


@needs_milvus
def test_more_hits_than_milvus_gives_at_once(milvus, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("index.stores.milvus.MAX_HITS", 16)
    assert MAX_HITS > 16
    vectors = draw()
    store = written(milvus, tmp_path, vectors)
    queries = unit(3, 12, seed=1)
    hidden = np.array([2, 17, 18])
    exact = queries @ vectors["subject"].T
    exact[:, hidden] = -np.inf
    order = np.argsort(-exact, axis=1)
    for k in (16, 17, 57, 99):
        rows = store.search("subject", queries, k, Mask(hidden, COUNT))[1]
        assert np.array_equal(rows, order[:, : min(k, 57)])
    assert np.array_equal(store.vectors("subject", np.arange(COUNT)), vectors["subject"])
    found = store.similarities("subject", queries[0], np.arange(COUNT))
    assert np.allclose(found, vectors["subject"] @ queries[0], atol=1e-6)


@needs_milvus
def test_rows_that_an_index_passes_over_are_fetched(milvus, tmp_path, monkeypatch) -> None:
    vectors = draw()
    store = written(milvus, tmp_path, vectors)
    search = store._searches["subject"]
    monkeypatch.setitem(store._searches, "subject", Forgetful(search))
    query = unit(1, 12, seed=1)[0]
    found = store.similarities("subject", query, np.arange(COUNT))
    assert np.allclose(found, vectors["subject"] @ query, atol=1e-6)


class Forgetful:
    """A search that finds half of what there is, as an HNSW may under a condition."""

    lists = 0

    def __init__(self, search) -> None:
        self.search = search

    def __call__(self, *args, **options) -> tuple[np.ndarray, np.ndarray]:
        similarities, rows = self.search(*args, **options)
        rows[:, ::2] = -1
        return similarities, rows


@pytest.mark.parametrize(
    ("text", "uri", "collection"),
    [
        ("milvus://milvus:19530/whence", "http://milvus:19530", "whence"),
        ("milvus+tls://10.0.0.7:443/a_1", "https://10.0.0.7:443", "a_1"),
        ("milvus://[::1]:19530/x", "http://[::1]:19530", "x"),
    ],
)
def test_addresses(text: str, uri: str, collection: str) -> None:
    assert MilvusAddress.parse(text) == MilvusAddress(text, uri, collection)


def test_the_path_of_a_file_is_an_address() -> None:
    place = MilvusAddress.parse("data/vectors.db")
    assert place.uri == place.text == str(Path("data/vectors.db").absolute())


@pytest.mark.parametrize(
    "text",
    [
        "milvus://host/whence", "milvus://host:19530", "milvus://host:19530/a-b", "http://h:1/a",
        "milvus://host:19530/" + "a" * 201, "vectors", "", "milvus://host:x/a",
        "milvus://host:19530/1a", "milvus://root:Secret1@host:19530/whence",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused_without_its_password(text: str) -> None:
    with pytest.raises(VectorStoreError, match="is not one: give milvus://HOST") as error:
        MilvusAddress.parse(text)
    assert "Secret1" not in str(error.value)


@needs_milvus
def test_a_milvus_that_is_not_there_is_named() -> None:
    engine = VectorStores().engine("milvus://127.0.0.1:9/whence")
    with pytest.raises(VectorStoreUnavailableError, match=r"127\.0\.0\.1:9/whence cannot be reach"):
        engine.publish("v")


@needs_milvus
@pytest.mark.parametrize("lost", ["question", "answer"])
@pytest.mark.parametrize("index_type", ["exact", "ivf"])
def test_writing_and_publishing_go_on_when_milvus_was_away_shortly(
    milvus, tmp_path: Path, monkeypatch, lost: str, index_type: str
) -> None:
    monkeypatch.setattr("index.stores.milvus.RETRY_DELAYS", (0.0,) * len(RETRIED))
    call, failed = _Connection.call, set()
    asked = RETRIED | ({"search"} if index_type == "ivf" else set())

    def fail_once(self: _Connection, method: str, *arguments: object, **options: object) -> object:
        first = (self.collection, method) not in failed
        failed.add((self.collection, method))
        if first and lost == "question":
            raise VectorStoreUnavailableError("away")
        answer = call(self, method, *arguments, **options)
        if first:
            raise VectorStoreUnavailableError("away")
        return answer

    vectors = draw(200)
    with monkeypatch.context() as patch:
        patch.setattr(_Connection, "call", fail_once)
        version = Version(milvus, tmp_path, 200)
        version.writer.upsert(np.arange(200), vectors)
        probes = version.writer.finish(index_type, vectors)
        milvus.publish(version.folder.name)
    assert failed >= {(name, method) for name in names(version.folder.name) for method in asked}
    assert set(aliases(milvus).values()) == names(version.folder.name)
    store = version.open(probes=probes)
    for facet, matrix in vectors.items():
        assert store.search(facet, matrix, 1)[1][:, 0].tolist() == list(range(200))


@needs_milvus
def test_writing_ends_when_milvus_stays_away(milvus, vectors, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("index.stores.milvus.RETRY_DELAYS", (0.0, 0.0))
    tried = []

    def away(self: _Connection, method: str, *_: object, **__: object) -> None:
        tried.append(method)
        raise VectorStoreUnavailableError("away")

    version = Version(milvus, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(_Connection, "call", away)
        with pytest.raises(VectorStoreUnavailableError, match="away"):
            version.writer.upsert(np.arange(COUNT), vectors)
    assert tried == ["upsert"] * 3


@needs_milvus
@pytest.mark.parametrize(("told", "state"), [({"state": "Failed"}, "Failed"), (None, "missing")])
def test_an_index_that_milvus_cannot_build_ends_the_writing(
    milvus, vectors, tmp_path: Path, monkeypatch, told: dict | None, state: str
) -> None:
    version = Version(milvus, tmp_path)
    version.writer.upsert(np.arange(COUNT), vectors)
    call = _Connection.call

    def tell(self: _Connection, method: str, *arguments: object, **options: object) -> object:
        return told if method == "describe_index" else call(self, method, *arguments, **options)

    monkeypatch.setattr(_Connection, "call", tell)
    with pytest.raises(SnapshotError, match=f"'whence_style_.*'{state}'.* `whence rebuild` again"):
        version.writer.finish("auto", {})


@needs_milvus
def test_nothing_is_published_if_the_store_cannot_be_reached(house: House) -> None:
    house.rebuild()
    published = open_published(house.data.index).version
    with pytest.raises(VectorStoreUnavailableError):
        house.rebuild(engine=VectorStores().engine("milvus://127.0.0.1:9/whence"))
    assert open_published(house.data.index).version == published
    # Nor is anything left that only that address could remove.
    assert not list(house.data.index.glob(".building-*"))


@needs_milvus
def test_a_file_that_another_process_has_open_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "open.db")
    code = f"import pymilvus; c = pymilvus.MilvusClient({path!r}); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout
        other.stdout.readline()
        with pytest.raises(VectorStoreUnavailableError, match="only one process at a time can"):
            VectorStores().engine(path).publish("v")
        other.kill()
    assert collections(VectorStores().engine(path)) == set()


@needs_milvus
def test_a_file_that_cannot_be_made_is_named_in_one_line(tmp_path: Path, capfd) -> None:
    (tmp_path / "taken.db").write_text("no folder")
    for path in (tmp_path / "taken.db", tmp_path / "nowhere" / "own.db"):
        with pytest.raises(VectorStoreUnavailableError, match="can be written to"):
            VectorStores().engine(str(path)).publish("v")
    assert "Traceback" not in capfd.readouterr().err


@needs_milvus
@pytest.mark.parametrize(
    ("code", "details"),
    [
        ("UNAUTHENTICATED", "auth check failure, please check username and password are correct"),
        ("PERMISSION_DENIED", "PrivilegeShowCollections: permission deny to user"),
    ],
)
def test_a_milvus_that_refuses_the_user_is_not_taken_for_one_that_is_away(
    code: str, details: str
) -> None:
    grpc = importlib.import_module("grpc")

    class Refusing(grpc.GenericRpcHandler):  # type: ignore[misc, name-defined]
        def service(self, _: object) -> object:
            return grpc.unary_unary_rpc_method_handler(
                lambda _, context: context.abort(grpc.StatusCode[code], details)
            )

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Refusing()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(VectorStoreUnavailableError, match="see WHENCE_VECTOR_STORE_TOKEN"):
            VectorStores().engine(f"milvus://127.0.0.1:{port}/whence").publish("v")
    finally:
        server.stop(None)


def test_without_the_extra_it_is_asked_for(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    _libraries.cache_clear()
    with pytest.raises(VectorStoreError, match=r"extra .* pip install '\.\[milvus\]'"):
        VectorStores().engine("milvus://h:1/c").remove("v")


def test_a_version_says_where_its_vectors_are_before_they_are_there(
    engine: VectorEngine, tmp_path: Path
) -> None:
    version = Version(engine, tmp_path)
    mark = version.folder / ADDRESS
    assert (mark.read_text().strip() if mark.exists() else None) == engine.address


@pytest.fixture(scope="module", autouse=True)
def _tidy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Milvus Lite holds its files open as long as the process lives."""
    yield
    if importlib.util.find_spec("milvus_lite"):
        from milvus_lite import server_manager_instance

        server_manager_instance.release_all()
    shutil.rmtree(tmp_path_factory.getbasetemp() / "milvus0", ignore_errors=True)


@needs_milvus
def test_what_servers_may_still_ask_stays_and_a_failed_delete_is_told_and_tried_again(
    house: House, milvus, monkeypatch
) -> None:
    old = house.rebuild(engine=milvus, keep=1).version
    new = house.rebuild(engine=milvus, keep=1).version
    assert [manifest.version for manifest in list_versions(house.data.index)] == [old, new]
    snapshot = open_published(house.data.index)
    own = snapshot.catalog.exemplars()[0]
    withdraw(house.data, "exemplar", own.id, reason="r")

    def away(*_: object) -> None:
        raise VectorStoreUnavailableError("away")

    with monkeypatch.context() as patch:
        patch.setattr("index.stores.milvus.MilvusStore.erase", away)
        assert new in house.rebuild(engine=milvus).not_erased
    again = house.rebuild(engine=milvus, force=False)
    assert again.unchanged
    assert again.not_erased == []
    assert own.row in snapshot.vectors.erased


@needs_milvus
def test_an_old_version_with_a_damaged_catalog_does_not_stop_a_rebuild(
    house: House, milvus, build, monkeypatch
) -> None:
    old, last = build(milvus), build(milvus)
    own = last.catalog.exemplars()[0]
    withdraw(house.data, "exemplar", own.id, reason="r")
    (old.folder / CATALOG).write_bytes(b"damaged")
    monkeypatch.setattr("index.snapshot._check_file", lambda *_: None)  # damaged after the look
    summary = house.rebuild(engine=milvus)
    assert summary.not_erased == [old.version]
    assert own.row in last.vectors.erased
    assert open_published(house.data.index).version == summary.version
