"""Honest clients beside an attack, in a process of their own.

The process that attacks is busy making its requests; times taken in it would count its own waits.
"""

import contextlib
import itertools
import math
import multiprocessing
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import httpx

PATIENCE = 60.0  # seconds for an answer


@dataclass
class Asked:
    """Seconds until each answer, and descriptions of the failures."""

    seconds: list[float] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def report(self) -> dict[str, Any]:
        """Return counts, and times in milliseconds."""
        return {
            "requests": len(self.seconds),
            "failed": len(self.failures),
            "first_failures": self.failures[:5],
            "p50_ms": round(1000 * quantile(self.seconds, 0.5), 1),
            "p99_ms": round(1000 * quantile(self.seconds, 0.99), 1),
            "longest_ms": round(1000 * quantile(self.seconds, 1), 1),
            "health_asked": len(self.health),
            "health_longest_ms": round(1000 * quantile(self.health, 1), 1),
        }


def quantile(values: list[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of the values do not exceed.

    Infinity if there are no values: no request was answered.
    """
    ranked = sorted(values) or [math.inf]
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


@contextlib.contextmanager
def honest_clients(url: str, key: str, images: list[bytes]) -> Iterator[Asked]:
    """Ask for images and for health while the block runs; what came back is there at its end."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=ask_until_told, args=(url, key, images, theirs), daemon=True)
    process.start()
    theirs.close()  # if the process dies, recv() raises EOFError
    asked = Asked()
    try:
        ours.recv()  # the process has started
        yield asked
    finally:
        ours.send("stop")
        asked.seconds, asked.health, asked.failures = ours.recv()
        process.join()


def ask_until_told(url: str, key: str, images: list[bytes], pipe: Connection) -> None:
    """Ask for an image twice a second and for health four times, until something is received."""
    asked, stop = Asked(), threading.Event()

    def ask(method: str, path: str, every: float, into: list[float], **options: Any) -> None:
        with httpx.Client(timeout=PATIENCE, trust_env=False) as client:
            for number in itertools.count():
                if method == "POST":
                    options["files"] = {"image": images[number % len(images)]}
                began = time.perf_counter()
                try:
                    status = client.request(method, url + path, **options).status_code
                    fault = "" if status == 200 else f"{path}: {status}"
                except httpx.HTTPError as error:
                    fault = f"{path}: {type(error).__name__}"
                if fault:
                    asked.failures.append(fault)
                else:
                    into.append(time.perf_counter() - began)
                if stop.wait(every):
                    return

    bearer = {"Authorization": f"Bearer {key}"}
    threads = [
        threading.Thread(
            target=ask, args=("POST", "/attribute", 0.5, asked.seconds), kwargs={"headers": bearer}
        ),
        threading.Thread(target=ask, args=("GET", "/health/live", 0.25, asked.health)),
    ]
    for thread in threads:
        thread.start()
    pipe.send("started")
    pipe.recv()
    stop.set()
    for thread in threads:
        thread.join()
    pipe.send((asked.seconds, asked.health, asked.failures))
