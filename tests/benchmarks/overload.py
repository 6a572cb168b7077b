"""Ten times more requests than a server can answer, then a soak at what it can.

    python -m tests.benchmarks.overload [--seconds 60] [--soak-minutes 0] [--backbone NAME]

Finds the rate at which `whence serve` is saturated, then sends at Poisson times: 80% of it, ten
times of it for ``--seconds``, 80% again at once after; then, for ``--soak-minutes``, 80%. Prints
JSON. Exit status 1 if an answer was neither 200 nor 429, accepted requests' p99 grew more than
threefold, refusals were slow, memory grew, or recovery took more than five seconds.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.load import run_load
from tests.benchmarks.servers import Server, machine, whence_serving
from tests.benchmarks.serving import IN_FLIGHT, prepare

TAIL, GROWTH, RECOVERY = 3.0, 1.1, 5.0  # ratio of p99, ratio of memory, seconds
TIMES = 10


class Watch:
    """Samples a server's memory and open files once a second."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.samples: list[tuple[float, int, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(1):
            server = self.server
            self.samples.append((time.monotonic(), server.own_memory(), server.open_files()))

    def report(self) -> dict[str, Any]:
        """Memory in MiB: at first, at most and at last; and how fast it grows by a line's slope."""
        at, memory, files = (np.array(values) for values in zip(*self.samples, strict=True))
        mib = memory / 2**20
        return {
            "memory_mib": [round(float(v), 1) for v in (mib[0], mib.max(), mib[-1])],
            "mib_an_hour": round(3600 * float(np.polyfit(at - at[0], mib, 1)[0]), 1),
            "open_files": [int(v) for v in (files[0], files.max(), files[-1])],
        }


def recovery_seconds(server: Server, queries: Path, rate: float, p99: float) -> float:
    """Until a second's worth of requests is answered as before the flood, again."""
    began = time.monotonic()
    while time.monotonic() - began < 60:
        second = run_load(server.url, queries, rate=rate, seconds=1)
        if set(second["statuses"]) == {"200"} and second["p99_ms"] <= TAIL * p99:
            return time.monotonic() - began - 1
    return time.monotonic() - began


def measure(server: Server, queries: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Calm, flood, recovery, soak."""
    run_load(server.url, queries, in_flight=IN_FLIGHT, seconds=5)
    saturated = run_load(server.url, queries, in_flight=IN_FLIGHT, seconds=15)
    rate = saturated["answered_per_second"]
    calm = run_load(server.url, queries, rate=0.8 * rate, seconds=options.seconds)
    with Watch(server) as flooded:
        flood = run_load(server.url, queries, rate=TIMES * rate, seconds=options.seconds)
    recovery = recovery_seconds(server, queries, 0.8 * rate, calm["p99_ms"])
    after = run_load(server.url, queries, rate=0.8 * rate, seconds=options.seconds)
    report = {
        "machine": machine(),
        "sustainable_per_second": rate,
        "at_80_percent": calm,
        "flood": {**flood, **flooded.report()},
        "p99_ratio": round(flood["p99_ms"] / calm["p99_ms"], 2),
        "recovery_seconds": round(recovery, 1),
        "after": after,
    }
    if options.soak_minutes:
        with Watch(server) as soaked:
            minutes = [
                run_load(server.url, queries, rate=0.8 * rate, seconds=60)
                for _ in range(options.soak_minutes)
            ]
        report["soak"] = {
            "minutes": options.soak_minutes,
            "requests": sum(minute["requests"] for minute in minutes),
            "statuses": sorted({status for minute in minutes for status in minute["statuses"]}),
            "p99_ms_by_minute": [minute["p99_ms"] for minute in minutes],
            **soaked.report(),
        }
    return report


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backbone", default="mobilenetv2_100")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--images", type=Path, help="queries; by default drawn ones")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--soak-minutes", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        data, queries = prepare(Path(name), options)
        with whence_serving(data.root) as server:
            report = measure(server, queries, options)
    print(json.dumps(report, indent=1))
    flood, soak = report["flood"], report.get("soak")
    first, most, _ = flood["memory_mib"]
    return int(
        not set(flood["statuses"]) <= {"200", "429"}
        or set(report["after"]["statuses"]) != {"200"}
        or report["p99_ratio"] > TAIL
        or flood["refused_p50_ms"] > report["at_80_percent"]["p50_ms"]
        or most > GROWTH * first
        or report["recovery_seconds"] > RECOVERY
        or (soak is not None and soak["statuses"] != ["200"])
    )


if __name__ == "__main__":
    sys.exit(main())
