"""Profiles from files, replicas under the ceiling, costs."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repo_builder.errors import PlanError
from repo_builder.partition import cost
from repo_builder.partition.cost import (
    DEFAULT_FRONT_TIME,
    DEFAULT_MEASURED_ON,
    DEFAULT_PROFILE,
    CostModel,
    RowCache,
    ServiceTime,
    load_profile,
    replicas_for,
)

GOOD: dict[str, Any] = {"service_time": {"fixed_s": 1e-4, "per_row_s": 1e-8}, "min_memory_bytes": 5, "host": "x"}


def _write(tmp_path: Path, document: object) -> Path:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_profile_is_read_and_further_keys_are_passed_over(tmp_path: Path) -> None:
    profile = load_profile(_write(tmp_path, GOOD))
    assert profile.service_time == ServiceTime(1e-4, 1e-8)
    assert (profile.name, profile.min_memory_bytes) == ("profile", 5)
    assert profile.dense_service_time == DEFAULT_PROFILE.dense_service_time


def test_profile_may_bring_its_own_dense_time(tmp_path: Path) -> None:
    profile = load_profile(_write(tmp_path, {**GOOD, "dense_service_time": {"fixed_s": 2e-4, "per_flop_s": 1e-12}}))
    assert profile.dense_service_time.seconds(1e9) == pytest.approx(1.2e-3)


def test_a_query_alone_pays_the_whole_call(tmp_path: Path) -> None:
    """1 ms under load with a quarter of a call's 0.3 ms: three quarters more."""
    document = {**GOOD, "batching": {"call_s": 3e-4, "query_s": 2.5e-5, "queries": 4}, "remote_call_s": 1e-3}
    profile = load_profile(_write(tmp_path, document))
    assert profile.alone_s(1e-3) == pytest.approx(1e-3 + 2.25e-4)
    assert profile.remote_call_s == 1e-3
    assert load_profile(_write(tmp_path, GOOD)).alone_s(1e-3) == 1e-3


def test_a_front_end_takes_its_ids_and_calls_time(tmp_path: Path) -> None:
    profile = load_profile(_write(tmp_path, {**GOOD, "front_time": {"per_id_s": 1e-8, "per_call_s": 1e-5}}))
    assert profile.front_time.seconds(1000, 3) == pytest.approx(4e-5)
    assert load_profile(_write(tmp_path, GOOD)).front_time == DEFAULT_FRONT_TIME


def test_a_row_costs_what_its_bytes_say(tmp_path: Path) -> None:
    times = {"fixed_s": 1e-4, "per_row_s": 1e-9, "per_byte_s": 1e-11}
    cached = {
        "row_cache": {"size_bytes": 100, "per_row_s": 1e-10, "per_byte_s": 1e-12},
        "row_levels": [{"size_bytes": 10, "per_row_s": 1e-11}],
    }
    profile = load_profile(_write(tmp_path, {**GOOD, "service_time": times, **cached}))
    assert profile.service_time.seconds(1000, 128_000) == pytest.approx(1e-4 + 1e-6 + 1.28e-6)
    assert (profile.row_cache, profile.row_levels) == (RowCache(100, 1e-10, 1e-12), (RowCache(10, 1e-11),))
    model = profile.cost_model(5)
    assert (model.row_cache, model.row_levels) == (profile.row_cache, profile.row_levels)
    plain = load_profile(_write(tmp_path, GOOD))
    assert (plain.row_cache, plain.row_levels) == (None, ())


@pytest.mark.parametrize(
    ("place", "key", "value", "problem"),
    [
        (0, "per_row_s", 6e-10, "row_levels[0].per_row_s: expected at most row_levels[1].per_row_s = 5e-10, got 6e-10"),
        (0, "size_bytes", 9, "row_levels[0].size_bytes: expected at most row_levels[1].size_bytes = 2, got 9"),
        (1, "size_bytes", 9, "row_levels[1].size_bytes: expected at most row_cache.size_bytes = 3, got 9"),
        (1, "per_byte_s", 6e-12, "row_levels[1].per_byte_s: expected at most row_cache.per_byte_s = 5e-12, got 6e-12"),
        (2, "per_row_s", 1e-8, "row_cache.per_row_s: expected at most service_time.per_row_s = 1e-09, got 1e-08"),
        (2, "per_byte_s", 1e-8, "row_cache.per_byte_s: expected at most service_time.per_byte_s = 1e-11, got 1e-08"),
    ],
)
def test_rows_of_a_cache_are_no_dearer_than_those_beyond(
    tmp_path: Path, place: int, key: str, value: float, problem: str
) -> None:
    times = {"fixed_s": 1e-4, "per_row_s": 1e-9, "per_byte_s": 1e-11}
    caches = [{"size_bytes": size, "per_row_s": 5e-10, "per_byte_s": 5e-12} for size in (1, 2, 3)]
    caches[place][key] = value
    document = {**GOOD, "service_time": times, "row_levels": caches[:2], "row_cache": caches[2]}
    path = _write(tmp_path, document)
    with pytest.raises(PlanError, match=re.escape(f"{path}: {problem}")):
        load_profile(path)
    del document["row_cache"]
    with pytest.raises(PlanError, match="row_levels: expected row_cache beside them, got none"):
        load_profile(_write(tmp_path, document))


