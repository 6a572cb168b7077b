"""A real server under steady load while its index is swapped and works are taken down.

    python -m tests.benchmarks.swap_under_load [--in-flight 24] [--seconds 20] [--swaps 20]

Starts `whence serve` in a process of its own on three versions of an index and keeps requests in
flight: first alone, then during swaps (`CURRENT` replaced, the server notices) and takedowns, half
of them over HTTP, half by the log that the command writes, half while a version is being opened,
half between two. Prints JSON; exit status 1 if a request
failed, an answer mixed versions, a takedown took a second, p99 grew more than threefold or memory
did not come back.
"""

import argparse
import asyncio
import itertools
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from app.auth.keys import KeyFile
from index.building.rebuild import RebuildOptions, rebuild
from index.building.source import read_sources
from index.layout import DataFolder
from index.snapshot import publish
from index.takedowns.withdrawal import withdraw
from model.checkpoint import load_embedder
from tests.benchmarks.pictures import PER_CONCEPT, draw_pictures, save_small_model
from tests.benchmarks.servers import Server, whence_serving

EFFECTIVE, TAIL, MEMORY = 1.0, 3.0, 1.1
NOTICED = 0.3  # seconds after which the server is opening what was published


@dataclass
class Asked:
    """One request."""

    phase: str
    seconds: float
    failure: str | None
    version: str | None
    concepts: frozenset[str]


def build(data: DataFolder, root: Path, concepts: int) -> dict[str, set[str]]:
    """Three versions; concept ``n`` of the last 30 is only in version ``n % 3``."""
    embedder = load_embedder(data.models, save_small_model(data.models))
    versions = {}
    for which in range(3):
        source = root / f"source-{which}"
        numbers = [n for n in range(concepts) if n < concepts - 30 or n % 3 == which]
        for n in numbers:
            draw_pictures(source, range(n * PER_CONCEPT, (n + 1) * PER_CONCEPT), side=96)
        summary = rebuild(data, read_sources([source]), embedder, RebuildOptions(canary_rate=0))
        versions[summary.version] = {f"concept-{n:06d}" for n in numbers}
    return versions


async def keep_asking(
    client: httpx.AsyncClient, pictures: list[bytes], state: dict[str, str], asked: list[Asked]
) -> None:
    """One request after the other until the phase is ``stop``."""
    for picture in itertools.cycle(pictures):
        phase, began = state["phase"], time.perf_counter()
        if phase == "stop":
            return
        try:
            response = await client.post("/attribute?top_k=50", files={"image": picture})
            seconds = time.perf_counter() - began
            body: dict[str, Any] = response.json()
            if response.status_code != 200:
                asked.append(Asked(phase, seconds, json.dumps(body), None, frozenset()))
                continue
            found = frozenset(concept["id"] for concept in body["concepts"])
            version = body["evidence"]["index_version"]
            asked.append(Asked(phase, seconds, None, version, found))
        except httpx.HTTPError as error:
            asked.append(Asked(phase, time.perf_counter() - began, repr(error), None, frozenset()))


async def until(condition: Any, seconds: float = 30) -> float:
    """How long it took."""
    began = time.perf_counter()
    while not await condition():
        if time.perf_counter() - began > seconds:
            raise TimeoutError
        await asyncio.sleep(0.01)
    return time.perf_counter() - began


