"""Runs as load tests write them: a sweep of the whole model, a search over one server, and a day on a fleet."""

from dataclasses import replace

import numpy as np

from loadtest.run import LoadPoint, Run, RunSample, ServiceRows, ServiceTimes
from repo_builder.repository.manifest import ScoreError

MIB = 1024**2
SHARES = (0.2, 0.4, 0.6, 0.75, 0.85, 0.92, 0.97)
MACHINE = {"processor": "AMD EPYC", "cores": 2, "memory_bytes": 16 * 1024**3, "tritonserver": "2.51.0"}
ROWS = {
    "rm1_tier0": ServiceRows(("fp32",), 1000, 128_000),
    "rm1_tier1": ServiceRows(("fp16", "int8"), 5 * MIB, 209 * MIB),
}
ERROR = ScoreError(3e-4, 2e-5)
EVIL = "fleet </script><script>alert(1)</script><img src=x onerror=alert(2)> <b>%{x}</b> & 'so' \"on\""


def sweep(title: str, layout: str, capacity_qps: float, services: tuple[str, ...], kind: str) -> Run:
    """Seven loads up to a server's capacity; the last misses the SLA and has errors."""
    points = tuple(_point(kind, round(capacity_qps * share), share, services) for share in SHARES)
    memory_bytes = {name: (i + 1) * 123 * MIB + 7 for i, name in enumerate(services)}
    return Run(
        title, "perf_analyzer", "2026-11-23T19:20:00+00:00", ("elasticrec", "loadtest", "perf", "a folder/rm1"), "rm1",
        layout, 32, 50.0, 95, MACHINE, True, None, points, (), memory_bytes, 231.5,
    )  # fmt: skip


def _point(kind: str, load: float, share: float, services: tuple[str, ...]) -> LoadPoint:
    mean_ms = 4 / (1 - share)
    times = {name: ServiceTimes(900 + i, 300, i * share, 1.25 * i + 0.5) for i, name in enumerate(services)}
    errors = 13 if share > 0.95 else 0
    return LoadPoint(
        kind, load, load * 0.998, mean_ms * 0.9, mean_ms * 2.1, mean_ms * 3.4, mean_ms, int(load * 10), errors,
        times, 0.42,
    )  # fmt: skip


def day() -> Run:
    """A timeline with a burst, a second without an answer, replicas and memory; cut off, with a hostile title."""
    random = np.random.default_rng(0)
    timeline = []
    for i in range(120):
        p50, p95, p99 = (None,) * 3 if i == 60 else np.sort(random.gamma(3, 5, 3)).tolist()
        offered_qps = 60.0 if i < 60 else 180.0
        replicas = {"rm1_frontend": 1 + (i > 70), "rm1_tier0": 1 + (i > 75)}
        memory_bytes = {"rm1_frontend": 900 * MIB + 1000 * i}
        errors = 4 if i == 60 else 0
        timeline.append(
            RunSample(5.0 * i, offered_qps, offered_qps - errors, p50, p95, p99, errors, replicas, memory_bytes)
        )
    return Run(
        EVIL, "locust", "2026-11-23T19:20:00+00:00", ("locust", "-f", EVIL), "rm1", "fleet", 32, 50.0, 99, MACHINE,
        False, "the server ended with signal 9 <i>", (), tuple(timeline), {"rm1_frontend": 134 * MIB},
    )  # fmt: skip


def runs() -> list[Run]:
    """All three."""
    single = ("rm1", "rm1_router", "rm1_tier0", "rm1_tier1", "rm1_a_service_with_a_very_long_name", "rm1_dense")
    return [
        sweep("whole model", "model-wise", 160, ("rm1", "rm1_embeddings", "rm1_dense"), "concurrency"),
        replace(sweep("one server", "single", 310, single, "request_rate"), rows=ROWS, score_error=ERROR),
        day(),
    ]
