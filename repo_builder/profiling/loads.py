"""A server on cores of its own, and its figures at a load: its client's, and the CPU that it takes meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from types import MappingProxyType

from repo_builder.profiling.call_load import CallLoad
from repo_builder.profiling.capacity import on_cores
from repo_builder.profiling.points import LoadFigures, ServiceLoad
from repo_builder.serving.client import times_by_model
from repo_builder.serving.install import Installation
from repo_builder.serving.processes import cpu_seconds
from repo_builder.serving.server import Server, free_ports, running

Load = ServiceLoad | CallLoad
"""What is sent to a service, and how many at a time."""


@contextmanager
def serving(
    installed: Installation,
    repository: Path,
    cores: Set[int],
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Server]:
    """A server on these cores; we go back to ours once it is ready. environment: more of its variables."""
    log = repository.with_suffix(".log")
    with ExitStack() as stack:
        with on_cores(cores):
            started = running(installed, repository, free_ports(), log, environment=environment)
            server = stack.enter_context(started)
        yield server


def measure_loads(
    server: Server, model: str, loads: Sequence[Load], rounds: int, seconds: float, tick: Callable[[], None]
) -> list[LoadFigures]:
    """Each load's figures: medians over `rounds` of all loads in turn, of `seconds` each; `tick` is called after each.

    Raises LoadTestError where one fails.
    """
    found: list[list[LoadFigures]] = [[] for _ in loads]
    for _ in range(rounds):
        for load, figures in zip(loads, found, strict=True):
            figures.append(measure_load(server, model, load, seconds))
            tick()
    return [median_figures(figures) for figures in found]


def measure_load(server: Server, model: str, load: Load, seconds: float) -> LoadFigures:
    """A load's figures over `seconds`; raises LoadTestError where it fails."""
    before, before_s = times_by_model(server.http)[model], cpu_seconds(server.process.pid)
    measured = load.run(server, model, seconds)
    after, after_s = times_by_model(server.http)[model], cpu_seconds(server.process.pid)
    requests = after.requests - before.requests
    return LoadFigures(
        qps=load.joined * measured.throughput_qps,
        queries=load.joined * requests / (after.executions - before.executions),
        cpu_s=(after_s - before_s) / (load.joined * requests),
        p50_ms=measured.p50_ms,
        p95_ms=measured.p95_ms,
    )


def median_figures(figures: Sequence[LoadFigures]) -> LoadFigures:
    """The median of each figure by itself."""
    return LoadFigures(
        qps=median(each.qps for each in figures),
        queries=median(each.queries for each in figures),
        cpu_s=median(each.cpu_s for each in figures),
        p50_ms=median(each.p50_ms for each in figures),
        p95_ms=median(each.p95_ms for each in figures),
    )
