"""The rebuild that a server starts: its process, its progress and its end."""

import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from app import rebuilding
from app.auth.keys import KeyFile
from app.errors import RebuildNotConfiguredError, RebuildRunningError
from app.main import create_app
from app.rebuilding import Rebuilds, rebuild_command
from app.settings import Settings, SettingsError, read_settings
from index.layout import DataFolder
from index.snapshot import published_version
from model.checkpoint import save_model
from tests.app.conftest import CheckProblem, write_keys
from tests.fakes import patches, tiny_model
from tests.waiting import wait_in_loop_until, wait_until

pytestmark = pytest.mark.anyio
TOKEN = "a token that is long enough"
PROGRESS = """
import sys, json, time
def say(text): print(text, file=sys.stderr, flush=True)
say("note: first")
record = {"event": "progress", "stage": "embedding", "done": 3, "total": 9, "seconds_left": 4}
say(json.dumps(record))
"""


@asynccontextmanager
async def running(program: str) -> AsyncIterator[Rebuilds]:
    """Start a Python program as the rebuild."""
    rebuilds = Rebuilds([sys.executable, "-c", program])
    await rebuilds.start()
    try:
        yield rebuilds
    finally:
        await rebuilds.close()


def is_running(process: int) -> bool:
    """Return True unless a process has ended, waited for or not."""
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False


async def ended(rebuilds: Rebuilds) -> None:
    await wait_in_loop_until(lambda: rebuilds.status.state != "running")


async def test_progress_and_result_are_told() -> None:
    async with running(PROGRESS + "print('index 1: published')\nprint('more')") as rebuilds:
        assert rebuilds.status.state == "running"
        await ended(rebuilds)
        status = rebuilds.status
        assert (status.state, status.message) == ("succeeded", "index 1: published")
        assert (status.stage, status.done, status.total) == ("embedding", 3, 9)
        assert status.started_at
        assert status.ended_at
        assert status.started_at < status.ended_at


async def test_one_runs_at_a_time() -> None:
    async with running(PROGRESS + "time.sleep(600)") as rebuilds:
        await wait_in_loop_until(lambda: rebuilds.status.stage == "embedding")
        assert rebuilds.status.seconds_left == 4
        with pytest.raises(RebuildRunningError):
            await rebuilds.start()


async def test_the_reason_of_a_failure_is_the_last_line() -> None:
    async with running("import sys; sys.exit('error: the disk is \\x1b[31mfull')") as rebuilds:
        await ended(rebuilds)
        assert rebuilds.status.state == "failed"
        assert rebuilds.status.message == r"error: the disk is \x1b[31mfull"


async def test_a_killed_rebuild_is_a_failure_and_another_one_starts() -> None:
    program = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    async with running(program) as rebuilds:
        await ended(rebuilds)
        assert "signal 9" in (rebuilds.status.message or "")
        assert (await rebuilds.start()).state == "running"
        await ended(rebuilds)


async def test_what_a_killed_rebuild_leaves_running_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "LEFT_SECONDS", 0.1)
    number = tmp_path / "pid"
    program = f"""
import os, pathlib, signal, subprocess
child = subprocess.Popen(["sleep", "600"])
pathlib.Path({str(number)!r}).write_text(str(child.pid))
os.kill(os.getpid(), signal.SIGKILL)
"""
    async with running(program) as rebuilds:
        await ended(rebuilds)
        assert "signal 9" in (rebuilds.status.message or "")
    left = int(number.read_text())
    await wait_in_loop_until(lambda: not is_running(left))


async def test_a_rebuild_that_ends_at_once_without_a_word() -> None:
    async with running("raise SystemExit(3)") as rebuilds:
        await ended(rebuilds)
        assert rebuilds.status.message == "it ended with status 3"


async def test_lines_without_an_end_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilding, "LINE_BYTES", 1000)
    async with running("print('a' * 10_000); print('index 1: published')") as rebuilds:
        await ended(rebuilds)
        assert rebuilds.status.state == "succeeded"
        assert rebuilds.status.message == "index 1: published"


