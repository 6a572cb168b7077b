"""deploy/systemd: systemd accepts the units, and they fit the server."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from app.settings import Settings

ROOT = Path(__file__).parents[1]
UNITS = sorted((ROOT / "deploy/systemd").iterdir())
ANALYZE = shutil.which("systemd-analyze")
needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze on this machine")


def installed(folder: Path) -> list[Path]:
    """The units with a command that is there, as on a machine with Whence installed."""
    command = folder / "whence"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    for unit in UNITS:
        text = unit.read_text(encoding="utf-8").replace("/opt/whence/bin/whence", str(command))
        (folder / unit.name).write_text(text, encoding="utf-8")
    return [folder / unit.name for unit in UNITS]


@needs_systemd
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(ANALYZE), "verify", "--man=no", *map(str, installed(tmp_path))],
        capture_output=True, text=True, check=False,
        env={**os.environ, "SYSTEMD_LOG_LEVEL": "warning"},
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "whence" in line]
    assert ours == []
    assert done.returncode == 0, done.stderr


def test_units_give_a_stopping_server_its_time_and_run_commands_that_there_are() -> None:
    text = (ROOT / "deploy/systemd/whence.service").read_text(encoding="utf-8")
    [seconds] = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    assert int(seconds) >= Settings.model_fields["deadline_seconds"].default + 15
    commands = re.findall(
        r"^ExecStart=/opt/whence/bin/whence (\w+)",
        "\n".join(unit.read_text(encoding="utf-8") for unit in UNITS),
        re.MULTILINE,
    )
    assert commands == ["rebuild", "serve"]
