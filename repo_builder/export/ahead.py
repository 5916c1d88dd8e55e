"""Working one step ahead of whoever takes the results."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from typing import TypeVar

Item = TypeVar("Item")


class _End(Enum):
    END = None


def one_ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """The same items; while the caller has one, the next one is made in a thread.

    So three of them may be in memory: the caller's last, its present one and the next. An error reaches the caller in
    the place of the item. Close it where it may be left early, so that its thread ends.
    """
    with ThreadPoolExecutor(1) as worker:
        coming = worker.submit(next, items, _End.END)
        while (item := coming.result()) is not _End.END:
            coming = worker.submit(next, items, _End.END)
            yield item
