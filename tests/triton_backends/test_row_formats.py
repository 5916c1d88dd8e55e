"""Stored rows: against PyTorch's own encoders, float64, and between the kernels of all processors."""

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.triton_backends.processors import ALL, processor_up_to
from triton_backends.kernels import sum_bags, take_rows
from triton_backends.kernels.row_formats import ROW_DTYPES, decode_rows, encode_rows, row_bytes

DIMS = [1, 2, 3, 7, 8, 9, 16, 17, 31, 32, 33, 48, 64, 65, 96, 100, 127, 128, 129, 200, 256, 272]
SMALL = ["fp16", "bf16", "int8", "int8_half", "int4"]


def drawn_rows(limit: float) -> st.SearchStrategy[np.ndarray]:
    """Rows of a dim, of numbers up to a limit: ordinary ones, below the least normal one, far from zero, and alike."""
    numbers = st.one_of(
        st.floats(-limit, limit, width=32),
        st.floats(-1, 1, width=32),
        st.floats(-(2.0**-120), 2.0**-120, width=32),
        st.floats(999, 1001, width=32),
        st.sampled_from([0.0, -0.0, 1.0, limit, -limit, 2.0**-149, 2.0**-126]),
    )
    row = st.integers(1, 40).flatmap(
        lambda dim: st.one_of(st.lists(numbers, min_size=dim, max_size=dim), numbers.map(lambda each: [each] * dim))
    )
    return row.map(lambda each: np.array([each], np.float32))


def same_bits(got: np.ndarray, expected: np.ndarray) -> None:
    assert got.dtype == expected.dtype == np.float32
    np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))


# ---- rows, stored and read again ----


@pytest.mark.parametrize(
    ("dim", "dtype", "expected"),
    [
        (32, "fp32", 128),
        (32, "fp16", 64),
        (32, "bf16", 64),
        (32, "int8", 40),
        (128, "int8", 136),
        (1, "int8", 9),
        (32, "int8_half", 36),
        (1, "int8_half", 5),
        (32, "int4", 20),
        (7, "int4", 8),
        (1, "int4", 5),
    ],
)
def test_a_row_takes_so_many_bytes(dim: int, dtype: str, expected: int) -> None:
    assert row_bytes(dim, dtype) == expected
    assert encode_rows(np.ones((3, dim), np.float32), dtype).shape == (3, expected)


def test_the_goals_for_int8_are_its_layout() -> None:
    assert row_bytes(32, "fp32") / row_bytes(32, "int8") >= 3.2
    assert row_bytes(128, "fp32") / row_bytes(128, "int8") >= 3.7


@pytest.mark.parametrize("dim", [1, 2, 3, 8, 31, 32, 64, 129])
@pytest.mark.parametrize("magnitude", [1e-30, 1e-12, 1e-8, 1e-6, 1e-2, 1, 300])
@pytest.mark.parametrize("offset", [0, 1, 100])
def test_rows_are_stored_as_pytorch_stores_them(dim: int, magnitude: float, offset: float) -> None:
    """Its encoders are FBGEMM's. That of four bits takes even dims alone."""
    rows = (magnitude * (np.random.default_rng(dim).standard_normal((100, dim)) + offset)).astype(np.float32)
    packed = torch.ops.quantized.embedding_bag_byte_prepack(torch.from_numpy(rows))
    np.testing.assert_array_equal(encode_rows(rows, "int8"), packed.numpy())
    read = torch.ops.quantized.embedding_bag_byte_unpack(packed).numpy()
    np.testing.assert_allclose(
        decode_rows(packed.numpy(), dim, "int8"), read, rtol=1e-6, atol=1e-6 * np.abs(rows).max()
    )
    if dim % 2 == 0:
        packed = torch.ops.quantized.embedding_bag_4bit_prepack(torch.from_numpy(rows))
        np.testing.assert_array_equal(encode_rows(rows, "int4"), packed.numpy())


@given(rows=drawn_rows(2.0**126))
def test_int8_errs_by_half_a_step(rows: np.ndarray) -> None:
    """And by 1e-8, which FBGEMM adds to the range, and by float32's own rounding of it all."""
    stored = encode_rows(rows, "int8")
    exact = rows.astype(np.float64)
    step = (exact.max() - exact.min()) / 255
    error = np.abs(decode_rows(stored, rows.shape[1], "int8") - exact)
    assert (error <= 0.501 * step + 1e-8 + 2.0**-22 * np.abs(exact).max() + 2.0**-148).all()
    if step == 0:
        same_bits(decode_rows(stored, rows.shape[1], "int8"), rows + np.float32(0))


