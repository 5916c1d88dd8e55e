"""Ids that the dense graph looks up itself: routers refuse wrong ones, native and Python alike."""

from __future__ import annotations

import ctypes
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.triton_backends.fake_triton import Backend, BackendError, Model
from tests.triton_backends.tiered import Tiered, make_tiered
from triton_backends.router.routing import CheckedIds

WIDTH = 5  # four columns of t0's ids, one of t1's


@pytest.fixture(scope="module")
def backend(fake: ctypes.CDLL) -> Backend:
    loaded = Backend(fake, "elasticrec_router")
    loaded.initialize()
    return loaded


def widened(tiered: Tiered, padding: int = -1) -> Tiered:
    """Three columns more of ids, whose table stays in the dense graph."""
    lookups = [replace(lookup, width=WIDTH + 3) for lookup in tiered.lookups]
    checked = [CheckedIds("kept", 7, 0, WIDTH + 3, WIDTH, 2, padding), CheckedIds("k2", 2, 0, WIDTH + 3, 7, 1, padding)]
    return replace(tiered, routing=replace(tiered.routing, lookups=lookups, checked=checked))


@pytest.fixture
def tiered() -> Tiered:
    return widened(make_tiered(np.random.default_rng(0), [(300, 4, 3), (5, 1, 1)]))


def query(dtype: type) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    columns = [rng.integers(-1, rows, (6, count)) for rows, count in ((300, 4), (5, 1), (7, 2), (2, 1))]
    return {"dense": np.zeros((6, 3), np.float32), "indices": np.hstack(columns).astype(dtype)}


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_good_ids_change_nothing(backend: Backend, tiered: Tiered, tmp_path: Path, dtype: type) -> None:
    tiered.write(tmp_path / "1")
    given = query(dtype)
    expected = tiered.router().route(given).tensors
    with Model(backend, tmp_path) as model:
        found = model.infer(given)
    assert list(found) == list(expected)
    for name, wanted in expected.items():
        np.testing.assert_array_equal(found[name], wanted)


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
@pytest.mark.parametrize(
    ("row", "column", "bad", "told"),
    [
        (
            0,
            5,
            7,
            "table kept: id 7 in row 0, column 5 of indices is out of range; expected 0 to 6, or -1 for",
        ),
        (5, 6, -2, "table kept: id -2 in row 5, column 6 of indices is out of range; expected 0 to 6, or -1 for an"),
        (3, 7, 2, "table k2: id 2 in row 3, column 7 of indices is out of range; expected 0 to 1, or -1 for an empty"),
        (5, 7, -(2**31), f"table k2: id {-(2**31)} in row 5, column 7 of indices is out of range"),
    ],
)
def test_a_wrong_id_fails_its_query_by_name(
    backend: Backend, tiered: Tiered, tmp_path: Path, row: int, column: int, bad: int, told: str, dtype: type
) -> None:
    tiered.write(tmp_path / "1")
    given = query(dtype)
    given["indices"][row, column] = bad
    with pytest.raises(ValueError, match=re.escape(told)):
        tiered.router().route(given)
    with Model(backend, tmp_path) as model:
        with pytest.raises(BackendError, match=re.escape(told)):
            model.infer(given)
        assert model.infer(query(dtype))


def test_another_padding(backend: Backend, tiered: Tiered, tmp_path: Path) -> None:
    other = widened(make_tiered(np.random.default_rng(0), [(300, 4, 3), (5, 1, 1)]), padding=-9)
    other.write(tmp_path / "1")
    given = query(np.int64)
    given["indices"][:, 5:] = -9
    with Model(backend, tmp_path) as model:
        assert model.infer(given)
        given["indices"][2, 7] = -1
        with pytest.raises(BackendError, match="table k2: id -1 in row 2"):
            model.infer(given)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda ids: ids.update(columns=4), "table kept: its columns are not in the matrix"),
        (lambda ids: ids.update(begin=2**31 - 1), "table kept: its columns are not in the matrix"),
        (lambda ids: ids.update(width=0), "expected a number from 1 to"),
        (lambda ids: ids.update(ids=1), "expected a number from 0 to 0"),
        (lambda ids: ids.update(rows=0), "expected a number from 1 to"),
        (lambda ids: ids.pop("padding"), "expected ','"),
    ],
)
def test_a_wrong_description_is_refused(
    backend: Backend, tiered: Tiered, tmp_path: Path, change: Callable[[dict[str, Any]], object], told: str
) -> None:
    tiered.write(tmp_path / "1")
    path = tmp_path / "1" / "router.json"
    document = json.loads(path.read_text())
    change(document["checked"][0])
    path.write_text(json.dumps(document))
    with pytest.raises(BackendError, match=told), Model(backend, tmp_path):
        pass
