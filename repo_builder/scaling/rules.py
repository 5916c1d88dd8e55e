"""The rules by which the services scale: queries, thresholds and their reasons, and the ScaledObject that they make.

Two kinds of rule, as Kubernetes' HPA reads them:

    AverageValue   a total over all pods; the HPA wants `ceil(total / threshold)` pods. It cannot run away.
    Value          a mean or a percentile; the HPA wants `ready pods * value / threshold`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from repo_builder.partition.plan import Service
from repo_builder.repository.built_fleet import BuiltFleet
from repo_builder.scaling.hpa import SYNC_S, Behavior, HpaSpec, MetricTarget, Policy, ScalingRules, TargetKind
from repo_builder.scaling.keda import Fallback, ScaledObject, Trigger
from repo_builder.scaling.queries import (
    GUARD_SHARE,
    NAMESPACE,
    QUANTILE,
    SCRAPE_S,
    WINDOW_S,
    GuardedLatency,
    Query,
    QueueTime,
    Scope,
    Throughput,
)

THROUGHPUT_SHARE = 0.65
"""Of the planned capacity, at which pods are added.

Traffic that doubles asks for 1.3 times the capacity: the HPA sees it as soon as 30% of the window lie after the step.
"""

DOUBLED_S = round((2 * THROUGHPUT_SHARE - 1) * WINDOW_S + SCRAPE_S + SYNC_S)
"""Within which pods for doubled traffic are asked for: that part of the window, a scrape and a sync of the HPA.

KEDA asks Prometheus whenever the HPA asks it: its own polling interval does not matter.
"""

LATENCY_SHARE = 0.65
"""Of the SLA, at which pods are added (ElasticRec, ISCA 2024, section IV-D)."""

QUEUE_SHARE = 0.1
"""Of the SLA, that a request may wait for an instance."""

GROWTH = 4
"""Times the plan's target traffic that a service may grow to: a bound on what a fault or an attack may cost."""

FAILURES = 3
"""Answers that Prometheus may fail to give in a row before the fallback.

The HPA asks every 15 s and KEDA itself every 30 s: the fourth fails 30 to 45 s after the first. Before KEDA 2.19 its
own polls did not count: 45 to 60 s.
"""

UP_PERIOD_S = 60
"""Pods at most double in it, the time that a latency's percentile looks back: one bad minute counts once."""

DOWN_WINDOW_S = 300
DOWN_PERCENT, DOWN_PERIOD_S = 25, 60
"""Pods that load tens of GB are given up slowly: the most of five minutes, and a quarter per minute."""

BEHAVIOR = Behavior(
    up=ScalingRules(0, (Policy("Percent", 100, UP_PERIOD_S), Policy("Pods", 4, UP_PERIOD_S))),
    down=ScalingRules(DOWN_WINDOW_S, (Policy("Percent", DOWN_PERCENT, DOWN_PERIOD_S),)),
)

PROMETHEUS = "http://prometheus-operated.monitoring.svc:9090"
"""Where the Prometheus operator puts it."""


class ServingGoal(Protocol):
    """What a fleet is for."""

    @property
    def model(self) -> str:
        """The model that clients call."""

    @property
    def sla_ms(self) -> float:
        """Its latency bound."""

    @property
    def target_qps(self) -> float | None:
        """The traffic that it was planned for, if the plan says."""


class ElasticService(Protocol):
    """A service that scales."""

    @property
    def name(self) -> str:
        """In Kubernetes."""

    @property
    def model(self) -> str:
        """The Triton model whose requests are its queries."""

    @property
    def steps(self) -> tuple[str, ...]:
        """The models that do its work."""

    @property
    def planned(self) -> Service:
        """The plan's figures."""


@dataclass(frozen=True, slots=True)
class ScalingOptions:
    """What the user chooses of the rules; `min_replicas` are a service's pods at rest."""

    namespace: str = NAMESPACE
    prometheus: str = PROMETHEUS
    min_replicas: int = 1
    latency_share: float = LATENCY_SHARE


@dataclass(frozen=True, slots=True)
class Rule:
    """Scale where the answer to `query` goes beyond `threshold`, in `unit`; `reason` says why there."""

    name: str
    query: Query
    threshold: float
    unit: str
    kind: TargetKind
    reason: str

    @property
    def target(self) -> MetricTarget:
        """The threshold as the HPA gets it."""
        return MetricTarget(self.kind, threshold_milli(self.threshold))


def threshold_milli(threshold: float) -> int:
    """In thousandths, as KEDA is told: a whole number from 10 on, since its fallback counts in whole ones."""
    return 1000 * round(threshold) if threshold >= 10 else int(1000 * Decimal(f"{max(threshold, 0.001):.3f}"))


def service_rules(goal: ServingGoal, service: ElasticService, latency_share: float = LATENCY_SHARE) -> tuple[Rule, ...]:
    """The rules of a service: throughput and queue time; for the front end also, and first, latency."""
    throughput, queue = _throughput(goal, service), _queue(goal, service)
    if service.planned.kind != "dense":
        return throughput, queue
    return _latency(goal, service, latency_share, throughput, queue), throughput, queue


