"""The arithmetic of Kubernetes' HorizontalPodAutoscaler with external metrics, the kind that KEDA feeds it.

Pure: `decide` takes what the controller would see at one sync (every 15 s in Kubernetes) and the state that the sync
before it returned, and answers the number of replicas and the new state. Nothing here reads a clock.

Source: kubernetes/pkg/controller/podautoscaler (horizontal.go, replica_calculator.go) of Kubernetes 1.33 and later, and
its documentation, "Horizontal Pod Autoscaling". Metrics and targets are integers in thousandths, as there. Ratios and
percentages are exact here and float64 there, which may round a whole number up: 100 pods + 10% are 110 here, 111 there.
Scaling to and from zero is KEDA's own work, not the HPA's, and not here.
"""

from __future__ import annotations

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
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Target:
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
    """The `behavior` of an autoscaler, with all defaults filled in."""

    up: ScalingRules = DEFAULT_UP
    down: ScalingRules = DEFAULT_DOWN


@dataclass(frozen=True, slots=True)
class Autoscaler:
    """A HorizontalPodAutoscaler's spec. Without a `behavior` the controller's older, fixed rules apply."""

    min_replicas: int
    max_replicas: int
    targets: tuple[Target, ...]
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
    """What the controller remembers of one workload; a new one for a workload that it sees for the first time."""

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
    autoscaler: Autoscaler, state: State, pods: Pods, values_milli: Sequence[int | None], now_s: float
) -> tuple[Decision, State]:
    """One sync. `values_milli` has a metric for each target, in their order, None for one that could not be had."""
    if not state.recommendations:
        state = replace(state, recommendations=(Stamped(now_s, pods.wanted),))
    if pods.wanted == 0:
        return Decision(0, None, "disabled"), state
    bounded = min(max(pods.wanted, autoscaler.min_replicas), autoscaler.max_replicas)
    if bounded != pods.wanted:
        return Decision(bounded, None, "bounds"), _remember_change(autoscaler, state, pods.wanted, bounded, now_s)
    proposal = propose(autoscaler, pods, values_milli)
    if proposal is None:
        return Decision(pods.wanted, None, "metrics failed"), state
    normalize = _normalize_plainly if autoscaler.behavior is None else _normalize
    stabilized, replicas = normalize(autoscaler, state, pods.wanted, proposal, now_s)
    state = _remember_recommendation(autoscaler, state, proposal, now_s)
    state = _remember_change(autoscaler, state, pods.wanted, replicas, now_s)
    return Decision(replicas, proposal, _reason(proposal, stabilized, replicas)), state


def propose(autoscaler: Autoscaler, pods: Pods, values_milli: Sequence[int | None]) -> int | None:
    """The replicas that the metrics ask for: the most that any of them does.

    None where all failed, or where some failed and the others would scale down.
    """
    proposals = [
        _metric_replicas(autoscaler, target, pods, value)
        for target, value in zip(autoscaler.targets, values_milli, strict=True)
        if value is not None
    ]
    if not proposals or (len(proposals) < len(values_milli) and max(proposals) < pods.wanted):
        return None
    return max(0, *proposals)


def _metric_replicas(autoscaler: Autoscaler, target: Target, pods: Pods, value: int) -> int:
    threshold = target.threshold_milli
    if target.kind == "AverageValue":
        if _within_tolerance(autoscaler, value, threshold * pods.current):
            return pods.current
        return -(-value // threshold)
    if _within_tolerance(autoscaler, value, threshold):
        return pods.wanted
    return -(-value * pods.ready // threshold)


def _within_tolerance(autoscaler: Autoscaler, value: int, wanted: int) -> bool:
    """Whether value / wanted is so close to 1 that nothing changes; the bounds count as close."""
    behavior, down, up = autoscaler.behavior, autoscaler.tolerance_ppm, autoscaler.tolerance_ppm
    if behavior is not None:
        down = down if behavior.down.tolerance_ppm is None else behavior.down.tolerance_ppm
        up = up if behavior.up.tolerance_ppm is None else behavior.up.tolerance_ppm
    return wanted > 0 and (_MILLION - down) * wanted <= value * _MILLION <= (_MILLION + up) * wanted


def _normalize_plainly(
    autoscaler: Autoscaler, state: State, wanted: int, proposal: int, now_s: float
) -> tuple[int, int]:
    """Without a behaviour: the most of the last five minutes, but at most twice the pods, or four."""
    recent = (past.count for past in state.recommendations if past.time_s >= now_s - DOWNSCALE_WINDOW_S)
    stabilized = max(proposal, *recent, 0)
    most = min(autoscaler.max_replicas, max(2 * wanted, 4))
    return stabilized, max(autoscaler.min_replicas, min(stabilized, most))


def _normalize(autoscaler: Autoscaler, state: State, wanted: int, proposal: int, now_s: float) -> tuple[int, int]:
    """With a behaviour: the windows first, then the policies. Returns the replicas after the one and after both."""
    behavior = autoscaler.behavior or Behavior()
    least, most = proposal, proposal
    for past in state.recommendations:
        if past.time_s > now_s - behavior.up.window_s:
            least = min(least, past.count)
        if past.time_s > now_s - behavior.down.window_s:
            most = max(most, past.count)
    stabilized = min(max(wanted, least), most)
    if stabilized > wanted:
        limit = max(wanted, _limit(behavior.up, state, wanted, now_s, up=True))
        return stabilized, min(stabilized, limit, autoscaler.max_replicas)
    if stabilized < wanted:
        limit = min(wanted, _limit(behavior.down, state, wanted, now_s, up=False))
        return stabilized, max(stabilized, limit, autoscaler.min_replicas)
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
    return -(-base * (100 + policy.value) // 100) if up else base * (100 - policy.value) // 100


def _changed(changes: Iterable[Stamped], after_s: float) -> int:
    return sum(change.count for change in changes if change.time_s > after_s)


def _reason(proposal: int, stabilized: int, replicas: int) -> Reason:
    if replicas != stabilized:
        return "limited"
    return "metrics" if stabilized == proposal else "stabilized"


def _remember_recommendation(autoscaler: Autoscaler, state: State, proposal: int, now_s: float) -> State:
    """The state with a recommendation, less those that left the windows; of equal ones only the newest ever matters."""
    behavior = autoscaler.behavior
    window_s = max(behavior.up.window_s, behavior.down.window_s) if behavior else DOWNSCALE_WINDOW_S
    oldest_s = now_s - window_s
    recent = [past for past in state.recommendations if past.time_s >= oldest_s and past.count != proposal]
    return replace(state, recommendations=(*recent, Stamped(now_s, proposal)))


def _remember_change(autoscaler: Autoscaler, state: State, before: int, after: int, now_s: float) -> State:
    """The state with a change of replicas, less the changes that no policy looks back to any more."""
    behavior = autoscaler.behavior
    if behavior is None or before == after:
        return state
    period_s = max(policy.period_s for rules in (behavior.up, behavior.down) for policy in rules.policies)
    added, removed = (
        tuple(change for change in changes if change.time_s > now_s - period_s)
        for changes in (state.added, state.removed)
    )
    if after > before:
        return replace(state, added=(*added, Stamped(now_s, after - before)), removed=removed)
    return replace(state, added=added, removed=(*removed, Stamped(now_s, before - after)))
