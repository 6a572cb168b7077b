"""kill -9 at random moments of a rebuild, each followed by a query and a resumed rebuild.

    python -m tests.benchmarks.kill_rebuild [--times 30]

Each time the source gets new images. A rebuild in a process of its own is killed at a random time;
then a running server is asked, the rebuild is run again to its end, the new version is verified and
asked for. Every image that is embedded, by the killed and by the resumed run, is counted. Prints
JSON; exit status 1 if ever the server did not answer from the old version, the resumed rebuild did
not publish, `verify` found a fault, or more than one batch was embedded twice.
"""

import argparse
import json
import multiprocessing
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from index.answering.attribution import Attributor, open_attributor
from index.building.embedding import BATCH, ImageEmbedder
from index.building.embedding_cache import EmbeddingCache
from index.building.rebuild import RebuildOptions, rebuild
from index.building.source import read_sources
from index.layout import DataFolder
from index.snapshot import published_version
from index.verify import verify
from tests.benchmarks.pictures import PER_CONCEPT, draw_pictures
from tests.fakes import FakeEmbedder

NEW = 150  # images a round


class Counted(FakeEmbedder):
    """Takes its time, and notes on disk how many images it has embedded."""

    def __init__(self, log: Path) -> None:
        self._log = log

    def embed_pixels(self, pixels: Sequence[torch.Tensor]) -> dict:
        with self._log.open("ab", buffering=0) as file:
            file.write(b"." * len(pixels))
        time.sleep(0.005 * len(pixels))
        return super().embed_pixels(pixels)


def run(data: DataFolder, source: Path, log: Path) -> None:
    """One rebuild, as the command does it."""
    torch.set_num_threads(1)
    rebuild(data, read_sources([source]), Counted(log), RebuildOptions(canary_rate=0, force=True))


def known(data: DataFolder) -> int:
    """Images and views in the cache."""
    with EmbeddingCache(data.embeddings(FakeEmbedder.model_id)) as cache:
        return int(cache._db.execute("SELECT count(*) FROM images").fetchone()[0])


def main() -> int:
    """Kill, ask, resume, and count."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=30)
    times = parser.parse_args().times
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.benchmarks.kill_rebuild"])
    generator = random.Random(0)
    outcomes: dict[str, list[object]] = {
        "answered_old": [], "published": [], "verified": [], "answered_new": [], "twice": [],
        "stage": [],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        data, source, log = DataFolder(Path(name) / "data"), Path(name) / "src", Path(name) / "log"
        draw_pictures(source, range(NEW), side=64)
        began = time.monotonic()
        run(data, source, log)
        duration = time.monotonic() - began
        app = create_app(Settings(data=data.root), load=load)
        with TestClient(app) as server:
            attempt = 0
            while len(outcomes["stage"]) < times:
                attempt += 1
                old = published_version(data.index)
                draw_pictures(source, range(attempt * NEW, (attempt + 1) * NEW), side=64)
                log.write_bytes(b"")
                before = known(data)
                worker = processes.Process(target=run, args=(data, source, log))
                worker.start()
                worker.join(generator.uniform(0, duration))
                worker.kill()  # SIGKILL
                worker.join()
                if worker.exitcode == 0:  # it had ended: no kill
                    duration *= 0.7
                    continue
                done = log.stat().st_size
                stage = "scanning" if not done else "embedding" if done < NEW else "later"
                if published_version(data.index) != old:
                    stage = "after publishing"
                elif list(data.index.glob(".building-*")):
                    stage = "writing"
                outcomes["stage"].append(stage)
                number = generator.randrange(attempt * NEW) // PER_CONCEPT * PER_CONCEPT
                picture = source / f"concept-{number // PER_CONCEPT:06d}" / f"{number:06d}.jpg"
                served = ask(server, picture)
                outcomes["answered_old"].append(stage == "after publishing" or served == old)
                again = processes.Process(target=run, args=(data, source, log))
                again.start()
                again.join()
                duration *= 1.1
                new = published_version(data.index)
                outcomes["published"].append(again.exitcode == 0 and new not in {None, old})
                outcomes["verified"].append(verify(data, sample=8, embedder=FakeEmbedder()).passed)
                outcomes["twice"].append(log.stat().st_size - (known(data) - before))
                deadline = time.monotonic() + 10
                while (served := ask(server, picture)) != new and time.monotonic() < deadline:
                    time.sleep(0.05)
                outcomes["answered_new"].append(served == new)
                print(f"{len(outcomes['stage'])}: {stage}", file=sys.stderr)
        left_over = [path.name for path in data.index.glob(".building-*")]
    result = {
        "machine": f"{platform.node()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "kills": times,
        **{key: f"{sum(map(bool, outcomes[key]))} of {times}" for key in
           ("answered_old", "published", "verified", "answered_new")},
        "embedded_twice_at_most": max(outcomes["twice"]),  # type: ignore[type-var]
        "batch": BATCH,
        "killed_while": {stage: outcomes["stage"].count(stage) for stage in set(outcomes["stage"])},
        "left_behind": left_over,
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    whole = all(
        all(outcomes[key]) for key in ("answered_old", "published", "verified", "answered_new")
    )
    return int(not whole or result["embedded_twice_at_most"] > BATCH or bool(left_over))


def load(settings: Settings, embedder: ImageEmbedder | None) -> Attributor:
    """As the server loads, with the fake model."""
    return open_attributor(DataFolder(settings.data), embedder=embedder or FakeEmbedder())


def ask(server: TestClient, picture: Path) -> str:
    """The version that an answer came from."""
    response = server.post("/attribute", files={"image": picture.read_bytes()})
    assert response.status_code == 200, response.text
    version: str = response.json()["evidence"]["index_version"]
    return version


if __name__ == "__main__":
    sys.exit(main())
