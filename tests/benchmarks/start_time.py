"""Time and peak memory of commands that need no model.

    python -m tests.benchmarks.start_time [--runs N] [--json FILE]

Each command runs several times in a process of its own, in an empty folder. Printed are the median
of wall-clock and processor seconds, and the largest peak of memory. Exit status 1 if a command
takes more than 0.7 s or 120 MB, or `whence serve` says nothing within a second.
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
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from PIL import Image

SECONDS, MEGABYTES, FIRST_LINE = 0.7, 120, 1.0
REFUSAL = b'{"type": "urn:whence:problem:unauthorized", "title": "No key", "status": 401}'
COMMAND = [sys.executable, "-c", "from app.cli.main import main; main()"]
COMMANDS = (
    "--help",
    "train --help",
    "keys list",
    "keys add NAME",
    "status",
    "takedown list",
    "attribute picture.png --url URL",
    "rollback",
)


class Refusing(BaseHTTPRequestHandler):
    """Refuses each upload at once, as a server that requires a key."""

    def do_POST(self) -> None:
        """Read the body and answer 401."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(401)
        self.send_header("Content-Type", "application/problem+json")
        self.send_header("Content-Length", str(len(REFUSAL)))
        self.end_headers()
        self.wfile.write(REFUSAL)

    def log_message(self, *args: object) -> None:
        """Print nothing."""


@contextmanager
def refusing_server() -> Iterator[str]:
    """The address of a server that refuses uploads."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def run(command: str, folder: Path) -> tuple[float, float, float]:
    """Wall-clock seconds, processor seconds and peak memory in MB of one run."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [*COMMAND, *command.split()],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0
    seconds = time.perf_counter() - begun
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6


def first_line(folder: Path) -> float:
    """Seconds until `whence serve` prints a line."""
    begun = time.perf_counter()
    with subprocess.Popen(
        [*COMMAND, "serve", "--port", "8765"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ":".join(sys.path), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            assert server.stdout
            server.stdout.readline()
            return time.perf_counter() - begun
        finally:
            server.terminate()


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name, refusing_server() as url:
        folder = Path(name)
        Image.new("RGB", (64, 64)).save(folder / "picture.png")
        run("--help", folder)  # compiles what was not compiled yet
        for command in COMMANDS:
            rows = [
                run(command.replace("NAME", f"k{number}").replace("URL", url), folder)
                for number in range(arguments.runs)
            ]
            wall, processor, memory = zip(*rows, strict=True)
            found[command] = {
                "seconds": round(statistics.median(wall), 3),
                "processor_seconds": round(statistics.median(processor), 3),
                "megabytes": round(max(memory), 1),
            }
            print(f"{command:50} {found[command]}", flush=True)
        served = statistics.median(first_line(folder) for _ in range(arguments.runs))
        print(f"serve says what it does after {served:.3f} s")
    if arguments.json:
        record = {"commands": found, "serve_first_line_seconds": round(served, 3)}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return int(
        served > FIRST_LINE
        or any(one["seconds"] > SECONDS or one["megabytes"] > MEGABYTES for one in found.values())
    )


if __name__ == "__main__":
    sys.exit(main())
