"""Embedding by Ray workers, here on this machine: the same as in one process, whatever dies."""

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from index.embedding import BATCH, EmbedFiles
from index.embedding_cache import EmbeddingCache
from index.errors import RebuildError
from index.ray_embedding import _library, _workers, ray_embedding
from index.rebuild import RebuildSummary
from index.snapshot import open_published
from tests.fakes import FakeEmbedder
from tests.index.conftest import House

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs the extra: pip install 'whence[ray]'"
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
    (house.source / "one" / os.fsdecode(b"caf\xe9.png")).write_bytes(
        (house.source / "one" / "001.png").read_bytes() + b" "
    )
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
    assert large.embedder.count == 0  # none of it in this process
    assert contents(large, summary) == alone
    assert summary.skipped[0].reason
    assert len(list(traces.iterdir())) == _workers({"CPU": os.cpu_count() or 1})[0]
    steps = [(done, total) for stage, done, total in seen if stage == "embedding"]
    assert steps == sorted(steps)
    assert steps[-1] == (247, 247)
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
    wanted = summary.embedded + 20  # and the calibration's views
    assert wanted < done <= wanted + 3 * BATCH  # what it held was embedded again, and little more


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
    assert large.rebuild(embed=embed).embedded == 246 - kept


@needs_ray
def test_a_model_that_cannot_be_loaded_is_told_in_one_line(large: House) -> None:
    code = """
import sys
from index.layout import DataFolder
from index.ray_embedding import ray_embedding
from index.rebuild import rebuild
from index.source import read_sources
from model.errors import ModelError, WhenceError
from tests.fakes import FakeEmbedder
from pathlib import Path
def load():
    raise ModelError("there is no such model on this machine")
try:
    with ray_embedding("local", load) as embed:
        data, source = DataFolder(Path(sys.argv[1])), [Path(sys.argv[2])]
        rebuild(data, read_sources(source), FakeEmbedder(), embed=embed)
except WhenceError as error:
    print("told:", error)
"""
    ended = subprocess.run(
        [sys.executable, "-c", code, large.data.root, large.source],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert "told: embedding on the Ray cluster failed" in ended.stdout, ended.stderr
    assert "there is no such model on this machine" in ended.stdout


@needs_ray
def test_no_cluster_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(RebuildError, match=r"no Ray cluster at '127\.0\.0\.1:9'"),
        ray_embedding("127.0.0.1:9", FakeEmbedder),
    ):
        pass


def test_without_the_extra_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    _library.cache_clear()
    with (
        pytest.raises(RebuildError, match=r"pip install 'whence\[ray\]'"),
        ray_embedding("local", FakeEmbedder),
    ):
        pass


@pytest.mark.parametrize(
    ("cluster", "count", "each"),
    [
        ({"CPU": 1.0}, 1, {"num_cpus": 1}),
        ({"CPU": 2.0}, 2, {"num_cpus": 1}),
        ({"CPU": 6.0}, 2, {"num_cpus": 3}),
        ({"CPU": 64.0}, 16, {"num_cpus": 4}),
        ({"CPU": 64.0, "GPU": 8.0}, 8, {"num_gpus": 1, "num_cpus": 8}),
        ({"CPU": 2.0, "GPU": 4.0}, 4, {"num_gpus": 1, "num_cpus": 1}),
    ],
)
def test_one_worker_a_gpu_or_core_group(cluster: dict, count: int, each: dict) -> None:
    assert _workers(cluster) == (count, each)
