"""perf_analyzer 2.51's own output of several modes, captured from runs on a repository of four embedding services."""

from pathlib import Path

import pytest

from loadtest.perf_run import Load
from loadtest.run import LoadPoint, ServiceTimes
from loadtest.target import read_report
from repo_builder.profiling.perf_analyzer import LoadTestError

DATA = Path(__file__).parent / "data"
STEPS = {"small_dense", "small_router", "small_tier0", "small_tier1", "small_tier2", "small_tier3"}


def captured(name: str, load: Load) -> LoadPoint:
    return read_report((DATA / f"{name}.csv").read_text(), (DATA / f"{name}.txt").read_text(), load, "small")


def test_queries_in_flight_over_grpc() -> None:
    """Every figure, read off the file by eye."""
    point = captured("grpc_concurrency", Load("concurrency", 2))
    assert (point.throughput_qps, point.queries, point.errors) == (2098.1, 7629, 0)
    assert (point.p50_ms, point.p95_ms, point.p99_ms, point.mean_ms) == pytest.approx((0.844, 1.331, 3.834, 0.917))
    assert point.network_ms == pytest.approx(0.917 - 0.580)  # the client's mean less the server's
    assert set(point.services) == STEPS
    assert point.services["small_dense"] == ServiceTimes(7629, 7491, 0.069, 0.044)
    assert point.services["small_tier1"] == ServiceTimes(7630, 7327, 0.122, 0.003)


@pytest.mark.parametrize(
    ("name", "load", "throughput_qps", "p95_ms", "p99_ms", "queries"),
    [
        ("grpc_rate", Load("request_rate", 200), 185.323, 15.277, 26.387, 672),
        ("grpc_shared_memory", Load("concurrency", 2), 1244.7, 3.316, 11.144, 4582),
        ("http_concurrency", Load("concurrency", 2), 1178.44, 5.354, 10.869, 4291),
        ("http_rate_overload", Load("request_rate", 20000), 2025.19, 102.325, 169.003, 9403),
    ],
)
def test_other_modes(name: str, load: Load, throughput_qps: float, p95_ms: float, p99_ms: float, queries: int) -> None:
    point = captured(name, load)
    assert (point.load_kind, point.load) == (load.kind, load.value)
    assert (point.throughput_qps, point.p95_ms, point.p99_ms) == (throughput_qps, p95_ms, p99_ms)
    assert point.queries == queries
    assert set(point.services) == STEPS
    assert all(times.requests >= times.executions > 0 for times in point.services.values())
    assert point.network_ms is not None and 0 < point.network_ms < point.mean_ms


def test_a_model_without_steps_stands_for_itself() -> None:
    csv, printed = ((DATA / f"grpc_concurrency.{suffix}").read_text() for suffix in ("csv", "txt"))
    alone = printed[: printed.index("Composing models")]
    point = read_report(csv, alone, Load("concurrency", 2), "small")
    assert point.services == {"small": ServiceTimes(7629, 7629, 0.544, 0.068)}


@pytest.mark.parametrize("empty", ["csv", "txt"])
def test_no_figures_are_told(empty: str) -> None:
    csv, printed = ((DATA / f"grpc_rate.{suffix}").read_text() for suffix in ("csv", "txt"))
    csv, printed = (csv.splitlines()[0], printed) if empty == "csv" else (csv, "")
    with pytest.raises(LoadTestError, match="expected a measurement"):
        read_report(csv, printed, Load("request_rate", 200), "small")
