"""Steps of CDFs that are looked up in blocks, against one fit of all rows and against arrays of them all."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from repo_builder.model.row_rule import RowRule
from repo_builder.model.types import RowFormat
from repo_builder.partition.accesses import model_accesses
from repo_builder.partition.cost import Profile, ServiceTime
from repo_builder.partition.merging import merged_order, ranks_in_tables
from repo_builder.partition.planner import plan_accesses
from repo_builder.partition.steps import BLOCK_ROWS, Steps
from repo_builder.partition.table_accesses import TableAccesses
from tests.partition.helpers import DENSE_TIME, GivenHotness, row_gathers, small_spec, zipf_cdf

ROWS = 2 * BLOCK_ROWS + 1234
TIME = ServiceTime(2e-5, 5e-8, 1e-9)


def _rounded(cdf: NDArray[np.float64], unit: float) -> NDArray[np.float64]:
    """As a CDF of so many more rows would be: its steps at the end are near the rounding."""
    rounded = np.round(cdf / unit) * unit
    rounded[-1] = 1.0
    return np.minimum(rounded, 1.0)


def _counted(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(np.sort(counts)[::-1]) / counts.sum()])


def _cdfs() -> dict[str, NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    swapped = zipf_cdf(ROWS)
    swapped[5000] -= 1e-8  # one row below the next few
    late = np.diff(zipf_cdf(ROWS))
    late[10_000] = late[2000]  # in one block, and hotter than many of the block before
    return {
        "concave": zipf_cdf(ROWS, 0.5),
        "noise at the end": _rounded(zipf_cdf(ROWS), 1e-9),
        "noise from the middle of a block on": _rounded(zipf_cdf(ROWS), 3e-10),
        "all noise": _rounded(np.linspace(0, 1, ROWS + 1), 1e-7),
        "one row": swapped,
        "pools of rows that fall": np.append(0.0, np.cumsum(late) / late.sum()),
        "counted": _counted(rng.zipf(1.3, ROWS).clip(max=10**6)),
        "counted evenly": _counted(np.ones(ROWS, np.int64)),
        "a block to the row": _rounded(zipf_cdf(BLOCK_ROWS), 1e-9),
        "few": np.array([0.0, 0.5, 0.5 + 1e-10, 0.5 + 3e-10, 1.0]),
        "one": np.array([0.0, 1.0]),
    }


@pytest.mark.parametrize("name", _cdfs())
def test_steps_are_those_of_one_fit_of_all_rows(name: str) -> None:
    """To the last bit, though the fit leaves out the hottest rows."""
    cdf = _cdfs()[name]
    plain = np.diff(cdf)
    expected, gap = plain, 0.0
    if (plain[1:] > plain[:-1]).any():
        pools = np.asarray(isotonic_regression(plain, increasing=False).blocks, np.int64)
        expected = np.repeat(np.diff(cdf[pools]) / np.diff(pools), np.diff(pools))
        begins = np.repeat(pools[:-1], np.diff(pools))
        gap = float(np.max(cdf[begins] + (np.arange(len(plain)) - begins) * expected - cdf[:-1]))
    steps = Steps(cdf)
    assert np.array_equal(np.concatenate(list(steps.blocks())), expected)
    assert np.array_equal(steps.firsts, expected[::BLOCK_ROWS])
    assert steps.gap == max(gap, 0.0)


def test_which_cdfs_are_fitted() -> None:
    """The cases above are what they are called."""
    fitted = {name: bool((np.diff(cdf, 2) > 0).any()) for name, cdf in _cdfs().items()}
    assert [name for name, found in fitted.items() if not found] == ["concave", "one"]


def test_cuts_of_tables_of_many_blocks_are_those_of_a_stable_sort() -> None:
    cdfs = _cdfs()
    tables = [
        TableAccesses("A", cdfs["noise at the end"], 16, RowFormat(2)),
        TableAccesses("B", cdfs["counted"], 30, RowFormat(2)),
        TableAccesses("C", cdfs["noise at the end"], 16, RowFormat(2)),
        TableAccesses("D", cdfs["concave"], 9, RowFormat(4)),
        TableAccesses("E", cdfs["a block to the row"], 12, RowFormat(4)),
    ]
    time = ServiceTime(1e-4, 1e-8)
    values = np.concatenate([-row_gathers(table) / table.row_bytes for table in tables])
    owner = np.repeat(np.arange(len(tables)), [table.rows for table in tables])
    size = np.repeat([table.row_bytes for table in tables], [table.rows for table in tables])
    order = np.lexsort((owner, size, values))  # ties by size, then by table
    merged = merged_order(tables, time)
    assert merged.gathers == pytest.approx(np.append(0.0, np.cumsum(-(values * size)[order])))
    cuts = [0, 1, BLOCK_ROWS - 1, BLOCK_ROWS, 3 * BLOCK_ROWS + 17, len(owner) // 2, len(owner) - 1, len(owner)]
    for cut, ranks in zip(cuts, ranks_in_tables(tables, cuts, time), strict=True):
        assert ranks == np.bincount(owner[order[:cut]], minlength=len(tables)).tolist()


def test_a_cdf_is_fitted_once_whatever_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    fits = []
    monkeypatch.setattr(
        "scipy.optimize.isotonic_regression",
        lambda *words, **more: fits.append(1) or isotonic_regression(*words, **more),
    )
    spec = small_spec([{"name": "A", "rows": ROWS, "pooling": 128, "count": 3}])
    hotness = GivenHotness({"": _cdfs()["noise at the end"]})
    accesses = model_accesses(spec, hotness)
    profile = Profile("fast", TIME, 5000, DENSE_TIME)
    for rule in (RowRule("fp32", "fp32"), RowRule("fp32", "int8")):
        stored = accesses.stored_by(rule)
        for grouping in ("tiered", "per_table"):
            plan_accesses(spec, stored, profile, grouping, 4)
            stored.hottest(100_000, TIME)
    assert len(fits) == 1
