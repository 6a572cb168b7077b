"""Progress in lines, for runs without a terminal: in a container, in CI, in a log."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass
class _Stage:
    name: str
    began: float  # by the clock, at the first report
    first: int  # done at that time
    done: int
    total: int
    note: str = ""
    told: bool = False  # its end has a line


class ProgressLines:
    """Writes a line for the current stage when asked to, and one at the end of each stage.

    Args:
        write: writes one line.
        as_json: write JSON objects in place of text.
        clock: returns seconds.
        now: returns the time of day, for JSON.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        *,
        as_json: bool = False,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._write = write
        self._as_json = as_json
        self._clock = clock
        self._now = now
        self._lock = threading.Lock()
        self._stage: _Stage | None = None
        self._last = clock()  # time of the last report

    def report(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Take a report of progress; the last one of a stage writes a line."""
        with self._lock:
            self._last = self._clock()
            current = self._stage
            begins_again = current and current.told and done < total
            if current is None or current.name != stage or begins_again:
                self._end(current)
                current = self._stage = _Stage(stage, self._last, done, done, total)
            current.done, current.total, current.note = done, total, note
            if done >= total:
                self._end(current)

    def tick(self) -> None:
        """Write a line: the progress of the current stage, or the time since the last one ended."""
        with self._lock:
            stage = self._stage
            if stage and not stage.told:
                self._tell(stage)
            elif self._as_json:
                self._object(stage=None, after=stage and stage.name, seconds=self._waited())
            else:
                after = f"{stage.name} ended" if stage else "the start"
                self._write(f"working: {_duration(self._waited())} since {after}")

    def _waited(self) -> float:
        return round(self._clock() - self._last, 1)

    def _end(self, stage: _Stage | None) -> None:
        if stage and not stage.told:
            stage.told = True
            self._tell(stage)

    def _tell(self, stage: _Stage) -> None:
        seconds = self._clock() - stage.began
        made = stage.done - stage.first
        rate = made / seconds if made > 0 and seconds > 0 else None
        left = (stage.total - stage.done) / rate if rate else None
        if self._as_json:
            self._object(
                stage=stage.name,
                done=stage.done,
                total=stage.total,
                rate=rate and round(rate, 2),
                seconds_left=None if left is None else round(left),
                **({"note": stage.note} if stage.note else {}),
            )
            return
        parts = [f"{stage.name}: {stage.done:,} of {stage.total:,}"]
        if rate:
            parts.append(f"{rate:,.{0 if rate >= 10 else 1}f} a second")
        if left:
            parts.append(f"{_duration(left)} left")
        self._write(", ".join([*parts, *([stage.note] if stage.note else [])]))

    def _object(self, **fields: object) -> None:
        stamp = self._now().isoformat()
        record = {"event": "progress", "level": "info", "timestamp": stamp, **fields}
        self._write(json.dumps(record))


@contextmanager
def lines_every(lines: ProgressLines, seconds: float) -> Iterator[None]:
    """Let ``lines`` tick every ``seconds``, in a thread, for the block."""
    ended = threading.Event()

    def tick() -> None:
        while not ended.wait(seconds):
            lines.tick()

    thread = threading.Thread(target=tick, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _duration(seconds: float) -> str:
    """Return a duration such as 1:02:05, or 42 s for less than a minute."""
    whole = timedelta(seconds=round(seconds))
    return f"{whole.seconds} s" if whole < timedelta(minutes=1) else str(whole)
