"""What a report tells of stored rows is what lies in the repository, and it is on the page."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

import elasticrec
from loadtest.report.page import page
from loadtest.report.summary import report_csv, report_json
from loadtest.run import ServiceRows
from loadtest.service_rows import service_rows
from repo_builder.model.row_rule import RowRule
from repo_builder.repository.manifest import Layout, Manifest
from tests.loadtest.runs import runs
from tests.repository.test_row_budget import SMALL, wide_spec


def built(folder: Path, layout: Layout) -> tuple[elasticrec.Plan, Manifest]:
    spec, _ = wide_spec()
    spec = replace(spec, rows=RowRule("fp16", "int8"))
    plan = elasticrec.plan(spec, profile=SMALL, s_max=2)
    return plan, elasticrec.build(spec, folder, plan, layout=layout).manifest


@pytest.mark.parametrize("layout", ["single", "fleet"])
def test_rows_are_those_of_the_plan(layout: Layout, tmp_path: Path) -> None:
    plan, manifest = built(tmp_path / "built", layout)
    found = service_rows(tmp_path / "built", manifest)
    hot, cold = plan.embedding_services
    rows = [sum(shard.rows for shard in service.shards) for service in (hot, cold)]
    assert found == {
        "toy_tier0": ServiceRows(("fp16",), rows[0], rows[0] * 64),
        "toy_tier1": ServiceRows(("int8",), rows[1], rows[1] * 40),
    }


def test_services_whose_files_are_elsewhere_are_left_out(tmp_path: Path) -> None:
    """A front end's machine has its own folder alone."""
    _, manifest = built(tmp_path / "built", "fleet")
    for path in (tmp_path / "built" / "tier1").rglob("shard.json"):
        path.unlink()
    assert set(service_rows(tmp_path / "built", manifest)) == {"toy_tier0"}


def test_the_page_has_formats_bytes_and_the_score_error() -> None:
    text = re.sub(r"<[^>]+>", " ", page(runs()))
    words = " ".join(text.split())
    assert "score error of stored rows at most 3.0e-04, on average 2.0e-05, on samples" in words
    assert "rm1_tier1 5,242,880 fp16, int8 209.0 41.8" in words
    assert words.count("Rows as they are stored") == 1


def test_json_and_csv_have_them_too() -> None:
    run = json.loads(report_json(runs()))["runs"][1]["run"]
    assert run["rows"]["rm1_tier1"] == {"dtypes": ["fp16", "int8"], "rows": 5 << 20, "size_bytes": 209 << 20}
    assert run["score_error"] == {"max": 3e-4, "mean": 2e-5}
    lines = report_csv(runs()).splitlines()
    assert "1,one server,rows,,,rm1_tier1,size_bytes,219152384" in lines
    assert "1,one server,rows,,,,max_score_error,0.0003" in lines
