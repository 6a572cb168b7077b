"""Commands that compute nothing start without the libraries that compute."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "faiss", "onnx", "onnxruntime", "openvino", "pyarrow", "pymilvus", "ray", "timm", "torch",
    "torchvision",
}  # fmt: skip
RUN = """
import json, sys
from app.cli.main import main
try:
    main()
except SystemExit as end:
    status = end.code or 0
print("\\n" + json.dumps([status, sorted(sys.modules)]))
"""
HELP = [[], *([name] for name in (
    "attribute", "demo", "evaluate", "keys", "pretrain", "rebuild", "rollback", "serve", "status",
    "report-key", "takedown", "train", "verify", "verify-report",
))]  # fmt: skip


def imported(*arguments: str, cwd: Path) -> tuple[int, set[str], str]:
    """Exit status, modules imported by then, and output of a command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments],
        cwd=cwd, env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    status, modules = json.loads(done.stdout.splitlines()[-1])
    return status, set(modules), done.stdout + done.stderr


@pytest.mark.parametrize("command", HELP, ids=" ".join)
def test_help_imports_nothing_heavy(command: list[str], tmp_path: Path) -> None:
    status, modules, output = imported(*command, "--help", cwd=tmp_path)
    assert status == 0
    assert "Usage: " in output
    assert not modules & HEAVY


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("keys list", 0, "there are no keys"),
        ("keys add ann", 0, "whence_"),
        ("keys revoke ann", 1, "there is no key named"),
        ("status", 0, "no index in data/index"),
        ("takedown list", 0, "no takedown is in force"),
        ("takedown lift x --reason r", 1, "no takedown 'x'"),
        ("takedown add --concept c --reason r", 1, "no readable index"),
        ("takedown add --image picture.png --reason r", 0, "image picture.png"),
        ("rollback", 1, "no version before"),
        ("attribute picture.png --url http://127.0.0.1:9", 1, "no answer from"),
        ("serve --host 127.0.0.300", 1, "error: "),
    ],
)
def test_light_commands_import_nothing_heavy(
    command: str, status: int, said: str, tmp_path: Path
) -> None:
    from tests.fakes import patches

    patches(1).save(tmp_path / "picture.png")
    done, modules, output = imported(*command.split(), cwd=tmp_path)
    assert said in output
    assert done == status
    assert not modules & HEAVY
