"""A light client in processes of its own: so many requests in flight, or so many a second.

    python -m tests.benchmarks.load URL IMAGES [--in-flight 16 | --rate 40] [--seconds 10]

Sends the files of the folder IMAGES in turn as ``POST /attribute`` over connections that are kept.
In the open loop requests are due at Poisson times whatever becomes of those before, as crowds do,
and a request's time runs from when it was due, so that neither the server's waiting nor the
client's own goes unseen. ``--processes`` share the work; connections come from ``--addresses``
addresses of the loopback network, as those of so many callers. Prints JSON: requests a second,
wanted and sent, latencies of answers and of refusals, over all and over parts of the time.
"""

import argparse
import asyncio
import itertools
import json
import multiprocessing
import random
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop

BOUNDARY = b"whence-benchmark"
KEEP_SECONDS = 4.0  # a connection at rest is used again; less than the server keeps it
REACHED = 0.9  # share of the wanted rate that the client must have sent at


@dataclass(frozen=True)
class Asked:
    """What became of one request; times in seconds from the beginning.

    Attributes:
        status: of the answer; 0 is a connection that broke.
        due: when it was to be sent.
        sent: when it was.
        ended: when the answer was there.
        retry_after: whether the answer said when to try again.
        problem: whether the answer was application/problem+json.
    """

    status: int
    due: float
    sent: float
    ended: float
    retry_after: bool = False
    problem: bool = False


@dataclass
class Tally:
    """What became of the requests."""

    asked: list[Asked] = field(default_factory=list)

    def report(self, parts: int = 0) -> dict[str, Any]:
        """In numbers; the p99 also of each of so many parts of the time."""
        answered = self.latencies(200)
        refused = sorted(self.latencies(429) + self.latencies(503))
        ended = max((one.ended for one in self.asked), default=0.0)
        due = max((one.due for one in self.asked), default=0.0)
        sent = max((one.sent for one in self.asked), default=0.0)
        statuses = sorted({one.status for one in self.asked})
        report: dict[str, Any] = {
            "requests": len(self.asked),
            "seconds": round(ended, 2),
            "wanted_per_second": rate(len(self.asked), due),
            "sent_per_second": rate(len(self.asked), sent),
            "sent_late_p99_ms": quantile([1000 * (one.sent - one.due) for one in self.asked], 0.99),
            "refused_without_retry_after": sum(
                one.status in (429, 503) and not one.retry_after for one in self.asked
            ),
            "refused_without_problem": sum(
                one.status not in (0, 200) and not one.problem for one in self.asked
            ),
            "drain_seconds": round(ended - sent, 2),
            "statuses": {str(s): len(self.latencies(s)) for s in statuses},
            "answered_per_second": rate(len(answered), ended),
            "p50_ms": quantile(answered, 0.5),
            "p99_ms": quantile(answered, 0.99),
            "refused_p50_ms": quantile(refused, 0.5),
            "refused_p99_ms": quantile(refused, 0.99),
        }
        for name, count in (("third", 3), ("part", parts)):
            if parts:
                report[f"p99_ms_by_{name}"] = [
                    quantile(self.latencies(200, due * i / count, due * (i + 1) / count), 0.99)
                    for i in range(count)
                ]
        return report

    def latencies(self, status: int, begin: float = 0.0, end: float = float("inf")) -> list[float]:
        """Milliseconds from when the requests of that time were due until they were answered."""
        return [
            1000 * (one.ended - one.due)
            for one in self.asked
            if one.status == status and begin <= one.due < end
        ]


def quantile(values: list[float], share: float) -> float | None:
    """None where there are no values."""
    if not values:
        return None
    return round(sorted(values)[min(len(values) - 1, int(share * len(values)))], 2)


def rate(count: int, seconds: float) -> float:
    """A second."""
    return round(count / seconds, 2) if seconds else 0.0


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


