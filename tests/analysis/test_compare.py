"""SizedFleets at equal traffic: they serve it, cost what their services say, and are averaged plainly."""

import csv
import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.image import imread

from elasticrec.tables_compare import comparison_notes
from repo_builder.analysis.compare import (
    Comparison,
    ComparisonReport,
    Result,
    average_gains,
    compare,
    report_csv,
    report_json,
)
from repo_builder.analysis.compare_plot import plot_comparison
from repo_builder.analysis.fleets import (
    GPU_CACHE,
    MODEL_WISE,
    PER_TABLE,
    STRATEGIES,
    TIERED,
    ComparisonCase,
    SizedFleets,
)
from repo_builder.analysis.utility import Utility
from repo_builder.partition.placement.cluster import Cluster
from tests.analysis.helpers import CPU_POOL, CPUS, GPUS, PROFILE, SPEC, accesses

ACCESSES = accesses()


def case(cluster: Cluster) -> ComparisonCase:
    return ComparisonCase(SPEC, ACCESSES, PROFILE, cluster, s_max=8)


def report(cluster: Cluster) -> ComparisonReport:
    found, sweep = compare(case(cluster), 10, (1, 10))
    return ComparisonReport(PROFILE, cluster, 8, 10, (found, found), (sweep, sweep))


@pytest.mark.parametrize("replicas", [1, 7, 100])
def test_the_traffic_is_what_so_many_model_wise_replicas_serve(replicas: int) -> None:
    fleets = SizedFleets(case(CPUS))
    target_qps = fleets.target_qps(replicas)
    assert fleets.fleet(MODEL_WISE, target_qps).replicas == replicas
    assert fleets.fleet(MODEL_WISE, target_qps * 1.001).replicas == replicas + 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_service_of_a_fleet_carries_the_traffic(strategy: str) -> None:
    fleets = SizedFleets(case(GPUS))
    target_qps = fleets.target_qps(25)
    fleet = fleets.fleet(strategy, target_qps)
    assert all(service.deployed * service.qps >= target_qps * (1 - 1e-8) for service in fleet.services)
    rows = {"A": 20_000, "B_0": 3_000, "B_1": 3_000}
    for table, count in rows.items():
        shards = [shard for service in fleet.services for shard in service.shards if shard.table == table]
        assert sum(shard.rows for shard in shards) == count
    assert fleet.remote_calls == (0 if strategy in (MODEL_WISE, GPU_CACHE) else len(fleet.services) - 1)


def test_a_gpu_cache_needs_gpus() -> None:
    assert GPU_CACHE not in SizedFleets(case(CPUS)).strategies
    assert SizedFleets(case(GPUS)).strategies == STRATEGIES
    assert "no GPUs" in comparison_notes(report(CPUS)) and "no GPUs" not in comparison_notes(report(GPUS))


def test_the_clusters_own_minimum_memory_and_one_instance_a_replica() -> None:
    own = Cluster("own", (CPU_POOL,), min_memory_bytes=123_456, max_instances=4)
    fleets = SizedFleets(case(own))
    target_qps = fleets.target_qps(20)
    plain = SizedFleets(replace(case(CPUS), profile=replace(PROFILE, min_memory_bytes=123_456)))
    for strategy in fleets.strategies:
        placed = fleets.placed(strategy, target_qps)
        assert placed.memory_bytes == plain.placed(strategy, target_qps).memory_bytes
        assert all(service.instances == 1 for service in placed.services)


def test_a_fleet_that_does_not_fit_says_why() -> None:
    tiny = Cluster("tiny", (replace(CPU_POOL, count=1, memory_bytes=500_000),))
    fleet = SizedFleets(case(tiny)).placed(MODEL_WISE, 1e5)
    assert fleet.packing is None and "tiny" in fleet.unplaced


def test_accesses_are_let_go_at_once() -> None:
    """It may be of many gigabytes: no reference cycle may keep it until the garbage collector comes by."""
    held = accesses()
    gone = weakref.ref(held.order(held.tables, PROFILE.service_time).gathers)
    gc.disable()
    try:
        compare(ComparisonCase(SPEC, held, PROFILE, GPUS, s_max=4), 3, (1, 2))
        del held
        assert gone() is None
    finally:
        gc.enable()


def test_price_in_parts_is_the_scarcest_resource() -> None:
    fleet = SizedFleets(case(CPUS)).fleet(MODEL_WISE, 1.0)  # one replica: a core of 8, its bytes of 4 M
    share = max(1 / 8, fleet.memory_bytes / 4_000_000)
    assert fleet.price_in_parts(CPUS) == pytest.approx(2.0 * share)
    cheap = Cluster("two", (CPU_POOL, replace(CPU_POOL, name="cheap", price_per_hour=0.5)))
    assert fleet.price_in_parts(cheap) == pytest.approx(0.5 * share)
    assert fleet.price_in_parts(Cluster("none", (replace(CPU_POOL, memory_bytes=1),))) is None


def result(strategy: str, memory_bytes: int, utility: float, price: float | None) -> Result:
    return Result(strategy, memory_bytes, Utility(utility, utility), 1, 1, 0, 1, price, price, "", "")


def test_gains_and_their_mean_by_hand() -> None:
    base = result(MODEL_WISE, 100, 0.1, 8.0)
    first = Comparison("a", 10, 1.0, 1.0, (base, result(TIERED, 50, 0.4, 4.0)))
    second = Comparison("b", 10, 1.0, 1.0, (base, result(TIERED, 25, 0.2, None)))
    assert first.gains(TIERED)["memory"] == 2 and second.gains(TIERED)["memory"] == 4
    mean = average_gains([first, second], TIERED)
    assert mean["memory"] == 3 and mean["utility"] == pytest.approx(3) and mean["price"] is None
    assert first.gains(PER_TABLE)["memory"] is None


def test_reports_can_be_read_back(tmp_path: Path) -> None:
    found = report(GPUS)
    document = json.loads(report_json(found))
    tiered = document["comparisons"][0]["strategies"][TIERED]
    own = found.comparisons[0].result(TIERED)
    assert own is not None and tiered["memory_bytes"] == own.memory_bytes
    assert document["average_gains"][TIERED]["memory"] == pytest.approx(tiered["gains"]["memory"])
    rows = list(csv.DictReader(report_csv(found).splitlines()))
    assert len(rows) == 2 * len(STRATEGIES) * 3
    assert {row["placed"] for row in rows} == {"yes", "no"}
    plot_comparison(found, tmp_path / "compare.png")
    assert imread(tmp_path / "compare.png").shape[1] > 1000
