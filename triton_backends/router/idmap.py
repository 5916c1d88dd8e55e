"""The id map: for each row of a table, its shard; and by rank, its row in that shard.

The rows of a shard stay in id order, so a row's place in its shard is the number of smaller ids with the same shard.
Only the shard numbers are stored, as bit planes, with counters per block (the layout stands in `kernels/id_map.h`):
1.14, 2.67, 4 or 5.33 bits per row for up to 2, 4, 8 or 16 shards, where a permutation takes 32. It is a rank structure
as in Jacobson, "Space-efficient static trees and graphs" (FOCS 1989), with a block's counters and bits in the same
cache lines, so that a look-up costs one miss.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from triton_backends.kernels import MAX_SHARDS

Integers = NDArray[np.int64]

PLANE_WORDS = {1: 7, 2: 3, 3: 4, 4: 6}  # 64-bit words of a bit plane in a block, by bits per row


def shard_bits(shards: int) -> int:
    """Bits that number `shards` shards: ceil(log2(shards)). Raises ValueError outside 1 ... 16."""
    if not 1 <= shards <= MAX_SHARDS:
        raise ValueError(f"shards: expected 1 to {MAX_SHARDS} a table, got {shards}")
    return (shards - 1).bit_length()


def id_map_bytes(rows: int, shards: int) -> int:
    """The size of a table's id map."""
    bits = shard_bits(shards)
    if bits == 0:
        return 0
    words = PLANE_WORDS[bits]
    blocks = -(-rows // (64 * words))
    return blocks * (4 * (1 << bits) + 8 * bits * words)


def build_id_map(shard_of_row: NDArray[np.uint8], shards: int) -> NDArray[np.uint64]:
    """The blocks of a table's id map, (blocks, block words) uint64; (0, 0) for a single shard, which needs no map.

    shard_of_row: (rows,) uint8, each below `shards`.
    """
    bits = shard_bits(shards)
    if bits == 0:
        return np.empty((0, 0), np.uint64)
    words = PLANE_WORDS[bits]
    blocks = -(-shard_of_row.size // (64 * words))
    padded = np.zeros((blocks, 64 * words), np.uint8)
    padded.reshape(-1)[: shard_of_row.size] = shard_of_row
    return np.hstack([_counters(padded, 1 << bits), _planes(padded, bits)])


def find_rows(id_map: NDArray[np.uint64], shards: int, ids: NDArray[np.int64]) -> tuple[Integers, Integers]:
    """The shard of each id (n,), and its row there.

    id_map: a table's map as `build_id_map` makes it, in any shape. Memory goes with 1,000 ids, not with all.
    """
    bits = shard_bits(shards)
    if bits == 0:
        return np.zeros(ids.shape, np.int64), ids
    parts = [_find_rows(id_map, bits, part) for part in np.array_split(ids, 1 + ids.size // 1000)]
    shard, local = (np.concatenate(each) for each in zip(*parts, strict=True))
    return shard, local


def _find_rows(id_map: NDArray[np.uint64], bits: int, ids: NDArray[np.int64]) -> tuple[Integers, Integers]:
    words, counters = PLANE_WORDS[bits], (1 << bits) // 2
    number, index = np.divmod(ids, 64 * words)
    blocks = id_map.reshape(-1, counters + bits * words)[number]  # (n, block words)
    before_block = np.ascontiguousarray(blocks[:, :counters]).view(np.uint32)  # (n, shards)
    planes = np.ascontiguousarray(blocks[:, counters:]).view(np.uint8).reshape(len(ids), bits, 8 * words)
    of_bits = np.unpackbits(planes, axis=2, bitorder="little").astype(np.int64)  # (n, bits, ids of a block)
    shards = (of_bits << np.arange(bits)[:, None]).sum(axis=1)
    each = np.arange(len(ids))
    shard = shards[each, index]
    before = (shards == shard[:, None]) & (np.arange(64 * words) < index[:, None])
    return shard, before_block[each, shard] + before.sum(axis=1)


def _counters(shard_of_row: NDArray[np.uint8], shards: int) -> NDArray[np.uint64]:
    """How many rows of each shard stand before each block: (blocks, shards) uint32, in pairs as uint64."""
    counters = np.zeros((len(shard_of_row), shards), np.uint32)
    for shard in range(shards):
        in_block = np.count_nonzero(shard_of_row[:-1] == shard, axis=1)
        np.cumsum(in_block, out=counters[1:, shard])
    return counters.view(np.uint64)


def _planes(shard_of_row: NDArray[np.uint8], bits: int) -> NDArray[np.uint64]:
    """Bit p of the shard numbers in plane p, little end first: (blocks, bits * words) uint64."""
    planes = [np.packbits(shard_of_row >> bit & 1, axis=1, bitorder="little") for bit in range(bits)]
    return np.hstack(planes).view("<u8")
