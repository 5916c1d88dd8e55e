"""The pods of a simulated service: asked for by the HPA, starting, serving, gone."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from repo_builder.scaling.hpa import Pods, State, decide
from repo_builder.simulation.queues import STEP_S
from repo_builder.simulation.types import SimulatedService, Timing


@dataclass(slots=True)
class Workload:
    """A service's pods, and what its autoscaler remembers; `starting` are (step when ready, pods), soonest first.

    The one object of a simulation that changes; steps are of STEP_S seconds.
    """

    service: SimulatedService
    wanted: int
    start_steps: int
    ready: int = 0
    starting: list[tuple[int, int]] = field(default_factory=list)
    state: State = field(default_factory=State)
    values_milli: list[int | None] = field(default_factory=list)

    def arrive(self, step: int) -> None:
        """Count the pods that serve from this step on as ready."""
        while self.starting and self.starting[0][0] <= step:
            self.ready += self.starting.pop(0)[1]

    def sync(self, step: int, now_s: float) -> None:
        """What the HPA and the workload's controller do."""
        pods = Pods(self.wanted, self.wanted, self.ready)
        decision, self.state = decide(self.service.autoscaler, self.state, pods, self.values_milli, now_s)
        change = decision.replicas - self.wanted
        self.wanted = decision.replicas
        if change > 0:
            self.starting.append((step + self.start_steps, change))
        while change < 0 and self.starting:
            when, count = self.starting.pop()
            kept = max(0, count + change)
            change += count - kept
            if kept:
                self.starting.append((when, kept))
        self.ready += min(change, 0)

    def ready_in(self, steps: range) -> list[int]:
        """The pods that serve in each of the steps."""
        if not self.starting or self.starting[0][0] >= steps.stop:
            return [self.ready] * len(steps)
        counts = []
        for step in steps:
            self.arrive(step)
            counts.append(self.ready)
        return counts


def begin(service: SimulatedService, rate_qps: float, timing: Timing) -> Workload:
    """A workload that has long served the rate: as many ready pods as its rules ask for, and as it needs."""
    asked = [
        math.ceil(rate_qps * 1000 / rule.target.threshold_milli)
        for rule in service.rules
        if rule.target.kind == "AverageValue"
    ]
    needed = max(math.ceil(rate_qps / service.capacity_qps), *asked, service.autoscaler.min_replicas)
    wanted = min(needed, service.autoscaler.max_replicas)
    return Workload(service, wanted, math.ceil(timing.start_s(service) / STEP_S), ready=wanted)
