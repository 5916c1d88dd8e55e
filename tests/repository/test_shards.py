"""Cutting a table's rows into shard files."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from repo_builder.repository.weights import write_shards


def blocks_of(table: NDArray[np.float32], size: int) -> Iterator[NDArray[np.float32]]:
    return (table[begin : begin + size] for begin in range(0, len(table), size))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 25), st.integers(1, 5), st.booleans())
def test_each_shard_gets_its_rows_in_id_order(numbers: list[int], block_rows: int, dim: int, sort: bool) -> None:
    shard_of_row = np.array(sorted(numbers) if sort else numbers, np.uint8)
    table = np.arange(len(numbers) * dim, dtype=np.float32).reshape(-1, dim)
    outputs = [io.BytesIO() for _ in range(4)]
    write_shards(blocks_of(table, block_rows), shard_of_row, outputs, ["fp32"] * len(outputs))
    for shard, output in enumerate(outputs):
        expected = [table[i] for i in range(len(table)) if shard_of_row[i] == shard]
        assert output.getvalue() == b"".join(row.tobytes() for row in expected)


def test_blocks_larger_than_a_piece_and_unbuffered_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = rng.random((200_000, 16), dtype=np.float32)
    shard_of_row = rng.integers(0, 3, len(table)).astype(np.uint8)
    paths = [tmp_path / f"{i}.bin" for i in range(3)]
    outputs = [path.open("wb", buffering=0) for path in paths]
    write_shards(blocks_of(table, 150_000), shard_of_row, outputs, ["fp32"] * len(outputs))
    for shard, (path, output) in enumerate(zip(paths, outputs, strict=True)):
        output.close()
        np.testing.assert_array_equal(np.fromfile(path, np.float32).reshape(-1, 16), table[shard_of_row == shard])


class HalfWriter(io.RawIOBase):
    """A file that takes at most 100 bytes a call, as an unbuffered one may."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, view: memoryview) -> int:
        self.data += view[:100]
        return min(100, len(view))


def test_partial_writes_are_completed() -> None:
    table = np.arange(400, dtype=np.float32).reshape(-1, 4)
    output = HalfWriter()
    write_shards(iter([table]), np.zeros(100, np.uint8), [output], ["fp32"])
    assert bytes(output.data) == table.tobytes()


@pytest.mark.parametrize("rows", [9, 11])
def test_rows_that_do_not_match_the_shard_numbers_are_refused(rows: int) -> None:
    table = np.zeros((rows, 2), np.float32)
    with pytest.raises(ValueError, match="expected 10 rows"):
        write_shards(blocks_of(table, 3), np.zeros(10, np.uint8), [io.BytesIO()], ["fp32"])


def test_a_shard_number_without_an_output_is_refused() -> None:
    with pytest.raises(ValueError, match="expected shard numbers below 1, got 1"):
        write_shards(iter([np.zeros((2, 2), np.float32)]), np.array([0, 1], np.uint8), [io.BytesIO()], ["fp32"])


def test_an_error_while_reading_reaches_the_caller() -> None:
    def failing() -> Iterator[NDArray[np.float32]]:
        yield np.zeros((1, 2), np.float32)
        raise OSError("disk gone")

    with tempfile.TemporaryDirectory() as folder, Path(folder, "x").open("wb") as file:  # noqa: SIM117 - two concerns
        with pytest.raises(OSError, match="disk gone"):
            write_shards(failing(), np.zeros(2, np.uint8), [file], ["fp32"])
