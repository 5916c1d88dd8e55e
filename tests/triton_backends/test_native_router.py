"""The native router, called as Triton calls it, against the Python one; whatever comes, it must not crash."""

import contextlib
import ctypes
import re
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from repo_builder.repository.descriptions import MAX_BATCH_ROWS
from tests.triton_backends.fake_triton import GPU, Asked, Backend, BackendError, Given, Model
from tests.triton_backends.tiered import Tiered, draw_indices, make_tiered

FEATURES = 3


@pytest.fixture(scope="module")
def backend(fake: ctypes.CDLL) -> Backend:
    loaded = Backend(fake, "elasticrec_router")
    loaded.initialize()
    return loaded


@pytest.fixture
def tiered() -> Tiered:
    """Tables of 300 and 5 rows, 4 and 1 columns, in three shards and one."""
    return make_tiered(np.random.default_rng(0), [(300, 4, 3), (5, 1, 1)])


@pytest.fixture
def folder(tiered: Tiered, tmp_path: Path) -> Path:
    tiered.write(tmp_path / "1")
    return tmp_path


def query(tiered: Tiered, batch: int, dtype: type = np.int64) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch)
    dense = rng.standard_normal((batch, FEATURES)).astype(np.float32)
    return {"dense": dense, "indices": draw_indices(rng, tiered, batch).astype(dtype)}


def assert_routed(tiered: Tiered, indices: np.ndarray, outputs: dict[str, np.ndarray]) -> None:
    assert len(outputs) == 2 * len(tiered.services)
    expected = {n: a for n, a in tiered.router().route({"indices": indices}).tensors.items() if n != "divisors"}
    assert list(outputs) == list(expected)
    for name, wanted in expected.items():
        assert outputs[name].dtype == np.int32 and outputs[name].shape == wanted.shape
        np.testing.assert_array_equal(outputs[name], wanted)


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_sums_of_averaged_tables_are_to_be_divided_by_their_bags_ids(
    backend: Backend, tiered: Tiered, tmp_path: Path, dtype: type
) -> None:
    """By 1 where a bag is empty, or its table is summed."""
    lookups = [replace(tiered.lookups[0], mean=1), *tiered.lookups[1:]]
    averaged = replace(tiered, routing=replace(tiered.routing, lookups=lookups))
    averaged.write(tmp_path / "1")
    inputs = query(tiered, 9, dtype)
    inputs["indices"][3, :4] = -1
    with Model(backend, tmp_path) as model:
        outputs = model.infer(inputs)
    counts = np.maximum((inputs["indices"][:, :4] >= 0).sum(axis=1), 1)
    divisors = outputs.pop("divisors")
    assert divisors.dtype == np.float32
    np.testing.assert_array_equal(divisors, np.stack([counts, np.ones(9)], axis=1))
    assert_routed(averaged, inputs["indices"], outputs)


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    shapes=st.lists(st.tuples(st.integers(1, 1500), st.integers(1, 5), st.integers(1, 16)), min_size=1, max_size=4),
    batch=st.integers(1, 6),
    dtype=st.sampled_from([np.int32, np.int64]),
    pieces=st.integers(1, 4),
    offset=st.integers(0, 3),
)
def test_it_routes_as_the_python_router(
    backend: Backend,
    seed: int,
    shapes: list[tuple[int, int, int]],
    batch: int,
    dtype: type,
    pieces: int,
    offset: int,
) -> None:
    """However the tensors come: in pieces, or at odd addresses."""
    tiered = make_tiered(np.random.default_rng(seed), shapes)
    inputs = query(tiered, batch, dtype)
    with tempfile.TemporaryDirectory() as folder:
        tiered.write(Path(folder) / "1")
        with Model(backend, Path(folder)) as model:
            given = {name: Given(array, pieces, offset) for name, array in inputs.items()}
            assert_routed(tiered, inputs["indices"], model.infer(given, Asked(offset=offset)))
            assert (model.instance.good, model.instance.executed) == (1, 1)


