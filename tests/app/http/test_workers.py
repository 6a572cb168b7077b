"""`uvicorn --workers` with the real uvicorn."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.http import workers
from tests.ports import free_port
from tests.waiting import NEVER

ROOT = Path(__file__).parents[3]


@pytest.mark.skipif(sys.platform != "linux", reason="names of sockets without a file are Linux's")
def test_two_workers_are_refused_with_a_reason(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "uvicorn", "--factory", "app.main:create_app", "--workers", "2",
            "--port", str(free_port()),
        ],
        cwd=ROOT,
        env={**os.environ, "WHENCE_DATA": str(tmp_path), "WHENCE_METRICS_PORT": str(free_port())},
        capture_output=True,
        text=True,
        timeout=NEVER,
        check=False,
    )  # fmt: skip
    assert done.stderr.count("not started: this is a second worker process") == 1
    assert "Traceback" not in done.stderr
    assert "stopping the parent process" in done.stderr


def test_a_server_without_a_supervisor_may_have_neighbours() -> None:
    workers.require_only_worker()
    workers.require_only_worker()


def test_a_worker_of_gunicorn_has_a_supervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_SOFTWARE", "gunicorn/26.0")
    assert workers._supervisor() == os.getppid()
