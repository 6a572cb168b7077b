"""100,000 hostile requests to a real server.

    python -m tests.benchmarks.hostile [--requests 100000] [--seed 0] [--generated 0.2]
        [--rate 60] [--proxy]

With `--proxy` all of it goes through a real nginx with deploy/nginx/nginx.conf.

Starts `whence serve` in a process of its own, with keys, on a small index, and sends it what
`tests.benchmarks.malice` makes, and a share that schemathesis generates from the server's own
OpenAPI description, valid and not, with the right key and without. Every answer is judged: a
refusal must be a problem+json of the right form, with Retry-After where it belongs. What is refused
before the application sees it, being no HTTP, is counted apart; that is uvicorn's own answer, in
plain text, without the proxy, and with it for control characters in a header's value.

Beside the attacks an honest client asks twice a second, one image after the other, and another asks
for the server's health four times a second, both in a process of their own. They did so for a
minute before the attacks: the calm times. Attacks and honest requests have different keys.
Attackers have machines of their own: the threads that make the attacks yield the cores to the
server (niceness 10). `--rate` spaces the attacks, schemathesis's too, so that the two do not
merely share out the cores; 0 sends them as fast as they are answered.

Memory of the server and of its decoding processes, file descriptors and threads are sampled each
second. Prints JSON; exit status 1 if the server crashed, answered 500 or not at all, refused in
another form, logged a traceback, answered an honest request wrongly, late (p99 over three times the
calm one) or not at all, its health after more than a second, or grew, or if the proxy did not reach
it.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import platform
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import numpy as np
import schemathesis
from pydantic import ValidationError
from schemathesis import GenerationMode

from app.auth.keys import KeyFile
from index.building.rebuild import RebuildOptions, rebuild
from index.building.source import read_sources
from index.layout import DataFolder
from model.checkpoint import load_embedder
from tests.benchmarks.honest import honest_clients, quantile
from tests.benchmarks.malice import PATIENCE, Attack, Attacker, seeds
from tests.benchmarks.pictures import draw_pictures, save_small_model
from tests.proxy import proxy
from whence_client import Whence
from whence_client.models import Problem

SERVE = "from app.cli.main import main; main()"
IN_FLIGHT = 16
MAX_BYTES, UPLOAD_SECONDS = 2 * 2**20, 2.0
WARM, GROWTH, ROOM = 0.2, 1.05, 16  # share of the requests; at most 5% or 16 MiB more
SLOWER, HEALTH_SECONDS = 3.0, 1.0  # the aims for honest requests' p99 and for each health
CHUNK = 100  # examples that schemathesis makes at a time
UVICORN = b"Invalid HTTP request received."
PARSERS = (b"urn:whence:problem:malformed-request", UVICORN)
UNAVAILABLE = b"urn:whence:problem:unavailable"
PROXY = {"client_body_timeout 20s": f"client_body_timeout {UPLOAD_SECONDS:.0f}s"}


def is_parser(body: bytes) -> bool:
    """Return whether an answer is for what is no HTTP."""
    return any(parser in body for parser in PARSERS)


@dataclass
class Tally:
    """Counts what came back."""

    sent: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    by_parser: int = 0  # refused as being no HTTP
    by_uvicorn: int = 0  # of these, in plain text
    unanswered: Counter[str] = field(default_factory=Counter)  # of these kinds it may be so
    faults: list[str] = field(default_factory=list)
    samples: list[tuple[int, int, int, int, int]] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.sent.values())

    def judge(self, kind: str, status: int, headers: httpx.Headers, body: bytes) -> None:
        """Count an answer that came, and note what is wrong with it."""
        self.statuses[status] += 1
        if status < 400:
            return
        if is_parser(body):
            self.by_parser += 1
            if body == UVICORN:
                self.by_uvicorn += 1
                return
        if status == 500 or UNAVAILABLE in body:
            self.faults.append(f"{kind}: {status} {body[:300]!r}")
        try:
            problem = Problem.model_validate_json(body)
        except ValidationError:
            self.faults.append(f"{kind}: {status} is no problem: {body[:200]!r}")
            return
        if headers.get("content-type") != "application/problem+json" or problem.status != status:
            self.faults.append(f"{kind}: {status} is mislabelled: {headers!r} {body[:200]!r}")
        if status in {429, 503} and not headers.get("retry-after", "").isdecimal():
            self.faults.append(f"{kind}: {status} without Retry-After")


PROBLEM = httpx.Headers({"content-type": "application/problem+json", "retry-after": "5"})


def yield_cores() -> None:
    """Lower the priority of this thread, and of no other."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


