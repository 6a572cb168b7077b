import pytest

from app.errors import QueueFullError
from app.inference.permit import Queue


def test_a_queue_uses_a_part_of_its_places_while_work_takes_long() -> None:
    queue = Queue(32)
    queue.longest_wait = 0.25
    assert queue.places == 32  # before the first measurement
    for seconds, places in ((0.005, 32), (0.010, 25), (0.015, 16), (1.0, 11)):
        queue.seconds = seconds
        assert queue.places == places
    with queue.hold(11):
        with pytest.raises(QueueFullError, match="of the queue's 11 places 11 are taken") as error:
            queue.require()
        assert error.value.retry_after == 11  # seconds: the time of 11 places
        assert "try again in 11 seconds" in str(error.value)
        queue.seconds = 0.005
        queue.require(21)


def test_a_queue_of_a_fixed_size_uses_all_of_it() -> None:
    queue = Queue(4)
    queue.seconds = 60.0
    assert queue.places == 4


def test_one_request_may_take_more_than_half_of_an_empty_queue() -> None:
    queue = Queue(8)
    queue.longest_wait, queue.seconds = 0.25, 1.0
    with queue.hold(6), pytest.raises(QueueFullError):
        queue.require()


@pytest.mark.parametrize("seconds", [0.001, 0.02, 1.0])
def test_a_large_request_leaves_room_for_others(seconds: float) -> None:
    queue = Queue(32)
    queue.longest_wait, queue.seconds = 0.25, seconds
    with queue.hold(queue.share(64, 1)):
        queue.require(queue.places // 2)
    assert queue.share(64, 5) * 5 <= queue.places // 2
    assert queue.share(64, 40) == 1
    assert queue.share(2, 1) == 2


def test_one_caller_takes_half_of_the_places() -> None:
    queue = Queue(8)
    with queue.hold(4, "key a"), queue.hold(1, "key b"):
        with pytest.raises(QueueFullError, match="one caller may take 4 of the queue's places"):
            queue.hold(1, "key a").__enter__()
        with queue.hold(3):  # this machine may be a proxy of many
            assert queue.taken == 8
    with queue.hold(4, "key a"):  # its places were given back
        assert queue.taken == 4
    with queue.hold(6, "key a"):  # one image with explanations may need more than half
        assert queue.taken == 6


def test_a_request_with_several_images_takes_what_is_left_of_its_callers_half() -> None:
    queue = Queue(8)
    with queue.hold(1, "key a"):
        assert queue.share(8, 1, "key a") == 3
        assert queue.share(8, 1, "key b") == 4
        with queue.hold(3, "key a"):
            assert queue.share(8, 1, "key a") == 1


def test_a_reduced_queue_recovers_without_full_batches() -> None:
    queue = Queue(32)
    queue.longest_wait = 0.4
    queue.record(0.02, full=False)  # no measure of a full queue
    assert queue.places == 32
    queue.record(0.05, full=True)
    assert queue.places == 11
    for _ in range(30):
        queue.record(0.01, full=False)
    assert queue.places == 32
