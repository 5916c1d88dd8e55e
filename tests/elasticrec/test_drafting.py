"""The first spec of a state dict: it reads back as the model that the file holds, and marks what that does not say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from elasticrec.drafting import dlrm_spec
from repo_builder.model.interaction import Cross, Dot, Interaction, Projection
from repo_builder.spec import parse_spec
from tests.export.dlrm.oracles import make_spec

INTERACTIONS: list[Interaction] = [Dot(), Cross(layers=2, rank=3), Projection(branch1=(10, 8), branch2=(12,))]


@pytest.mark.parametrize("interaction", INTERACTIONS, ids=lambda each: each.kind)
@pytest.mark.parametrize("ordered", [True, False])
def test_it_reads_back_as_the_model(interaction: Interaction, ordered: bool, tmp_path: Path) -> None:
    known = make_spec(source="torchrec", path=tmp_path / "m.pt", interaction=interaction, pooling=1)
    text = dlrm_spec("first", known, Path("m.pt"), ordered)
    assert parse_spec(yaml.safe_load(text), tmp_path / "first.yaml").dlrm == known
    assert ("tables_in_order: true" in text) != ordered


def test_one_tables_order_is_known(tmp_path: Path) -> None:
    known = make_spec(rows=(11,), source="torchrec", path=tmp_path / "m.safetensors", pooling=1)
    assert "tables_in_order" not in dlrm_spec("first", known, Path("m.safetensors"), ordered=False)


def test_odd_names_and_paths_are_quoted(tmp_path: Path) -> None:
    known = make_spec(rows=(11, 12), source="dlrm", path=tmp_path / 'a "b": #c.pt', pooling=1)
    names = ("1e3", "no")  # a float and a boolean, unquoted
    tables = tuple(replace(table, name=name) for table, name in zip(known.tables, names, strict=True))
    known = replace(known, tables=tables)
    text = dlrm_spec("first", known, Path('a "b": #c.pt'), ordered=True)
    assert parse_spec(yaml.safe_load(text), tmp_path / "first.yaml").dlrm == known
