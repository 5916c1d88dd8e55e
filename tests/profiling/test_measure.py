"""A profile of a model that is no DLRM, on real servers: several groups, dims and weighted bags."""

from dataclasses import replace
from pathlib import Path

import pytest

from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.documents import schema_problems
from repo_builder.partition.accesses import model_accesses
from repo_builder.profiling.document import profile_document
from repo_builder.profiling.fit import fit_measured
from repo_builder.profiling.measure import measure
from repo_builder.profiling.points import Effort, ProfileOptions
from tests.toy_source import toy_spec


@pytest.mark.server
@pytest.mark.slow
def test_services_of_any_model_are_measured(tmp_path: Path) -> None:
    """A server refuses what is not as its shard says: every query was taken. What is fitted is a profile."""
    spec, _ = toy_spec("toy")
    spec = replace(spec, serving=replace(spec.serving, sla_ms=60_000))  # on any machine, whatever else it does
    effort = Effort(0.5, 1, (32, 8192), (1, 4, 8), (1, 32, 256), (1, 4), row_gathers=4096)
    options = ProfileOptions("tiered", "native", 300, effort)
    measured = measure(spec, PowerLawHotness(0.8, 0), options, tmp_path)
    assert [point.load for point in measured.embedding] == effort.embedding_loads(measured.caches)
    assert all(len(point.hit_s) == len(measured.caches) > 0 for point in measured.rows)
    assert [(p.rows, p.in_flight) for p in measured.dense][: len(effort.dense_loads)] == effort.dense_loads
    assert sorted(p.load.gathers for p in measured.embedding if p.capacity) == [32, 8192]
    assert sorted(p.rows for p in measured.dense if p.capacity) == [1, 32, 256]
    assert all(point.figures.qps > 0 for point in (*measured.embedding, *measured.dense))
    assert [(p.services, p.ids) for p in measured.front] == [(2, 2048), (2, 20480), (8, 2048), (8, 20480)]
    assert {(p.rows, p.in_flight) for p in measured.front} == {(32, 4)}
    assert all(p.figures.cpu_s > 0 and p.figures.queries == 1 for p in measured.front)
    assert (measured.tables, measured.held_rows) == (3, 299) and measured.remote.latency_s > 0
    accesses = model_accesses(spec, PowerLawHotness(0.8, 0))
    profile = profile_document(spec, accesses, options, measured, fit_measured(measured))
    assert schema_problems(profile, "profile.schema.json") == []
    assert profile["service"]["dims"] == [4, 8, 16]
