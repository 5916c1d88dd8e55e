"""A build that makes its own plan beside what `plan` would say: it cuts, and tells where the planner would not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import elasticrec
from repo_builder.spec import parse_spec
from tests.elasticrec.test_rows import DOCUMENT


@pytest.mark.parametrize(
    ("words", "told"), [({}, True), ({"layout": "single"}, False), ({"layout": "model-wise"}, False)]
)
def test_a_build_against_the_planner_is_told_unless_it_was_asked_for(
    words: dict[str, Any], told: bool, tmp_path: Path
) -> None:
    spec = parse_spec(DOCUMENT, tmp_path)
    assert elasticrec.plan(spec).grouping == "model_wise"  # too small to be worth cutting
    notes: list[str] = []
    built = elasticrec.build(spec, tmp_path / "out", tell=notes.append, **words)
    lines = [note for note in notes if "would not cut this model" in note]
    assert len(lines) == told
    assert built.manifest.layout == words.get("layout", "single")
    if told:
        assert built.plan.grouping == "tiered" and "--layout model-wise" in lines[0]


def test_a_plan_that_cuts_is_built_without_a_word(tmp_path: Path) -> None:
    spec, notes = parse_spec(DOCUMENT, tmp_path), list[str]()
    plan = elasticrec.plan(spec, grouping="tiered")
    elasticrec.build(spec, tmp_path / "out", plan, tell=notes.append)
    assert not [note for note in notes if "would not cut this model" in note]