def test_replicas_are_counted_by_the_times_that_are_asked_for(tmp_path: Path) -> None:
    """A row takes the same, from the cache as from memory: threads are woken once a query."""
    cache = {"size_bytes": 100, "per_row_s": 1e-9}
    batching = {"call_s": 3e-4, "query_s": 2.5e-5, "queries": 4}
    light = {"fixed_s": 7e-4, "dense_service_time": {"fixed_s": 9e-4, "per_flop_s": 3e-12}}
    document = {**GOOD, "row_cache": cache, "row_levels": [cache], "batching": batching, "light_load": light}
    profile = load_profile(_write(tmp_path, document))
    lone = profile.sized_by("cpu")
    assert profile.sized_by("capacity") == profile
    assert lone.service_time == replace(profile.service_time, fixed_s=7e-4)
    assert (lone.row_cache, lone.row_levels) == (profile.row_cache, profile.row_levels) and lone.alone_s(1e-3) == 1e-3
    assert lone.dense_service_time.seconds(1e9) == pytest.approx(3.9e-3)
    assert lone.name == "profile, by CPU at light load" and lone.min_memory_bytes == profile.min_memory_bytes


def test_without_light_load_there_is_no_cpu_to_size_by(tmp_path: Path) -> None:
    profile = load_profile(_write(tmp_path, GOOD))
    with pytest.raises(PlanError, match="--size-by cpu: expected a profile with light_load, got 'profile' without"):
        profile.sized_by("cpu")


@pytest.mark.parametrize("word", ["cpus", "Capacity", ""])
def test_an_unknown_word_to_size_by_is_refused(word: Any) -> None:
    """Also of a profile that knows the CPU at light load, where a typo would pass for it."""
    with pytest.raises(PlanError, match=f"^size_by: expected one of capacity, cpu, got '{word}'$"):
        DEFAULT_PROFILE.sized_by(word)


def test_the_default_is_a_measured_profile_as_any() -> None:
    """It keeps the schema, and says of which machine and services it is."""
    path = Path(cost.__file__).with_name("default_profile.json")
    assert load_profile(path) == DEFAULT_PROFILE
    document = json.loads(path.read_text())
    assert document["service"]["backend"] == "native" and {"cpu", "cores", "date"} <= document["machine"].keys()
    assert document["machine"]["cpu"] in DEFAULT_MEASURED_ON
    assert all(point["cpu_s"] > 0 for kind in ("embedding", "dense") for point in document["points"][kind])
    assert len({point["row_bytes"] for point in document["points"]["rows"]}) >= 5
    assert sum("capacity_qps" in point for point in document["points"]["embedding"]) >= 3
    assert DEFAULT_PROFILE.light_load is not None
    assert DEFAULT_PROFILE.light_load.fixed_s > DEFAULT_PROFILE.service_time.fixed_s


def test_a_gather_may_take_any_time(tmp_path: Path) -> None:
    times = {"fixed_s": 1e-4, "per_row_s": 0.1}
    assert load_profile(_write(tmp_path, {**GOOD, "service_time": times})).service_time.per_row_s == 0.1


def test_profile_may_bring_gpu_times(tmp_path: Path) -> None:
    gpu = {"service_time": GOOD["service_time"], "dense_service_time": {"fixed_s": 2e-4, "per_flop_s": 1e-12}}
    profile = load_profile(_write(tmp_path, {**GOOD, "gpu": gpu}))
    assert profile.gpu is not None
    assert profile.gpu.dense_service_time.seconds(1e9) == pytest.approx(1.2e-3)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"service_time": {"fixed_s": 1e-4}}, "service_time.per_row_s"),
        ({"service_time": {"fixed_s": 0, "per_row_s": 1}}, "service_time.fixed_s"),
        ({"service_time": {"fixed_s": 1, "per_row_s": -1}}, "service_time.per_row_s"),
        ({"service_time": 3}, "service_time"),
        ({"min_memory_bytes": -1}, "min_memory_bytes"),
        ({"min_memory_bytes": "1 GB"}, "min_memory_bytes"),
        ({"dense_service_time": {"fixed_s": 1}}, "dense_service_time.per_flop_s"),
        ({"batching": {"call_s": 1, "query_s": 1, "queries": 0.5}}, "batching.queries"),
        ({"gpu": {"service_time": GOOD["service_time"]}}, "gpu.dense_service_time"),
        ({"remote_call_s": -1}, "remote_call_s"),
        ({"format": 1, "service_time": 3}, "format"),
        ({"row_cache": {"size_bytes": 1}}, "row_cache.per_row_s"),
        ({"row_levels": [{"size_bytes": 1}]}, "row_levels[0].per_row_s"),
        ({"front_time": {"per_id_s": 1}}, "front_time.per_call_s"),
        ({"light_load": {"fixed_s": 1}}, "light_load.dense_service_time"),
    ],
)
def test_profile_mistakes_name_file_and_field(tmp_path: Path, change: dict[str, Any], field: str) -> None:
    path = _write(tmp_path, {**GOOD, **change})
    with pytest.raises(PlanError) as caught:
        load_profile(path)
    assert f"{path}: {field}: expected" in str(caught.value)


@pytest.mark.parametrize(
    ("load", "replicas"), [(0.0, 1), (0.3, 1), (1.0, 1), (1 + 1e-10, 1), (1 + 1e-8, 2), (3.0, 3), (7 * (1 + 9e-10), 7)]
)
def test_replicas_round_up_with_a_relative_tolerance(load: float, replicas: int) -> None:
    assert replicas_for(load) == replicas


def test_arrays_and_scalars_price_alike() -> None:
    seconds = np.random.default_rng(0).uniform(0, 1e-2, 1000)
    model = CostModel(777.0, ServiceTime(3e-4, 7e-8), 10)
    assert model.replica_counts(seconds).tolist() == [model.replicas(each) for each in seconds.tolist()]


def test_cost_is_whole_bytes() -> None:
    cost = CostModel(1000.0, ServiceTime(1e-3, 1e-6), 100).cost(80, 1.5e-3)
    assert (cost, type(cost)) == (3 * 180, int)
