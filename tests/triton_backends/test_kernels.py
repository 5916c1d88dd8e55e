"""The kernels against plain numpy and PyTorch's embedding_bag."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.triton_backends.processors import ALL, processor_up_to
from triton_backends.kernels import check_bags, sum_bags


def bags(seed: int, rows: int, counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(seed).integers(0, rows, sum(counts)).astype(np.int32)
    return ids, np.array(counts, np.int32)


@ALL
@given(
    seed=st.integers(0, 1000),
    rows=st.integers(1, 300),
    dim=st.sampled_from([1, 3, 8, 16, 17, 31, 32, 63, 64, 65, 100, 128, 200]),
    counts=st.lists(st.integers(0, 40), max_size=12),
)
def test_sums_equal_pytorch(widest: str | None, seed: int, rows: int, dim: int, counts: list[int]) -> None:
    ids, lengths = bags(seed, rows, counts)
    weights = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    expected = torch.nn.functional.embedding_bag(
        torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(weights), offsets, mode="sum", include_last_offset=True
    )
    with processor_up_to(widest):
        sums = sum_bags(weights, ids, lengths)
    np.testing.assert_allclose(sums, expected.numpy(), atol=1e-4)
    np.testing.assert_array_equal(sums, sum_bags(weights, ids, lengths))  # to the bit, whatever the processor


@ALL
@given(
    seed=st.integers(0, 1000),
    dim=st.sampled_from([1, 3, 8, 17, 64, 100]),
    counts=st.lists(st.integers(0, 20), max_size=6).map(lambda each: each * 2),
)
def test_weighted_sums_into_columns_equal_pytorch(widest: str | None, seed: int, dim: int, counts: list[int]) -> None:
    """Two bags a row, side by side in a wider matrix, of which nothing else is written."""
    rng = np.random.default_rng(seed)
    ids, lengths = bags(seed, 50, counts)
    matrix = rng.standard_normal((50, dim)).astype(np.float32)
    weights = rng.standard_normal(ids.size).astype(np.float32)
    expected = torch.nn.functional.embedding_bag(
        torch.from_numpy(ids.astype(np.int64)),
        torch.from_numpy(matrix),
        torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)),
        mode="sum",
        per_sample_weights=torch.from_numpy(weights),
        include_last_offset=True,
    )
    wide = np.full((len(counts) // 2, 2 * dim + 7), 9, np.float32)
    with processor_up_to(widest):
        sum_bags(matrix, ids, lengths, weights, wide[:, 3 : 3 + 2 * dim])
    np.testing.assert_allclose(wide[:, 3 : 3 + 2 * dim].reshape(-1, dim), expected.numpy(), atol=1e-4)
    assert (wide[:, :3] == 9).all() and (wide[:, 3 + 2 * dim :] == 9).all()
    again = sum_bags(matrix, ids, lengths, weights)  # to the bit, whatever the processor
    np.testing.assert_array_equal(wide[:, 3 : 3 + 2 * dim].reshape(-1, dim), again)


@ALL
@pytest.mark.parametrize(("rows", "dim"), [(33_000, 1), (5_000, 70), (32_768, 128), (32_769, 128)])
@pytest.mark.parametrize("counts", [[16], [17, 0, 1], [128, 1], [300, 5, 300]])
def test_matrices_of_all_caches_are_summed_alike(widest: str | None, rows: int, dim: int, counts: list[int]) -> None:
    """What is fetched ahead of its turn depends on the matrix's size: 128 KiB and 16 MiB are the limits."""
    ids, lengths = bags(rows, rows, counts)
    ids[-1] = rows - 1
    weights = np.zeros((rows, dim), np.float32)
    weights[ids] = ids[:, None] % 1000 + np.arange(dim)
    with processor_up_to(widest):
        sums = sum_bags(weights, ids, lengths)
    expected = [weights[bag].sum(axis=0) for bag in np.split(ids, np.cumsum(counts)[:-1])]
    np.testing.assert_array_equal(sums, expected)  # whole numbers below 2^24: exact


def test_rows_are_added_in_the_order_of_the_ids() -> None:
    weights = np.array([[1e8], [1.0], [-1e8]], np.float32)
    assert sum_bags(weights, np.array([0, 1, 2], np.int32), np.array([3], np.int32))[0, 0] == 0  # 1e8 swallows the 1
    assert sum_bags(weights, np.array([0, 2, 1], np.int32), np.array([3], np.int32))[0, 0] == 1


def test_empty_bags_are_zeros() -> None:
    weights = np.ones((4, 5), np.float32)
    np.testing.assert_array_equal(sum_bags(weights, np.empty(0, np.int32), np.zeros(3, np.int32)), np.zeros((3, 5)))


@pytest.mark.parametrize("bad", [-1, 7, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("place", [0, 4, 9])
def test_an_id_that_is_no_row_is_refused_by_its_place(bad: int, place: int) -> None:
    ids, lengths = bags(0, 7, [5, 5])
    ids[place] = bad
    with pytest.raises(ValueError, match=rf"expected rows in \[0, 7\), got {bad} at index {place}"):
        sum_bags(np.zeros((7, 4), np.float32), ids, lengths)


def test_a_negative_id_is_no_row_of_however_large_a_matrix() -> None:
    with pytest.raises(ValueError, match="got -1500000000 at index 0"):
        check_bags(3_000_000_000, np.array([-1_500_000_000], np.int32), np.ones(1, np.int32))


@pytest.mark.parametrize("lengths", [[4], [6], [6, -1], [2**31 - 1, 5], []])
def test_lengths_that_do_not_add_up_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match="add up to 5 ids"):
        check_bags(7, np.zeros(5, np.int32), np.array(lengths, np.int32))
