"""The progress bar: drawn on a terminal, silent in a pipe."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from elasticrec.commands import common
from repo_builder.output import silent


@pytest.mark.parametrize("terminal", [True, False])
def test_bar_is_drawn_on_a_terminal_only(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80)
    monkeypatch.setattr(common, "err", console)
    with common.watch("Counting") as progress:
        progress(5, 10)
    assert ("Counting" in console.file.getvalue()) is terminal  # type: ignore[attr-defined] # it is the StringIO


def test_silent_takes_any_step() -> None:
    silent(1, 2)
