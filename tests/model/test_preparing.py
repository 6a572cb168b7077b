import threading
import weakref
from collections.abc import Iterator

import pytest

from model.decoding.processes import decoders
from model.preparing import prepare_ahead, prepare_batches


class Picture:
    """A prepared picture whose life can be watched."""

    def __init__(self, number: int) -> None:
        self.number = number


def test_items_come_in_order_from_any_number_of_threads() -> None:
    barrier = threading.Barrier(2, timeout=30)  # passes only while two are prepared at a time

    def prepare(number: int) -> int:
        barrier.wait()
        return number * number

    found = prepare_ahead(range(20), prepare, ahead=4, workers=2)
    assert list(found) == [number * number for number in range(20)]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_hold_all_items_and_the_last_is_shorter(workers: int) -> None:
    batches = prepare_batches(range(10), str, batch=4, workers=workers)
    assert [list(batch) for batch in batches] == [
        list("0123"), list("4567"), ["8", "9"],
    ]  # fmt: skip
    assert list(prepare_batches([], str, batch=4, workers=workers)) == []


@pytest.mark.parametrize("count", [100, 1000])
def test_the_number_of_held_items_does_not_grow_with_that_of_all(count: int) -> None:
    alive: weakref.WeakSet[Picture] = weakref.WeakSet()
    read = 0
    most = furthest = 0

    def numbers() -> Iterator[int]:
        nonlocal read
        for number in range(count):
            read = number
            yield number

    def prepare(number: int) -> Picture:
        picture = Picture(number)
        alive.add(picture)
        return picture

    taken = 0
    for batch in prepare_batches(numbers(), prepare, batch=8, workers=2):
        taken += len(batch)
        most, furthest = max(most, len(alive)), max(furthest, read - taken)
        del batch
    assert taken == count
    assert most <= 3 * 8 + 2
    assert furthest <= 8 + 2


def test_an_error_comes_when_it_is_the_items_turn_and_ends_the_rest() -> None:
    prepared: list[int] = []

    def prepare(number: int) -> int:
        prepared.append(number)
        if number == 3:
            raise KeyError(number)
        return number

    found: list[int] = []
    with pytest.raises(KeyError):
        found.extend(prepare_ahead(range(1000), prepare, ahead=4, workers=1))
    assert found == [0, 1, 2]
    assert len(prepared) < 20


def test_as_many_processes_may_decode_as_there_are_threads() -> None:
    before = decoders()._light.size
    list(prepare_ahead([1], str, ahead=1, workers=before + 1))
    assert decoders()._light.size == before + 1
    list(prepare_ahead([1], str, ahead=1, workers=1))
    assert decoders()._light.size == before + 1
    decoders().configure(before, decoders()._heavy.pixels)
