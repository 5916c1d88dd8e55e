"""The picture is a PNG that appears whole or not at all."""

from pathlib import Path

import pytest

from repo_builder.errors import InputError
from repo_builder.profiling.fit import fit_measured
from repo_builder.profiling.plot import plot_fit
from tests.profiling import samples


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    measured = samples.exact()
    plot_fit(measured, fit_measured(measured), "rm1 on a machine", tmp_path / "fit.png")
    content = (tmp_path / "fit.png").read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 20_000
    with pytest.raises(InputError, match="missing"):
        plot_fit(measured, fit_measured(measured), "rm1", tmp_path / "missing" / "fit.png")
