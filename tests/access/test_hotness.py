"""Counting one table's accesses piece by piece."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_builder.access.hotness import AccessCounter


@given(st.lists(st.lists(st.integers(-1, 9), max_size=30), max_size=8))
def test_counts_equal_a_plain_count(pieces: list[list[int]]) -> None:
    counter = AccessCounter(10)
    for piece in pieces:
        assert counter.add(np.array(piece, np.int64)) is None
    everything = [i for piece in pieces for i in piece]
    assert counter.counts.tolist() == [everything.count(i) for i in range(10)]


def test_counts_are_compact() -> None:
    assert AccessCounter(10).counts.dtype == np.uint32


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i8"])
def test_any_integer_dtype(dtype: str) -> None:
    counter = AccessCounter(3)
    counter.add(np.array([2, 0, 2], dtype))
    assert counter.counts.tolist() == [1, 0, 2]


@pytest.mark.parametrize("bad", [-2, -(2**63), 3, 2**31, 2**63 - 1])
def test_id_out_of_range_is_found_and_nothing_counted(bad: int) -> None:
    counter = AccessCounter(3)
    assert counter.add(np.array([0, -1, bad, 1, bad])) == 2
    assert counter.counts.tolist() == [0, 0, 0]


def test_unsigned_id_beyond_int64_is_out_of_range() -> None:
    assert AccessCounter(3).add(np.array([0, 2**64 - 1], np.uint64)) == 1


def test_counts_widen_before_they_overflow() -> None:
    counter = AccessCounter(2, np.uint8)
    for _ in range(3):
        counter.add(np.ones(200, np.int64))
    assert counter.counts.tolist() == [0, 600] and counter.counts.dtype == np.uint64
