"""Embedding on many machines: Ray Data streams batches of files to one worker a GPU or core group.

Workers read the files themselves, so every machine needs images and models under the same paths.
The embedding cache is on the rebuild's machine, which stores each block when it arrives. Stored
blocks are not embedded again, and the blocks of a worker that died are given to another one.
"""

import importlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow
import torch

from index.building.embedding import (
    BATCH,
    EmbeddingReport,
    EmbedFiles,
    ImageEmbedder,
    ImageFile,
    Preparer,
    embed_files,
    embed_prepared,
)
from index.building.embedding_cache import EmbeddedImage, EmbeddingCache
from index.errors import RebuildError
from model.images import DEFAULT_LIMITS, ImageLimits
from model.preparing import prepare_ahead
from model.sources.places import picture_at

CORES = 4  # of a worker without a GPU; fewer if no machine has them, or only one worker would fit
MAX_BLOCKS = 10_000  # since Ray tracks each block

Loader = Callable[[], ImageEmbedder]


@contextmanager
def ray_embedding(address: str, load: Loader) -> Iterator[EmbedFiles]:
    """Connect to a Ray cluster and yield the ``embed`` argument of `rebuild`.

    Args:
        address: ``local`` starts a cluster of this machine for this context; ``auto`` finds a
            running one; or ``HOST:PORT`` of a cluster's head.
        load: loads the model on a worker.

    Raises:
        RebuildError: Ray is not installed, or there is no cluster.
    """
    ray = _library()
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({"include_dashboard": False} if address == "local" else {}),
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        cause = " ".join(str(error).split())[:200]
        raise RebuildError(
            f"there is no Ray cluster at {address!r} ({cause}); start one with `ray start --head`, "
            "or give --ray local"
        ) from error
    try:
        yield _RayEmbedding(ray, load)
    finally:
        ray.shutdown()


