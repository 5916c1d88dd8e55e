"""Look-ups' tensors and descriptions that are wrong: told alike by the native parts and the Python ones; no crash."""

import contextlib
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.triton_backends.drawn_cuts import by_hand
from tests.triton_backends.fake_triton import Backend, BackendError, Model
from tests.triton_backends.lookups import Query, shard_inputs
from triton_backends.embedding_shard.shard import EmbeddingShard
from triton_backends.embedding_shard.torch_shard import TorchShard


def to(name: str, *place_and_value: int) -> Callable[[Query], None]:
    """One number changed."""

    def apply(query: Query) -> None:
        *place, value = place_and_value
        query[name] = query[name].copy()
        query[name][tuple(place)] = value

    return apply


def given_as(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Query], None]:
    def apply(query: Query) -> None:
        query[name] = change(query[name])

    return apply


def rows_of_group_1(query: Query) -> None:
    query.update(bounds2=np.zeros(0, np.int64), bounds3=np.zeros(1, np.int32), ids4=query["ids4"][:0])
    query["ids5"] = query["ids5"][:0]


def two_bad_ids(query: Query) -> None:
    to("ids2", 2, -1)(query)
    to("ids5", 0, 1, -3)(query)


BAD = {
    "below the end": (
        to("ids0", 1, 3, -11),
        "table t0: look-up l0: id -11 in row 1, column 3 of ids0 is out of range; expected -10 to 9",
    ),
    "above": (
        to("ids0", 2, 0, 10),
        "table t0: look-up l0: id 10 in row 2, column 0 of ids0 is out of range; expected -10 to 9",
    ),
    "far below": (
        to("ids0", 0, 0, -(2**63)),
        f"table t0: look-up l0: id {-(2**63)} in row 0, column 0 of ids0 is out of range; expected -10",
    ),
    "far above": (
        to("ids0", 0, 0, 2**63 - 1),
        f"table t0: look-up l0: id {2**63 - 1} in row 0, column 0 of ids0 is out of range; expected -10",
    ),
    "a ragged id": (
        to("ids1", 1, 10),
        "table t0: look-up l1: id 10 at index 1 of ids1 is out of range; expected 0 to 9",
    ),
    "of the other block": (
        to("ids1", 3, 5),
        "table t1: look-up l2: id 5 at index 3 of ids1 is out of range; expected 0 to 4, or 0 for an",
    ),
    "no padding": (to("ids2", 2, -1), "table t0: id -1 at index 2 of ids2 is out of range; expected 0 to 9"),
    "other than padding": (
        to("ids4", 1, 0, -2),
        "table t0: look-up l5: id -2 in row 1, column 0 of ids4 is out of range; expected 0 to 9, or -1",
    ),
    "of rows as they are": (
        to("ids5", 1, 0, 5),
        "table t1: look-up l6: id 5 in row 1, column 0 of ids5 is out of range; expected 0 to 4, or -1 for an",
    ),
    "of rows as they are, before all others": (
        two_bad_ids,
        "table t1: look-up l6: id -3 in row 0, column 1 of ids5 is out of range; expected 0 to 4, or -1 for an",
    ),
    "columns": (given_as("ids0", lambda a: a[:, 1:]), "ids0: expected 4 columns, got 3"),
    "other columns": (given_as("ids0", lambda a: a.reshape(2, 6)), "ids0: expected 4 columns, got 6"),
    "no columns": (given_as("ids0", lambda a: a[:, :0]), "ids0: expected 4 columns, got 0"),
    "a scalar": (given_as("ids0", lambda a: a[0, 0]), "ids0: expected 4 columns, got 1"),
    "rows": (given_as("ids0", lambda a: a[1:]), "ids0, bounds1: expected the same number of rows in each, got 2 and 3"),
    "rows of bags": (
        given_as("bounds2", lambda a: np.array([0, 2, 3])),
        "bounds2, bounds3: expected the same number of rows in each, got 3 and 2",
    ),
    "rows of a later group": (
        given_as("ids4", lambda a: a[:1]),
        "bounds2, ids4: expected the same number of rows in each, got 2 and 1",
    ),
    "no rows": (rows_of_group_1, "bounds2: expected 1 to 1048576 rows, got 0"),
    "no ends": (given_as("bounds3", lambda a: a[:0]), "bounds3: expected the end of the last bag, got nothing"),
    "blocks": (given_as("bounds1", lambda a: a[1:]), "bounds1: expected 2 blocks of bags, all alike, got 5 bags"),
    "a negative length": (
        to("bounds1", 2, -1),
        "table t0: look-up l1: bounds1: expected lengths from 0 to 5, got -1 at index 2",
    ),
    "a length beyond": (to("bounds1", 2, 6), "table t0: look-up l1: bounds1: expected lengths from 0 to 5, got 6 at"),
    "a huge length": (
        to("bounds1", 0, 2**63 - 1),
        f"table t0: look-up l1: bounds1: expected lengths from 0 to 5, got {2**63 - 1}",
    ),
    "lengths too short": (
        to("bounds1", 4, 0),
        "table t0: look-up l1: bounds1: expected lengths that add up to 5, the ids in ids1, got 4",
    ),
    "lengths too long": (to("bounds1", 2, 1), "table t0: look-up l1: bounds1: expected lengths that add up to 5, the"),
    "offsets begin late": (to("bounds2", 0, 1), "table t0: bounds2: expected offsets that begin at 0, got 1"),
    "offsets begin early": (to("bounds2", 0, -1), "table t0: bounds2: expected offsets that begin at 0, got -1"),
    "offsets beyond": (
        to("bounds2", 1, 4),
        "table t0: bounds2: expected offsets that rise to at most 3, the ids in ids2, got 4 at index 1",
    ),
    "offsets fall": (
        to("bounds3", 1, -1),
        "table t1: bounds3: expected offsets that rise to at most 3, the ids in ids3, got -1 at index 1",
    ),
    "ends fall": (
        to("bounds3", 2, 0),
        "table t1: bounds3: expected offsets that rise to at most 3, the ids in ids3, got 0",
    ),
    "ends beyond": (
        to("bounds3", 2, 4),
        "table t1: bounds3: expected offsets that rise to at most 3, the ids in ids3, got 4",
    ),
    "weights": (
        given_as("weights1", lambda a: a[1:]),
        "weights1: expected 5 numbers, one for each in ids1, got 4",
    ),
    "a weight": (to("weights1", 3, np.inf), "weights1: expected finite numbers, got inf at index 3"),
    "no weight": (to("weights1", 0, np.nan), "weights1: expected finite numbers, got nan at index 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_tensors_that_do_not_fit_are_told_alike_and_the_next_query_answered(
    router: Backend, tmp_path: Path, case: str
) -> None:
    change, message = BAD[case]
    cut, query = by_hand()
    cut.write_router(tmp_path / "1")
    spoilt = dict(query)
    change(spoilt)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}") as by_python:
        cut.router().route(spoilt)
    with Model(router, tmp_path) as model:
        with pytest.raises(BackendError) as by_native:
            model.infer(spoilt)
        assert str(by_native.value) == str(by_python.value)
        for name, tensor in cut.router().route(query).tensors.items():
            np.testing.assert_array_equal(model.infer(query)[name], tensor)