@pytest.mark.parametrize(("dtype", "last"), [("int8_half", 255), ("int4", 15)])
@given(rows=drawn_rows(30_000))
def test_a_scale_in_float16_errs_by_half_a_step(dtype: str, last: int, rows: np.ndarray) -> None:
    """And by what its scale and bias are rounded by, being float16; a range below these is one step."""
    stored = encode_rows(rows, dtype)
    exact = rows.astype(np.float64)
    scale, bias = stored[0, -4:].view(np.float16).astype(np.float64)
    least = exact.min()
    assert abs(bias - least) <= max(2.0**-11 * abs(least), 2.0**-25)
    span = exact.max() - bias
    by_scale = abs(span - last * scale) if span > last * 2.0**-25 else max(span, 0)
    assert by_scale <= max(2.0**-11 * abs(span), last * 2.0**-25)
    error = np.abs(decode_rows(stored, rows.shape[1], dtype) - exact)
    half_a_step = scale / 2 if span > last * 2.0**-25 else 0
    assert (error <= 1.001 * half_a_step + by_scale + abs(bias - least) + 2.0**-22 * np.abs(exact).max()).all()


@pytest.mark.parametrize(("dtype", "levels"), [("int8", 255), ("int8_half", 255), ("int4", 15)])
def test_ordinary_rows_err_by_half_a_step(dtype: str, levels: int) -> None:
    """Float16 rounds a scale by 2**-12 of it or so, which 255 steps add up to a sixteenth."""
    rows = np.random.default_rng(0).standard_normal((1000, 33)).astype(np.float32)
    error = np.abs(decode_rows(encode_rows(rows, dtype), 33, dtype) - rows.astype(np.float64))
    assert (error <= (0.65 if dtype == "int8_half" else 0.52) * np.ptp(rows, axis=1, keepdims=True) / levels).all()


@pytest.mark.parametrize("dtype", SMALL)
def test_rows_are_stored_alike_in_whatever_company(dtype: str) -> None:
    """Many are encoded a block at a time, of 65,536 numbers."""
    rows = np.random.default_rng(1).standard_normal((5000, 33)).astype(np.float32)
    whole = encode_rows(rows, dtype)
    for part in (slice(0, 1), slice(1985, 1987), slice(4999, 5000)):
        np.testing.assert_array_equal(whole[part], encode_rows(rows[part], dtype))
    np.testing.assert_array_equal(encode_rows(np.asfortranarray(rows), dtype), whole)
    assert encode_rows(rows[:0], dtype).shape == (0, row_bytes(33, dtype))


@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=50))
def test_bf16_rounds_as_ml_dtypes(bits: list[int]) -> None:
    rows = np.array([bits], np.uint32).view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = rows.astype(ml_dtypes.bfloat16).astype(np.float32)
    if (np.isinf(expected) & np.isfinite(rows)).any():
        with pytest.raises(ValueError, match="rows in bf16: expected numbers within its range, got others in row 0"):
            encode_rows(rows, "bf16")
    else:
        np.testing.assert_array_equal(decode_rows(encode_rows(rows, "bf16"), len(bits), "bf16"), expected)


@pytest.mark.parametrize(
    ("dtype", "row", "told"),
    [
        ("fp16", [1.0, 65520.0], "rows in fp16: expected numbers within its range, got others in row 3000"),
        ("bf16", [1.0, 3.4e38], "rows in bf16: expected numbers within its range, got others in row 3000"),
        ("int8", [1.0, np.inf], "rows in int8: expected finite numbers whose range is finite, got others in row 3000"),
        ("int8", [np.nan, 1.0], "rows in int8: expected finite numbers"),
        ("int8", [-np.inf, -np.inf], "rows in int8: expected finite numbers"),
        ("int8", [-3e38, 3e38], "rows in int8: expected finite numbers"),
        ("int8_half", [0.0, np.inf], "rows in int8_half: expected finite numbers within float16's range"),
        ("int8_half", [-70000.0, 0.0], "rows in int8_half: expected finite numbers within float16's range"),
        ("int4", [1.0, np.nan], "rows in int4: expected finite numbers within float16's range, got others in row 3000"),
        ("int4", [-70000.0, 0.0], "rows in int4: expected finite numbers within float16's range"),
        ("int4", [0.0, 1e6], "rows in int4: expected finite numbers within float16's range"),
    ],
)
def test_rows_that_a_dtype_cannot_hold_are_refused(dtype: str, row: list[float], told: str) -> None:
    rows = np.zeros((70_000, 2), np.float32)
    rows[3000] = row
    with pytest.raises(ValueError, match=told):
        encode_rows(rows, dtype)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_numbers_that_are_not_finite_stay_so_where_they_can(dtype: str) -> None:
    rows = np.array([[np.inf, -np.inf, np.nan, 1]], np.float32)
    rows[0, 2:3] = np.array([0x7F800001], np.uint32).view(np.float32)  # a NaN that rounds to infinity
    np.testing.assert_array_equal(decode_rows(encode_rows(rows, dtype), 4, dtype), rows)


