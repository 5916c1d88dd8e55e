"""What must hold of every plan, whatever the accesses, the traffic and the profile; and every bad input's answer."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from elasticrec.cli import main
from repo_builder.access.hotness import CountedHotness
from repo_builder.access.load import load_hotness
from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.access.queries import IdSampler
from repo_builder.partition.cost import Profile, ServiceTime
from repo_builder.partition.plan import Grouping, Plan
from repo_builder.partition.planner import make_plan
from repo_builder.spec import Access, Spec
from tests.partition.helpers import DENSE_TIME, small_spec

GROUPINGS: tuple[Grouping, ...] = ("tiered", "per_table")
Counts = dict[str, NDArray[np.int64]]

row_counts = st.lists(st.sampled_from([0, 0, 1, 1, 2, 3, 8, 40, 500]), min_size=1, max_size=40).filter(any)
profiles = st.builds(
    Profile,
    name=st.just("p"),
    service_time=st.builds(ServiceTime, st.sampled_from([1e-5, 1e-4]), st.sampled_from([0.0, 5e-8, 1e-6])),
    min_memory_bytes=st.sampled_from([0, 10, 1000]),
    dense_service_time=st.just(DENSE_TIME),
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Spec, Counts]:
    """One to three tables of other rows, pooling and skew, and their counts."""
    counts = {f"T{i}": np.array(draw(row_counts)) for i in range(draw(st.integers(1, 3)))}
    tables = [{"name": name, "rows": len(hits), "pooling": draw(st.integers(1, 90))} for name, hits in counts.items()]
    return small_spec(tables, target_qps=draw(st.sampled_from([1.0, 700.0, 9000.0]))), counts


def plan_of(spec: Spec, counts: Counts, profile: Profile, grouping: Grouping, s_max: int) -> Plan:
    return make_plan(spec, CountedHotness(lambda table: counts[table.name]), profile, grouping, s_max)


@settings(max_examples=100, deadline=None)
@given(cases(), profiles, st.sampled_from(GROUPINGS))
def test_cost_never_rises_when_s_max_grows(case: tuple[Spec, Counts], profile: Profile, grouping: Grouping) -> None:
    costs = [plan_of(*case, profile, grouping, s_max).embedding_memory_bytes for s_max in (1, 2, 3, 5, 8, 16)]
    assert costs == sorted(costs, reverse=True)


@settings(max_examples=100, deadline=None)
@given(cases(), profiles, st.sampled_from(GROUPINGS), st.integers(0, 2**32))
def test_ids_may_be_permuted(case: tuple[Spec, Counts], profile: Profile, grouping: Grouping, seed: int) -> None:
    spec, counts = case
    rng = np.random.default_rng(seed)
    permuted = {name: rng.permutation(hits) for name, hits in counts.items()}
    assert plan_of(spec, permuted, profile, grouping, 4) == plan_of(spec, counts, profile, grouping, 4)


@settings(max_examples=100, deadline=None)
@given(cases(), profiles, st.sampled_from(GROUPINGS), st.integers(1, 16))
def test_cuts_cover_all_rows_once_and_gathers_equal_the_traffic(
    case: tuple[Spec, Counts], profile: Profile, grouping: Grouping, s_max: int
) -> None:
    spec, counts = case
    plan = plan_of(spec, counts, profile, grouping, s_max)
    for table in spec.dlrm.tables:
        held = np.zeros(table.rows, np.int64)
        shards = [shard for service in plan.services for shard in service.shards if shard.table == table.name]
        for shard in shards:
            held[shard.begin : shard.end] += 1
        assert (held == 1).all()
        assert len(shards) <= s_max
        hottest = -np.sort(-counts[table.name])
        means = [hottest[shard.begin : shard.end].mean() for shard in shards]
        assert means == sorted(means, reverse=True)
    traffic = spec.serving.batch * spec.dlrm.index_columns
    assert sum(service.gathers for service in plan.services) == pytest.approx(traffic, rel=1e-9)


def shard_of_ids(spec: Spec, hotness: Any, plan: Plan) -> dict[str, NDArray[np.int64]]:
    """For each table the number of the service that holds each id."""
    holders = {table.name: np.empty(table.rows, np.int64) for table in spec.dlrm.tables}
    orders = {table.name: hotness.order(table) for table in spec.dlrm.tables}
    for i, service in enumerate(plan.services):
        for shard in service.shards:
            holders[shard.table][orders[shard.table][shard.begin : shard.end]] = i
    return holders


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_a_replayed_synthetic_trace_gathers_what_was_predicted(grouping: Grouping) -> None:
    """Ids drawn from the power law, counted by the service that holds them: within 1% of the plan's gathers."""
    spec = small_spec(
        [{"name": "A", "rows": 30_000, "pooling": 60}, {"name": "B", "rows": 8_000, "pooling": 40}], target_qps=40_000.0
    )
    profile = Profile("p", ServiceTime(2e-5, 5e-8), 5000, DENSE_TIME)
    hotness, rng, queries = PowerLawHotness(0.9, 3), np.random.default_rng(11), 2500
    plan = make_plan(spec, hotness, profile, grouping, 4)
    assert len(plan.embedding_services) >= 3
    measured = np.zeros(len(plan.services))
    for table in spec.dlrm.tables:
        ids = IdSampler(hotness, table).draw(queries * spec.serving.batch * table.pooling, rng)
        measured += np.bincount(shard_of_ids(spec, hotness, plan)[table.name][ids], minlength=len(measured))
    for service, gathers in zip(plan.services, measured / queries, strict=True):
        assert gathers == pytest.approx(service.gathers, rel=0.01)