# Sockets


async def send(port: int, attack: Attack, tally: Tally) -> None:
    """Carry an attack out and judge what comes back."""
    tally.sent[attack.kind] += 1
    bodiless = attack.bodiless
    received = bytearray()
    try:
        async with asyncio.timeout(attack.seconds), idle_connections(port, attack.idle):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            reading = asyncio.create_task(read_all(reader, received))
            try:
                await write_all(writer, attack)
                if not attack.hang_up:
                    await reading
            finally:
                reading.cancel()
                writer.transport.abort() if attack.hang_up else writer.close()
    except TimeoutError:
        tally.faults.append(f"{attack.kind}: not answered and closed in {attack.seconds:.0f} s")
        return
    except OSError as error:
        tally.faults.append(f"{attack.kind}: no connection: {error}")
        return
    if attack.hang_up:
        return
    replies = list(parse(bytes(received)))
    if not replies:
        tally.unanswered[attack.kind] += 1
        if not attack.broken:
            tally.faults.append(f"{attack.kind}: the connection was closed without an answer")
    for status, headers, body in replies:
        if not bodiless:
            tally.judge(attack.kind, status, headers, body)
        busy = status in {429, 503}
        if attack.expected and status not in attack.expected and not busy:
            tally.faults.append(f"{attack.kind}: answered {status}: {body[:200]!r}")


@contextlib.asynccontextmanager
async def idle_connections(port: int, count: int) -> AsyncIterator[None]:
    """Open connections that send nothing."""
    writers = []
    try:
        for _ in range(count):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writers.append(writer)
        yield
    finally:
        for writer in writers:
            writer.transport.abort()


async def read_all(reader: asyncio.StreamReader, into: bytearray) -> None:
    """Read to the end; what was read before a reset stays."""
    try:
        while chunk := await reader.read(2**16):
            into += chunk
    except ConnectionError:
        pass


async def write_all(writer: asyncio.StreamWriter, attack: Attack) -> None:
    """Write as long as the other side takes it."""
    try:
        for piece in attack.pieces:
            if isinstance(piece, float):
                await asyncio.sleep(piece)
            else:
                writer.write(piece)
                await writer.drain()
    except ConnectionError:
        pass


def parse(data: bytes) -> Iterator[tuple[int, httpx.Headers, bytes]]:
    """The answers in what a connection gave; those to HEAD requests have no body."""
    if data.startswith(b"{"):  # the proxy's, to what looks like HTTP/0.9, which has no headers
        yield json.loads(data)["status"], PROBLEM, data
    while data.startswith(b"HTTP/1.1 "):
        head, _, rest = data.partition(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        headers = httpx.Headers([tuple(line.split(b": ", 1)) for line in lines])
        length = int(headers.get("content-length", len(rest)))
        if headers.get("transfer-encoding") == "chunked":  # to a request of another HTTP version
            rest = unchunked(rest)
            length = len(rest)
        yield int(first.split()[1]), headers, rest[:length]
        data = rest[length:]


def unchunked(data: bytes) -> bytes:
    """The content of chunks."""
    content = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        content += data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]
    return content


class Pace:
    """At most ``rate`` turns a second; 0: no limit."""

    def __init__(self, rate: float) -> None:
        self._every = 1 / rate if rate else 0.0
        self._next = time.monotonic()

    def wait(self) -> float:
        """The seconds until the next turn, which is then taken."""
        self._next += self._every
        return max(0.0, self._next - time.monotonic()) if self._every else 0.0


async def attack_all(port: int, attacks: Iterator[Attack], tally: Tally, pace: Pace) -> None:
    """All of them, a fixed number at a time."""
    yield_cores()

    async def work() -> None:
        for attack in attacks:
            await asyncio.sleep(pace.wait())
            await send(port, attack, tally)

    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))


# schemathesis


def generate(url: str, keys: list[str], count: int, seed: int, tally: Tally, pace: Pace) -> None:
    """Requests from the description, in turn of each operation, valid and not."""
    yield_cores()
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    turns = [(o, mode) for o in operations for mode in GenerationMode]
    documented = {o.label: {int(s) for s in o.definition.raw["responses"]} for o in operations}
    for turn, (operation, mode) in enumerate(itertools.cycle(turns)):
        left = count - tally.sent["generated"]
        if left <= 0:
            break
        rules = documented[operation.label]
        ask(url, operation, mode, min(CHUNK, left), seed + turn, keys, rules, tally, pace)


