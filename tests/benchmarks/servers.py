"""Servers of the benchmarks, each in a process of its own."""

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.ports import free_port

COMMAND = "from app.cli.main import main; main()"
START_SECONDS = 300  # the first start exports the model, on a busy machine in a minute or two


@dataclass(frozen=True)
class Server:
    """A server that answers."""

    url: str
    pid: int

    def own_memory(self) -> int:
        """Bytes that belong to the process alone, mapped files not counted."""
        return sum(self._status("RssAnon:", "RssShmem:")) * 1024

    def cpu_seconds(self) -> float:
        """Processor time taken so far, of all threads."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def open_files(self) -> int:
        """File descriptors."""
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    def _status(self, *names: str) -> list[int]:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return [int(line.split()[1]) for line in lines if line.startswith(names)]


@contextmanager
def serving(
    *command: str, ready: str = "/health/ready", port: int = 0, **environment: str
) -> Iterator[Server]:
    """Run ``python *command --port PORT`` until the block ends; it logs as usual, into a file.

    Args:
        command: the program and its options.
        ready: the path that answers once the server can be asked.
        port: to listen on; 0 takes a free one.
        environment: further variables.

    Raises:
        RuntimeError: it does not start; the end of its log says why.
    """
    port = port or free_port()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, *command, "--port", str(port)],
            env={**os.environ, **environment},
            stderr=log,
            stdout=subprocess.DEVNULL,
        )
        try:
            server = Server(f"http://127.0.0.1:{port}", process.pid)
            until = time.monotonic() + START_SECONDS
            while not _answers(server.url + ready):
                if process.poll() is not None or time.monotonic() > until:
                    log.seek(0)
                    raise RuntimeError(f"{command} does not start: {log.read()[-2000:]}")
                time.sleep(0.1)
            yield server
        finally:
            process.terminate()
            process.wait(60)


@contextmanager
def whence_serving(data: Path, port: int = 0, **environment: str) -> Iterator[Server]:
    """Run `whence serve` on a data folder."""
    command = ("-c", COMMAND, "serve", "--data", str(data))
    with serving(*command, port=port, **environment) as server:
        yield server


def machine() -> str:
    """What ran the benchmark, and how busy it was."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {platform.system()}"


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.TransportError:
        return False
