"""A valid spec of a DLRM by its numbers, changed field by field; and what is wrong with one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from repo_builder.errors import SpecError
from repo_builder.spec import parse_spec

DESIGN = """
name: rm1
dense_features: 13
bottom_mlp: [256, 128, 32]
top_mlp: [256, 64, 1]
interaction: dot
tables:
  - {name: C1, rows: 2000000, dim: 32, pooling: 128}
  - {name: C2, rows: 2000000, dim: 32, pooling: 128, count: 9}
index_dtype: int64
weights: {source: random, seed: 0}
access: {source: powerlaw, locality: 0.9}
serving: {target_qps: 100, batch: 32, sla_ms: 400}
"""
VALID: Mapping[str, Any] = yaml.safe_load(DESIGN)
REMOVED = object()


def changed(where: str, value: object) -> dict[str, Any]:
    """The valid spec with one field set (`tables.0.rows`) or removed."""
    document = copy.deepcopy(dict(VALID))
    *parents, last = [int(part) if part.isdecimal() else part for part in where.split(".")]
    place: Any = document
    for part in parents:
        place = place[part]
    if value is REMOVED:
        del place[last]
    else:
        place[last] = value
    return document


def problems_of(document: object) -> list[str]:
    with pytest.raises(SpecError) as caught:
        parse_spec(document, Path("m.yaml"))
    for problem in caught.value.problems:
        assert problem.startswith("m.yaml: ") and "\n" not in problem
    return [problem.removeprefix("m.yaml: ") for problem in caught.value.problems]