@pytest.mark.parametrize(
    ("name", "dtype", "told"),
    [
        ("ids0", np.float32, "ids0: expected INT64 or INT32, got FP32"),
        ("ids1", np.int16, "ids1: expected INT64 or INT32, got INT16"),
        ("bounds1", np.float64, "bounds1: expected INT64 or INT32, got FP64"),
        ("bounds2", np.uint64, "bounds2: expected INT64 or INT32, got UINT64"),
        ("weights1", np.float16, "weights1: expected FP32, got FP16"),
        ("weights1", np.int32, "weights1: expected FP32, got INT32"),
    ],
)
def test_other_types_are_told(router: Backend, tmp_path: Path, name: str, dtype: type, told: str) -> None:
    cut, query = by_hand()
    cut.write_router(tmp_path / "1")
    with Model(router, tmp_path) as model, pytest.raises(BackendError, match=f"^{told}$"):
        model.infer({**query, name: query[name].astype(dtype)})


@settings(deadline=None, max_examples=300)
@given(seed=st.integers(0, 2**32))
def test_no_damage_to_bounds_and_ids_crashes_it(router: Backend, seed: int) -> None:
    """Numbers of any size anywhere, and tensors cut short or reshaped: an error, or what the Python router gives."""
    rng = np.random.default_rng(seed)
    cut, query = by_hand()
    for _ in range(rng.integers(1, 4)):
        name = str(rng.choice([name for name, tensor in query.items() if tensor.size]))
        tensor = query[name].copy()
        if rng.integers(0, 3):
            tensor.reshape(-1)[rng.integers(tensor.size)] = rng.choice([-(2**31), -1, 0, 1, 3, 5, 10, 2**31 - 1])
        else:
            tensor = tensor.reshape(-1)[rng.integers(0, tensor.size + 1) :]
        query[name] = tensor
    with tempfile.TemporaryDirectory() as place:
        cut.write_router(Path(place) / "1")
        with Model(router, Path(place)) as model:
            try:
                wanted = cut.router().route(query).tensors
            except ValueError:
                with pytest.raises(BackendError):
                    model.infer(query)
            else:
                found = model.infer(query)
                for name, tensor in wanted.items():
                    np.testing.assert_array_equal(found[name], tensor)