@pytest.mark.parametrize("batch", [1, MAX_BATCH_ROWS])
def test_as_many_rows_as_the_dense_model_takes(backend: Backend, tiered: Tiered, folder: Path, batch: int) -> None:
    inputs = query(tiered, batch)
    with Model(backend, folder) as model:
        assert_routed(tiered, inputs["indices"], model.infer(inputs))


def test_a_query_of_padding_alone(backend: Backend, tiered: Tiered, folder: Path) -> None:
    inputs = query(tiered, 3)
    inputs["indices"][:] = -1
    with Model(backend, folder) as model:
        assert_routed(tiered, inputs["indices"], model.infer(inputs))


def changed(name: str, change: Callable[[np.ndarray], Given | np.ndarray]) -> Callable[[dict], None]:
    def apply(inputs: dict) -> None:
        inputs[name] = change(inputs[name])

    return apply


def without_rows(rows: slice) -> Callable[[dict], None]:
    def apply(inputs: dict) -> None:
        inputs.update({name: array[rows] for name, array in inputs.items()})

    return apply


def with_number(name: str, row: int, column: int, number: float) -> Callable[[dict], None]:
    def apply(inputs: dict) -> None:
        inputs[name][row, column] = number

    return apply


BAD = {
    "no rows": (without_rows(slice(0)), "dense, indices: expected 1 to 4096 rows, got 0"),
    "rows differ": (
        changed("dense", lambda a: a[:2]),
        "dense, indices: expected the same number of rows in each, got 2 and 4",
    ),
    "columns": (changed("indices", lambda a: a[:, 1:].copy()), "indices: expected 5 columns, got 4"),
    "one dimension": (changed("dense", lambda a: a[0]), "dense: expected 2 dimensions, got 1"),
    "float ids": (
        changed("indices", lambda a: a.astype(np.float32)),
        "indices: expected INT64 or INT32, got FP32",
    ),
    "whole dense": (changed("dense", lambda a: a.astype(np.int32)), "dense: expected FP32, got INT32"),
    "double": (changed("dense", lambda a: a.astype(np.float64)), "dense: expected FP32, got FP64"),
    "none": (lambda inputs: inputs.pop("indices"), "unknown request input name"),
    "on a GPU": (
        changed("indices", lambda a: Given(a, memory_type=GPU)),
        "indices: expected a tensor in CPU memory, got GPU memory",
    ),
    "told too short": (
        changed("indices", lambda a: Given(a, byte_size=152)),
        "indices: expected 8 bytes for each of 4 x 5 numbers, got 152 in all",
    ),
    "too short": (
        changed("indices", lambda a: Given(a[:3], byte_size=160, shape=(4, 5))),
        "indices: expected 160 bytes, got 120",
    ),
    "too long": (
        changed("indices", lambda a: Given(a, 2, byte_size=120, shape=(3, 5))),
        "indices: expected 120 bytes, got more",
    ),
    "a negative shape": (
        changed("dense", lambda a: Given(a, shape=(-4, -3))),
        "dense: expected 4 bytes for each of -4 x -3 numbers, got 48 in all",
    ),
    "a shape that overflows": (
        changed("dense", lambda a: Given(a, shape=(2**62, 8))),
        "dense: expected 4 bytes for each of 4611686018427387904 x 8 numbers",
    ),
    "NaN": (
        with_number("dense", 2, 1, np.nan),
        "dense: expected finite numbers, got nan in row 2, column 1",
    ),
    "-inf": (
        with_number("dense", 3, 2, -np.inf),
        "dense: expected finite numbers, got -inf in row 3, column 2",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_told_and_the_next_one_answered(
    backend: Backend, tiered: Tiered, folder: Path, case: str
) -> None:
    change, message = BAD[case]
    inputs = query(tiered, 4)
    bad = {name: array.copy() for name, array in inputs.items()}
    change(bad)
    with Model(backend, folder) as model:
        with pytest.raises(BackendError, match=f"^{re.escape(message)}"):
            model.infer(bad)
        counted = model.instance
        assert (counted.good, counted.bad, counted.executions, counted.executed) == (0, 1, 0, 0)
        assert_routed(tiered, inputs["indices"], model.infer(inputs))


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize(("column", "bad"), [(0, 300), (3, -2), (4, 5), (4, -(2**31)), (2, 2**31 - 1)])
def test_an_id_out_of_range_is_told_as_by_the_python_router(
    backend: Backend, tiered: Tiered, folder: Path, dtype: type, column: int, bad: int
) -> None:
    inputs = query(tiered, 3, dtype)
    inputs["indices"][1, column] = bad
    with pytest.raises(ValueError, match=f"id {bad} in row 1, column {column} ") as told:
        tiered.router().route({"indices": inputs["indices"]})
    with Model(backend, folder) as model, pytest.raises(BackendError, match=f"^{re.escape(str(told.value))}$"):
        model.infer(inputs)


def test_outputs_on_a_gpu_are_refused(backend: Backend, tiered: Tiered, folder: Path) -> None:
    with Model(backend, folder) as model, pytest.raises(BackendError, match="tier0_ids: expected CPU memory, got GPU"):
        model.infer(query(tiered, 2), Asked(memory_type=GPU))


def test_another_version_of_the_api_is_refused(fake: ctypes.CDLL, backend: Backend) -> None:
    major = ctypes.c_uint32.in_dll(fake, "fake_api_major")
    major.value = 2
    try:
        with pytest.raises(BackendError, match=r"expected version 1 of Triton's backend API, this server has 2\.19"):
            backend.initialize()
    finally:
        major.value = 1


def refusal(backend: Backend, folder: Path) -> str:
    with pytest.raises(BackendError) as caught, Model(backend, folder):
        pass
    return str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"rows": 300', '"rows": 0', "router.json: expected a number from 1 to 2147483647 at byte "),
        ('"rows": 300', '"rows": 3e2', "router.json: expected ',' at byte "),
        ('"rows": 300', f'"rows": {10**30}', "router.json: expected a number from 1 to 2147483647 at byte "),
        ('"rows": 300', '"rows": 30000', r"idmap.bin: expected \d{4,} bytes for table t0, got \d+$"),
        ('"rows": 300', '"rows": -300', "router.json: expected a number from 1 to 2147483647 at byte "),
        ('"rows": 300', f'"rows": -{2**63}', "router.json: expected a number from 1 to 2147483647 at byte "),
        ('"map_offset": 0', '"map_offset": 4', r"idmap.bin: expected \d+ bytes for table t0, got \d+$"),
        ('"name": "t0"', '"name": ""', "router.json: expected a name at byte "),
        ('"name": "t0"', f'"name": "{"n" * 256}"', "router.json: expected the end of a name at byte "),
        ('"name": "t0"', r'"name": "t\u000a"', "router.json: expected the end of a name at byte "),
        ('"name": "t0"', r'"name": "t\udc00"', "router.json: expected the end of a name at byte "),
        ('"name": "t0"', r'"name": "t\x"', "router.json: expected the end of a name at byte "),
        ('"name": "t0"', '"table": "t0"', "router.json: expected name at byte "),
        ('"unit": 2', '"unit": 3', "router.json: look-up t0: a shard lies in a unit or place that is not there"),
        ('"place": 1', '"place": 2', "router.json: look-up t1: a shard lies in a unit or place that is not there"),
        ('"service": 2', '"service": 3', "router.json: units: expected them by service and group"),
        ('"service": 0', '"service": 2', "router.json: units: expected them by service and group"),
        (
            '"service": 0,\n   "group": 0',
            '"service": 0,\n   "group": 1',
            "router.json: look-up t0: a shard lies in a unit",
        ),
        (
            '"weighted": 0',
            '"weighted": 1',
            "router.json: look-up t0: a shard lies in a unit or place that is not there",
        ),
        ('"shards": 3', '"shards": 2', "router.json: table t0: expected 2 shards in each look-up, got 3"),
        ('"table": 0', '"table": 2', "router.json: expected a number from 0 to 1 at byte "),
        ('"group": 0', '"group": 1', "router.json: look-up t0: a shard lies in a unit or place that is not there"),
        ('"count": 1', '"count": 2', "router.json: look-up t0: its bags are none"),
        ('"begin": 0', '"begin": 2', "router.json: look-up t0: its bags are none"),
        ('"width": 5', '"width": -1', "router.json: look-up t0: its bags are none"),
        ('"width": 5', '"width": 3', "router.json: look-up t0: its bags are none"),
        ('"bag": 4', '"bag": -1', "router.json: look-up t0: its bags are none"),
        ('"kind": 0', '"kind": 1', "router.json: look-up t0: its bags are none"),
        ('"bounds": -1', '"bounds": 0', "router.json: look-up t0: its bags are none"),
        ('"blocks": 1', '"blocks": 0', "router.json: expected a number from 1 to 65536 at byte "),
        ('"ids": 0', '"ids": 1', "router.json: expected a number from 0 to 0 at byte "),
        (
            '{\n   "name": "batch"\n  }',
            '{"name": "batch"}, {"name": "b"}',
            "router.json: group b: expected look-ups, got",
        ),
        ("]\n}\n", "]\n}\n{", "router.json: expected the end of the file at byte "),
    ],
)
def test_a_description_that_is_wrong_is_told(backend: Backend, folder: Path, old: str, new: str, told: str) -> None:
    path = folder / "1/router.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    assert re.match(told, refusal(backend, folder))


