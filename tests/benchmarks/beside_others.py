"""The service beside other work on its machine, and a plain handler beside the same.

    python -m tests.benchmarks.beside_others [--gallery FOLDER] [--seconds 4] [--turns 3]

One client asks `whence serve` and `tests.benchmarks.plain_handler` in turns, beside

    calm      nothing
    busy      two processes that compute at normal priority
    niced     the same at niceness 10
    rebuild   `whence rebuild` of 2,000 new images into the same data folder, to its end

and `whence serve` is started calm and busy. Prints JSON: median milliseconds of each and their
ratios, with what was missed of the following, and then exit status 1: every answer is 200; p50 is
at most 3.5 times (busy), 1.6 times (niced) and twice (rebuild) the calm p50, and in each at most
1.3 times the plain handler's; ready within three times the calm time.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.benchmarks.gallery import Gallery, add_gallery_options, draw_exemplars, gallery_of
from tests.benchmarks.load import run_load
from tests.benchmarks.servers import COMMAND, Server, machine, serving, whence_serving

AIMS = {"busy": 3.5, "niced": 1.6, "rebuild": 2.0}
OVER_PLAIN, READY = 1.3, 3.0
BUSY, NEW = 2, 2000
STARTS = 2


@contextmanager
def computing(niceness: int) -> Iterator[None]:
    """Processes that compute without end."""
    command = ["nice", "-n", str(niceness), sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(command) for _ in range(BUSY)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def ask_in_turns(
    servers: dict[str, Server], queries: Path, seconds: float, go_on: Callable[[int], bool]
) -> dict[str, dict[str, Any]]:
    """One client's median milliseconds and the statuses of each server, while ``go_on``."""
    medians: dict[str, list[float]] = {name: [] for name in servers}
    statuses: dict[str, set[str]] = {name: set() for name in servers}
    turn = 0
    while go_on(turn):
        for name, server in servers.items():
            report = run_load(server.url, queries, in_flight=1, seconds=seconds)
            medians[name].append(report["p50_ms"])
            statuses[name].update(report["statuses"])
        turn += 1
    found: dict[str, dict[str, Any]] = {
        name: {
            "p50_ms": round(statistics.median(values), 1),
            "turns": values,
            "statuses": sorted(statuses[name]),
        }
        for name, values in medians.items()
    }
    print(json.dumps(found), file=sys.stderr, flush=True)  # in case that what follows fails
    return found


def seconds_to_ready(data: Path) -> float:
    """Median seconds from the start of the process until it is ready."""
    taken = []
    for _ in range(STARTS):
        began = time.monotonic()
        with whence_serving(data):
            taken.append(time.monotonic() - began)
    return round(statistics.median(taken), 2)


def measure(gallery: Gallery, data: Path, new: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Each condition in turn."""
    found: dict[str, Any] = {"machine": machine()}
    with ExitStack() as running:
        servers = {
            "whence": running.enter_context(whence_serving(data)),
            "plain": running.enter_context(
                serving("-m", "tests.benchmarks.plain_handler", str(gallery.plain))
            ),
        }

        def ask(go_on: Callable[[int], bool]) -> dict[str, dict[str, Any]]:
            return ask_in_turns(servers, gallery.queries, options.seconds, go_on)

        ask(lambda turn: turn < 1)  # warm
        found["calm"] = ask(lambda turn: turn < options.turns)
        for name, niceness in (("busy", 0), ("niced", 10)):
            with computing(niceness):
                found[name] = ask(lambda turn: turn < options.turns)
        command = [sys.executable, "-c", COMMAND, "rebuild", "--data", str(data)]
        command += ["--source", str(gallery.source), "--source", str(new), "--canary-rate", "0"]
        began = time.monotonic()
        until = began + options.rebuild_seconds
        quiet = subprocess.DEVNULL
        with subprocess.Popen(command, stdout=quiet, stderr=quiet) as rebuild:
            found["rebuild"] = ask(lambda turn: rebuild.poll() is None and time.monotonic() < until)
            found["rebuild_ended"] = rebuild.poll() is not None
            rebuild.terminate()
        if found["rebuild_ended"] and rebuild.returncode:
            raise RuntimeError(f"{command} ended with status {rebuild.returncode}")
        found["rebuild_seconds"] = round(time.monotonic() - began, 1)
    found["ready_seconds"] = seconds_to_ready(data)
    with computing(0):
        found["ready_seconds_busy"] = seconds_to_ready(data)
    for name in AIMS:
        calm, beside = found["calm"], found[name]
        found[f"{name}_to_calm"] = {
            server: round(beside[server]["p50_ms"] / calm[server]["p50_ms"], 2) for server in calm
        }
        found[f"{name}_to_plain"] = round(beside["whence"]["p50_ms"] / beside["plain"]["p50_ms"], 2)
    found["ready_to_calm"] = round(found["ready_seconds_busy"] / found["ready_seconds"], 2)
    return found


def missed(found: dict[str, Any]) -> list[str]:
    """What was asked for and is not so."""
    faults = [
        f"{name}: answered otherwise than 200"
        for name in ("calm", *AIMS)
        if found[name]["whence"]["statuses"] != ["200"]
    ]
    for name, aim in AIMS.items():
        if found[f"{name}_to_calm"]["whence"] > aim:
            faults.append(f"{name}: p50 over {aim} times the calm one")
        if found[f"{name}_to_plain"] > OVER_PLAIN:
            faults.append(f"{name}: p50 over {OVER_PLAIN} times the plain handler's")
    if found["ready_to_calm"] > READY:
        faults.append(f"ready after {READY} times the calm time")
    return faults


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    add_gallery_options(parser)
    parser.add_argument("--seconds", type=float, default=4, help="of a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--new", type=Path, help="new images, from `draw_exemplars`")
    parser.add_argument(
        "--rebuild-seconds", type=float, default=3600, help="of the rebuild that are measured"
    )
    options = parser.parse_args()
    with gallery_of(options) as gallery, tempfile.TemporaryDirectory() as name:
        data, new = Path(name) / "data", options.new or Path(name) / "new"
        shutil.copytree(gallery.data.root, data)
        if not new.exists():
            draw_exemplars(new, NEW, first=1_000_000, prefix="new")
        found = measure(gallery, data, new, options)
    faults = missed(found)
    print(json.dumps({**found, "missed": faults}, indent=1))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
