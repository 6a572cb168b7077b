import json
import threading
from datetime import UTC, datetime

from app.cli.progress import ProgressLines, lines_every


class Clock:
    """A clock that is set by hand."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def started(*, as_json: bool = False) -> tuple[ProgressLines, list[str], Clock]:
    lines, clock = list[str](), Clock()
    now = lambda: datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)  # noqa: E731
    return ProgressLines(lines.append, as_json=as_json, clock=clock, now=now), lines, clock


def test_a_line_tells_done_total_rate_and_time_left() -> None:
    progress, lines, clock = started()
    progress.report("embedding", 32, 10_032)
    clock.seconds += 30
    progress.report("embedding", 2_432, 10_032)
    assert lines == []
    progress.tick()
    assert lines == ["embedding: 2,432 of 10,032, 80 a second, 0:01:35 left"]


def test_a_slow_stage_has_a_decimal_and_a_note() -> None:
    progress, lines, clock = started()
    progress.report("pre-training", 0, 100)
    clock.seconds += 10
    progress.report("pre-training", 25, 100, "epoch 1 loss 0.5")
    progress.tick()
    assert lines == ["pre-training: 25 of 100, 2.5 a second, 30 s left, epoch 1 loss 0.5"]


def test_the_end_of_a_stage_has_one_line_of_its_own() -> None:
    progress, lines, clock = started()
    progress.report("scanning", 0, 40)
    clock.seconds += 2
    progress.report("scanning", 40, 40)
    progress.report("scanning", 40, 40)
    progress.report("embedding", 5, 10)  # ended by the next stage
    progress.report("calibrating", 1, 2)
    assert lines == ["scanning: 40 of 40, 20 a second", "embedding: 5 of 10"]


def test_work_between_stages_is_told_by_its_duration() -> None:
    progress, lines, clock = started()
    clock.seconds += 30
    progress.tick()
    progress.report("embedding", 10, 10)
    clock.seconds += 90
    progress.tick()
    assert lines == [
        "working: 30 s since the start", "embedding: 10 of 10",
        "working: 0:01:30 since embedding ended",
    ]  # fmt: skip


def test_json_lines_hold_the_same() -> None:
    progress, lines, clock = started(as_json=True)
    progress.tick()
    progress.report("embedding", 10, 100)
    clock.seconds += 4
    progress.report("embedding", 20, 100)
    progress.tick()
    assert [json.loads(line) for line in lines] == [
        {
            "event": "progress", "level": "info", "timestamp": "2030-01-02T03:04:05+00:00",
            "stage": None, "after": None, "seconds": 0.0,
        },
        {
            "event": "progress", "level": "info", "timestamp": "2030-01-02T03:04:05+00:00",
            "stage": "embedding", "done": 20, "total": 100, "rate": 2.5, "seconds_left": 32,
        },
    ]  # fmt: skip


def test_a_thread_ticks_until_the_work_ends() -> None:
    ticked = threading.Event()

    class Ticks(ProgressLines):
        def tick(self) -> None:
            ticked.set()

    before = threading.active_count()
    with lines_every(Ticks(print), seconds=0.001):
        assert ticked.wait(30)
    assert threading.active_count() == before
