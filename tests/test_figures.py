"""What our pictures say, read off the drawn figures: whole replicas, plain words, no line hidden under another."""

import importlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from elasticrec.cli import main
from repo_builder.partition.worth import Cuts

DOCUMENT = {
    "name": "m",
    "dense_features": 3,
    "bottom_mlp": [8, 4],
    "top_mlp": [5, 1],
    "tables": [{"name": "A", "rows": 50_000, "dim": 4, "pooling": 100, "count": 3}],
    "weights": {"source": "random"},
    "access": {"source": "powerlaw", "locality": 0.9},
    "serving": {"target_qps": 1500, "batch": 32},
}
CPU = Path(__file__).parents[1] / "examples/clusters/cpu.yaml"
Draw = Callable[..., Figure]


@pytest.fixture
def draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Draw:
    """Run a command that draws a picture with this module, and hand out the figure."""

    def run(module: str, command: str, *words: object, file: str = "m.yaml") -> Figure:
        (tmp_path / file).write_text(yaml.safe_dump(DOCUMENT))
        figures: list[Figure] = []
        monkeypatch.setattr(importlib.import_module(module), "save_png", lambda figure, _: figures.append(figure))
        assert main([command, str(tmp_path / file), *map(str, words), "--plot", str(tmp_path / "picture.png")]) == 0
        (figure,) = figures
        figure.canvas.draw()
        return figure

    return run


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_visible() and text.get_text()]


def panel(figure: Figure, word: str) -> Axes:
    return next(axes for axes in figure.axes if word in axes.get_title(loc="left") + axes.get_ylabel())


def drawn_lines(axes: Axes) -> list[tuple[np.ndarray, float]]:
    """Heights and width of each line of data."""
    return [(np.asarray(line.get_ydata()), line.get_linewidth()) for line in axes.lines if len(line.get_xdata()) > 2]


def is_seen(lines: list[tuple[np.ndarray, float]]) -> bool:
    """Whether each line is wider than all that are drawn after it, so that it shows wherever they coincide."""
    widths = [width for _, width in lines]
    return all(former >= later + 1 for former, later in pairwise(widths))


def test_a_sweep_speaks_in_words_and_whole_replicas(draw: Draw) -> None:
    figure = draw("repo_builder.analysis.plan_plots", "plan", "--sweep", "fixed_s=1e-5..1e-4:3")
    told = texts(figure)
    assert not any("fixed_s" in text or "times less" in text for text in told)
    assert "Fixed time of a call, s" in told
    for word in ("Replicas", "Services"):
        ticks = panel(figure, word).get_yticks()
        assert len(ticks) > 1 and (ticks == np.round(ticks)).all()
    lines = drawn_lines(panel(figure, "Replicas"))
    assert len(lines) == 2 and is_seen(lines)


def test_one_service_is_told_as_no_cut_pays(draw: Draw) -> None:
    figure = draw("repo_builder.analysis.plan_plots", "plan", "--explain", "--s-max", "1")
    told = " ".join(texts(figure))
    assert "no cut pays" in told and "tier0, holds all rows" in told
    for axes in figure.axes[1:]:
        (bar,) = axes.patches
        low, high = sorted(axes.get_ylim())
        assert bar.get_height() < 0.4 * (high - low)  # no block that fills the panel
    ticks = panel(figure, "Replicas").get_xticks()
    assert (ticks == np.round(ticks)).all()


@pytest.mark.parametrize("merged", [0, 1])
def test_cuts_that_were_merged_are_not_told_to_take_more_memory(
    merged: int, draw: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cuts, "merged", property(lambda _: merged))
    told = " ".join(texts(draw("repo_builder.analysis.plan_plots", "plan", "--explain", "--s-max", "1")))
    assert ("any cut would take more memory" in told) == (not merged)
    assert ("no cut saves what a service must" in told) == bool(merged)


def test_a_comparison_of_one_spec_names_it_and_hides_no_line(draw: Draw) -> None:
    figure = draw("repo_builder.analysis.compare_plot", "compare", "--cluster", CPU)
    told = texts(figure)
    assert not any("1 specs" in text or "1 spec" in text or "times less" in text for text in told)
    assert "Memory gain: m" in told
    rows = [axes for axes in figure.axes if axes.get_title(loc="left").endswith(("row format", "FP32 rows"))]
    assert len(rows) == 3
    for axes in figure.axes:
        assert is_seen(drawn_lines(axes))
        low, high = axes.get_ylim()
        assert axes in rows or (low < 0.9 and high > 2)  # 1x is not the axis itself


def test_a_simulation_shows_fleets_that_coincide(draw: Draw, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("seconds,qps\n0,300\n600,0\n")
    figure = draw("repo_builder.simulation.plot", "simulate", "--traffic", tmp_path / "t.csv")
    ticks = panel(figure, "replicas").get_yticks()
    assert len(ticks) > 1 and (ticks == np.round(ticks)).all()
    for axes in figure.axes[1:]:
        assert is_seen(drawn_lines(axes))
        assert axes.get_ylim()[0] < 0  # nobody past the SLA: a line that is not the axis
