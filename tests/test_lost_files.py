"""A few rounds of kills and file losses under a running server and two rebuilds."""

import json
import subprocess
import sys
from pathlib import Path

ROUNDS = 2


def test_no_withdrawn_work_is_in_an_answer_whatever_happens_to_files() -> None:
    command = [sys.executable, "-m", "tests.benchmarks.lost_files", "--rounds", str(ROUNDS)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert done.stdout, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert result["faults"] == []
    assert result["rounds"] == ROUNDS
    assert result["seen"]["answers"] > 0
    assert result["seen"]["takedowns"] > 0