class _RayEmbedding:
    def __init__(self, ray: Any, load: Loader) -> None:
        self._ray = ray
        self._load = load

    def __call__(
        self,
        cache: EmbeddingCache,
        files: Sequence[ImageFile],
        embedder: ImageEmbedder,
        *,
        workers: int = 0,
        limits: ImageLimits = DEFAULT_LIMITS,
        progress: Callable[[int, int], None] | None = None,
    ) -> EmbeddingReport:
        """See `index.building.embedding.embed_files`.

        Raises:
            RebuildError: the cluster failed, or the model cannot be loaded there.
        """
        by_key = {file.key: file for file in files}
        todo = [by_key[key] for key in cache.missing(by_key)]
        if len(todo) <= BATCH:  # faster than starting workers
            return embed_files(
                cache, todo, embedder, workers=workers, limits=limits, progress=progress
            )
        unreadable: dict[str, str] = {}
        done = 0
        for block in self._embedded(todo, limits):
            images = [_image(row) for row in block if not row["reason"]]
            cache.add(images)
            unreadable |= {row["key"]: row["reason"] for row in block if row["reason"]}
            done += len(block)
            if progress:
                progress(done, len(todo))
        return EmbeddingReport(embedded=len(todo) - len(unreadable), unreadable=unreadable)

    def _embedded(
        self, todo: Sequence[ImageFile], limits: ImageLimits
    ) -> Iterator[list[dict[str, Any]]]:
        data = importlib.import_module("ray.data")
        context = data.DataContext.get_current()
        context.enable_progress_bars = False  # the command shows its own
        context.print_on_execution_start = False
        # The same batches as in one process, so that the vectors are the same.
        size = BATCH * math.ceil(len(todo) / BATCH / MAX_BLOCKS)
        count, resources = _workers(
            [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        )
        blocks = data.from_arrow(
            [_table(todo[start : start + size]) for start in range(0, len(todo), size)]
        )
        embedded = blocks.map_batches(
            _Worker,
            fn_constructor_args=(self._load, resources["num_cpus"], limits),
            batch_size=BATCH,
            compute=data.ActorPoolStrategy(size=min(count, math.ceil(len(todo) / size))),
            **resources,
        )
        try:
            for block in embedded.iter_batches(batch_size=None, batch_format="pyarrow"):
                yield block.to_pylist()
        except self._ray.exceptions.RayError as error:
            cause = str(error).strip().splitlines()[-1][:300]
            raise RebuildError(
                f"embedding on the Ray cluster failed: {cause}; finished embeddings are kept, and "
                "the same command continues with the rest"
            ) from error


class _Worker:
    """Embeds batches with its own model, on one machine of the cluster."""

    def __init__(self, load: Loader, cores: int, limits: ImageLimits) -> None:
        torch.set_num_threads(cores)
        self._embedder = load()
        self._prepare = Preparer(self._embedder, limits)
        self._cores = cores

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        files = [
            ImageFile(picture_at(os.fsdecode(address)), sha256, None if view < 0 else int(view))
            for address, sha256, view in zip(*(batch[name] for name in COLUMNS), strict=True)
        ]
        prepared = list(prepare_ahead(files, self._prepare, ahead=len(files), workers=self._cores))
        images, failed = embed_prepared(prepared, self._embedder)
        rows = [_row(image) for image in images]
        rows += [_row(EmbeddedImage(key, 0, 0, b"", {}), reason) for key, reason in failed.items()]
        return {name: [row[name] for row in rows] for name in rows[0]}


COLUMNS = ("address", "sha256", "view")


def _table(files: Sequence[ImageFile]) -> Any:
    columns = (
        [os.fsencode(file.picture.address) for file in files],  # bytes: not all are UTF-8
        [file.sha256 for file in files],
        [-1 if file.view is None else file.view for file in files],
    )
    return pyarrow.table(dict(zip(COLUMNS, columns, strict=True)))


def _row(image: EmbeddedImage, reason: str = "") -> dict[str, Any]:
    """Return an Arrow row of an embedded image, or of the reason for its failure."""
    facets = sorted(image.vectors)
    return {
        "key": image.key,
        "reason": reason,
        "width": image.width,
        "height": image.height,
        "thumbnail": image.thumbnail,
        "fingerprint": image.fingerprint,
        "facets": json.dumps([(facet, len(image.vectors[facet])) for facet in facets]),
        "vectors": b"".join(image.vectors[facet].astype("<f4").tobytes() for facet in facets),
    }


def _image(row: dict[str, Any]) -> EmbeddedImage:
    facets = json.loads(row["facets"])
    numbers = np.frombuffer(row["vectors"], dtype="<f4")
    ends = np.cumsum([length for _, length in facets])
    parts = np.split(numbers, ends[:-1])
    return EmbeddedImage(
        key=row["key"],
        width=row["width"],
        height=row["height"],
        thumbnail=row["thumbnail"],
        fingerprint=row["fingerprint"],
        vectors={facet: part for (facet, _), part in zip(facets, parts, strict=True)},
    )


def _workers(machines: Sequence[Mapping[str, float]]) -> tuple[int, dict[str, int]]:
    """Return the number of workers for a cluster, and the resources of each.

    A worker runs on one machine. Ray would wait for ever for a worker that needs more than any
    machine has.

    Args:
        machines: resources of each machine that Ray may use.
    """
    sizes = [(int(one.get("CPU", 0)), int(one.get("GPU", 0))) for one in machines]
    if gpus := sum(gpu for _, gpu in sizes):
        cores = min(cpu // gpu for cpu, gpu in sizes if gpu)
        return gpus, {"num_gpus": 1, "num_cpus": max(1, cores)}
    cpus = [cpu for cpu, _ in sizes if cpu] or [1]  # a head node may offer none
    group = min(CORES, min(cpus) if len(cpus) > 1 else max(1, cpus[0] // 2))
    return sum(cpu // group for cpu in cpus), {"num_cpus": group}


@lru_cache
def _library() -> Any:
    # Ray reads these once, when it is imported or started.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # else workers run at a low priority
    try:
        ray = importlib.import_module("ray")
        importlib.import_module("ray.data")
    except ImportError as error:
        raise RebuildError(
            "embedding on a Ray cluster needs the extra `ray`; in the project's folder: "
            "pip install '.[ray]'"
        ) from error
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return ray
