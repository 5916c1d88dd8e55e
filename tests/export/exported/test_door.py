"""Models of every kind of look-up, whole against cut: the program's answers, and those of its parts by their description."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from repo_builder.export.exported import open_exported
from repo_builder.model.source import Source
from repo_builder.model.types import Columns, Group, Ragged
from tests.export.exported.oracle import Cut, assert_same
from tests.export.exported.programs import CASES, export

KEEP_UNDER = {"kept": 100}
LOOSE = {"halves": 1e-4}


@dataclass(frozen=True)
class Opened:
    source: Source
    cut: Cut


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Opened]:
    """Each case's program, exported, opened and written once, when first asked for."""
    made: dict[str, Opened] = {}

    def get(name: str) -> Opened:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            source = open_exported(export(CASES[name], folder / "model.pt2"), name, None, KEEP_UNDER.get(name, 0), {})
            made[name] = Opened(source, Cut(source, folder))
        return made[name]

    return get


@pytest.mark.parametrize("name", CASES)
def test_the_cut_model_answers_as_the_whole_one(name: str, opened: Callable[[str], Opened]) -> None:
    source, cut = opened(name).source, opened(name).cut
    for rows in (1, 2, 7):
        query = CASES[name].query(rows, np.random.default_rng(rows))
        assert_same(source.answers(query), cut.answers(query), LOOSE.get(name, 1e-5))
