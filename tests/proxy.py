"""Run nginx with deploy/nginx/nginx.conf, its paths and addresses changed for a test."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.ports import free_port

NGINX_FILES = Path(__file__).parents[1] / "deploy/nginx"
CONFIG = NGINX_FILES / "nginx.conf"
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
START_SECONDS = 30

needs_nginx = pytest.mark.skipif(NGINX is None, reason="no nginx on this machine (apt: nginx)")


def configure(folder: Path, *servers: str, changes: dict[str, str] | None = None) -> str:
    """Write the configuration into ``folder`` for upstream ``servers``; return the proxy's URL.

    Args:
        folder: of the configuration, the pid and temporary files.
        servers: host and port of each server behind the proxy.
        changes: further texts to replace in nginx.conf.

    Raises:
        AssertionError: a file in deploy/nginx lacks a text that must be replaced.
    """
    port = free_port()
    upstream = "\n".join(f"server {server} max_fails=0;" for server in servers)
    paths = {" /tmp/": f" {folder}/", **(changes or {})}
    # nginx before 1.27 cannot resolve the servers' names again while it runs.
    servers_changes = {
        "resolver 127.0.0.11 valid=5s;": "",
        "server whence-server:8000 resolve max_fails=0;": upstream,
    }
    listen = {"listen 8080;": f"listen 127.0.0.1:{port};"}
    write_changed(CONFIG, folder / "nginx.conf", paths)
    write_changed(NGINX_FILES / "compose.conf", folder / "whence/servers.conf", servers_changes)
    write_changed(NGINX_FILES / "plain.conf", folder / "whence/listen.conf", listen)
    return f"http://127.0.0.1:{port}"


def write_changed(source: Path, target: Path, changes: dict[str, str]) -> None:
    """Copy a configuration file with some texts replaced, each of which it must have."""
    text = source.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    target.parent.mkdir(exist_ok=True)
    target.write_text(text, encoding="utf-8")


def command(folder: Path, *options: str) -> list[str]:
    """Return nginx's command line for a configured folder."""
    # As root, nginx's workers would run as a user who cannot read a test's folder.
    user = " user root;" if os.geteuid() == 0 else ""
    return [
        str(NGINX), "-p", str(folder), "-e", "stderr", "-c", "nginx.conf",
        "-g", f"daemon off;{user}", *options,
    ]  # fmt: skip


@contextmanager
def proxy(
    folder: Path, *servers: str, changes: dict[str, str] | None = None
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Run nginx in front of ``servers``; yield its URL and its process."""
    url = configure(folder, *servers, changes=changes)
    with running(folder, url) as process:
        yield url, process


@contextmanager
def running(folder: Path, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run nginx with the configuration in a folder; yield its process once ``url`` answers."""
    with (folder / "error.log").open("wb") as errors:
        process = subprocess.Popen(command(folder), stderr=errors)
    try:
        until = time.monotonic() + START_SECONDS
        while not _answers(url):
            assert process.poll() is None, (folder / "error.log").read_text(encoding="utf-8")
            assert time.monotonic() < until, "nginx does not answer"
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str) -> bool:
    with httpx.Client(trust_env=False) as client:
        try:
            client.request("TRACE", url)  # answered by nginx itself
        except httpx.TransportError:
            return False
        return True
