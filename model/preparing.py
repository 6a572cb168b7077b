"""Prepare images in threads, ahead of the model that reads them and in bounded memory.

A thread waits while a process of `model.decoding.processes` decodes, then crops and converts;
Pillow and NumPy let other threads run meanwhile. So decoding, preparation and the forward pass
overlap without a copy of this process and without a second hop of the pixels.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from model.decoding.processes import decoders

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")


def prepare_ahead(
    items: Iterable[Item],
    prepare: Callable[[Item], Prepared],
    *,
    ahead: int,
    workers: int,
) -> Iterator[Prepared]:
    """Yield each item prepared, in the order of the items.

    Args:
        items: read as they are needed.
        prepare: called in several threads.
        ahead: items that are prepared or wait to be taken, at most.
        workers: threads, and processes that decode for them; at least one.

    Raises:
        Exception: of ``items`` or ``prepare``, when the item's turn comes.
    """
    workers = max(1, workers)
    decoders().provide(workers)
    left = iter(items)
    waiting: deque[Future[Prepared]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="prepare") as pool:
        try:
            waiting.extend(pool.submit(prepare, item) for item in islice(left, max(1, ahead)))
            while waiting:
                prepared = waiting.popleft().result()
                waiting.extend(pool.submit(prepare, item) for item in islice(left, 1))
                yield prepared
                del prepared  # else it is kept until the next one is there
        finally:
            for one in waiting:
                one.cancel()


def prepare_batches(
    items: Iterable[Item],
    prepare: Callable[[Item], Prepared],
    *,
    batch: int,
    workers: int,
) -> Iterator[list[Prepared]]:
    """Yield prepared items in lists of ``batch``, the last one shorter.

    While the caller has one list, the next is prepared: at most three lists are held, the caller's
    included, and one item more for each worker.
    """
    one_by_one = prepare_ahead(items, prepare, ahead=batch + max(1, workers), workers=workers)
    while part := list(islice(one_by_one, batch)):
        yield part
        part.clear()
