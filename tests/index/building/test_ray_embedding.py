"""Embedding by Ray workers, here on this machine: the same as in one process, whatever dies."""

import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from index.building.embedding import BATCH, EmbedFiles
from index.building.embedding_cache import EmbeddingCache
from index.building.ray_embedding import _library, _workers, ray_embedding
from index.building.rebuild import RebuildSummary
from index.errors import RebuildError
from index.snapshot import open_published
from model.errors import ModelError
from tests.fakes import FakeEmbedder
from tests.index.conftest import House

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs the extra: pip install '.[ray]'"
)


class SlowEmbedder(FakeEmbedder):
    """Leaves a trace of each batch, and time to kill whoever is at it."""

    def __init__(self, traces: Path) -> None:
        self.traces = traces

    def embed_pixels(self, pixels) -> dict:
        with (self.traces / str(os.getpid())).open("a") as trace:
            trace.write(f"{len(pixels)}\n")
        time.sleep(0.3)
        return super().embed_pixels(pixels)


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("traces")


@pytest.fixture(scope="module")
def embed(traces: Path) -> Iterator[EmbedFiles]:
    pytest.importorskip("ray")
    with ray_embedding("local", lambda: SlowEmbedder(traces)) as embed:
        yield embed


@pytest.fixture
def large(house: House) -> House:
    """A house with eight batches of pictures, some of which cannot be used."""
    house.draw({f"c{number}": range(100 + 10 * number, 110 + 10 * number) for number in range(24)})
    (house.source / "one" / "broken.png").write_bytes(b"no picture")
    return house


def contents(house: House, summary: RebuildSummary) -> tuple:
    """All that decides what the index answers."""
    with (
        closing(open_published(house.data.index)) as snapshot,
        EmbeddingCache(house.data.embeddings(FakeEmbedder.model_id)) as cache,
    ):
        rows = np.arange(snapshot.vectors.count)
        return (
            snapshot.catalog.exemplars(),
            {f: snapshot.vectors.vectors(f, rows).tobytes() for f in snapshot.manifest.dimensions},
            snapshot.fingerprints.tobytes(),
            snapshot.calibration,
            [snapshot.catalog.thumbnail(e.id) for e in snapshot.catalog.exemplars()],
            sorted(cache.sizes()),
            (summary.exemplars, summary.concepts, summary.embedded, summary.skipped),
        )


@needs_ray
def test_the_index_is_the_same_as_of_one_process(
    large: House, embed: EmbedFiles, traces: Path
) -> None:
    alone = contents(large, large.rebuild())
    large.data.embeddings(FakeEmbedder.model_id).unlink()
    seen: list[tuple[str, int, int]] = []
    summary = large.rebuild(embed=embed, progress=lambda *step: seen.append(step))
    assert large.embedder.count == 10  # views: less than a batch is not worth a worker
    assert contents(large, summary) == alone
    assert summary.skipped[0].reason
    assert sum(int(n) for trace in traces.iterdir() for n in trace.read_text().split()) == 245
    assert str(os.getpid()) not in {trace.name for trace in traces.iterdir()}
    steps = [(done, total) for stage, done, total in seen if stage == "embedding"]
    assert steps == sorted(steps)
    assert steps[-1] == (246, 246)
    # And nothing is left to do.
    assert large.rebuild(embed=embed).embedded == 0


@needs_ray
def test_a_killed_worker_loses_no_image_and_no_result(
    large: House, embed: EmbedFiles, traces: Path
) -> None:
    alone = contents(large, large.rebuild())
    large.data.embeddings(FakeEmbedder.model_id).unlink()
    for trace in traces.iterdir():
        trace.unlink()
    killed = threading.Event()

    def kill_one(stage: str, done: int, total: int) -> None:
        if stage == "embedding" and done >= BATCH and not killed.is_set():
            newest = max(traces.iterdir(), key=lambda trace: trace.stat().st_mtime_ns)
            os.kill(int(newest.name), signal.SIGKILL)  # in the middle of a batch
            killed.set()

    summary = large.rebuild(embed=embed, progress=kill_one)
    assert killed.is_set()
    assert contents(large, summary) == alone
    done = sum(int(n) for trace in traces.iterdir() for n in trace.read_text().split())
    # What it held was embedded again, and little more.
    assert summary.embedded <= done <= summary.embedded + 3 * BATCH


@needs_ray
def test_what_arrived_before_the_rebuild_was_killed_is_not_embedded_again(
    large: House, embed: EmbedFiles
) -> None:
    def stop(stage: str, done: int, total: int) -> None:
        if stage == "embedding" and done >= 2 * BATCH:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        large.rebuild(embed=embed, progress=stop)
    with EmbeddingCache(large.data.embeddings(FakeEmbedder.model_id)) as cache:
        kept = len(cache.sizes())
    assert kept >= 2 * BATCH - 1
    assert large.rebuild(embed=embed).embedded == 245 - kept


@needs_ray
def test_a_model_that_cannot_be_loaded_is_told_in_one_line(large: House, embed: EmbedFiles) -> None:
    def load() -> FakeEmbedder:
        raise ModelError("there is no such model on this machine")

    failing = type(embed)(embed._ray, load)  # type: ignore[attr-defined, call-arg]
    with pytest.raises(RebuildError, match=r"Ray cluster failed.*no such model on this machine"):
        large.rebuild(embed=failing)


def test_without_the_extra_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    _library.cache_clear()
    with (
        pytest.raises(RebuildError, match=r"pip install '\.\[ray\]'"),
        ray_embedding("local", FakeEmbedder),
    ):
        pass


@pytest.mark.parametrize(
    ("machines", "count", "each"),
    [
        ([], 1, {"num_cpus": 1}),
        ([{"CPU": 1.0}], 1, {"num_cpus": 1}),
        ([{"CPU": 2.0}], 2, {"num_cpus": 1}),
        ([{"CPU": 6.0}], 2, {"num_cpus": 3}),
        ([{"CPU": 64.0}], 16, {"num_cpus": 4}),
        ([{"CPU": 64.0, "GPU": 8.0}], 8, {"num_gpus": 1, "num_cpus": 8}),
        ([{"CPU": 2.0, "GPU": 4.0}], 4, {"num_gpus": 1, "num_cpus": 1}),
        # No worker may need more than a machine has, whatever all of them have together.
        ([{"CPU": 2.0}] * 3, 3, {"num_cpus": 2}),
        ([{}, {"CPU": 16.0}, {"CPU": 9.0}], 6, {"num_cpus": 4}),
        ([{"CPU": 32.0}] + [{"CPU": 4.0, "GPU": 1.0}] * 4, 4, {"num_gpus": 1, "num_cpus": 4}),
        ([{"CPU": 16.0}, {"CPU": 64.0, "GPU": 8.0}], 8, {"num_gpus": 1, "num_cpus": 8}),
    ],
)
def test_one_worker_a_gpu_or_core_group(machines: list[dict], count: int, each: dict) -> None:
    assert _workers(machines) == (count, each)
