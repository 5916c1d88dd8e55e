"""Items made one step ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from repo_builder.repository.weights import one_ahead


@pytest.mark.parametrize("items", [[], [None], [None, 0, "", None], list(range(100))])
def test_the_items_are_the_same_in_the_same_order(items: list[object]) -> None:
    assert list(one_ahead(iter(items))) == items


def test_the_next_item_is_made_while_the_caller_has_one() -> None:
    """And no further: memory holds a known number of them."""
    made: list[threading.Event] = [threading.Event() for _ in range(4)]

    def items() -> Iterator[int]:
        for i, event in enumerate(made):
            event.set()
            yield i

    for i in one_ahead(items()):
        assert i + 1 == len(made) or made[i + 1].wait(10)
        assert not any(event.is_set() for event in made[i + 2 :])


def test_an_error_comes_in_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise KeyError("second")

    ahead = one_ahead(items())
    assert next(ahead) == 1
    with pytest.raises(KeyError, match="second"):
        next(ahead)


def test_closing_ends_the_thread() -> None:
    before = threading.active_count()
    with closing(one_ahead(iter(range(10)))) as ahead:
        next(ahead)
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
