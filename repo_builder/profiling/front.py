"""Measuring what a fleet's front end takes of a core by the ids of a query and by the services that it calls.

The front end is alone on its core; all shards, in one server, and the load generator share the others. Only the front
end's CPU counts. All points have as many rows a query and as many queries in flight, those of a busy dense service.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Set
from contextlib import ExitStack
from os import sched_getaffinity
from pathlib import Path

from repo_builder.profiling.front_fleets import ROWS, FrontFleet, build_fleets
from repo_builder.profiling.loads import measure_load, median_figures, serving
from repo_builder.profiling.points import Effort, FrontPoint, LoadFigures, ServiceLoad
from repo_builder.serving.install import Installation


def measure_front(
    installed: Installation, effort: Effort, own: Set[int], folder: Path, tick: Callable[[], None]
) -> tuple[FrontPoint, ...]:
    """A point a fleet, each the median of rounds that take all fleets in turn; `tick` is called after each measurement.

    own: the front end's core; shards and load generator run where we do. They are built below `folder`, which is made.
    Raises ServerError or LoadTestError where a server or perf_analyzer fails.
    """
    built, in_flight = build_fleets(folder), max(effort.dense_in_flight)
    found: dict[FrontFleet, list[LoadFigures]] = {fleet: [] for fleet in built.fleets}
    with ExitStack() as stack:
        shards = stack.enter_context(serving(installed, built.shards, sched_getaffinity(0)))
        addresses = folder / "addresses.json"
        services = {name: [shards.grpc] for fleet in built.fleets for name in fleet.services}
        addresses.write_text(json.dumps(services), encoding="utf-8")
        environment = {"ELASTICREC_ADDRESSES": str(addresses)}
        front = stack.enter_context(serving(installed, built.frontends, own, environment))
        for _ in range(effort.rounds):
            for fleet, figures in found.items():
                load = ServiceLoad(fleet.queries, in_flight)
                figures.append(measure_load(front, fleet.model, load, effort.seconds / effort.rounds))
                tick()
    return tuple(
        FrontPoint(len(fleet.services), fleet.ids, ROWS, in_flight, median_figures(figures))
        for fleet, figures in found.items()
    )