async def test_a_program_that_is_not_there_is_a_failure() -> None:
    rebuilds = Rebuilds(["/there/is/no/such/program"])
    await rebuilds.start()
    await ended(rebuilds)
    assert "cannot be started" in (rebuilds.status.message or "")


@pytest.mark.parametrize("deaf", [False, True])
async def test_it_ends_with_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deaf: bool
) -> None:
    monkeypatch.setattr(rebuilding, "STOP_SECONDS", 0.5)
    number = tmp_path / "pid"
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN)" if deaf else "pass"
    program = f"""
import os, pathlib, signal, time
{ignore}
pathlib.Path({str(number)!r}).write_text(str(os.getpid()))
time.sleep(600)
"""
    async with running(program) as rebuilds:
        await wait_in_loop_until(lambda: number.exists() and number.read_text())
    assert rebuilds.status.state == "failed"
    with pytest.raises(ProcessLookupError):
        os.kill(int(number.read_text()), signal.SIG_DFL)


async def test_without_options_there_is_nothing_to_start() -> None:
    rebuilds = Rebuilds(None)
    with pytest.raises(RebuildNotConfiguredError, match="WHENCE_REBUILD_OPTIONS"):
        await rebuilds.start()
    assert rebuilds.status.state == "idle"


async def test_options_are_read_as_in_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    command = rebuild_command("--source '/my images' --keep 3", Path("data"))
    assert command[3:] == [
        "rebuild", "--source", "/my images", "--keep", "3", "--data", "data"
    ]  # fmt: skip
    monkeypatch.setenv("WHENCE_REBUILD_OPTIONS", "--source '/my images")
    with pytest.raises(SettingsError, match=r"WHENCE_REBUILD_OPTIONS: No closing quotation"):
        read_settings()
    monkeypatch.setenv("WHENCE_REBUILD_OPTIONS", "--source /images --every=10m")
    with pytest.raises(SettingsError, match="does not end"):
        read_settings()


# Over HTTP, with the real command


@pytest.fixture
def server(tmp_path: Path) -> Iterator[TestClient]:
    folder = tmp_path / "images/concept"  # one alone is quick: its index has no null
    folder.mkdir(parents=True)
    for number in range(3):
        patches(number, side=64).save(folder / f"{number}.png")
    data = DataFolder(tmp_path / "data")
    save_model(data.models, tiny_model(), {})
    write_keys(data.root, {TOKEN: "admin"})
    options = f"--source '{tmp_path / 'images'}' --canary-rate 0 --workers 0"
    settings = Settings(data=data.root, rebuild_options=options, device="cpu", engine="eager")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with TestClient(create_app(settings), headers=headers) as client:
        yield client


def test_a_server_without_an_index_builds_one_and_serves_it(
    server: TestClient, tmp_path: Path, check_problem: CheckProblem
) -> None:
    assert server.get("/admin/rebuild").json()["state"] == "idle"
    started = server.post("/admin/rebuild")
    assert (started.status_code, started.json()["state"]) == (202, "running")
    check_problem(server.post("/admin/rebuild"), 409, "rebuild-running")
    wait_until(lambda: server.get("/admin/rebuild").json()["state"] != "running")
    status = server.get("/admin/rebuild").json()
    assert status["state"] == "succeeded", status
    assert status["stage"] == "calibrating"
    assert status["done"] == status["total"] > 0
    version = published_version(tmp_path / "data/index")
    assert version
    assert version in status["message"]
    wait_until(lambda: server.get("/health/ready").status_code == 200)
    assert server.get("/health/ready").json()["index_version"] == version


def test_a_key_without_the_scope_starts_nothing(
    server: TestClient, tmp_path: Path, check_problem: CheckProblem
) -> None:
    token = KeyFile(tmp_path / "data/keys.json").add("reader")
    headers = {"Authorization": f"Bearer {token}"}
    check_problem(server.post("/admin/rebuild", headers=headers), 403, "forbidden")
    assert server.get("/admin/rebuild").json()["state"] == "idle"
