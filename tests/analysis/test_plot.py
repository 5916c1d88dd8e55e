"""The picture of the hotness: a real PNG, whole or not at all, with names a person can read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from repo_builder.access.hotness import CountedHotness
from repo_builder.access.load import load_hotness
from repo_builder.analysis.plan_plots import plot_hotness
from repo_builder.errors import InputError
from repo_builder.spec import Access, Spec
from repo_builder.words import table_label
from tests.access.helpers import spec, table

POWERLAW = Access("powerlaw", locality=0.9)


def plot(wanted: Spec, path: Path) -> np.ndarray:
    plot_hotness(wanted, load_hotness(wanted), path)
    return np.asarray(imread(path))


def test_picture_is_a_png_with_a_curve(tmp_path: Path) -> None:
    pixels = plot(spec([table("C1", 5000), table("C2", 5000)], POWERLAW), tmp_path / "p.png")
    assert pixels.shape[0] > 600 and pixels.shape[1] > 1000
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 20


@pytest.mark.parametrize("rows", [[1], [1, 2], [9, 10, 11], [3, 1_000_000]])
def test_small_tables(tmp_path: Path, rows: list[int]) -> None:
    plot(spec([table(f"t{i}", n) for i, n in enumerate(rows)], POWERLAW), tmp_path / "p.png")


def test_many_tables_with_long_names(tmp_path: Path) -> None:
    tables = [table("n" * 60 + str(i), 100 + i) for i in range(40)]
    counts = {each.name: np.arange(1, each.rows + 1) ** (i % 20) for i, each in enumerate(tables)}
    hotness = CountedHotness(lambda each: counts[each.name].astype(float))
    plot_hotness(spec(tables, POWERLAW), hotness, tmp_path / "p.png")
    assert imread(tmp_path / "p.png").shape[1] > 1000


def test_existing_picture_is_replaced_and_nothing_left_beside_it(tmp_path: Path) -> None:
    (tmp_path / "p.png").write_bytes(b"\x89PNG, an old one")
    plot(spec([table()], POWERLAW), tmp_path / "p.png")
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


def test_place_that_cannot_be_written(tmp_path: Path) -> None:
    wanted = spec([table()], POWERLAW)
    with pytest.raises(InputError, match=r"p\.png: cannot be written"):
        plot_hotness(wanted, load_hotness(wanted), tmp_path / "no" / "p.png")
    (tmp_path / "p.png").mkdir()
    with pytest.raises(InputError, match="Is a directory"):
        plot_hotness(wanted, load_hotness(wanted), tmp_path / "p.png")
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


@pytest.mark.parametrize(
    ("names", "label"),
    [
        (["C1"], "C1"),
        (["C2_0", "C2_1", "C2_2"], "C2_0 ... C2_2"),
        (["C1", "C2_0", "C2_1"], "C1, C2_0 ... C2_1"),
        (["a", "b", "c", "d", "e_0", "e_1"], "a, b, c and 3 more"),
        (["a_0", "b_1", "b_3"], "a_0, b_1, b_3"),
        (["x" * 40], "x" * 15 + "…" + "x" * 8),
    ],
)
def test_names_in_few_words(names: list[str], label: str) -> None:
    assert table_label(names) == label