def _throughput(goal: ServingGoal, service: ElasticService) -> Rule:
    """Queries per second: the plan's unit. One call of an embedding service may carry several."""
    capacity_qps = service.planned.qps
    query, why = Throughput(service.model), ""
    if service.planned.kind != "dense":
        query = Throughput(service.model, goal.model)
        why = " Queries are counted at the front end, which joins several in a call, or as calls if these are more."
    return Rule(
        "throughput",
        query,
        THROUGHPUT_SHARE * capacity_qps,
        "queries/s a pod",
        "AverageValue",
        f"{THROUGHPUT_SHARE:.0%} of the {capacity_qps:,.0f} queries/s that the plan gives one pod. A rate of successes "
        "cannot pass the capacity, so the threshold must lie well below; the rest carries what traffic grows by "
        f"while new pods load.{why}",
    )


def _queue(goal: ServingGoal, service: ElasticService) -> Rule:
    """At least what requests wait when all is well: at a load p, p / (1 - p) service times (M/M/1, the worst case)."""
    sla_us, service_us = goal.sla_ms * 1000, 1e6 * service.planned.instances / service.planned.qps
    usual_us = THROUGHPUT_SHARE / (1 - THROUGHPUT_SHARE) * service_us
    threshold_us = max(QUEUE_SHARE * sla_us, usual_us)
    asked_by = None if service.planned.kind == "dense" else (f"{goal.model}_router", service.planned.name)
    return Rule(
        "queue",
        QueueTime(service.steps, threshold_us, asked_by),
        threshold_us,
        "us",
        "Value",
        f"{QUEUE_SHARE:.0%} of the SLA of {goal.sla_ms:g} ms, or the {usual_us:,.0f} us that a request waits at "
        f"{THROUGHPUT_SHARE:.0%} load if that is more. It guards against a plan that promises too much: pods that do "
        "less than planned never reach the throughput's threshold, but their queues grow.",
    )


def _latency(goal: ServingGoal, frontend: ElasticService, share: float, throughput: Rule, queue: Rule) -> Rule:
    threshold_us = share * goal.sla_ms * 1000
    own_queue = QueueTime(frontend.steps, queue.threshold)
    return Rule(
        "latency",
        GuardedLatency(frontend.model, threshold_us, throughput.threshold, own_queue),
        threshold_us,
        "us",
        "Value",
        f"{share:.0%} of the SLA of {goal.sla_ms:g} ms, for the {QUANTILE:g} quantile of the slowest pod. It "
        f"counts only where the front end has {GUARD_SHARE:.0%} of its throughput's or of its queue's threshold: what "
        "a slow embedding service or one huge query causes, more front ends would not cure.",
    )


@dataclass(frozen=True, slots=True)
class ReplicaBounds:
    """Replicas: the fewest, the most, and those to run while Prometheus does not answer."""

    fewest: int
    most: int
    fallback: int


def replica_bounds(goal: ServingGoal, service: ElasticService, fewest: int) -> ReplicaBounds:
    """Blind, a service runs what the plan's target traffic needs at the throughput's threshold."""
    planned = service.planned
    target_qps = goal.target_qps if goal.target_qps is not None else planned.replicas * planned.qps
    at_target = max(fewest, planned.deployed, math.ceil(target_qps / (THROUGHPUT_SHARE * planned.qps)))
    return ReplicaBounds(fewest, GROWTH * at_target, at_target)


def scaled_object(goal: ServingGoal, service: ElasticService, options: ScalingOptions) -> ScaledObject:
    """A service's ScaledObject. No answer is an error, not a zero: a blind autoscaler must not scale down.

    While Prometheus is away it keeps what the target traffic needs, and never fewer than there are.
    """
    rules = service_rules(goal, service, options.latency_share)
    limits, scope = replica_bounds(goal, service, options.min_replicas), Scope(options.namespace)
    return ScaledObject(
        name=service.name,
        workload=service.name,
        hpa=HpaSpec(limits.fewest, limits.most, tuple(rule.target for rule in rules), BEHAVIOR),
        triggers=tuple(
            Trigger(rule.name, options.prometheus, rule.query.promql(scope), ignore_null=False, cached=False)
            for rule in rules
        ),
        fallback=Fallback(FAILURES, limits.fallback, "currentReplicasIfHigher"),
    )


@dataclass(frozen=True, slots=True)
class FleetRules:
    """A ScaledObject for each service, by its name in the plan; `namespace` is what their queries select."""

    namespace: str
    by_service: Mapping[str, ScaledObject]


def fleet_rules(fleet: BuiltFleet, options: ScalingOptions) -> FleetRules:
    """Those of a built fleet."""
    return FleetRules(options.namespace, {each.folder: scaled_object(fleet, each, options) for each in fleet.services})
