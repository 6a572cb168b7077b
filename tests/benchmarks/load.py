"""A light client in a process of its own: so many requests in flight, or so many a second.

    python -m tests.benchmarks.load URL IMAGES [--in-flight 16 | --rate 40] [--seconds 10]

Sends the files of the folder IMAGES in turn as ``POST /attribute`` over connections that are kept.
In the open loop requests are sent at Poisson times whatever becomes of those before, as crowds do,
so that waiting shows. Prints JSON: requests a second, latencies of answers and of refusals.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

BOUNDARY = b"whence-benchmark"


@dataclass
class Tally:
    """What became of the requests: milliseconds by status; 0 is a connection that broke."""

    latencies: dict[int, list[float]] = field(default_factory=dict)

    def add(self, status: int, began: float) -> None:
        """Count one."""
        self.latencies.setdefault(status, []).append(1000 * (time.perf_counter() - began))

    def report(self, seconds: float) -> dict[str, Any]:
        """In numbers."""
        answered = sorted(self.latencies.get(200, []))
        refused = sorted(self.latencies.get(429, []))
        return {
            "requests": sum(map(len, self.latencies.values())),
            "statuses": {str(s): len(found) for s, found in sorted(self.latencies.items())},
            "answered_per_second": round(len(answered) / seconds, 2),
            "p50_ms": quantile(answered, 0.5),
            "p99_ms": quantile(answered, 0.99),
            "refused_p50_ms": quantile(refused, 0.5),
            "refused_p99_ms": quantile(refused, 0.99),
        }


def quantile(values: list[float], share: float) -> float | None:
    """Of sorted values; None where there are none."""
    return round(values[min(len(values) - 1, int(share * len(values)))], 2) if values else None


def request_bytes(url: str, image: bytes) -> bytes:
    """A whole HTTP request."""
    parts = urlsplit(url)
    body = (
        b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="image"; filename="i.jpg"'
        b"\r\nContent-Type: image/jpeg\r\n\r\n" + image + b"\r\n--" + BOUNDARY + b"--\r\n"
    )
    head = (
        f"POST {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Content-Type: multipart/form-data; boundary={BOUNDARY.decode()}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Connections:
    """Connections that are kept and used again."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.address = parts.hostname, parts.port
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, request: bytes, tally: Tally) -> None:
        """Send one request and count what comes back."""
        began = time.perf_counter()
        try:
            connection = (
                self.idle.pop() if self.idle else await asyncio.open_connection(*self.address)
            )
            reader, writer = connection
            writer.write(request)
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            lower = head.lower()
            length = int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            tally.add(0, began)
            return
        tally.add(int(head[9:12]), began)
        if b"connection: close" in lower:
            writer.close()
        else:
            self.idle.append(connection)


async def closed_loop(url: str, requests: list[bytes], in_flight: int, seconds: float) -> Tally:
    """Each of ``in_flight`` clients sends when it has its answer."""
    tally, connections = Tally(), Connections(url)
    until = time.perf_counter() + seconds

    async def client(number: int) -> None:
        while time.perf_counter() < until:
            await connections.ask(requests[number % len(requests)], tally)
            number += in_flight

    await asyncio.gather(*map(client, range(in_flight)))
    return tally


async def open_loop(url: str, requests: list[bytes], rate: float, seconds: float) -> Tally:
    """Requests come at Poisson times."""
    tally, connections = Tally(), Connections(url)
    chance = random.Random(0)
    tasks: set[asyncio.Task[None]] = set()
    began = due = time.perf_counter()
    number = 0
    while due - began < seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        task = asyncio.create_task(connections.ask(requests[number % len(requests)], tally))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due += chance.expovariate(rate)
        number += 1
    await asyncio.gather(*tasks)
    return tally


def run_load(url: str, images: Path, **options: float) -> dict[str, Any]:
    """This program in a process of its own."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "tests.benchmarks.load", url, str(images), *flags]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def main() -> None:
    """Ask, and print the tally."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("images", type=Path)
    parser.add_argument("--in-flight", type=float, default=16)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--seconds", type=float, default=10)
    given = parser.parse_args()
    url = given.url.rstrip("/") + "/attribute"
    requests = [request_bytes(url, path.read_bytes()) for path in sorted(given.images.iterdir())]
    began = time.perf_counter()
    if given.rate:
        tally = asyncio.run(open_loop(url, requests, given.rate, given.seconds))
    else:
        tally = asyncio.run(closed_loop(url, requests, int(given.in_flight), given.seconds))
    print(json.dumps(tally.report(time.perf_counter() - began)))


if __name__ == "__main__":
    main()