# ---- the kernels ----


def reference(rows: np.ndarray, ids: np.ndarray, lengths: np.ndarray, weights: np.ndarray | None) -> np.ndarray:
    """Sums in float32, one row after another."""
    sums, at = np.zeros((len(lengths), rows.shape[1]), np.float32), 0
    for bag, length in enumerate(lengths):
        for i in range(at, at + length):
            sums[bag] += rows[ids[i]] if weights is None else weights[i] * rows[ids[i]]
        at += length
    return sums


@ALL
@pytest.mark.parametrize("dtype", ROW_DTYPES)
@pytest.mark.parametrize("dim", DIMS)
def test_bags_of_stored_rows_are_sums_of_their_numbers_to_the_bit(widest: str | None, dtype: str, dim: int) -> None:
    """In float32 as numpy adds, on any processor; in float64 within its rounding; the last row is among them."""
    rng = np.random.default_rng(dim)
    stored = encode_rows(rng.standard_normal((300, dim)).astype(np.float32), dtype)
    numbers = decode_rows(stored, dim, dtype)
    lengths = rng.integers(0, 9, 30).astype(np.int32)
    ids = rng.integers(0, 300, int(lengths.sum())).astype(np.int32)
    ids[0] = 299
    weights = rng.standard_normal(ids.size).astype(np.float32)
    with processor_up_to(widest):
        plain = sum_bags(stored, ids, lengths, row=(dim, dtype))
        weighted = sum_bags(stored, ids, lengths, weights, row=(dim, dtype))
        taken = take_rows(stored, ids, (dim, dtype))
    same_bits(plain, reference(numbers, ids, lengths, None))
    same_bits(weighted, reference(numbers, ids, lengths, weights))
    same_bits(taken, numbers[ids])
    exact = weights[:, None].astype(np.float64) * numbers[ids]
    bags = np.split(exact, np.cumsum(lengths)[:-1])
    np.testing.assert_allclose(weighted, [bag.sum(axis=0) for bag in bags], rtol=0, atol=1e-5)


@ALL
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("dim", [1, 16])
def test_every_number_of_two_bytes_is_read_as_it_is(widest: str | None, dtype: str, dim: int) -> None:
    """Infinite ones, NaN and those below the least normal one, too."""
    stored = np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2 * dim)
    numpy_dtype = np.float16 if dtype == "fp16" else ml_dtypes.bfloat16
    expected = stored.view(numpy_dtype).astype(np.float32)
    ids = np.arange(len(stored), dtype=np.int32)
    with processor_up_to(widest):
        taken = take_rows(stored, ids, (dim, dtype))
    np.testing.assert_array_equal(taken, expected)
    finite = np.isfinite(expected)
    same_bits(taken[finite], expected[finite])


@ALL
@pytest.mark.parametrize("dtype", SMALL)
@pytest.mark.parametrize(("rows", "dim"), [(30_000, 1), (30_000, 32), (140_000, 128), (280_000, 128)])
def test_stored_matrices_of_all_caches_are_summed_alike(widest: str | None, dtype: str, rows: int, dim: int) -> None:
    """What is fetched ahead of its turn depends on the matrix's bytes."""
    stored = np.zeros((rows, row_bytes(dim, dtype)), np.uint8)
    ids = np.random.default_rng(rows).integers(0, rows, 600).astype(np.int32)
    ids[-1] = rows - 1
    stored[ids] = encode_rows((ids[:, None] % 1000 + np.arange(dim)).astype(np.float32), dtype)
    lengths = np.array([300, 0, 1, 299], np.int32)
    with processor_up_to(widest):
        sums = sum_bags(stored, ids, lengths, row=(dim, dtype))
    places = np.arange(ids.size, dtype=np.int32)
    same_bits(sums, reference(decode_rows(stored[ids], dim, dtype), places, lengths, None))


@pytest.mark.parametrize("dtype", SMALL)
@pytest.mark.parametrize("bad", [-1, 7, 2**31 - 1, -(2**31)])
def test_an_id_that_is_no_stored_row_is_refused(dtype: str, bad: int) -> None:
    stored = np.zeros((7, row_bytes(5, dtype)), np.uint8)
    ids = np.array([0, 6, bad], np.int32)
    told = rf"expected rows in \[0, 7\), got {bad} at index 2"
    with pytest.raises(ValueError, match=told):
        sum_bags(stored, ids, np.array([3], np.int32), row=(5, dtype))
    with pytest.raises(ValueError, match=told):
        take_rows(stored, ids, (5, dtype))
