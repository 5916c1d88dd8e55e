"""The arithmetic of Kubernetes' HorizontalPodAutoscaler with external metrics, the kind that KEDA feeds it.

Pure: `decide` takes what the controller would see at one sync (every 15 s in Kubernetes) and the state that the sync
before it returned, and answers the number of replicas and the new state. Nothing here reads a clock.

Source: kubernetes/pkg/controller/podautoscaler (horizontal.go, replica_calculator.go) of Kubernetes 1.33 and later, and
its documentation, "Horizontal Pod Autoscaling". Metrics and targets are integers in thousandths, as there; ratios and
percentages are float64, as there, though that may turn a whole number into its neighbour: 50 pods + 10% are 56.
Scaling to and from zero is KEDA's own work, not the HPA's, and not here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

SYNC_S = 15.0
"""The default of kube-controller-manager's --horizontal-pod-autoscaler-sync-period."""

DOWNSCALE_WINDOW_S = 300
"""The default of its --horizontal-pod-autoscaler-downscale-stabilization."""

TOLERANCE_PPM = 100_000
"""The default of its --horizontal-pod-autoscaler-tolerance, 10%, in millionths."""

TargetKind = Literal["AverageValue", "Value"]
PolicyKind = Literal["Pods", "Percent"]
SelectPolicy = Literal["Max", "Min", "Disabled"]
Reason = Literal["metrics", "stabilized", "limited", "bounds", "metrics failed", "disabled"]


@dataclass(frozen=True, slots=True)
class MetricTarget:
    """What a metric should be, in thousandths: a pod's share of it (AverageValue), or the metric itself (Value)."""

    kind: TargetKind
    threshold_milli: int


@dataclass(frozen=True, slots=True)
class Policy:
    """At most `value` pods, or percent of the pods at the period's start, may come or go in any `period_s` seconds."""

    kind: PolicyKind
    value: int
    period_s: int


@dataclass(frozen=True, slots=True)
class ScalingRules:
    """One direction of a behaviour; a `tolerance_ppm` of None is the controller's own."""

    window_s: int
    policies: tuple[Policy, ...]
    select: SelectPolicy = "Max"
    tolerance_ppm: int | None = None


DEFAULT_UP = ScalingRules(window_s=0, policies=(Policy("Pods", 4, 15), Policy("Percent", 100, 15)))
DEFAULT_DOWN = ScalingRules(window_s=DOWNSCALE_WINDOW_S, policies=(Policy("Percent", 100, 15),))
"""What the API server fills into a `behavior` that leaves these out."""


@dataclass(frozen=True, slots=True)
class Behavior:
    """The `behavior` of an HPA's spec, with all defaults filled in."""

    up: ScalingRules = DEFAULT_UP
    down: ScalingRules = DEFAULT_DOWN


@dataclass(frozen=True, slots=True)
class HpaSpec:
    """A HorizontalPodAutoscaler's spec. Without a `behavior` the controller's older, fixed rules apply."""

    min_replicas: int
    max_replicas: int
    targets: tuple[MetricTarget, ...]
    behavior: Behavior | None = None
    tolerance_ppm: int = TOLERANCE_PPM


@dataclass(frozen=True, slots=True)
class Pods:
    """A workload's pods: asked for (`spec.replicas`), there are (`status.replicas`), and ready."""

    wanted: int
    current: int
    ready: int


@dataclass(frozen=True, slots=True)
class Stamped:
    """A recommendation, or a number of pods added or removed, and when."""

    time_s: float
    count: int