def ask(
    url: str,
    operation: Any,
    mode: GenerationMode,
    size: int,
    seed: int,
    keys: list[str],
    documented: set[int],
    tally: Tally,
    pace: Pace,
) -> None:
    """``size`` generated requests to one operation."""
    made = 0

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=size,
        database=None,
        deadline=None,
        derandomize=False,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def try_case(case: Any) -> None:
        nonlocal made
        made += 1
        time.sleep(pace.wait())
        key = keys[made % len(keys)]
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        tally.sent["generated"] += 1
        try:
            response = case.call(base_url=url, headers=headers, timeout=PATIENCE)
        except Exception as error:  # of requests, which is not ours to name
            tally.faults.append(f"generated {operation.label}: {type(error).__name__}: {error}")
            return
        headers = httpx.Headers({name: values[0] for name, values in response.headers.items()})
        status, body = response.status_code, response.content
        tally.judge(f"generated {operation.label}", status, headers, body)
        # A generated path may lead elsewhere: to another operation, or to none.
        if status not in documented | {404, 405, 307} and not is_parser(body):
            tally.faults.append(f"generated {operation.label}: {status} is not documented")

    # Nothing can be wrong with a request that takes nothing.
    with contextlib.suppress(hypothesis.errors.Unsatisfiable):
        try_case()


# The server


@contextlib.contextmanager
def serving(root: Path) -> Iterator[tuple[subprocess.Popen[bytes], str, list[str], Path]]:
    """A server on a small index: its process, address, keys (asking, admin, honest) and log."""
    data = DataFolder(root / "data")
    embedder = load_embedder(data.models, save_small_model(data.models))
    draw_pictures(root / "source", range(300), side=96)
    rebuild(data, read_sources([root / "source"]), embedder, RebuildOptions(canary_rate=0))
    file = KeyFile(data.keys)
    keys = [file.add("asks"), file.add("boss", scope="admin"), file.add("honest")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = root / "log"
    limits = {
        "WHENCE_MAX_UPLOAD_BYTES": str(MAX_BYTES),
        "WHENCE_UPLOAD_SECONDS": str(UPLOAD_SECONDS),
        "WHENCE_LOG_LEVEL": "error",
        "MALLOC_MMAP_THRESHOLD_": "8388608",  # as in the image
    }
    with log.open("wb") as file_of_log:
        server = subprocess.Popen(
            [sys.executable, "-c", SERVE, "serve", "--port", str(port), "--data", str(data.root)],
            env={**os.environ, **limits},
            stdout=file_of_log,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        with Whence(url, retries=300, timeout=300) as whence:
            whence.ready()
        yield server, url, keys, log
    finally:
        server.terminate()
        server.wait(30)


@contextlib.contextmanager
def proxied(root: Path, server_url: str) -> Iterator[str]:
    """A proxy in front of the server: its address."""
    folder = root / "nginx"
    folder.mkdir()
    with proxy(folder, server_url.removeprefix("http://"), changes=PROXY) as (url, _):
        yield url


def sample(pid: int) -> tuple[int, int, int, int]:
    """Bytes that belong to a process alone, its open files, its threads, its children's bytes."""
    status = _status(pid)
    files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    threads = [Path(place) for place in Path(f"/proc/{pid}/task").iterdir()]
    children = 0
    for thread in threads:
        with contextlib.suppress(OSError, KeyError):  # one may end meanwhile
            for child in (thread / "children").read_text().split():
                own = _status(int(child))
                children += _kilobytes(own, "RssAnon") + _kilobytes(own, "RssShmem")
    return _kilobytes(status, "RssAnon") * 1024, files, len(threads), children * 1024


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":", 1) for line in lines)


def _kilobytes(status: dict[str, str], name: str) -> int:
    return int(status[name].split()[0])


def watch(server: subprocess.Popen[bytes], tally: Tally, stop: threading.Event) -> None:
    """A sample each second, with the requests sent by then."""
    while not stop.wait(1) and server.poll() is None:
        tally.samples.append((tally.total, *sample(server.pid)))
        if len(tally.samples) % 30 == 0:
            sent, memory, files, *_ = tally.samples[-1]
            line = f"{sent} sent, {memory / 2**20:.0f} MiB, {files} files, {len(tally.faults)}"
            print(line, "faults", file=sys.stderr, flush=True)


