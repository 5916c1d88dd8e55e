"""The HPA's arithmetic: each case states the rule of the Kubernetes documentation ("the doc") that it comes from."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repo_builder.scaling.hpa import (
    DEFAULT_DOWN,
    DEFAULT_UP,
    Behavior,
    Decision,
    HpaSpec,
    MetricTarget,
    Pods,
    Policy,
    ScalingRules,
    State,
    decide,
    propose,
)
from tests.scaling.hpa_oracle import Oracle

RATE = MetricTarget("AverageValue", 100_000)  # 100 queries/s a pod
LATENCY = MetricTarget("Value", 100_000)
AT_ONCE = replace(DEFAULT_DOWN, window_s=0)


def hpa(*targets: MetricTarget, low: int = 1, high: int = 1000, behavior: Behavior | None = None) -> HpaSpec:
    return HpaSpec(low, high, targets or (RATE,), behavior)


def steady(replicas: int) -> Pods:
    return Pods(replicas, replicas, replicas)


def play(autoscaler: HpaSpec, replicas: int, values: list[int | None], step_s: float = 15.0) -> list[int]:
    """The replicas after each sync of a workload whose pods are ready at once; values in whole units."""
    state, seen = State(), []
    for i, value in enumerate(values):
        milli = [None if value is None else value * 1000] * len(autoscaler.targets)
        decision, state = decide(autoscaler, state, steady(replicas), milli, i * step_s)
        replicas = decision.replicas
        seen.append(replicas)
    return seen


@pytest.mark.parametrize(
    ("current", "value", "expected"),
    [
        (1, 200_000, 2),  # the doc: "if the current metric value is 200m, and the desired value is 100m, the number
        (2, 400_000, 4),  # of replicas will be doubled, since 200.0 / 100.0 == 2.0"
        (4, 200_000, 2),  # "if the current value is instead 50m, you'll halve the number of replicas"
        (10, 1_001_000, 10),  # "skips any scaling action if the ratio is sufficiently close to 1.0", 0.1 by default
        (10, 1_100_000, 10),  # the bounds count as close: 1.1
        (10, 900_000, 10),  # and 0.9
        (10, 1_100_001, 12),  # beyond them by a thousandth: ceil(11.00001)
        (10, 899_999, 9),
        (3, 0, 0),  # ceil(0): the minimum comes later
        (0, 250_000, 3),  # no pods: ceil of the total over the target
        (5, 500_001, 5),
    ],
)
def test_average_value_divides_the_total_by_the_target(current: int, value: int, expected: int) -> None:
    assert propose(hpa(), Pods(5, current, current), [value]) == expected


@pytest.mark.parametrize(
    ("wanted", "ready", "value", "expected"),
    [
        (4, 4, 200_000, 8),  # the doc: desiredReplicas = ceil[currentReplicas * (current value / desired value)]
        (4, 4, 105_000, 4),  # within the tolerance: what is asked for stays
        (8, 4, 105_000, 8),  # also while only some of it is ready
        (8, 2, 200_000, 4),  # replica_calculator: the ratio is multiplied by the *ready* pods: few ready, fewer asked
        (8, 0, 200_000, 0),  # there are pods, none of them ready
    ],
)
def test_value_multiplies_the_ready_pods(wanted: int, ready: int, value: int, expected: int) -> None:
    assert propose(hpa(LATENCY), Pods(wanted, wanted, ready), [value]) == expected


def test_a_value_while_no_pod_exists_keeps_the_replicas() -> None:
    """replica_calculator, getReadyPodsCount: "no pods returned by selector", an error, but not within the tolerance."""
    autoscaler = hpa(LATENCY, behavior=Behavior(DEFAULT_UP, AT_ONCE))
    assert decide(autoscaler, State(), Pods(5, 0, 0), [200_000], 0)[0] == Decision(5, None, "metrics failed")
    assert decide(autoscaler, State(), Pods(5, 0, 0), [100_000], 0)[0] == Decision(5, 5, "metrics")
    assert decide(hpa(LATENCY, RATE), State(), Pods(5, 0, 0), [200_000, 900_000], 0)[0].replicas == 9
    assert propose(autoscaler, Pods(5, 0, 4), [200_000]) == 8  # status.replicas lags behind the pods


def test_a_tolerance_is_thousandths_in_floating_point() -> None:
    """118m is 118 x 0.001, to which 1 makes 1.118: close. With 0.118 it would be 1.1179999999999999."""
    behavior = Behavior(replace(DEFAULT_UP, tolerance_ppm=118_000), DEFAULT_DOWN)
    assert propose(hpa(LATENCY, behavior=behavior), steady(10), [111_800]) == 10


@pytest.mark.parametrize(
    ("up_ppm", "down_ppm", "value", "expected"),
    [
        # the doc, "Tolerance": "with a memory target of 100Mi, and tolerances of 5% down and 1% up, scaling is
        # triggered when the consumption falls below 95Mi or exceeds 101Mi"
        (10_000, 50_000, 1_010_000, 10),
        (10_000, 50_000, 1_010_001, 11),
        (10_000, 50_000, 950_000, 10),
        (10_000, 50_000, 899_000, 9),
        (0, None, 1_000_001, 11),  # none upwards; downwards the controller's 10%
        (0, None, 910_000, 10),
    ],
)
def test_each_direction_may_have_its_own_tolerance(
    up_ppm: int, down_ppm: int | None, value: int, expected: int
) -> None:
    behavior = Behavior(replace(DEFAULT_UP, tolerance_ppm=up_ppm), replace(DEFAULT_DOWN, tolerance_ppm=down_ppm))
    assert propose(hpa(behavior=behavior), steady(10), [value]) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([300_000, 500_000], 5),  # the doc: with several metrics "the largest of the desired replica counts is chosen"
        ([None, 900_000], 9),  # "If any of these metrics cannot be converted ... [and] a scale up is suggested: scales"
        ([100_000, None], None),  # "... and a scale down is suggested by the metrics that can be fetched: skipped"
        ([400_000, None], 4),  # neither
        ([None, None], None),  # none at all: nothing changes
    ],
)
def test_several_metrics(values: list[int | None], expected: int | None) -> None:
    assert propose(hpa(RATE, RATE), steady(4), values) == expected


def test_failed_metrics_change_neither_replicas_nor_memory() -> None:
    state = State()
    _, state = decide(hpa(), state, steady(4), [400_000], 0)
    assert decide(hpa(), state, steady(4), [None], 15) == (Decision(4, None, "metrics failed"), state)


@pytest.mark.parametrize("behavior", [None, Behavior()])
def test_replicas_outside_the_bounds_are_corrected_past_all_behaviour(behavior: Behavior | None) -> None:
    # horizontal.go: spec.replicas above the maximum or below the minimum is set there without looking at metrics
    autoscaler = hpa(low=3, high=10, behavior=behavior)
    assert decide(autoscaler, State(), steady(40), [None], 0)[0] == Decision(10, None, "bounds")
    assert decide(autoscaler, State(), steady(1), [None], 0)[0] == Decision(3, None, "bounds")


def test_zero_replicas_switch_the_autoscaler_off() -> None:
    # the doc: "If the target's desired number of replicas is explicitly set to 0, and the HPA's minimum is greater
    # than 0, the HPA stops adjusting the target"
    assert decide(hpa(), State(), steady(0), [900_000], 0)[0] == Decision(0, None, "disabled")


def test_without_behaviour_a_scale_up_at_most_doubles_or_reaches_four() -> None:
    # horizontal.go, calculateScaleUpLimit: max(2 * current, 4)
    assert play(hpa(), 1, [10_000] * 9) == [4, 8, 16, 32, 64, 100, 100, 100, 100]


@pytest.mark.parametrize(("behavior", "goes_down_at"), [(None, 21), (Behavior(), 20)])
def test_a_scale_down_waits_for_five_minutes(behavior: Behavior | None, goes_down_at: int) -> None:
    # the doc: "the highest recommendation of the last 5 minutes": the one of t = 0 counts at t = 300 without a
    # behaviour (not before the cutoff), and no more with one (after the cutoff)
    seen = play(hpa(behavior=behavior), 10, [1000] + [100] * 30)
    assert seen == [10] * goes_down_at + [1] * (31 - goes_down_at)


def test_a_dip_inside_the_window_is_ignored() -> None:
    assert play(hpa(behavior=Behavior()), 10, [1000, 100, 100, 1000] * 10) == [10] * 40


def test_the_defaults_double_or_add_four_pods_every_15_s() -> None:
    # the doc, "Default Behavior": 100% or 4 pods every 15 s, whichever is the more; scale down to the minimum at once
    assert play(hpa(behavior=Behavior()), 1, [10_000] * 7) == [5, 10, 20, 40, 80, 100, 100]
    assert play(hpa(low=2, behavior=Behavior(DEFAULT_UP, AT_ONCE)), 80, [8000, 0]) == [80, 2]


def test_the_up_window_takes_the_lowest_recommendation() -> None:
    behavior = Behavior(replace(DEFAULT_UP, window_s=60), AT_ONCE)
    # the first recommendation of a workload that is new to the controller is the size that it has (1, at t = 0)
    assert play(hpa(behavior=behavior), 1, [300, 500, 400, 300, 300, 300]) == [1, 1, 1, 1, 3, 3]


def test_the_docs_example_of_two_down_policies() -> None:
    # the doc, "Scaling policies": Pods 4 a minute and Percent 10 a minute, the larger change counts: 80 -> 72 as 10%
    # of 80 is 8, then "the number of replicas is 72. 10% of the pods is 7.2 but the number is rounded up to 8", and
    # from 40 on 4 at a time
    policies = (Policy("Pods", 4, 60), Policy("Percent", 10, 60))
    behavior = Behavior(DEFAULT_UP, ScalingRules(0, policies))
    assert play(hpa(low=10, behavior=behavior), 80, [0] * 8, step_s=60) == [72, 64, 57, 51, 45, 40, 36, 32]


def test_select_min_takes_the_smaller_change_and_disabled_none() -> None:
    policies = (Policy("Pods", 4, 60), Policy("Percent", 10, 60))
    down = ScalingRules(0, policies, "Min")
    assert play(hpa(low=10, behavior=Behavior(DEFAULT_UP, down)), 80, [0] * 3, step_s=60) == [76, 72, 68]
    # the doc: "a value of Disabled completely disables the scaling in that direction"
    off = replace(down, select="Disabled")
    assert play(hpa(behavior=Behavior(DEFAULT_UP, off)), 80, [0] * 3, step_s=60) == [80, 80, 80]
    up = ScalingRules(0, policies, "Min")
    assert play(hpa(behavior=Behavior(up, AT_ONCE)), 80, [50_000] * 3, step_s=60) == [84, 88, 92]
    assert play(hpa(behavior=Behavior(replace(up, select="Disabled"), AT_ONCE)), 80, [50_000] * 2) == [80, 80]


def test_a_policys_period_counts_what_came_and_went_in_it() -> None:
    # horizontal.go: periodStartReplicas = current - added + removed; the limit holds for the whole period
    behavior = Behavior(ScalingRules(0, (Policy("Pods", 4, 60),)), AT_ONCE)
    assert play(hpa(behavior=behavior), 4, [2000] * 6) == [8, 8, 8, 8, 12, 12]
    assert play(hpa(behavior=behavior), 4, [2000, 400, 2000]) == [8, 4, 8]  # four went, so four may come


def test_percent_is_rounded_up_on_the_way_up_and_down_on_the_way_down() -> None:
    # horizontal.go: ceil up ("might not increase the count, causing the target to never scale up"), truncation down
    up = Behavior(ScalingRules(0, (Policy("Percent", 10, 15),)), AT_ONCE)
    assert play(hpa(behavior=up), 1, [900] * 3) == [2, 3, 4]
    # float64 turns whole numbers into neighbours: 50 x 1.1 = 55.00000000000001, 60 x (1 - 0.55) = 26.999999999999996
    assert play(hpa(behavior=up), 100, [90_000]) == [111]
    assert play(hpa(behavior=up), 50, [90_000]) == [56]
    assert play(hpa(behavior=Behavior(DEFAULT_UP, ScalingRules(0, (Policy("Percent", 55, 15),)))), 60, [0]) == [26]
    down = Behavior(DEFAULT_UP, ScalingRules(0, (Policy("Percent", 10, 15),)))
    assert play(hpa(behavior=down), 11, [0, 0]) == [9, 8]


def test_a_changes_slot_is_reused_once_older_than_its_own_directions_policies() -> None:
    """horizontal.go, storeScaleEvent: the 4 pods of t = 15 are forgotten at 45, though 120 s count on the way down."""
    rules = Behavior(ScalingRules(0, (Policy("Pods", 4, 15),)), ScalingRules(0, (Policy("Pods", 3, 120),)))
    autoscaler, state, seen = hpa(MetricTarget("AverageValue", 1000), behavior=rules), State(), []
    for now_s, pods, value in ((0, 1, 1000), (15, 1, 9000), (45, 5, 10_000), (60, 9, 900)):
        decision, state = decide(autoscaler, state, steady(pods), [value], now_s)
        seen.append(decision.replicas)
    assert seen == [1, 5, 9, 2]  # 9 - 4 of t = 45, less 3: not 9 - 8, less 3
    assert len(state.added) == 1


def test_the_slot_that_is_reused_is_the_last_outdated_one_in_place() -> None:
    """Of the slots [25, 20] the second is the last: at 60 it is taken, and what came at 25 counts in 40 s to come."""
    rules = Behavior(ScalingRules(0, (Policy("Pods", 4, 10),)), ScalingRules(0, (Policy("Pods", 1, 60),)))
    autoscaler, state, pods = hpa(MetricTarget("AverageValue", 1000), behavior=rules), State(), 1
    for now_s, value in ((0, 1), (10, 2), (20, 4), (25, 7), (60, 11)):
        decision, state = decide(autoscaler, state, steady(pods), [1000 * value], now_s)
        pods = decision.replicas
    assert [(change.time_s, change.count) for change in state.added] == [(25, 2), (60, 4)]
    assert decide(autoscaler, state, steady(pods), [1000], 61)[0].replicas == 3  # 10 - 4 - 2, less 1


def test_the_reason_says_what_decided() -> None:
    autoscaler = hpa(behavior=Behavior())
    decision, state = decide(autoscaler, State(), steady(10), [1_000_000], 0)
    assert decision == Decision(10, 10, "metrics")
    decision, state = decide(autoscaler, state, steady(10), [100_000], 15)
    assert decision == Decision(10, 1, "stabilized")
    assert decide(autoscaler, state, steady(10), [9_000_000], 30)[0] == Decision(20, 90, "limited")


# Random controllers against the oracle and against the promises of the doc.

POLICIES = st.builds(
    Policy, st.sampled_from(["Pods", "Percent"]), st.integers(1, 150), st.sampled_from([1, 15, 40, 90])
)
RULES = st.builds(
    ScalingRules,
    window_s=st.sampled_from([0, 15, 50, 300]),
    policies=st.lists(POLICIES, min_size=1, max_size=3).map(tuple),
    select=st.sampled_from(["Max", "Min", "Disabled"]),
    tolerance_ppm=st.sampled_from([None, 0, 50_000, 200_000]),
)
BEHAVIORS = st.none() | st.builds(Behavior, RULES, RULES)
TARGETS = st.builds(MetricTarget, st.sampled_from(["AverageValue", "Value"]), st.integers(1, 5000))
AUTOSCALERS = st.builds(
    lambda low, more, targets, behavior: HpaSpec(low, low + more, tuple(targets), behavior),
    st.integers(1, 5),
    st.integers(0, 60),
    st.lists(TARGETS, min_size=1, max_size=3),
    BEHAVIORS,
)
# per sync: seconds since the one before, metrics as a share of the first threshold, the share of ready pods
SYNCS = st.lists(
    st.tuples(
        st.sampled_from([15.0, 15.0, 14.5, 31.0]),
        st.lists(st.none() | st.integers(0, 60_000), min_size=3, max_size=3),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=30,
)


@given(AUTOSCALERS, st.integers(0, 70), SYNCS)
@settings(max_examples=300, deadline=None)
def test_it_equals_the_oracle_and_stays_within_its_bounds(
    autoscaler: HpaSpec, replicas: int, syncs: list[tuple[float, list[int | None], int]]
) -> None:
    state, oracle, now_s, started = State(), Oracle(autoscaler), 0.0, replicas > 0
    for step_s, metrics, unready in syncs:
        now_s += step_s
        values, ready = metrics[: len(autoscaler.targets)], max(0, replicas - unready)
        decision, state = decide(autoscaler, state, Pods(replicas, replicas, ready), values, now_s)
        assert decision.replicas == oracle.sync(replicas, replicas, ready, values, now_s)
        replicas = decision.replicas
        assert autoscaler.min_replicas <= replicas <= autoscaler.max_replicas or not started
        assert len(state.recommendations) <= 31
        assert len(state.added) + len(state.removed) <= 10  # one a sync of the longest period, 90 s


@given(AUTOSCALERS, st.integers(1, 65), st.lists(st.integers(0, 60_000), min_size=3, max_size=3), st.integers(0, 5000))
@settings(max_examples=200, deadline=None)
def test_more_of_a_metric_never_asks_for_fewer_replicas(
    autoscaler: HpaSpec, replicas: int, values: list[int], more: int
) -> None:
    # all pods are ready: with Value and few ready ones, what is inside the tolerance asks for more than what is above
    values = values[: len(autoscaler.targets)]
    higher = [value + more for value in values]
    _, later = decide(autoscaler, State(), steady(replicas), [0] * len(values), 0)
    for state in (State(), later):
        before, _ = decide(autoscaler, state, steady(replicas), values, 15)
        after, _ = decide(autoscaler, state, steady(replicas), higher, 15)
        assert after.replicas >= before.replicas


@given(st.integers(1, 1000), st.integers(-100, 100), BEHAVIORS)
def test_within_the_tolerance_nothing_changes(replicas: int, thousandths: int, behavior: Behavior | None) -> None:
    if behavior is not None:
        plain = {"tolerance_ppm": None}
        behavior = Behavior(replace(behavior.up, **plain), replace(behavior.down, **plain))
    value = 100 * replicas * (1000 + thousandths)
    assert decide(hpa(behavior=behavior), State(), steady(replicas), [value], 0)[0].replicas == replicas


@given(st.sampled_from([1, 2, 5, 20]), st.sampled_from([30, 60, 90]), st.lists(st.integers(0, 9000), max_size=40))
def test_a_pods_policy_is_never_exceeded_within_any_period(pods: int, period_s: int, rates: list[int]) -> None:
    rules = ScalingRules(0, (Policy("Pods", pods, period_s),))
    sizes = [10, *play(hpa(behavior=Behavior(rules, rules)), 10, [*rates])]
    for sync, (before, after) in enumerate(pairwise(sizes)):
        start = sizes[max(0, sync + 1 - period_s // 15)]  # the size one period ago
        assert min(before, start - pods) <= after <= max(before, start + pods)