async def measure(
    server: Server, key: str, data: DataFolder, versions: dict[str, set[str]], options: Any
) -> dict[str, Any]:
    """Load, swaps and takedowns."""
    pictures = [path.read_bytes() for path in sorted(data.root.parent.glob("source-0/*/*"))[::97]]
    asked: list[Asked] = []
    takedowns: dict[str, list[float]] = {"while opening": [], "between": []}
    limits = httpx.Limits(max_connections=options.in_flight + 4)
    headers = {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(
        base_url=server.url, headers=headers, timeout=60, limits=limits
    ) as client:
        state = {"phase": "warm"}
        workers = [
            asyncio.create_task(keep_asking(client, pictures[i:] + pictures[:i], state, asked))
            for i in range(options.in_flight)
        ]
        await asyncio.sleep(3)
        state["phase"] = "calm"
        await asyncio.sleep(options.seconds)
        before = server.own_memory()
        state["phase"] = "swaps"
        served = itertools.cycle(versions)
        every = max(1, options.swaps // 5)
        swaps: list[float] = []
        for number in range(options.swaps):
            version = next(served)
            publish(data.index, version)

            async def swapped(wanted: str = version) -> bool:
                response = await client.get("/health/ready")
                return bool(response.json()["index_version"] == wanted)

            opening = asyncio.create_task(until(swapped))
            place, number_of_both = number % every, 2 * (number // every)
            if place == 0:
                await asyncio.sleep(NOTICED)
                takedowns["while opening"].append(await take_down(client, data, number_of_both))
            swaps.append(await opening)
            if place == every - 1:
                takedowns["between"].append(await take_down(client, data, number_of_both + 1))
        state["phase"] = "after"
        await asyncio.sleep(3)
        state["phase"] = "stop"
        await asyncio.gather(*workers)
        after = server.own_memory()
    gone = {f"concept-{n:06d}" for n in range(sum(map(len, takedowns.values())))}
    mixed = [a for a in asked if a.version and not a.concepts <= versions[a.version]]
    shown = [a for a in asked if a.phase == "after" and a.concepts & gone]
    seconds = {p: [a.seconds for a in asked if a.phase == p] for p in ("calm", "swaps")}
    p99 = {phase: float(np.quantile(values, 0.99)) for phase, values in seconds.items()}
    return {
        "machine": f"{platform.node()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "in_flight": options.in_flight,
        "requests": {phase: len(values) for phase, values in seconds.items()},
        "failed": sum(bool(a.failure) for a in asked),
        "first_failure": next((a.failure for a in asked if a.failure), None),
        "answers_of_two_versions": len(mixed),
        "versions_answered_from": len({a.version for a in asked if a.version}),
        "swaps": len(swaps),
        "slowest_swap_seconds": round(max(swaps), 2),
        "takedowns_seconds": {
            when: [round(value, 3) for value in each] for when, each in takedowns.items()
        },
        "answers_with_what_was_taken_down": len(shown),
        "p50_ms": {p: round(1000 * float(np.median(v)), 1) for p, v in seconds.items()},
        "p99_ms": {phase: round(1000 * value, 1) for phase, value in p99.items()},
        "p99_ratio": round(p99["swaps"] / p99["calm"], 2),
        "own_memory_mib": [round(before / 2**20, 1), round(after / 2**20, 1)],
    }


async def take_down(client: httpx.AsyncClient, data: DataFolder, number: int) -> float:
    """Seconds from recording a takedown until the server shows the concept no more."""
    concept = f"concept-{number:06d}"

    async def gone() -> bool:
        return (await client.get(f"/concepts/{concept}")).status_code == 404

    began = time.perf_counter()
    if number // 2 % 2:
        headers = {"X-Whence-Reason": "benchmark"}
        response = await client.delete(f"/concepts/{concept}", headers=headers)
        response.raise_for_status()
    else:
        withdraw(data, "concept", concept, reason="benchmark")
    await until(gone)
    return time.perf_counter() - began


def main() -> int:
    """Build, serve, measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--in-flight", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--concepts", type=int, default=150)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        data = DataFolder(Path(name) / "data")
        versions = build(data, Path(name), options.concepts)
        key = KeyFile(data.keys).add("benchmark", scope="admin")
        with whence_serving(data.root, WHENCE_LOG_LEVEL="warning") as server:
            result = asyncio.run(measure(server, key, data, versions, options))
    print(json.dumps(result, indent=1))
    before, after = result["own_memory_mib"]
    return int(
        result["failed"]
        or result["answers_of_two_versions"]
        or result["answers_with_what_was_taken_down"]
        or max(map(max, result["takedowns_seconds"].values())) >= EFFECTIVE
        or result["p99_ratio"] > TAIL
        or after > MEMORY * before
    )


if __name__ == "__main__":
    sys.exit(main())