class Client:
    """Asks over connections that are kept and used again, and notes what comes back.

    Args:
        url: of the server.
        addresses: the number of loopback addresses from which connections come in turn.
    """

    def __init__(self, url: str, addresses: int = 1) -> None:
        parts = urlsplit(url)
        self.address = parts.hostname, parts.port
        sources = [(f"127.0.0.{n + 1}", 0) for n in range(addresses)]
        self.sources = itertools.cycle(sources if addresses > 1 else [None])
        self.idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter, float]] = []
        self.tally = Tally()
        self.began = time.perf_counter()

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return time.perf_counter() - self.began

    async def ask(self, request: bytes, due: float) -> None:
        """Send one request, wait for the answer and note it."""
        sent = self.now
        try:
            reader, writer = await self._connection()
            writer.write(request)
            await writer.drain()
            head = await reader.readuntil(b"\r\n\r\n")
            lower = head.lower()
            length = int(lower.partition(b"content-length:")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            self.tally.asked.append(Asked(0, due, sent, self.now))
            return
        told = b"\r\nretry-after:" in lower
        problem = b"\r\ncontent-type: application/problem+json" in lower
        self.tally.asked.append(Asked(int(head[9:12]), due, sent, self.now, told, problem))
        if b"connection: close" in lower:
            writer.close()
        else:
            self.idle.append((reader, writer, self.now))

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The one used last, unless it is too old: then all are."""
        if self.idle and self.now - self.idle[-1][2] < KEEP_SECONDS:
            reader, writer, _ = self.idle.pop()
            return reader, writer
        while self.idle:
            self.idle.pop()[1].close()
        return await asyncio.open_connection(*self.address, local_addr=next(self.sources))


async def closed_loop(
    client: Client, requests: list[bytes], in_flight: int, seconds: float
) -> Tally:
    """Send again from each of ``in_flight`` clients when it has its answer."""

    async def one(number: int) -> None:
        while client.now < seconds:
            await client.ask(requests[number % len(requests)], client.now)
            number += in_flight

    await asyncio.gather(*map(one, range(in_flight)))
    return client.tally


async def open_loop(
    client: Client, requests: list[bytes], rate: float, seconds: float, seed: int
) -> Tally:
    """Send at Poisson times."""
    chance = random.Random(seed)
    tasks: set[asyncio.Task[None]] = set()
    due, number = 0.0, seed
    while due < seconds:
        await asyncio.sleep(max(0.0, due - client.now))
        task = asyncio.create_task(client.ask(requests[number % len(requests)], due))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due += chance.expovariate(rate)
        number += 1
    await asyncio.gather(*tasks)
    return client.tally


def run_share(given: argparse.Namespace, number: int) -> Tally:
    """Send the share of one of the processes."""
    url = given.url.rstrip("/") + "/attribute"
    client = Client(url, given.addresses)
    requests = [request_bytes(url, path.read_bytes()) for path in sorted(given.images.iterdir())]
    if given.rate:
        share = given.rate / given.processes
        return asyncio.run(open_loop(client, requests, share, given.seconds, number))
    clients = len(range(number, given.in_flight, given.processes))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # it takes less of the cores
        return runner.run(closed_loop(client, requests, clients, given.seconds))


def merged(tallies: Iterable[Tally]) -> Tally:
    """The tallies of several processes."""
    return Tally([one for tally in tallies for one in tally.asked])


def run_load(url: str, images: Path, **options: float) -> dict[str, Any]:
    """This program in a process of its own."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "tests.benchmarks.load", url, str(images), *flags]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def reached(report: dict[str, Any]) -> bool:
    """Whether the client sent as fast as it was to: else the figures speak of the client."""
    return bool(report["sent_per_second"] >= REACHED * report["wanted_per_second"])


def main() -> None:
    """Ask, and print the tally."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("images", type=Path)
    parser.add_argument("--in-flight", type=int, default=16)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--addresses", type=int, default=1)
    parser.add_argument("--parts", type=int, default=0, help="tell the p99 of each, too")
    given = parser.parse_args()
    if given.processes == 1:
        tally = run_share(given, 0)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(given.processes, mp_context=context) as pool:
            shares = [pool.submit(run_share, given, n) for n in range(given.processes)]
            tally = merged(share.result() for share in shares)
    print(json.dumps(tally.report(given.parts)))


if __name__ == "__main__":
    main()