@settings(deadline=None, max_examples=200)
@given(seed=st.integers(0, 2**32), part=st.sampled_from(["router.json", "shard.json"]))
def test_no_damage_to_a_description_crashes_it(router: Backend, shard: Backend, seed: int, part: str) -> None:
    """Bytes replaced, put in and taken out: it is refused, or serves (wrongly perhaps), without a crash."""
    rng = np.random.default_rng(seed)
    cut, query = by_hand()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "1"
        cut.write_router(folder)
        cut.write_shard(0, folder)
        content = bytearray((folder / part).read_bytes())
        for _ in range(rng.integers(1, 8)):
            at = int(rng.integers(len(content)))
            fresh = bytes(rng.choice(list(b'0123456789{}[]",: -\xff\x00'), rng.integers(0, 3)).astype(np.uint8))
            content[at : at + int(rng.integers(0, 3))] = fresh
        (folder / part).write_bytes(content)
        asked = query if part == "router.json" else shard_inputs(cut.router().route(query).tensors, "s0")
        with (
            contextlib.suppress(BackendError),
            Model(router if part == "router.json" else shard, folder.parent) as model,
        ):
            model.infer(asked)


BAD_BAGS = {
    "an id that is no row": (
        "ids",
        lambda a: a * 0 + 9,
        r"ids: expected rows in \[0, \d\), got 9 at index",
    ),
    "an id less": ("ids", lambda a: a[:, 1:], r"lengths: expected \d+ counts that add up to \d+ ids, got a sum of \d+"),
    "an id more": ("ids", lambda a: np.append(a, a[:, :1], 1), r"lengths: expected \d+ counts that add up to \d+ ids"),
    "a weight less": (
        "weights",
        lambda a: a[:, 1:],
        r"weights: expected \d, one for each id of weighted units, got \d",
    ),
    "a weight more": ("weights", lambda a: np.append(a, a[:, :1], 1), r"weights: expected \d, one for each id"),
    "a row less": ("lengths", lambda a: a[:, :-1], r"lengths: expected a multiple of 4, the bags of a row, got 11"),
    "a negative length": (
        "lengths",
        lambda a: a - 2,
        r"lengths: expected 12 counts that add up to \d+ ids, got a sum of",
    ),
    "a row that is not there": (
        "ids_1",
        lambda a: np.append(a[:, :-1], np.int32([[9]]), 1),
        r"ids: expected rows in \[0, \d\), got 9 at index",
    ),
    "no count of rows": ("lengths_1", lambda a: a[:, :-1], r"lengths: expected a multiple of 3, .*and 1 more, got 6"),
    "a row more": ("lengths_1", lambda a: a + np.int32([[0] * 6 + [1]]), r"lengths: expected 7 counts that add up to"),
    "fewer rows than none": ("lengths_1", lambda a: a - np.int32([[0] * 6 + [9]]), r"lengths: expected 7 counts"),
    "only rows": ("lengths_1", lambda a: a[:, :0], r"lengths: expected a multiple of 3, .*and 1 more, got 0"),
    "of another group": ("ids_1", lambda a: a * 0 - 1, r"ids: expected rows in \[0, \d\), got -1 at index 0"),
}


@pytest.mark.parametrize("case", BAD_BAGS)
def test_bags_of_several_units_that_do_not_fit_are_told_alike(shard: Backend, tmp_path: Path, case: str) -> None:
    name, change, told = BAD_BAGS[case]
    cut, query = by_hand()
    cut.write_shard(0, tmp_path / "1")
    good = shard_inputs(cut.router().route(query).tensors, "s0")
    bad = {**good, name: np.ascontiguousarray(change(good[name]))}
    own = EmbeddingShard.open(tmp_path / "1")
    with pytest.raises(ValueError, match=f"^{told}") as by_python:
        own.answer(bad)
    with pytest.raises(ValueError, match=f"^{told}"):
        TorchShard(own, "cpu").answer(bad)
    with Model(shard, tmp_path) as model:
        answers = model.infer_all([good, bad, good])
    assert str(answers[1]) == str(by_python.value)
    for answer in (answers[0], answers[2]):
        for key, sums in own.answer(good).items():
            np.testing.assert_array_equal(answer[key], sums)


@settings(deadline=None, max_examples=200)
@given(seed=st.integers(0, 2**32))
def test_no_damage_to_bags_crashes_a_shard(shard: Backend, seed: int) -> None:
    """Numbers of any size anywhere, and tensors cut short: an error, or what the Python shard gives."""
    rng = np.random.default_rng(seed)
    cut, query = by_hand()
    inputs = shard_inputs(cut.router().route(query).tensors, "s0")
    for _ in range(rng.integers(1, 4)):
        name = str(rng.choice([name for name, tensor in inputs.items() if tensor.size]))
        tensor = inputs[name].copy()
        if rng.integers(0, 3):
            tensor[0, rng.integers(tensor.size)] = rng.choice([-(2**31), -1, 0, 1, 3, 5, 2**31 - 1])
        else:
            tensor = tensor[:, rng.integers(0, tensor.size + 1) :]
        inputs[name] = tensor
    with tempfile.TemporaryDirectory() as place:
        cut.write_shard(0, Path(place) / "1")
        with Model(shard, Path(place)) as model:
            try:
                wanted = EmbeddingShard.open(Path(place) / "1").answer(inputs)
            except ValueError:
                with pytest.raises(BackendError):
                    model.infer(inputs)
            else:
                for name, sums in wanted.items():
                    np.testing.assert_array_equal(model.infer(inputs)[name], sums)
