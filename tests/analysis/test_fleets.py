"""The whole model in every replica, by hand."""

from dataclasses import replace

import numpy as np
import pytest

from repo_builder.analysis.fleets import GPU_RESERVE_BYTES, gpu_cached, model_wise, most_utilisation
from repo_builder.errors import PlanError
from repo_builder.model.row_rule import RowRule
from repo_builder.partition.cost import DEFAULT_GPU_TIMES, FrontTime
from repo_builder.partition.latency import Queue
from tests.analysis.helpers import PROFILE, SPEC, accesses, with_sla

ROWS = 26_000
GATHERS = 32 * 256
DENSE_S = PROFILE.dense_service_time.seconds(SPEC.dense_flops)


def test_a_replica_holds_everything_and_takes_both_times() -> None:
    model = model_wise(SPEC, accesses(), PROFILE)
    assert model.memory_bytes == ROWS * 16 + SPEC.model.dense.parameter_bytes + 5000
    assert model.service_s == pytest.approx(DENSE_S + 2e-5 + 5e-8 * GATHERS)
    service = model.replicas(10.5 * model.capacity_qps)
    assert service.replicas == 11 and service.device == "cpu"
    assert sum(shard.rows for shard in service.shards) == ROWS


def test_a_replica_receives_and_routes_its_ids_on_the_cpu() -> None:
    routing, room = replace(PROFILE, front_time=FrontTime(1e-6, 1.0)), GPU_RESERVE_BYTES + 10**6
    more_s = model_wise(SPEC, accesses(), routing).service_s - model_wise(SPEC, accesses(), PROFILE).service_s
    assert more_s == pytest.approx(1e-6 * GATHERS)
    assert gpu_cached(SPEC, accesses(), routing, room).service_s == pytest.approx(2e-5 + 1e-6 * GATHERS)


def test_the_load_is_the_largest_that_meets_the_sla() -> None:
    found = most_utilisation(0.003, 0.003, 400.0)
    assert 0.5 < found < 1
    assert Queue(found, 0.003, 1, 0.003).within(0.4) >= 0.95 > Queue(found + 1e-4, 0.003, 1, 0.003).within(0.4)
    assert most_utilisation(1e-6, 1e-6, 400.0) == 1.0
    assert model_wise(SPEC, accesses(), PROFILE, 0.3).utilisation == 0.3


def test_an_sla_that_an_idle_replica_misses_is_an_error() -> None:
    with pytest.raises(PlanError, match=r"serving\.sla_ms: expected at least 1 ms"):
        model_wise(with_sla(SPEC, 0.5), accesses(), PROFILE)


def test_a_gpu_that_holds_all_rows_leaves_the_cpu_a_bare_call() -> None:
    model = gpu_cached(SPEC, accesses(), PROFILE, GPU_RESERVE_BYTES + 10**6)
    times = DEFAULT_GPU_TIMES
    gpu_s = times.dense_service_time.seconds(SPEC.dense_flops) + times.service_time.seconds(GATHERS, 16 * GATHERS)
    assert model.service_s == pytest.approx(max(gpu_s, PROFILE.service_time.fixed_s))
    assert model.alone_s == pytest.approx(gpu_s + PROFILE.service_time.fixed_s)
    assert model.replicas(1.0).device == "gpu"


def test_the_cache_takes_the_hottest_rows_of_all_tables() -> None:
    held = accesses()
    hottest = np.sort(np.concatenate([np.diff(table.cdf) * table.gathers for table in held.tables]))[::-1]
    room = GPU_RESERVE_BYTES + SPEC.model.dense.parameter_bytes
    for rows in (1, 100, 2000):
        model = gpu_cached(SPEC, held, PROFILE, room + 16 * rows)
        hits = hottest[:rows].sum()
        gpu = DEFAULT_GPU_TIMES.service_time.seconds(hits, 16 * hits) + DEFAULT_GPU_TIMES.dense_service_time.seconds(
            SPEC.dense_flops
        )
        assert model.alone_s == pytest.approx(gpu + PROFILE.service_time.seconds(GATHERS - hits, 0.0))


def test_a_gpu_too_small_for_the_dense_layers_is_an_error() -> None:
    with pytest.raises(PlanError, match="expected room for the dense layers"):
        gpu_cached(SPEC, accesses(), PROFILE, GPU_RESERVE_BYTES)


def test_a_whole_replica_stores_rows_as_a_hottest_service() -> None:
    spec = replace(SPEC, rows=RowRule(hot="int8", cold="int4"))
    model = model_wise(spec, accesses(spec), PROFILE)
    assert model.memory_bytes == ROWS * 12 + SPEC.model.dense.parameter_bytes + 5000  # of dim 4
    assert model.replicas(1.0).row_dtype == "int8"
