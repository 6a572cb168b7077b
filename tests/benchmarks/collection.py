"""A collection of tens of thousands of images rebuilt into an index, and the server on it.

    python -m tests.benchmarks.collection SHARED [--images 42000] [--few 2000] [--seconds 8]
        [--turns 5] [--work FOLDER]

SHARED holds tar shards of pictures without labels in ``pretrain/``, which are read in place, and
folders of pictures in ``eval/`` and ``eval2/`` (``../shared`` beside the repository). Three
commands run, each in a process of its own, as an operator would run them:

    train     `whence train` on the pictures of ``eval/distractors``
    few       `whence rebuild` of --few of these, each a concept of its own
    many      `whence rebuild` of all shards and both folders of distractors, each picture a concept

Then a server on each of the two indexes answers one client, in turns. Memory is the largest that a
process held resident, by the kernel, which a thread reads twice a second: that of the command, and
of each of its processes that decode, whose shared pixels are counted.

Prints JSON. Exit status 1 if the command held more than `MAIN` MiB, a worker more than `WORKER`,
or the median answer from many takes more than `SLOWER` times that from few.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks.load import run_load
from tests.benchmarks.servers import COMMAND, machine, whence_serving

MAIN, WORKER = 1536, 700  # MiB
SLOWER = 1.3
EVERY = 0.5  # seconds between two looks at the processes


@dataclass
class Peaks:
    """Largest resident memory in MiB of a process and of each of its descendants."""

    main: float = 0.0
    workers: dict[int, float] = field(default_factory=dict)  # by process id


def run(*arguments: object) -> tuple[float, Peaks]:
    """Run a command of `whence` to its end; return its seconds and its memory.

    Raises:
        RuntimeError: it failed.
    """
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *map(str, arguments)], stdout=sys.stderr
    )
    peaks, ended = Peaks(), threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, peaks, ended))
    watcher.start()
    try:
        status = process.wait()
    finally:
        ended.set()
        watcher.join()
    if status:
        raise RuntimeError(f"whence {arguments[0]} failed with status {status}")
    return time.monotonic() - began, peaks


def _watch(pid: int, peaks: Peaks, ended: threading.Event) -> None:
    while not ended.wait(EVERY):
        peaks.main = max(peaks.main, _peak(pid))
        for worker in _descendants(pid):
            peaks.workers[worker] = max(peaks.workers.get(worker, 0.0), _peak(worker))


def _peak(pid: int) -> float:
    """Return the largest resident size of a process so far in MiB; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                fields = (place / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            children.setdefault(int(fields[1]), []).append(int(place.name))
    found, waiting = [], [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def draw_few(pictures: list[Path], folder: Path, count: int) -> Path:
    """Write a manifest that names some pictures, each as a concept of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "few.jsonl"
    path.write_text(
        "".join(
            json.dumps({"path": str(one), "concept": f"{one.parent.name}/{one.stem}"}) + "\n"
            for one in pictures[:count]
        )
    )
    return path


def sources(shared: Path, count: int, work: Path) -> list[Path]:
    """Returns the sources of about ``count`` pictures: shards first, then folders of distractors.

    All shards and folders make 44,220; for fewer, shards are left out, and for less than a shard a
    manifest names some of the folders' pictures.
    """
    shards = sorted((shared / "pretrain").glob("*.tar"))
    folders = [
        shared / "eval" / "distractors" / "photos",
        shared / "eval" / "distractors" / "garments",
        shared / "eval2" / "distractors",
    ]
    own = sum(len(list(folder.glob("*.jpg"))) for folder in folders)
    if count < own:
        pictures = [path for folder in folders for path in sorted(folder.glob("*.jpg"))]
        return [draw_few(pictures, work / "some", count)]
    each = 5000
    return [*shards[: max(1, -(-(count - own) // each))], *folders]


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Train, rebuild twice, serve both; return the figures."""
    shared, few, many = options.shared, work / "few", work / "many"
    photos = sorted((shared / "eval" / "distractors").rglob("*.jpg"))
    given = ("--nice", 0, "--workers", len(os.sched_getaffinity(0)))
    listed = draw_few(photos, work, options.few)
    trained, _ = run("train", "--images", listed, "--backbone", "starter", "--data", few, *given)
    many.mkdir()
    (many / "models").symlink_to(few / "models")  # one model for both
    rebuilt = {}
    for data, found in (
        (few, [listed]),
        (many, sources(shared, options.images, work)),
    ):
        told = data / "summary.json"
        named = [part for source in found for part in ("--source", source)]
        command = ("rebuild", *named, "--each-image-a-concept", "--canary-rate", 0)
        seconds, peaks = run(*command, "--json", told, "--data", data, *given)
        summary = json.loads(told.read_text())
        rebuilt[data.name] = {
            "exemplars": summary["exemplars"],
            "embedded": summary["embedded"],
            "skipped": len(summary["skipped"]),
            "seconds": round(seconds, 1),
            "images_per_second": round(summary["embedded"] / seconds, 1),
            "peak_mib": round(peaks.main),
            "worker_peaks_mib": sorted(map(round, peaks.workers.values()), reverse=True),
        }
    queries = shared / "eval" / "distractors" / "photos"
    times: dict[str, list[float]] = {"few": [], "many": []}
    with whence_serving(few) as one, whence_serving(many) as other:
        servers = {"few": one, "many": other}
        for server in servers.values():  # warm
            run_load(server.url, queries, seconds=options.seconds, in_flight=1)
        for _ in range(options.turns):
            for name, server in servers.items():
                alone = run_load(server.url, queries, seconds=options.seconds, in_flight=1)
                times[name].append(alone["p50_ms"])
    pairs = zip(times["many"], times["few"], strict=True)
    return {
        "machine": machine(),
        "train_seconds": round(trained, 1),
        "rebuild": rebuilt,
        "one_client_p50_ms": {name: statistics.median(found) for name, found in times.items()},
        "many_to_few": round(statistics.median(a / b for a, b in pairs), 3),
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("shared", type=Path)
    parser.add_argument("--images", type=int, default=42_000)
    parser.add_argument("--few", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--work", type=Path, help="an empty folder; default: a temporary one")
    options = parser.parse_args()
    options.shared = options.shared.absolute()
    with tempfile.TemporaryDirectory() as name:
        report = measure(options, (options.work or Path(name)).absolute())
    print(json.dumps(report, indent=1))
    many = report["rebuild"]["many"]
    workers = max(many["worker_peaks_mib"], default=0)
    return int(many["peak_mib"] > MAIN or workers > WORKER or not report["many_to_few"] <= SLOWER)


if __name__ == "__main__":
    sys.exit(main())
