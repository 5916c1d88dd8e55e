"""Counts from a `.npz`: exact shares and orders against oracles, and every mistake of a file told at once."""

from __future__ import annotations

import contextlib
import io
import pickle
import random
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from repo_builder.access.hotness import Hotness, counts_cdf, counts_order
from repo_builder.access.load import load_hotness
from repo_builder.errors import AccessError
from tests.access.helpers import from_file, table

INT_DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", ">i4", ">u8"]
FLOAT_DTYPES = ["f2", "f4", "f8", ">f4", ">f8", "g"]


def load(folder: Path, rows: int, counts: NDArray[Any]) -> Hotness:
    np.savez(folder / "counts.npz", C=counts)
    return load_hotness(from_file("counts", folder / "counts.npz", table(rows=rows)))


def refusal(path: Path, **rows: int) -> list[str]:
    with pytest.raises(AccessError) as caught:
        load_hotness(from_file("counts", path, *(table(name, n) for name, n in rows.items())))
    for problem in caught.value.problems:
        assert "\n" not in problem and problem.startswith(str(path))
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


def refusal_of(folder: Path, counts: object, rows: int = 4) -> str:
    np.savez(folder / "counts.npz", C=np.asarray(counts))
    (problem,) = refusal(folder / "counts.npz", C=rows)
    return problem


def oracle_order(counts: list[Any]) -> list[int]:
    return sorted(range(len(counts)), key=lambda i: (-counts[i], i))


def oracle_cdf(counts: list[Any]) -> list[float]:
    exact = [Fraction(count) for count in sorted(counts, reverse=True)]
    return [float(sum(exact[:j], Fraction(0)) / sum(exact)) for j in range(len(exact) + 1)]


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**57), min_size=1, max_size=40).filter(any))
def test_integer_counts_give_exact_shares(counts: list[int]) -> None:
    assert counts_cdf(np.array(counts, np.uint64)) == pytest.approx(oracle_cdf(counts), rel=1e-15)
    assert counts_order(np.array(counts, np.uint64)).tolist() == oracle_order(counts)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1.7e308), min_size=1, max_size=40).filter(any))
def test_float_counts_give_their_shares(counts: list[float]) -> None:
    cdf = counts_cdf(np.array(counts))
    assert cdf == pytest.approx(oracle_cdf(counts), abs=1e-12)
    assert cdf[0] == 0.0 and cdf[-1] == 1.0
    assert counts_order(np.array(counts)).tolist() == oracle_order(counts)


@pytest.mark.parametrize("dtype", INT_DTYPES + FLOAT_DTYPES)
def test_every_numeric_dtype_is_read(tmp_path: Path, dtype: str) -> None:
    counts = [0, 7, 3, 100, 3, 0, 7, 1]
    hotness = load(tmp_path, 8, np.array(counts, dtype))
    order = hotness.order(table(rows=8))
    assert order.dtype == np.uint32 and order.tolist() == oracle_order(counts)
    assert hotness.cdf(table(rows=8)) == pytest.approx(oracle_cdf(counts), rel=1e-15)


@pytest.mark.parametrize("largest", [60_000, 3_000_000_000])
def test_large_tables_agree_with_a_sort(tmp_path: Path, largest: int) -> None:
    counts = np.random.default_rng(1).integers(0, 50, 2_000_000)
    counts[:: 5 * 10**5] = largest
    hotness = load(tmp_path, len(counts), counts)
    order, cdf = hotness.order(table(rows=len(counts))), hotness.cdf(table(rows=len(counts)))
    assert np.array_equal(order, np.lexsort((np.arange(len(counts)), -counts)))
    assert np.array_equal(cdf[1:], np.cumsum(np.sort(counts)[::-1]) / counts.sum())


def test_negative_zero_is_zero(tmp_path: Path) -> None:
    assert load(tmp_path, 3, np.array([-0.0, 0.0, 1.0])).order(table(rows=3)).tolist() == [2, 0, 1]


def test_cdf_is_shared_while_it_is_held(tmp_path: Path) -> None:
    hotness = load(tmp_path, 2, np.array([1, 2]))
    held = hotness.cdf(table(rows=2))
    assert hotness.cdf(table(rows=2)) is held and not held.flags.writeable


def test_compressed_files_and_progress(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "c.npz", a=np.ones(3, int), b=np.ones(5, int))
    seen: list[tuple[int, int]] = []
    load_hotness(from_file("counts", tmp_path / "c.npz", table("a", 3), table("b", 5)), lambda *step: seen.append(step))
    assert seen == [(3, 8), (8, 8)]


def test_wrong_length(tmp_path: Path) -> None:
    assert refusal_of(tmp_path, [1, 2, 3]) == "C: expected 4 counts, one per row (tables: rows), got 3 counts"


def test_wrong_shape(tmp_path: Path) -> None:
    assert "got an array of shape (2, 2)" in refusal_of(tmp_path, [[1, 2], [3, 4]])
    assert "got an array of shape ()" in refusal_of(tmp_path, 4)


def test_empty_array(tmp_path: Path) -> None:
    assert refusal_of(tmp_path, np.zeros(0)).endswith("got 0 counts")


def test_negative_count(tmp_path: Path) -> None:
    assert refusal_of(tmp_path, [1, 2, -3, 4]) == "C: expected counts >= 0 and finite, got -3 at row 2"


