"""The id map: for each row of a table, its shard; and by rank, its row in that shard.

The rows of a shard stay in id order, so a row's place in its shard is the number of smaller ids with the same shard.
Only the shard numbers are stored, as bit planes, with counters per block (the layout stands in `kernels/id_map.h`):
1.14, 2.67, 4 or 8 bits per row for up to 2, 4, 8 or 16 shards, where a permutation takes 32. It is a rank structure
as in Jacobson, "Space-efficient static trees and graphs" (FOCS 1989), with a block's counters and bits in one cache
line, so that a look-up costs one miss.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from triton_backends.kernels import MAX_SHARDS

Integers = NDArray[np.int64]

PLANE_WORDS = {1: 7, 2: 3, 3: 2, 4: 1}  # 64-bit words of a bit plane in a block, by bits per row
LINE_WORDS = 8  # of a block
GROUP_BLOCKS = 512  # in groups stand those whose counters are uint16


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
    blocks = -(-rows // (64 * PLANE_WORDS[bits]))
    return 8 * LINE_WORDS * (blocks + _groups(blocks, bits))


def build_id_map(shard_of_row: NDArray[np.uint8], shards: int) -> NDArray[np.uint64]:
    """The lines of a table's id map, (lines, 8) uint64; (0, 8) for a single shard, which needs no map.

    shard_of_row: (rows,) uint8, each below `shards`.
    """
    bits = shard_bits(shards)
    if bits == 0:
        return np.empty((0, LINE_WORDS), np.uint64)
    block_ids = 64 * PLANE_WORDS[bits]
    blocks = -(-shard_of_row.size // block_ids)
    padded = np.zeros((blocks, block_ids), np.uint8)
    padded.reshape(-1)[: shard_of_row.size] = shard_of_row
    counters, groups = _counters(padded, 1 << bits), _groups(blocks, bits)
    lines = np.zeros((blocks + groups, LINE_WORDS), np.uint64)
    of_block = np.ones(len(lines), np.bool_)
    if groups:
        heads = np.arange(0, len(lines), GROUP_BLOCKS + 1)
        of_block[heads] = False
        before = counters[::GROUP_BLOCKS]
        lines[heads, : before.shape[1] // 2] = before.view(np.uint64)
        counters = (counters - before[np.arange(blocks) // GROUP_BLOCKS]).astype(np.uint16)
    filled = np.hstack([counters.view(np.uint64), _planes(padded, bits)])
    lines[of_block, : filled.shape[1]] = filled
    return lines


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
    words, is_grouped = PLANE_WORDS[bits], _groups(1, bits) > 0
    number, index = np.divmod(ids, 64 * words)
    group, lines = number // GROUP_BLOCKS, id_map.reshape(-1, LINE_WORDS)
    blocks = lines[number + group + 1 if is_grouped else number]  # (n, 8)
    counters = (1 << bits) // (4 if is_grouped else 2)
    before_block = blocks[:, :counters].copy().view(np.uint16 if is_grouped else np.uint32)  # (n, shards)
    planes = blocks[:, counters : counters + bits * words].copy().view(np.uint8).reshape(len(ids), bits, 8 * words)
    of_bits = np.unpackbits(planes, axis=2, bitorder="little").astype(np.int64)  # (n, bits, ids of a block)
    shards = (of_bits << np.arange(bits)[:, None]).sum(axis=1)
    each = np.arange(len(ids))
    shard = shards[each, index]
    before = (shards == shard[:, None]) & (np.arange(64 * words) < index[:, None])
    local = before_block[each, shard] + before.sum(axis=1)
    if is_grouped:
        local += lines[group * (GROUP_BLOCKS + 1)].view(np.uint32)[each, shard]
    return shard, local


def _groups(blocks: int, bits: int) -> int:
    """In how many groups so many blocks stand, each behind a line of its own; 0 where there are none."""
    return -(-blocks // GROUP_BLOCKS) if bits > 2 else 0


def _counters(shard_of_row: NDArray[np.uint8], shards: int) -> NDArray[np.uint32]:
    """How many rows of each shard stand before each block: (blocks, shards) uint32."""
    counters = np.zeros((len(shard_of_row), shards), np.uint32)
    for shard in range(shards):
        in_block = np.count_nonzero(shard_of_row[:-1] == shard, axis=1)
        np.cumsum(in_block, out=counters[1:, shard])
    return counters


def _planes(shard_of_row: NDArray[np.uint8], bits: int) -> NDArray[np.uint64]:
    """Bit p of the shard numbers in plane p, little end first: (blocks, bits * words) uint64."""
    planes = [np.packbits(shard_of_row >> bit & 1, axis=1, bitorder="little") for bit in range(bits)]
    return np.hstack(planes).view("<u8")
