"""A queue in which callers take turns, so that many jobs of one caller delay no other."""

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Turns(Generic[Item]):
    """Holds items by caller. Callers take turns; the items of one caller keep their order."""

    def __init__(self) -> None:
        self._by_caller: dict[Hashable, deque[Item]] = {}  # the first caller is the next
        self._count = 0

    def __len__(self) -> int:
        """Return the number of items."""
        return self._count

    def append(self, caller: Hashable, item: Item) -> None:
        """Add an item of ``caller``."""
        self._by_caller.setdefault(caller, deque()).append(item)
        self._count += 1

    def popleft(self) -> Item:
        """Remove and return the next item.

        Raises:
            StopIteration: there is none.
        """
        caller = next(iter(self._by_caller))
        items = self._by_caller.pop(caller)
        item = items.popleft()
        if items:
            self._by_caller[caller] = items
        self._count -= 1
        return item
