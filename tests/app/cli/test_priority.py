"""Commands that compute for long lower their own priority."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from app.cli.main import cli

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no niceness")

SHOW = """
import os, subprocess, sys, threading
from app.cli.priority import lower_priority
waiting = threading.Event()
threading.Thread(target=waiting.wait).start()
lower_priority(int(sys.argv[1]))
tasks = "/proc/self/task"
threads = os.listdir(tasks) if os.path.isdir(tasks) else [0]
found = {os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in threads}
found.add(int(subprocess.check_output(["nice"])))
waiting.set()
print(*sorted(found))
"""


def niceness_after(wanted: int, *, before: int = 0) -> str:
    return subprocess.check_output(
        ["nice", "-n", str(before), sys.executable, "-c", SHOW, str(wanted)], text=True
    ).strip()


def test_every_thread_and_child_has_the_niceness() -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert niceness_after(own + 3) == str(own + 3)


def test_a_higher_niceness_stays() -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert niceness_after(own + 1, before=2) == niceness_after(0, before=2) == str(own + 2)


@pytest.mark.parametrize(
    ("command", "option"), [("rebuild", "source"), ("train", "images"), ("pretrain", "images")]
)
def test_long_commands_lower_their_priority_unless_told_otherwise(
    command: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def note(niceness: int) -> None:
        asked.append(niceness)
        raise typer.Exit(0)

    for module in ("rebuild", "train", "pretrain"):
        monkeypatch.setattr(f"app.cli.{module}.begin_long_work", note)
    for more in ([], ["--nice", "0"]):
        cli([command, f"--{option}", str(tmp_path), *more], standalone_mode=False)
    assert asked == [10, 0]
