"""The cheapest replicas with which a plan meets its SLA, beside those that its throughput needs.

Problem. Choose added replicas a_i >= 0 with the least sum of a_i * memory_i, so that the predicted 95th percentile
(`latency.py`) is within the SLA: with T = sla - remote call - the dense service's own 95th percentile, all called
services answer within T with a probability of 0.95, the product of within_i(T, a_i).
Method. For each a of the dense service that can still pay, a knapsack: what service i is late by is the weight
-log within_i(T, a_i), and the weights may add up to -log 0.95. Weights are rounded up to UNITS parts of that, and a
table over 0 ... UNITS is filled, a service at a time.
How good. What is found meets the SLA. Nothing cheaper meets it, unless by less than the rounding, a unit a service: no
cheaper choice keeps 0.05 * services / UNITS of all queries more within the SLA (16 services: 0.008%).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from repo_builder.errors import PlanError
from repo_builder.partition.cost import Profile
from repo_builder.partition.latency import Queue, alone_s, idle_s, predict_latency, quantile_s, queue_of
from repo_builder.partition.plan import Plan, Service

QUANTILE = 0.95
"""The share of the queries that must meet the SLA."""

UNITS = 10_000
MAX_ADDED = 1000
"""The most replicas that are added to a service."""

_MOST_LATE = -math.log(QUANTILE)
_ROUNDING = 2e-6  # relative: `quantile_s` is found to half of it


def meet_sla(plan: Plan, profile: Profile, target_qps: float, sla_ms: float) -> Plan:
    """The plan with its predicted latency, and with the cheapest replicas more that let it meet the SLA.

    `Service.added` counts them, beside the replicas that throughput needs. Raises PlanError where even an idle fleet
    misses the SLA, so that no replica helps.
    """
    idle_ms = check_idle(plan, profile, sla_ms)
    latency = predict_latency(plan, profile, target_qps)
    if latency.p95_ms > sla_ms:
        added = _Fleet(plan, profile, target_qps).cheapest(sla_ms / 1000)
        if added is None:
            raise PlanError(
                f"serving.sla_ms: expected one that {MAX_ADDED} more replicas of a service can meet, got {sla_ms:g} ms "
                f"while an idle fleet takes {idle_ms:.3g} ms; raise it"
            )
        services = [replace(each, added=each.added + n) for each, n in zip(plan.services, added, strict=True)]
        plan = replace(plan, services=tuple(services))
        latency = predict_latency(plan, profile, target_qps)
    return replace(plan, latency=latency)


def check_idle(plan: Plan, profile: Profile, sla_ms: float) -> float:
    """What a query takes in an idle fleet, ms; raises PlanError where that misses the SLA, so that no replica helps."""
    idle_ms = 1000 * idle_s(plan, profile)
    if idle_ms > sla_ms:
        raise PlanError(
            f"serving.sla_ms: expected at least {idle_ms:.3g} ms, what a query takes in an idle fleet, got {sla_ms:g}; "
            "raise it, lower serving.batch, or give the profile of a faster machine with --profile"
        )
    return idle_ms


@dataclass(frozen=True, slots=True)
class _Option:
    """So many more replicas of a service: their bytes, and what it is then late by, in units."""

    added: int
    cost_bytes: int
    late: int


@dataclass(frozen=True, slots=True)
class _Fleet:
    """A plan whose services are to get replicas."""

    plan: Plan
    profile: Profile
    target_qps: float

    def cheapest(self, sla_s: float) -> list[int] | None:
        """The replicas to add to each service, in the plan's order; None where `MAX_ADDED` of each are too few."""
        front = next(service for service in self.plan.services if service.kind == "dense")
        left_s = (sla_s - self.profile.remote_call_s) * (1 - _ROUNDING)
        least = self._called(left_s - alone_s(front, self.profile))  # beside a front end in which no query waits
        best_bytes, best = math.inf, None
        for added in range(MAX_ADDED + 1 if least else 0):
            front_bytes = added * front.memory_bytes
            if least and front_bytes + least[0] >= best_bytes:
                break
            called = self._called(left_s - quantile_s([self._queue(front, added)], QUANTILE))
            if called and front_bytes + called[0] < best_bytes:
                best_bytes, rest = front_bytes + called[0], iter(called[1])
                best = [added if service is front else next(rest) for service in self.plan.services]
        return best

    def _called(self, within_s: float) -> tuple[int, list[int]] | None:
        """Bytes and replicas to add to the called services, so that they answer in time."""
        known: dict[tuple[Queue, int, int], list[_Option]] = {}  # services alike are worked out once
        options = []
        for service in self.plan.embedding_services:
            key = self._queue(service, 0), service.memory_bytes, service.deployed
            if key not in known:
                known[key] = self._options(service, within_s)
            options.append(known[key])
        return _knapsack(options)

    def _options(self, service: Service, within_s: float) -> list[_Option]:
        """What is late by less the more is added; none where the service cannot be in time."""
        if self._late(service, MAX_ADDED, within_s) > UNITS:
            return []
        found: list[_Option] = []
        for added in range(MAX_ADDED + 1):
            late = self._late(service, added, within_s)
            if late <= UNITS and (not found or late < found[-1].late):
                found.append(_Option(added, added * service.memory_bytes, late))
            if late <= 1:
                break
        return found

    def _late(self, service: Service, added: int, within_s: float) -> int:
        probability = self._queue(service, added).within(within_s)
        return math.ceil(UNITS * -math.log(probability) / _MOST_LATE) if probability > 0 else UNITS + 1

    def _queue(self, service: Service, added: int) -> Queue:
        return queue_of(replace(service, added=service.added + added), self.profile, self.target_qps)


def _knapsack(options: Sequence[Sequence[_Option]]) -> tuple[int, list[int]] | None:
    """The least bytes, and what is added to each service, with which all together are late by at most UNITS."""
    least = np.zeros(UNITS + 1)  # (UNITS + 1,): bytes of the services so far, late by at most so much
    picks = []
    for of_one in options:
        totals = np.full((max(1, len(of_one)), UNITS + 1), np.inf)
        for total, option in zip(totals, of_one, strict=False):
            total[option.late :] = least[: UNITS + 1 - option.late] + option.cost_bytes
        picks.append(totals.argmin(axis=0).astype(np.int16))
        least = totals.min(axis=0)
    if math.isinf(least[UNITS]):
        return None
    added, left = [], UNITS
    for of_one, pick in zip(reversed(options), reversed(picks), strict=True):
        option = of_one[int(pick[left])]
        added.append(option.added)
        left -= option.late
    return int(least[UNITS]), added[::-1]