def test_a_trace_replayed_on_its_own_plan_gathers_exactly_what_was_predicted(tmp_path: Path) -> None:
    spec = small_spec([{"name": "A", "rows": 500, "pooling": 3}, {"name": "B", "rows": 90, "pooling": 1}])
    rng = np.random.default_rng(2)
    trace = {"A": rng.zipf(1.3, 9000) % 500, "B": rng.zipf(1.5, 3000) % 90}
    np.savez(tmp_path / "trace.npz", **trace)
    spec = replace(spec, access=Access("trace", tmp_path / "trace.npz"))
    hotness = load_hotness(spec)
    plan = make_plan(spec, hotness, Profile("p", ServiceTime(1e-4, 1e-6), 100, DENSE_TIME), "tiered", 4)
    holders = shard_of_ids(spec, hotness, plan)
    shares = [np.bincount(holders[name][ids], minlength=len(plan.services)) / len(ids) for name, ids in trace.items()]
    measured = 32 * (3 * shares[0] + shares[1])
    assert measured == pytest.approx([service.gathers for service in plan.services], rel=1e-9)


def document(counts: NDArray[Any], tmp_path: Path, **serving: object) -> Path:
    """A spec file of one table of eight rows whose accesses are these counts."""
    np.savez(tmp_path / "counts.npz", A=counts)
    spec = {
        "name": "m",
        "dense_features": 3,
        "bottom_mlp": [4],
        "top_mlp": [1],
        "tables": [{"name": "A", "rows": 8, "dim": 4, "pooling": 2}],
        "weights": {"source": "random"},
        "access": {"source": "counts", "path": "counts.npz"},
        "serving": {"target_qps": 10.0, **serving},
    }
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(spec))
    return path


GOOD = np.array([5, 1, 1, 0, 0, 2, 1, 9])


@pytest.mark.parametrize(
    ("counts", "serving", "told"),
    [
        (np.array([]), {}, "A: expected 8 counts, one per row (tables: rows), got 0 counts"),
        (GOOD[:7], {}, "A: expected 8 counts, one per row (tables: rows), got 7 counts"),
        (-GOOD, {}, "A: expected counts >= 0 and finite, got -5 at row 0"),
        (np.where(GOOD == 9, np.nan, GOOD), {}, "A: expected counts >= 0 and finite, got nan at row 7"),
        (0 * GOOD, {}, "A: expected at least one access, got 8 counts that are all 0"),
        (GOOD, {"target_qps": 0}, "serving.target_qps: expected more than 0, got 0"),
        (GOOD, {"sla_ms": 0.001}, "serving.sla_ms: expected at least"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    counts: NDArray[Any],
    serving: dict[str, object],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = document(counts, tmp_path, **serving)
    assert main(["plan", str(path), "-o", str(tmp_path / "plan.json")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and told in lines[0], lines
    assert not (tmp_path / "plan.json").exists()


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_one_hot_row_with_everything(grouping: Grouping) -> None:
    """It is cut off from the rest, or not; the rest gathers nothing and needs one replica."""
    spec = small_spec([{"name": "A", "rows": 1000, "pooling": 500}], target_qps=5000.0)
    counts = {"A": np.where(np.arange(1000) == 77, 9, 0)}
    plan = plan_of(spec, counts, Profile("p", ServiceTime(2e-5, 5e-8), 10, DENSE_TIME), grouping, 16)
    hot, cold = plan.embedding_services
    assert [(shard.begin, shard.end) for shard in (*hot.shards, *cold.shards)] == [(0, 1), (1, 1000)]
    assert (cold.gathers, cold.replicas) == (0.0, 1)
    assert hot.gathers == 32 * 500 and hot.replicas == 5


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_s_max_above_the_rows(grouping: Grouping) -> None:
    spec = small_spec([{"name": "A", "rows": 2, "pooling": 500}], target_qps=5000.0)
    plan = plan_of(spec, {"A": np.array([9, 1])}, Profile("p", ServiceTime(1e-5, 5e-8), 0, DENSE_TIME), grouping, 16)
    assert 1 <= len(plan.embedding_services) <= 2
    assert [rank for s in plan.embedding_services for rank in range(s.shards[0].begin, s.shards[0].end)] == [0, 1]


def test_a_single_row_is_one_service() -> None:
    spec = small_spec([{"name": "A", "rows": 1, "pooling": 1}])
    plan = plan_of(spec, {"A": np.array([3])}, Profile("p", ServiceTime(1e-4, 1e-6), 0, DENSE_TIME), "tiered", 16)
    (service,) = plan.embedding_services
    assert [(shard.begin, shard.end) for shard in service.shards] == [(0, 1)]
