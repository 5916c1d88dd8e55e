"""The id map, the router in numpy and the kernel against a permutation kept in plain lists."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.triton_backends.kernel_router import KernelRouter
from tests.triton_backends.processors import ALL, processor_up_to
from tests.triton_backends.tiered import dlrm_routing, draw_indices, make_tiered
from triton_backends.router.idmap import build_id_map, id_map_bytes, shard_bits
from triton_backends.router.router import Router
from triton_backends.router.routing import RoutedShard


def local_rows(shard_of_row: np.ndarray) -> list[int]:
    """The oracle: each row's place among the rows of its shard, counted one by one."""
    counts: dict[int, int] = {}
    places = []
    for shard in shard_of_row.tolist():
        places.append(counts.get(shard, 0))
        counts[shard] = places[-1] + 1
    return places


@ALL
@given(
    seed=st.integers(0, 10_000),
    shapes=st.lists(st.tuples(st.integers(1, 1500), st.integers(1, 20), st.integers(1, 16)), min_size=1, max_size=4),
    batch=st.integers(1, 6),
    dtype=st.sampled_from([np.int32, np.int64]),
)
def test_every_id_reaches_its_row(
    widest: str | None, seed: int, shapes: list[tuple[int, int, int]], batch: int, dtype: type[np.signedinteger]
) -> None:
    """Tables of any size and number of shards, tiered: shard s of every table lies in service s."""
    rng = np.random.default_rng(seed)
    made = make_tiered(rng, shapes)
    indices = draw_indices(rng, made, batch)
    columns = np.split(indices, np.cumsum([pooling for _, pooling, _ in shapes])[:-1], 1)
    routed = made.router().route({"indices": indices.astype(dtype)}).tensors
    with processor_up_to(widest):
        by_kernel = KernelRouter(made.routing, made.id_maps).route({"indices": indices.astype(dtype)})

    bags = [unit.bags for unit in made.routing.units]
    expected_ids: list[list[int]] = [[] for _ in bags]
    expected_lengths = [[0] * (batch * count) for count in bags]
    for b in range(batch):
        for lookup, shard_of_row, column in zip(made.lookups, made.shard_of_rows, columns, strict=True):
            local = local_rows(shard_of_row)
            for row_id in column[b]:
                if row_id >= 0:
                    s = int(shard_of_row[row_id])
                    expected_ids[s].append(lookup.shards[s].base + local[row_id])
                    expected_lengths[s][b * bags[s] + lookup.shards[s].place] += 1
    assert list(routed) == [f"tier{s}_{kind}" for s in range(len(bags)) for kind in ("ids", "lengths")]
    for found in (routed, by_kernel):
        assert [found[f"tier{s}_ids"].tolist() for s in range(len(bags))] == [[ids] for ids in expected_ids]
        assert [found[f"tier{s}_lengths"].tolist() for s in range(len(bags))] == [[lens] for lens in expected_lengths]


@ALL
@pytest.mark.parametrize(("shards", "rows"), [(2, 70_400), (4, 70_400), (8, 140_800), (16, 140_800)])
def test_counters_of_many_blocks_add_up(widest: str | None, shards: int, rows: int) -> None:
    """Several groups of blocks, the last one and its last block begun: every id, by the kernel and in numpy."""
    shard_of_row = np.random.default_rng(shards).integers(0, shards, rows).astype(np.uint8)
    placed = [RoutedShard(s, 0, 0) for s in range(shards)]
    routing = dlrm_routing([("large", rows, 64)], [placed], [0], [1] * shards)
    id_map = build_id_map(shard_of_row, shards).reshape(-1)
    assert id_map.nbytes == id_map_bytes(rows, shards)
    router, ids = Router(routing, id_map), np.arange(rows)
    found_shards, found_rows = router.find(0, ids)
    with processor_up_to(widest):
        routed = KernelRouter(routing, id_map).route({"indices": ids.reshape(-1, 64)})
    np.testing.assert_array_equal(found_shards, shard_of_row)
    np.testing.assert_array_equal(found_rows, local_rows(shard_of_row))
    for s in range(shards):
        np.testing.assert_array_equal(routed[f"tier{s}_ids"][0], np.arange(np.count_nonzero(shard_of_row == s)))


@pytest.mark.parametrize(("shards", "limit"), [(1, 0), (2, 1.2), (4, 3), (8, 4.1), (16, 8.1)])
def test_the_map_is_small(shards: int, limit: float) -> None:
    rows = 1_000_000
    id_map = build_id_map(np.arange(rows, dtype=np.uint32).astype(np.uint8) % shards, shards)
    assert 8 * id_map.nbytes / rows <= limit