def growth(tally: Tally) -> dict[str, Any]:
    """Memory over the requests, once warm.

    A large image leaves its memory with the allocator for a while: what counts is where memory
    falls back to, in the first and in the last quarter of what follows the warm-up.
    """
    warm = [s for s in tally.samples if s[0] >= WARM * tally.total] or tally.samples
    memory = np.array([s[1] for s in warm]) / 2**20
    quarter = max(1, len(warm) // 4)
    first, last = memory[:quarter].min(), memory[-quarter:].min()
    return {
        "floor_warm_mib": round(float(first), 1),
        "floor_end_mib": round(float(last), 1),
        "floors_mib": [
            round(float(part.min()), 1) for part in np.array_split(memory, 10) if len(part)
        ],
        "highest_mib": round(float(memory.max()), 1),
        "open_files": [warm[0][2], warm[-1][2]],
        "threads": [warm[0][3], warm[-1][3]],
        "decoding_processes_highest_mib": round(max(s[4] for s in warm) / 2**20, 1),
        "decoding_processes_end_mib": round(warm[-1][4] / 2**20, 1),
        "grew": bool(last > max(GROWTH * first, first + ROOM)),
    }


def main() -> int:
    """Serve, attack, judge and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--generated", type=float, default=0.2, help="share of schemathesis")
    parser.add_argument("--proxy", action="store_true", help="ask through nginx")
    parser.add_argument("--rate", type=float, default=60, help="attacks a second; 0: no limit")
    parser.add_argument("--calm", type=float, default=60, help="seconds of the calm before")
    options = parser.parse_args()
    tally, stop = Tally(), threading.Event()
    with (
        tempfile.TemporaryDirectory() as name,
        serving(Path(name)) as (server, own_url, keys, log),
        proxied(Path(name), own_url) if options.proxy else nullcontext(own_url) as url,
        Whence(url, key=keys[0]) as whence,
    ):
        query = next((Path(name) / "source").glob("*/*.jpg"))
        before = whence.attribute(query).concepts
        attacker = Attacker(keys[0], MAX_BYTES, UPLOAD_SECONDS, options.proxy)
        port = int(url.rpartition(":")[2])
        images = [query.read_bytes(), *seeds()[:4]]
        honest_key = keys[2]
        with honest_clients(url, honest_key, images) as calm:
            time.sleep(options.calm)
        watcher = threading.Thread(target=watch, args=(server, tally, stop))
        generated = int(options.generated * options.requests)
        every = [*keys[:2], "wrong", ""]
        share = options.generated
        paces = Pace((1 - share) * options.rate), Pace(share * options.rate)
        generator = threading.Thread(
            target=generate, args=(url, every, generated, options.seed, tally, paces[1])
        )
        began = time.monotonic()
        watcher.start()
        generator.start()
        rng, count = random.Random(options.seed), options.requests - generated
        attacks = (attacker.attack(rng) for _ in range(count))
        with honest_clients(url, honest_key, images) as attacked:
            asyncio.run(attack_all(port, attacks, tally, paces[0]))
            generator.join()
        seconds = time.monotonic() - began
        time.sleep(2)
        stop.set()
        watcher.join()
        crashed = server.poll() is not None
        if not crashed:
            tally.samples.append((tally.total, *sample(server.pid)))
        same = not crashed and whence.attribute(query).concepts == before
        logged = log.read_text(errors="replace")
    result = {
        "machine": f"{platform.node()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "through_the_proxy": options.proxy,
        "requests": tally.total,
        "seconds": round(seconds),
        "sent": dict(tally.sent.most_common()),
        "answers_by_status": {str(s): n for s, n in sorted(tally.statuses.items())},
        "refused_by_the_parser": tally.by_parser,
        "of_these_by_uvicorn": tally.by_uvicorn,
        "closed_without_an_answer": dict(tally.unanswered),
        "crashed": crashed,
        "tracebacks_logged": logged.count("Traceback"),
        "answers_as_before": same,
        "memory": growth(tally),
        "calm": calm.report(),
        "attacked": attacked.report(),
        "honest_p99_ratio": round(
            quantile(attacked.seconds, 0.99) / quantile(calm.seconds, 0.99), 2
        ),
        "faults": len(tally.faults),
        "first_faults": tally.faults[:20],
    }
    print(json.dumps(result, indent=1))
    if "Traceback" in logged:
        print(logged[-4000:], file=sys.stderr)
    bad = crashed or not same or tally.faults or "Traceback" in logged or result["memory"]["grew"]
    slow = result["honest_p99_ratio"] > SLOWER or quantile(attacked.health, 1) > HEALTH_SECONDS
    return int(bool(bad or slow or attacked.failures))


if __name__ == "__main__":
    sys.exit(main())
