"""No command makes a connection, resolves a name or writes a file that was not asked for."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model.config import EngineName
from tests.fakes import patches
from tests.offline.witness import namespace, watched

ROOT = Path(__file__).parents[2]
# Not `compile`: it takes 50 seconds of processor time (docs/deployment.md).
ENGINES: list[EngineName] = ["eager", "eager-bf16", "onnx"]
CONNECTS = """
import socket
socket.create_connection(("telemetry.example", 443), timeout=5)
"""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not namespace(),
    reason="network namespaces are not available here (unshare, ip)",
)


def run(folder: Path, *command: str, home: Path) -> tuple[int, dict[str, Any], str]:
    """Run a command in a network of its own; return its status, the report and its output."""
    report = folder / "report.json"
    environment = {name: value for name, value in os.environ.items() if name in {"PATH", "LANG"}}
    done = subprocess.run(
        watched(report, *command),
        cwd=ROOT,
        env={
            **environment,
            "HOME": str(home),
            "TMPDIR": str(folder),
            "PYTHONPATH": f"{ROOT}:{ROOT / 'client'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(report.read_text(encoding="utf-8")), done.stderr


def test_a_connection_is_seen(tmp_path: Path) -> None:
    status, seen, _ = run(tmp_path, sys.executable, "-c", CONNECTS, home=tmp_path)
    assert status != 0
    assert seen == {"names": ["telemetry.example"], "addresses": ["192.0.2.1"]}


def test_no_command_and_no_engine_connects_or_leaves_files(tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "folder"
    home.mkdir()
    engines = [*ENGINES, *(["openvino"] if importlib.util.find_spec("openvino") else [])]
    command = [sys.executable, "-m", "tests.offline.commands", str(folder), *engines]
    status, seen, said = run(tmp_path, *command, home=home)
    assert status == 0, said
    assert seen == {"names": [], "addresses": []}
    assert list(home.rglob("*")) == []  # no device's id in ~/.cache
    temporary = {path.name.partition("_")[0] for path in tmp_path.iterdir()}
    assert temporary <= {"home", "folder", "report.json", "torchinductor"}, (
        "the last one is PyTorch's"
    )
    assert {path.name for path in folder.iterdir()} == {"images", "data"}


def test_training_asks_the_hub_alone(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(2):
        patches(number, side=64).save(images / f"{number}.png")
    command = [sys.executable, "-m", "app.cli.main", "train", "--images", str(images)]
    command += ["--data", str(tmp_path / "data"), "--workers", "0"]
    _, seen, said = run(tmp_path, *command, home=tmp_path)
    assert seen["names"] == ["huggingface.co"], said