@pytest.mark.parametrize("name", ["router.json", "idmap.bin"])
def test_a_file_cut_anywhere_is_refused(backend: Backend, folder: Path, name: str) -> None:
    path = folder / "1" / name
    whole = path.read_bytes().rstrip()
    for size in range(0, len(whole), 1 + len(whole) // 300):
        path.write_bytes(whole[:size])
        assert name in refusal(backend, folder)


@pytest.mark.parametrize("name", ["router.json", "idmap.bin"])
def test_a_missing_file_or_folder_is_named(backend: Backend, folder: Path, name: str) -> None:
    (folder / "1" / name).unlink()
    assert refusal(backend, folder) == f"{name}: No such file or directory"
    (folder / "1" / name).mkdir()
    assert refusal(backend, folder) == f"{name}: expected a file"


@settings(deadline=None, max_examples=300)
@given(seed=st.integers(0, 2**32), name=st.sampled_from(["router.json", "idmap.bin"]))
@example(25529, "router.json")  # a service's name that is no text
def test_no_damage_to_a_file_crashes_it(backend: Backend, seed: int, name: str) -> None:
    """Bytes replaced, put in and taken out: it is refused, or routes (wrongly perhaps), without a crash."""
    rng = np.random.default_rng(seed)
    tiered = make_tiered(rng, [(300, 4, 3), (700, 2, 5), (5, 1, 1)])
    with tempfile.TemporaryDirectory() as place:
        tiered.write(Path(place) / "1")
        path = Path(place) / "1" / name
        content = bytearray(path.read_bytes())
        for _ in range(rng.integers(1, 8)):
            at = int(rng.integers(len(content)))
            fresh = bytes(rng.choice(list(b'0123456789{}[]",: \xff\x00'), rng.integers(0, 3)).astype(np.uint8))
            content[at : at + int(rng.integers(0, 3))] = fresh
        path.write_bytes(content)
        with contextlib.suppress(BackendError), Model(backend, Path(place)) as model:
            model.infer(query(tiered, 5))
