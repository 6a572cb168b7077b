"""Flood nginx before a server, with deploy/nginx/nginx.conf, and look at every answer.

    python -m tests.benchmarks.proxy_flood [--gallery FOLDER] [--seconds 20] [--times 10]

Requests come at Poisson times, ``--times`` as many as the server answers: for ``--seconds`` from
one address, for as long from 64, and then from 64 while the server starts, stops, starts, is
killed, and starts again. Two bodies that are too large are sent a second, all the time. Prints
JSON, with what was missed of the following, and then exit status 1: no connection broke; every
answer is 200, or 429 or 503 as problem+json with Retry-After, or to a large body 413 as
problem+json; each flood had some of both, and the restarts some of 200, 429 and 503.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.benchmarks.gallery import add_gallery_options, gallery_of
from tests.benchmarks.load import run_load
from tests.benchmarks.servers import machine, whence_serving
from tests.benchmarks.serving import IN_FLIGHT
from tests.ports import free_port
from tests.proxy import proxy

ADDRESSES = 64
LARGE_BYTES, LARGE_SECONDS = 22 * 2**20, 0.5
PROBLEM = "application/problem+json"
Report = dict[str, Any]


@contextmanager
def sending_large_bodies(url: str) -> Iterator[Counter[str]]:
    """Send bodies that are too large until the block ends; count the answers by status and type."""
    answers: Counter[str] = Counter()
    ended = threading.Event()

    def send() -> None:
        body = bytes(LARGE_BYTES)
        while not ended.wait(LARGE_SECONDS):
            try:
                answer = httpx.post(f"{url}/attribute", content=body, timeout=60)
                answers[f"{answer.status_code} {answer.headers['content-type']}"] += 1
            except httpx.TransportError as error:
                answers[type(error).__name__] += 1

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield answers
    finally:
        ended.set()
        thread.join()


def flood_over_restarts(
    data: Path, port: int, flood: Callable[[], Report], seconds: float
) -> Report:
    """Flood without a pause while a server starts, stops, starts, is killed, and starts again.

    Args:
        data: the server's data folder.
        port: where the proxy expects it.
        flood: sends for some seconds and returns what came back.
        seconds: how long each server is left running.
    """
    ended = threading.Event()

    def send() -> list[Report]:
        reports = []
        while not ended.is_set():
            reports.append(flood())
        return reports

    with ThreadPoolExecutor() as pool:
        sent = pool.submit(send)
        try:
            for sign in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
                with whence_serving(data, port) as server:
                    time.sleep(seconds)
                    os.kill(server.pid, sign)
        finally:
            ended.set()
        reports = sent.result()
    statuses: Counter[str] = Counter()
    for report in reports:
        statuses.update(report["statuses"])
    counts = ("requests", "seconds", "refused_without_retry_after", "refused_without_problem")
    total = {name: round(sum(report[name] for report in reports), 2) for name in counts}
    return {**total, "statuses": dict(statuses)}


def measure(data: Path, queries: Path, options: argparse.Namespace) -> Report:
    """Flood from one address, from many, and over restarts."""
    port = free_port()
    with tempfile.TemporaryDirectory() as name, proxy(Path(name), f"127.0.0.1:{port}") as (url, _):
        with whence_serving(data, port) as server:
            run_load(server.url, queries, in_flight=IN_FLIGHT, seconds=5)
            saturated = run_load(server.url, queries, in_flight=IN_FLIGHT, seconds=10)
            rate = saturated["answered_per_second"]

            def flood(addresses: int, seconds: float = options.seconds) -> Report:
                return run_load(
                    url,
                    queries,
                    rate=options.times * rate,
                    seconds=seconds,
                    processes=options.processes,
                    addresses=addresses,
                )

            with sending_large_bodies(url) as large:
                floods = {"one_address": flood(1), "many_addresses": flood(ADDRESSES)}
        with sending_large_bodies(url) as large_over_restarts:
            floods["restarts"] = flood_over_restarts(
                data, port, lambda: flood(ADDRESSES, seconds=5), options.seconds
            )
    return {
        "machine": machine(),
        "answered_per_second": rate,
        "large_bodies": dict(large + large_over_restarts),
        **floods,
    }


def missed(report: Report) -> list[str]:
    """Return the aims that were missed."""
    floods = {name: report[name] for name in ("one_address", "many_addresses", "restarts")}
    faults = {
        "large bodies were not all refused": report["large_bodies"].keys() != {f"413 {PROBLEM}"}
    }
    for name, flood in floods.items():
        statuses = set(flood["statuses"])
        wanted = {"200", "429"} | ({"503"} if name == "restarts" else set())
        faults |= {
            f"{name}: no flood, or no answer": not wanted <= statuses,
            f"{name}: other answers than 200, 429 and 503": not statuses <= {"200", "429", "503"},
            f"{name}: no Retry-After": flood["refused_without_retry_after"] > 0,
            f"{name}: no problem": flood["refused_without_problem"] > 0,
        }
    return [fault for fault, true in faults.items() if true]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    add_gallery_options(parser)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--times", type=float, default=10, help="of the rate that is answered")
    parser.add_argument("--processes", type=int, default=2, help="of the client")
    options = parser.parse_args()
    with gallery_of(options) as gallery:
        report = measure(gallery.data.root, gallery.queries, options)
    faults = missed(report)
    print(json.dumps({**report, "missed": faults}, indent=1))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
