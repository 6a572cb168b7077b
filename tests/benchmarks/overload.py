"""Ten times more requests than a server can answer, then a soak at what it can.

    python -m tests.benchmarks.overload [--gallery FOLDER] [--seconds 60] [--soak-minutes 0]

Finds the rate at which `whence serve` is saturated, then sends at Poisson times: 80% of it, ten
times of it for ``--seconds``, 80% again at once after; then, for ``--soak-minutes``, 80% from one
client. Prints JSON, with what was missed of the following, and then exit status 1: the client sent
at 90% or more of the rates wanted; every answer is 200, or a problem with Retry-After, 429 or 503,
the latter two, but in the flood, to one in a hundred at most; accepted requests' p99 grows
threefold at most; refusals take a second at most, at p99; memory stays flat; it answers as before
within five seconds of the flood's last request. In the soak, after its first sixth: memory grows
by 20 MiB an hour at most, open files do not, and the last third's p99 is at most 1.5 times the
first's.
"""

import argparse
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.gallery import add_gallery_options, gallery_of
from tests.benchmarks.load import reached, run_load
from tests.benchmarks.servers import Server, machine, whence_serving
from tests.benchmarks.serving import IN_FLIGHT

TIMES = 10
TAIL, GROWTH, RECOVERY = 3.0, 1.1, 5.0  # ratio of p99, ratio of memory, seconds
REFUSAL_MS = 1000.0
ANSWERED = 0.99  # of what comes at Poisson times, whose bursts may fill the queue at any load
WARM, SLOPE, FILES, DRIFT = 1 / 6, 20.0, 4, 1.5  # share, MiB an hour, files, ratio of p99


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

    def report(self, warm: float = 0.0) -> dict[str, Any]:
        """Memory in MiB and open files, after the share ``warm`` of the samples."""
        samples = self.samples[int(warm * len(self.samples)) :]
        at, memory, files = (np.array(values) for values in zip(*samples, strict=True))
        mib = memory / 2**20
        third = max(1, len(files) // 3)
        return {
            "memory_mib": [round(float(v), 1) for v in (mib[0], mib.max(), mib[-1])],
            "mib_an_hour": round(3600 * float(np.polyfit(at - at[0], mib, 1)[0]), 1),
            "open_files": [float(np.median(part)) for part in (files[:third], files[-third:])],
            "most_open_files": int(files.max()),
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
    saturated = run_load(server.url, queries, in_flight=IN_FLIGHT, seconds=min(15, options.seconds))
    rate = saturated["answered_per_second"]
    calm = run_load(server.url, queries, rate=0.8 * rate, seconds=options.seconds)
    with Watch(server) as flooded:
        flood = run_load(
            server.url,
            queries,
            rate=TIMES * rate,
            seconds=options.seconds,
            processes=options.processes,
        )
    recovery = flood["drain_seconds"] + recovery_seconds(
        server, queries, 0.8 * rate, calm["p99_ms"]
    )
    after = run_load(server.url, queries, rate=0.8 * rate, seconds=options.seconds)
    report = {
        "machine": machine(),
        "sustainable_per_second": rate,
        "at_80_percent": calm,
        "flood": {**flood, **flooded.report()},
        "p99_ratio": round((flood["p99_ms"] or float("inf")) / calm["p99_ms"], 2),
        "recovery_seconds": round(recovery, 1),
        "after": after,
    }
    if options.soak_minutes:
        with Watch(server) as soaked:
            soak = run_load(
                server.url,
                queries,
                rate=0.8 * rate,
                seconds=60 * options.soak_minutes,
                parts=options.soak_minutes,
            )
        report["soak"] = {**soak, **soaked.report(WARM)}
    return report


def well_answered(report: dict[str, Any]) -> bool:
    """Whether nearly all were answered, and the others refused properly."""
    statuses = report["statuses"]
    return well_refused(report) and statuses["200"] >= ANSWERED * sum(statuses.values())


def well_refused(report: dict[str, Any]) -> bool:
    """Return whether some were answered, and all others refused by a problem with Retry-After."""
    statuses = set(report["statuses"])
    return (
        "200" in statuses
        and statuses <= {"200", "429", "503"}
        and not report["refused_without_retry_after"]
        and not report["refused_without_problem"]
    )


def missed(report: dict[str, Any]) -> list[str]:
    """What was asked for and is not so."""
    calm, flood, after = report["at_80_percent"], report["flood"], report["after"]
    soak = report.get("soak")
    first, most, _ = flood["memory_mib"]
    refused = flood["refused_p99_ms"]
    faults = {
        "the client was too slow: use more --processes": not all(
            map(reached, filter(None, (calm, flood, after, soak)))
        ),
        f"at 80% under {ANSWERED:.0%} were answered, or not refused properly": not all(
            map(well_answered, (calm, after))
        ),
        "the flood was not refused with 429 or 503 and Retry-After": not well_refused(flood),
        f"p99 in the flood over {TAIL} times": report["p99_ratio"] > TAIL,
        f"p99 of refusals over {REFUSAL_MS} ms": refused is None or refused > REFUSAL_MS,
        f"memory in the flood over {GROWTH} times": most > GROWTH * first,
        f"recovery over {RECOVERY} s": report["recovery_seconds"] > RECOVERY,
    }
    if soak:
        files, thirds = soak["open_files"], soak["p99_ms_by_third"]
        faults |= {
            f"in the soak fewer than {ANSWERED:.0%} were answered": not well_answered(soak),
            f"memory grew by over {SLOPE} MiB an hour": soak["mib_an_hour"] > SLOPE,
            "open files grew": files[-1] > files[0] + FILES,
            f"p99 of the last third over {DRIFT} times": None in thirds
            or thirds[-1] > DRIFT * thirds[0],
        }
    return [fault for fault, true in faults.items() if true]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    add_gallery_options(parser)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--processes", type=int, default=2, help="of the client in the flood")
    parser.add_argument("--soak-minutes", type=int, default=0)
    options = parser.parse_args()
    with gallery_of(options) as gallery, whence_serving(gallery.data.root) as server:
        report = measure(server, gallery.queries, options)
    faults = missed(report)
    print(json.dumps({**report, "missed": faults}, indent=1))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