@pytest.mark.parametrize(("shards", "block_ids"), [(2, 448), (4, 192), (8, 128), (16, 64)])
def test_the_ids_of_the_largest_table_are_found(shards: int, block_ids: int, tmp_path: Path) -> None:
    """In a map of zeros, a file without a page, all rows lie in shard 0 and no block counts any before it."""
    rows = 2**31 - 1
    with (tmp_path / "idmap.bin").open("wb") as file:
        file.truncate(id_map_bytes(rows, shards))
    zeros = np.memmap(tmp_path / "idmap.bin", np.uint64, mode="r")
    placed = [RoutedShard(s, 0, 0) for s in range(shards)]
    routing = dlrm_routing([("large", rows, 16)], [placed], [0], [1] * shards)
    router, kernel = Router(routing, zeros), KernelRouter(routing, zeros)
    blocks = np.arange(0, rows // block_ids, 9973)
    ids = np.concatenate([blocks * block_ids, blocks * block_ids + block_ids - 1, [rows - 1]])
    indices = np.resize(ids, (len(ids) // 16 + 1, 16))
    for widest in ("avx512", "avx2", None):
        with processor_up_to(widest):
            parts = np.array_split(indices, len(indices) // 4096 + 1)
            found = [kernel.route({"indices": part})["tier0_ids"] for part in parts]
        np.testing.assert_array_equal(np.hstack(found)[0], indices.reshape(-1) % block_ids)
    last = router.route({"indices": indices[-3:]}).tensors["tier0_ids"]
    np.testing.assert_array_equal(last[0], indices[-3:].reshape(-1) % block_ids)


@pytest.mark.parametrize("shards", [0, 17])
def test_shards_beyond_the_map_are_refused(shards: int) -> None:
    with pytest.raises(ValueError, match=f"expected 1 to 16 a table, got {shards}"):
        shard_bits(shards)


def two_tables(shards: int) -> Router:
    """Tables `small` (5 rows, 2 columns) and `large` (1000 rows, 3 columns)."""
    maps = [build_id_map((np.arange(rows) % shards).astype(np.uint8), shards).reshape(-1) for rows in (5, 1000)]
    placed = [[RoutedShard(s, 0, t) for s in range(shards)] for t in range(2)]
    routing = dlrm_routing([("small", 5, 2), ("large", 1000, 3)], placed, [0, maps[0].nbytes], [2] * shards)
    return Router(routing, np.concatenate(maps))


@pytest.mark.parametrize("shards", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
@pytest.mark.parametrize(
    ("bad", "column", "table", "most"),
    [
        (5, 0, "small", 4),
        (-2, 1, "small", 4),
        (1000, 2, "large", 999),
        (2**31 - 1, 4, "large", 999),
        (-(2**31), 3, "large", 999),
    ],
)
def test_an_id_out_of_range_is_named(
    shards: int, dtype: type[np.signedinteger], bad: int, column: int, table: str, most: int
) -> None:
    indices = np.zeros((3, 5), dtype)
    indices[1, column] = bad
    router = two_tables(shards)
    for each in (router, KernelRouter(router.routing, router.id_maps)):
        told = rf"table {table}: id {bad} in row 1, column {column} .* expected 0 to {most}"
        with pytest.raises(ValueError, match=told):
            each.route({"indices": indices})


@pytest.mark.parametrize("bad", [2**32, 2**32 + 1, 2**63 - 1, -(2**63), -(2**32)])
def test_a_wide_id_does_not_wrap_around(bad: int) -> None:
    indices = np.full((1, 5), -1, np.int64)
    indices[0, 4] = bad
    router = two_tables(2)
    for each in (router, KernelRouter(router.routing, router.id_maps)):
        with pytest.raises(ValueError, match=f"table large: id {bad} "):
            each.route({"indices": indices})


def test_a_router_is_opened_from_its_files(tmp_path: Path) -> None:
    router = two_tables(3)
    (tmp_path / "router.json").write_text(json.dumps(router.routing.document()))
    maps = [build_id_map((np.arange(rows) % 3).astype(np.uint8), 3).tobytes() for rows in (5, 1000)]
    (tmp_path / "idmap.bin").write_bytes(b"".join(maps))
    indices = np.array([[4, -1, 999, 0, 7]])
    opened = Router.open(tmp_path).route({"indices": indices}).tensors
    expected = router.route({"indices": indices}).tensors
    assert list(opened) == list(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(opened[name], tensor)

    (tmp_path / "idmap.bin").write_bytes(b"".join(maps)[:-64])
    with pytest.raises(ValueError, match=r"idmap.bin: expected \d+ bytes for table large"):
        Router.open(tmp_path)
