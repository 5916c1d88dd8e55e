"""What a person reads of plans and measurements."""

import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from elasticrec.commands.demo import demo_summary, demo_table
from elasticrec.demo import Report
from elasticrec.tables import profile_line, size, tensors_table
from elasticrec.tables_plan import plan_summary, plan_table
from repo_builder.model.types import Tensor
from repo_builder.partition.cost import DEFAULT_PROFILE, Profile, ServiceTime
from repo_builder.partition.plan import Grouping, Latency, Plan, Service, Shard
from repo_builder.partition.planner import make_plan
from repo_builder.profiling.perf_analyzer import Measurement
from repo_builder.repository.configs import router_config
from repo_builder.repository.design import Design
from repo_builder.repository.wiring import wire
from repo_builder.serving.client import ModelTimes
from repo_builder.spec import Spec
from tests.partition.helpers import DENSE_TIME, GivenHotness, small_spec, zipf_cdf

UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (2**20, "1.0 MiB"),
        (2**30 - 2**26, "960.0 MiB"),
        (2**30, "1.0 GiB"),
        (5 * 2**40, "5.0 TiB"),
        (2**50, "1024.0 TiB"),
        (2**60, "1048576.0 TiB"),
        (0.0, "0 B"),
        (1536.0, "1.5 KiB"),
    ],
)
def test_a_size_at_its_units_bounds(size_bytes: float, text: str) -> None:
    assert size(size_bytes) == text


@given(st.integers(0, 2**60))
def test_a_size_is_right_to_its_last_digit(size_bytes: int) -> None:
    """And in a unit that leaves one to four digits before the point."""
    number, unit = size(size_bytes).split()
    last_digit = 1 if unit == "B" else 0.1
    assert abs(float(number) * UNITS[unit] - size_bytes) <= 0.5001 * last_digit * UNITS[unit]
    assert 1 <= float(number) <= 1024 or unit in ("B", "TiB")
    assert float(number) < 1024 or unit != "B"


def rendered(table: Table) -> list[list[str]]:
    """The words of each line at the width that the command line takes where there is no terminal."""
    text = io.StringIO()
    Console(width=160, file=text, highlight=False).print(table)
    assert "…" not in text.getvalue()
    return [line.split() for line in text.getvalue().splitlines()]


LONG = "n" * 64  # the longest name of a model or a table
TABLES = [{"name": "C", "rows": 20_000, "pooling": 128, "count": 9}, {"name": LONG, "rows": 2_000, "pooling": 3}]
PROFILE = Profile("a guess", ServiceTime(1e-5, 1e-7), 2000, DENSE_TIME)
PLAN_HEADER = "service device shards rows gathers/query queries/s replicas memory each"
DEMO_HEADER = "model instances rows memory (PSS) requests requests/call queue ms compute ms"


def planned(grouping: Grouping, name: str) -> tuple[Spec, Plan]:
    spec = small_spec(TABLES, name, target_qps=30_000)
    return spec, make_plan(spec, GivenHotness({"": zipf_cdf(20_000), LONG: zipf_cdf(2_000)}), PROFILE, grouping, 3)


def enlarged(service: Service) -> Service:
    """As large as a service may get: 2 G rows per table, 8 EiB."""
    shards = tuple(Shard(shard.table, 0, 2**31 - 1) for shard in service.shards)
    return replace(service, shards=shards, replicas=10_000, memory_bytes=2**53, gathers=1e9, qps=1e9)


@pytest.mark.parametrize("grouping", ["tiered", "per_table"])
@pytest.mark.parametrize("large", [False, True])
def test_a_plan_fits_the_terminal(grouping: Grouping, large: bool) -> None:
    """A line a service, every figure whole, with the longest names there are."""
    _, plan = planned(grouping, "m")
    if large:
        plan = replace(plan, services=tuple(map(enlarged, plan.services)))
    header, *lines = rendered(plan_table(plan))
    assert " ".join(header) == PLAN_HEADER
    assert [line[0] for line in lines] == [service.name for service in plan.services]
    assert len(lines) >= (3 if grouping == "tiered" else 20)
    for line, service in zip(lines, plan.services, strict=True):
        added = ["+", str(service.added)] if service.added else []
        replicas = [str(service.replicas), *added, "x", str(service.instances)]
        assert line[-2 - len(replicas) :] == [*replicas, *size(service.memory_bytes).split()]
        rows = sum(shard.end - shard.begin for shard in service.shards)
        assert (f"{rows:,}" in line) == (rows > 0)


def test_a_plan_is_shown_as_it_is() -> None:
    """Figures written out by hand; the dense service has no rows, and says none."""
    dense = Service("dense", "dense", "cpu", 2, 3, 1536, 0.0, 1234.4, ())
    shards = (Shard("a", 0, 1_000), Shard("b", 0, 505))
    tier = Service("tier0", "embedding", "gpu", 1, 4, 3 * 2**30, 98_765.4, 50.0, shards, (0,))
    spec = small_spec([{"name": "a", "rows": 1_000, "pooling": 2}, {"name": "b", "rows": 505, "pooling": 1}])
    plan = Plan("m", "tiered", (dense, tier), profile="measured")
    assert rendered(plan_table(plan))[1:] == [
        ["dense", "cpu", "1,234", "3", "x", "2", "1.5", "KiB"],
        ["tier0", "gpu", "2", "1,505", "98,765", "50", "4", "x", "1", "3.0", "GiB"],
    ]
    assert plan_summary(plan, spec).splitlines() == [
        "tiered, 3000 queries/s of 32 rows: 12.0 GiB over all replicas (12.0 GiB of it embedding services; "
        "one copy of the tables is 23.5 KiB)",
        "profile: measured",
    ]