def test_negative_count_far_into_the_table(tmp_path: Path) -> None:
    counts = np.ones(3_000_000, np.int8)
    counts[2_999_998] = -1
    assert refusal_of(tmp_path, counts, len(counts)).endswith("got -1 at row 2999998")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_count(tmp_path: Path, bad: float) -> None:
    assert refusal_of(tmp_path, [1, bad, 3, 4]).endswith(f"got {bad} at row 1")


def test_long_double_beyond_float64(tmp_path: Path) -> None:
    huge = np.array([1, 1, 1, np.finfo(np.longdouble).max])
    assert refusal_of(tmp_path, huge).endswith("at row 3")


@pytest.mark.parametrize(("counts", "dtype"), [([True] * 4, "bool"), ([1j] * 4, "complex128"), (list("abcd"), "<U1")])
def test_dtype_that_is_no_number(tmp_path: Path, counts: list[object], dtype: str) -> None:
    assert refusal_of(tmp_path, counts) == f"C: expected integer or float counts, got dtype {dtype}"


def test_all_zero(tmp_path: Path) -> None:
    assert refusal_of(tmp_path, [0, 0, 0, 0]) == "C: expected at least one access, got 4 counts that are all 0"


@pytest.mark.parametrize("dtype", [np.uint64, np.int64])
def test_total_that_no_integer_holds(tmp_path: Path, dtype: type) -> None:
    assert "less than 2**64" in refusal_of(tmp_path, np.full(4, np.iinfo(dtype).max, dtype))


def test_missing_and_unknown_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", a=np.ones(2), x=np.ones(2), y=np.ones(2))
    assert refusal(tmp_path / "c.npz", a=2, b=2) == [
        "b: expected this array, got none",
        "x: unknown array; expected one array per table, under the tables' expanded names",
        "y: unknown array; expected one array per table, under the tables' expanded names",
    ]


def test_every_problem_of_a_file_at_once(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", a=np.ones(3), b=-np.ones(2), c=np.zeros(2), d=np.array(["1", "2"]), z=np.ones(1))
    problems = refusal(tmp_path / "c.npz", a=2, b=2, c=2, d=2, e=2, fine=2)
    assert [problem.split(":")[0] for problem in problems] == ["e", "fine", "z", "a", "b", "c", "d"]


def test_array_that_stands_there_twice(tmp_path: Path) -> None:
    data = io.BytesIO()
    np.save(data, np.ones(2))
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("C.npy", data.getvalue())
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("C.npy", data.getvalue())
    assert refusal(tmp_path / "c.npz", C=2) == ["C: expected this array once, got it 2 times"]


def test_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.npz", C=2) == ["expected a .npz file, found none; check access.path in the spec"]


def test_folder(tmp_path: Path) -> None:
    assert "Is a directory" in refusal(tmp_path, C=2)[0]


def test_file_that_is_no_zip(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.ones(2))
    assert refusal(tmp_path / "c.npy", C=2)[0].startswith("expected a whole .npz file")


class Bomb:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("a pickle of the file was loaded",)


def test_pickled_objects_are_refused_unloaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", C=np.array([Bomb(), Bomb()], object))
    assert "pickled Python objects, which are never loaded" in refusal(tmp_path / "c.npz", C=2)[0]


def test_bare_pickle_is_refused_unloaded(tmp_path: Path) -> None:
    (tmp_path / "c.npz").write_bytes(pickle.dumps(Bomb()))
    assert refusal(tmp_path / "c.npz", C=2)[0].startswith("expected a whole .npz file")
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("C.npy", pickle.dumps(Bomb()))
    assert "expected a whole numpy array" in refusal(tmp_path / "d.npz", C=2)[0]


def test_header_that_promises_more_than_there_is(tmp_path: Path) -> None:
    data = io.BytesIO()
    np.lib.format.write_array_header_1_0(data, {"descr": "<i8", "fortran_order": False, "shape": (4,)})
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("C.npy", data.getvalue() + bytes(17))
        archive.writestr("D.npy", data.getvalue() + bytes([1] * 40))
    problems = refusal(tmp_path / "c.npz", C=4, D=4)
    assert problems[0] == "C: expected a whole numpy array, but its data ends in item 2 of 4"
    assert problems[1] == "D: expected a whole numpy array, but there is data after its 4 items"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_truncated_or_damaged_files_never_raise_anything_else(tmp_path: Path, save: Callable[..., None]) -> None:
    save(tmp_path / "whole.npz", C=np.arange(1, 40))
    whole = (tmp_path / "whole.npz").read_bytes()
    rng, path = random.Random(3), tmp_path / "broken.npz"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert refusal(path, C=39)
    for _ in range(600):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= rng.randrange(1, 256)
        path.write_bytes(damaged)
        with contextlib.suppress(AccessError):
            load_hotness(from_file("counts", path, table(rows=39))).cdf(table(rows=39))


def test_file_that_changes_between_reads(tmp_path: Path) -> None:
    hotness = load(tmp_path, 2, np.array([1, 2]))
    np.savez(tmp_path / "counts.npz", D=np.ones(2))
    with pytest.raises(AccessError, match="C: expected this array, got none"):
        hotness.cdf(table(rows=2))
