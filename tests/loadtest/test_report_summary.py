"""What the report picks out of a run."""

from dataclasses import replace

import pytest

from loadtest.report.summary import breakdown_point, holds, summarize
from loadtest.run import Run
from tests.loadtest.runs import day, sweep

RUN = sweep("title", "single", 160, ("rm1", "rm1_dense"), "concurrency")


def best_by_brute_force(run: Run) -> float | None:
    """Latencies at 50, 95, 99 against the SLA, written out."""
    found = None
    for point in run.points:
        latency_ms = point.p95_ms if run.percentile == 95 else point.p99_ms
        if point.errors or (run.sla_ms is not None and latency_ms > run.sla_ms):
            continue
        if found is None or point.throughput_qps > found:
            found = point.throughput_qps
    return found


@pytest.mark.parametrize("sla_ms", [None, 1.0, 20.0, 33.6, 50.0, 10_000.0])
@pytest.mark.parametrize("percentile", [95, 99])
def test_the_best_point_has_the_most_queries_within_the_sla_without_errors(sla_ms: float, percentile: int) -> None:
    run = replace(RUN, sla_ms=sla_ms, percentile=percentile, points=RUN.points[::-1])
    assert summarize(run).throughput_qps == best_by_brute_force(run)


def test_an_sla_is_met_at_its_very_value() -> None:
    point = RUN.points[0]
    assert holds(replace(RUN, sla_ms=point.p95_ms), point)
    assert not holds(replace(RUN, sla_ms=point.p95_ms - 1e-9), point)


def test_errors_and_memory_are_added_up() -> None:
    assert summarize(RUN).errors == 13
    assert summarize(day()).errors == 4
    assert summarize(RUN).memory_bytes == sum(RUN.memory_bytes.values())
    assert summarize(replace(RUN, memory_bytes={})).memory_bytes is None


def test_the_breakdown_is_of_the_best_point_that_was_measured() -> None:
    assert breakdown_point(RUN) is summarize(RUN).best
    bare = tuple(replace(point, services={}) for point in RUN.points[1:])
    assert breakdown_point(replace(RUN, points=(RUN.points[0], *bare))) is RUN.points[0]
    assert breakdown_point(replace(RUN, points=bare)) is None