def test_a_plan_says_how_rows_are_stored_where_that_is_not_all_fp32() -> None:
    spec, plan = planned("tiered", LONG)
    assert "stored" not in rendered(plan_table(plan))[0]
    cold = replace(plan.embedding_services[-1], row_dtype="int8")
    plan = replace(plan, services=(*plan.services[:-1], cold))
    header, *lines = rendered(plan_table(plan))
    assert " ".join(header) == PLAN_HEADER.replace("rows ", "rows stored ")
    assert [line[4] for line in lines[1:]] == ["fp32"] * (len(lines) - 2) + ["int8"]
    cold_rows = sum(shard.rows for shard in cold.shards)
    whole = size(spec.model.size_bytes - cold_rows * (16 - 12))  # of dim 4
    assert f"one copy of the tables is {whole}" in plan_summary(plan, spec)


def report(grouping: Grouping, name: str) -> Report:
    """A tour's findings, each model with figures of its own."""
    spec, plan = planned(grouping, name)
    models = [f"{name}_router", *(f"{name}_{service.name}" for service in plan.services)]
    memory = {model: (i + 1) * 2**20 for i, model in enumerate([*models, "tritonserver"])}
    times = {model: ModelTimes(1000 * i, 500, 0.125 * i, 12345.678) for i, model in enumerate([*models, name])}
    measurement = Measurement(2, 512.4, 3.537, 6.321, 7.606)
    return Report(spec, plan, {"grpc": 1e-7, "http": 2.5e-7}, measurement, memory, times)


@pytest.mark.parametrize(("grouping", "name"), [("tiered", "demo"), ("tiered", LONG), ("per_table", "demo")])
def test_a_demo_fits_the_terminal(grouping: Grouping, name: str) -> None:
    """A line a model in the order of a query's way, then the ensemble, then the server."""
    found = report(grouping, name)
    header, *lines = rendered(demo_table(found))
    assert " ".join(header) == DEMO_HEADER
    models = [f"{name}_router", *(f"{name}_{service.name}" for service in found.plan.services), name, "tritonserver"]
    assert [line[0] for line in lines] == models
    for i, line in enumerate(lines[: len(found.plan.services) + 1]):
        assert line[-6:] == [f"{i + 1}.0", "MiB", f"{1000 * i:,}", f"{2 * i}.00", f"{0.125 * i:.2f}", "12345.68"]
    assert lines[-1] == ["tritonserver", *size(found.memory["tritonserver"]).split()]


def test_a_demo_shows_the_instances_that_the_configs_ask_for() -> None:
    found = report("tiered", "demo")
    design = Design(found.spec, found.plan, "single", wire(found.spec.model, found.plan))
    (group,) = router_config(design).instance_group
    shown = {line[0]: line[1] for line in rendered(demo_table(found))}
    dense = next(service for service in found.plan.services if service.kind == "dense")
    assert shown["demo_router"] == str(group.count) != "0"
    assert shown["demo_dense"] == str(dense.instances * dense.deployed)


def test_a_demo_model_without_requests_divides_by_nothing() -> None:
    found = report("tiered", "demo")
    idle = {model: ModelTimes(0, 0, 0.0, 0.0) for model in found.times}
    assert rendered(demo_table(replace(found, times=idle)))[1][-5:] == ["1.0", "MiB", "0", "0.00", "0.00"]


def test_the_demos_summary_has_the_worst_difference_and_the_sum_of_memory() -> None:
    found = report("tiered", "demo")
    first, second, third = demo_summary(found).splitlines()
    assert first == "throughput 512 queries/s of 32 rows, latency p50 3.54 ms, p95 6.32 ms, p99 7.61 ms"
    models = len(found.plan.services) + 2
    tables_bytes = (9 * 20_000 + 2_000) * 4 * 4
    assert second == f"memory {models * (models + 1) // 2}.0 MiB in all, of it tables {tables_bytes / 2**20:.1f} MiB"
    assert third == "scores equal PyTorch's: max abs difference 2.5e-07"


def test_a_profile_of_another_machine_is_told_so_however_replicas_are_counted() -> None:
    for profile in (DEFAULT_PROFILE, DEFAULT_PROFILE.sized_by("cpu")):
        told = profile_line(profile.name)
        assert told.startswith(f"profile: {profile.name} - of another machine (")
    assert profile_line("mine") == "profile: mine"


def test_a_whole_replica_that_was_added_counts_once() -> None:
    """Its two services are in every replica."""
    spec, plan = planned("tiered", "m")
    counted = {"tiered": "2 replicas were added", "model_wise": "1 replica was added"}
    for grouping, told in counted.items():
        services = tuple(replace(service, added=int(i < 2)) for i, service in enumerate(plan.services))
        found = replace(plan, grouping=grouping, services=services, latency=Latency(1, 2, 3, 4))
        assert told in plan_summary(found, spec)


def test_a_scalar_is_told_as_it_is_served() -> None:
    model = small_spec(TABLES).model
    told = io.StringIO()
    scalar = Tensor("age", "INT32", ())
    Console(file=told, width=200).print(
        tensors_table(replace(model, inputs=(scalar,), outputs=(replace(scalar, name="y"),)))
    )
    assert [line.split() for line in told.getvalue().splitlines()[1:]] == [
        ["age", "input", "INT32", "[1]"],
        ["y", "output", "INT32", "[1]"],
    ]