@dataclass(frozen=True, slots=True)
class State:
    """What the controller remembers of one workload; a new one for a workload that it sees for the first time.

    `added` and `removed` are the changes that policies look back to, in the order of the controller's slots.
    """

    recommendations: tuple[Stamped, ...] = ()
    added: tuple[Stamped, ...] = ()
    removed: tuple[Stamped, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """The replicas to ask for, what the metrics alone asked for (None where they were not used), and why."""

    replicas: int
    proposal: int | None
    reason: Reason


def decide(
    spec: HpaSpec, state: State, pods: Pods, values_milli: Sequence[int | None], now_s: float
) -> tuple[Decision, State]:
    """One sync. `values_milli` has a metric for each target, in their order, None for one that could not be had."""
    if not state.recommendations:
        state = replace(state, recommendations=(Stamped(now_s, pods.wanted),))
    if pods.wanted == 0:
        return Decision(0, None, "disabled"), state
    bounded = min(max(pods.wanted, spec.min_replicas), spec.max_replicas)
    if bounded != pods.wanted:
        return Decision(bounded, None, "bounds"), _remember_change(spec, state, pods.wanted, bounded, now_s)
    proposal = propose(spec, pods, values_milli)
    if proposal is None:
        return Decision(pods.wanted, None, "metrics failed"), state
    normalize = _normalize_plainly if spec.behavior is None else _normalize
    stabilized, replicas = normalize(spec, state, pods.wanted, proposal, now_s)
    state = _remember_recommendation(spec, state, proposal, now_s)
    state = _remember_change(spec, state, pods.wanted, replicas, now_s)
    return Decision(replicas, proposal, _reason(proposal, stabilized, replicas)), state


def propose(spec: HpaSpec, pods: Pods, values_milli: Sequence[int | None]) -> int | None:
    """The replicas that the metrics ask for: the most that any of them does.

    None where all failed, or where some failed and the others would scale down.
    """
    proposals = [
        None if value is None else _metric_replicas(spec, target, pods, value)
        for target, value in zip(spec.targets, values_milli, strict=True)
    ]
    known = [proposal for proposal in proposals if proposal is not None]
    if not known or (len(known) < len(proposals) and max(known) < pods.wanted):
        return None
    return max(0, *known)


def _metric_replicas(spec: HpaSpec, target: MetricTarget, pods: Pods, value_milli: int) -> int | None:
    """What one metric asks for; a Value beyond its tolerance fails, None, while there is no pod to multiply."""
    value, threshold = float(value_milli), float(target.threshold_milli)
    if target.kind == "AverageValue":
        if pods.current and _within_tolerance(spec, value / (threshold * pods.current)):
            return pods.current
        return math.ceil(value / threshold)
    if _within_tolerance(spec, value / threshold):
        return pods.wanted
    return math.ceil(value / threshold * pods.ready) if pods.current or pods.ready else None


def _within_tolerance(spec: HpaSpec, ratio: float) -> bool:
    """Whether a metric is so close to its target that nothing changes; the bounds count as close."""
    behavior, down, up = spec.behavior, spec.tolerance_ppm, spec.tolerance_ppm
    if behavior is not None:
        down = down if behavior.down.tolerance_ppm is None else behavior.down.tolerance_ppm
        up = up if behavior.up.tolerance_ppm is None else behavior.up.tolerance_ppm
    return 1 - _share(down) <= ratio <= 1 + _share(up)


def _share(ppm: int) -> float:
    """As Kubernetes makes a float of a quantity: so many thousandths, or millionths where it has those."""
    return ppm * 1e-6 if ppm % 1000 else ppm // 1000 * 0.001


def _normalize_plainly(spec: HpaSpec, state: State, wanted: int, proposal: int, now_s: float) -> tuple[int, int]:
    """Without a behaviour: the most of the last five minutes, but at most twice the pods, or four."""
    recent = (past.count for past in state.recommendations if past.time_s >= now_s - DOWNSCALE_WINDOW_S)
    stabilized = max(proposal, *recent, 0)
    most = min(spec.max_replicas, max(2 * wanted, 4))
    return stabilized, max(spec.min_replicas, min(stabilized, most))


def _normalize(spec: HpaSpec, state: State, wanted: int, proposal: int, now_s: float) -> tuple[int, int]:
    """With a behaviour: the windows first, then the policies. Returns the replicas after the one and after both."""
    behavior = spec.behavior or Behavior()
    least, most = proposal, proposal
    for past in state.recommendations:
        if past.time_s > now_s - behavior.up.window_s:
            least = min(least, past.count)
        if past.time_s > now_s - behavior.down.window_s:
            most = max(most, past.count)
    stabilized = min(max(wanted, least), most)
    if stabilized > wanted:
        limit = max(wanted, _limit(behavior.up, state, wanted, now_s, up=True))
        return stabilized, min(stabilized, limit, spec.max_replicas)
    if stabilized < wanted:
        limit = min(wanted, _limit(behavior.down, state, wanted, now_s, up=False))
        return stabilized, max(stabilized, limit, spec.min_replicas)
    return stabilized, stabilized


def _limit(rules: ScalingRules, state: State, wanted: int, now_s: float, up: bool) -> int:
    """How far the policies let the replicas go from `wanted`, given what came and went in each policy's period."""
    if rules.select == "Disabled":
        return wanted
    limits = []
    for policy in rules.policies:
        start_s = now_s - policy.period_s
        base = wanted - _changed(state.added, start_s) + _changed(state.removed, start_s)
        limits.append(_policy_limit(policy, base, up))
    return max(limits) if up == (rules.select == "Max") else min(limits)


def _policy_limit(policy: Policy, base: int, up: bool) -> int:
    if policy.kind == "Pods":
        return base + policy.value if up else base - policy.value
    share = policy.value / 100
    return math.ceil(base * (1 + share)) if up else int(base * (1 - share))


def _changed(changes: Iterable[Stamped], after_s: float) -> int:
    return sum(change.count for change in changes if change.time_s > after_s)


def _reason(proposal: int, stabilized: int, replicas: int) -> Reason:
    if replicas != stabilized:
        return "limited"
    return "metrics" if stabilized == proposal else "stabilized"


def _remember_recommendation(spec: HpaSpec, state: State, proposal: int, now_s: float) -> State:
    """The state with a recommendation, less those that left the windows; of equal ones only the newest ever matters."""
    behavior = spec.behavior
    window_s = max(behavior.up.window_s, behavior.down.window_s) if behavior else DOWNSCALE_WINDOW_S
    oldest_s = now_s - window_s
    recent = [past for past in state.recommendations if past.time_s >= oldest_s and past.count != proposal]
    return replace(state, recommendations=(*recent, Stamped(now_s, proposal)))


def _remember_change(spec: HpaSpec, state: State, before: int, after: int, now_s: float) -> State:
    """The state with a change of replicas; without a behaviour there is no policy that asks for it."""
    behavior = spec.behavior
    if behavior is None or before == after:
        return state
    if after > before:
        return replace(state, added=_store(state.added, Stamped(now_s, after - before), behavior.up))
    return replace(state, removed=_store(state.removed, Stamped(now_s, before - after), behavior.down))


def _store(changes: tuple[Stamped, ...], new: Stamped, rules: ScalingRules) -> tuple[Stamped, ...]:
    """The changes with a new one, instead of the last that no policy of its own direction looks back to any more.

    Others as old stay, and count where the other direction looks back further.
    """
    oldest_s = new.time_s - max(policy.period_s for policy in rules.policies)
    old = [i for i, change in enumerate(changes) if change.time_s < oldest_s]
    index = old[-1] if old else len(changes)
    return (*changes[:index], new, *changes[index + 1 :])
