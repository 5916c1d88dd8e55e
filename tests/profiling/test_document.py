"""The profile as a file: its schema takes it, the planner reads it, and it holds what was measured."""

import json
from pathlib import Path

import pytest

from repo_builder.documents import schema_problems
from repo_builder.partition.cost import load_profile
from repo_builder.profiling.document import profile_document
from repo_builder.profiling.fit import cached_rows, fit_measured
from repo_builder.profiling.points import CALLS, STANDARD, EmbeddingLoad, ProfileOptions
from repo_builder.profiling.row_prices import FORMATS
from repo_builder.spec import parse_spec
from tests.integration.models import document
from tests.profiling import samples

SCHEMA = "profile.schema.json"


@pytest.fixture(scope="module")
def profile() -> dict:
    measured = samples.exact()
    spec = parse_spec(document(), Path("small.yaml"))
    options = ProfileOptions("tiered", "python", 1000, STANDARD)
    return profile_document(spec, samples.accesses(), options, measured, fit_measured(measured))


def test_the_planner_reads_what_was_fitted(profile: dict, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(profile, allow_nan=False))
    fits, read = fit_measured(samples.exact()), load_profile(path)
    assert profile["format"] == 2
    assert read.name == "small, python, measured 2026-01-02 on a processor"
    assert (read.service_time, read.dense_service_time, read.batching) == (fits.time, fits.dense, fits.batching)
    assert (read.light_load, read.front_time) == (fits.light, fits.front)
    assert (read.row_cache, read.row_levels) == cached_rows(samples.exact(), fits, samples.accesses())
    assert (read.min_memory_bytes, read.remote_call_s) == (70_000_000, 4e-4)


def test_every_point_is_kept_and_fitted_ones_say_their_error(profile: dict) -> None:
    assert schema_problems(profile, SCHEMA) == []
    points = profile["points"]["embedding"]
    asked = [EmbeddingLoad(*map(p.get, ("accesses", "gathers", "joined", "in_flight", "within_bytes"))) for p in points]
    assert asked == STANDARD.embedding_loads(samples.CACHES)
    assert all(("residual" in p) == (p["accesses"] == "spec" and p["in_flight"] == CALLS) for p in points)
    assert all(("capacity_qps" in p) == (p["accesses"] == "spec" and p["joined"] == 16) for p in points)
    assert all(p["capacity_qps"] == pytest.approx(p["qps"] / samples.BUSY) for p in points if "capacity_qps" in p)
    rows = profile["points"]["rows"]
    assert [(p["dim"], p["dtype"], p["row_bytes"]) for p in rows] == [(f.dim, f.dtype, f.row_bytes) for f in FORMATS]
    assert all(len(p["hit_s"]) == 2 and max(map(abs, (*p["hit_residuals"], p["miss_residual"]))) < 1e-6 for p in rows)
    assert [(p["rows"], p["in_flight"]) for p in profile["points"]["dense"]] == STANDARD.dense_loads
    front = [(p["services"], p["ids"], p["rows"], p["in_flight"]) for p in profile["points"]["front"]]
    assert front == [(2, 2048, 32, 16), (2, 20480, 32, 16), (8, 2048, 32, 16), (8, 20480, 32, 16)]
    assert all(abs(p["residual"]) < 1e-6 for p in profile["points"]["front"]) and profile["fit"]["front"]["points"] == 4
    assert profile["fit"]["embedding"]["points"] == sum("residual" in p for p in points)
    assert profile["fit"]["embedding"]["relative_max"] == max(abs(p["residual"]) for p in points if "residual" in p)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"client_cpu_s": -1}, "client_cpu_s"),
        ({"fit": {"dense": {"points": 1, "relative_rms": -1, "relative_max": 1}}}, "fit.dense.relative_rms"),
        ({"points": {"embedding": [{"qps": 1}]}}, "points.embedding[0].queries"),
        ({"points": {"front": [{"services": 0}]}}, "points.front[0].services"),
        ({"points": {"rows": [{"row_bytes": 1, "hit_s": [0], "miss_s": 1}]}}, "points.rows[0].hit_s[0]"),
        ({"points": {"front": [{"services": 2, "rows": 32}]}}, "points.front[0].ids"),
        ({"fit": {"front": {"points": 4, "relative_rms": 0, "relative_max": -1}}}, "fit.front.relative_max"),
        ({"machine": "mine"}, "machine"),
    ],
)
def test_the_schema_knows_the_further_keys(profile: dict, change: dict, field: str) -> None:
    problems = schema_problems({**profile, **change}, SCHEMA)
    assert problems and all(problem.startswith(field.rsplit(".", 1)[0]) for problem in problems)
    assert any(field in problem for problem in problems)
