"""The loop of a watcher, and leases of the version that is served."""

import asyncio

import pytest

from app import watchers
from app.telemetry.metrics import Metrics
from app.watchers import ServedIndex, repeat
from index.errors import SnapshotError
from tests.waiting import wait_in_loop_until


def test_an_unexpected_error_is_logged_once_until_it_is_another(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(watchers, "POLL_SECONDS", 0)
    errors = iter(["a", "a", "a", "b", "b", None, "b"])
    over = asyncio.Event()

    async def poll() -> None:
        if error := next(errors, "over"):
            if error == "over":
                over.set()
                await asyncio.Event().wait()
            raise ValueError(error)

    async def watch() -> None:
        watching = asyncio.create_task(repeat(poll))
        await wait_in_loop_until(over.is_set)
        watching.cancel()

    asyncio.run(watch())
    assert [str(line.exc_info[1]) for line in caplog.records if line.exc_info] == ["a", "b", "b"]


def test_without_a_version_the_reason_is_raised() -> None:
    served = ServedIndex(Metrics())
    served.drop(SnapshotError("its files are gone"))
    with pytest.raises(SnapshotError, match="its files are gone"), served.lease():
        pass
