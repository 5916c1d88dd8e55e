"""The autoscaler against a Prometheus and workloads that the tests make up."""

from collections.abc import Sequence
from functools import partial

import pytest

from repo_builder.errors import NoAnswerError, ServerError
from repo_builder.local_fleet.autoscaler import Autoscaler
from repo_builder.scaling.hpa import Behavior, HpaSpec, MetricTarget, Pods, Policy, ScalingRules
from repo_builder.scaling.keda import Fallback, ScaledObject, Trigger

QUICK = Behavior(
    ScalingRules(window_s=0, policies=(Policy("Percent", 900, 15),)),
    ScalingRules(window_s=0, policies=(Policy("Percent", 100, 15),)),
)


class Fleet:
    """One service; what is wanted is ready at once."""

    def __init__(self) -> None:
        self.wanted = 2
        self.told: list[str] = []
        self.values: Sequence[float] | ServerError = [0.0]
        self.room = 100

    def pods(self, service: str) -> Pods:
        assert service == "tier0"
        return Pods(self.wanted, self.wanted, self.wanted)

    def most(self, service: str) -> int:
        return self.room

    def scale(self, service: str, replicas: int) -> None:
        assert service == "tier0"
        self.wanted = replicas

    def ask(self, query: str) -> Sequence[float]:
        assert query == "sum(x)"
        if isinstance(self.values, ServerError):
            raise self.values
        return self.values


def autoscaler(fleet: Fleet, fallback: Fallback | None = None) -> Autoscaler:
    hpa = HpaSpec(1, 10, (MetricTarget("AverageValue", 50_000),), QUICK)
    trigger = Trigger("throughput", "http://unused", "sum(x)", ignore_null=False, cached=False)
    rule = ScaledObject("small-tier0", "small-tier0", hpa, (trigger,), 30, fallback)
    return Autoscaler({"tier0": rule}, fleet, fleet.ask, fleet.told.append)


@pytest.mark.parametrize(("qps", "replicas"), [(100, 2), (109, 2), (111, 3), (400, 8), (5000, 10), (50, 1), (0, 1)])
def test_replicas_follow_the_metric_by_the_hpas_arithmetic(qps: float, replicas: int) -> None:
    fleet = Fleet()
    fleet.values = [float(qps)]
    autoscaler(fleet).sync(0.0)
    assert fleet.wanted == replicas
    assert len(fleet.told) == (replicas != 2)


def test_a_decision_is_told_with_its_reason() -> None:
    fleet = Fleet()
    fleet.values = [400.0]
    autoscaler(fleet).sync(0.0)
    assert fleet.told == ["autoscaler: tier0: 2 -> 8 (metrics, 8 asked for): throughput 400.0 of 50.0 per replica"]


def test_no_more_replicas_are_started_than_the_machine_holds_and_that_is_told_once() -> None:
    """One that has more already, by force, keeps them."""
    fleet = Fleet()
    fleet.values, fleet.room = [400.0], 4
    scaler = autoscaler(fleet)
    for now_s in (0.0, 15.0, 30.0):
        scaler.sync(now_s)
    assert fleet.wanted == 4
    assert [line.partition(" (")[0] for line in fleet.told] == ["autoscaler: tier0: 2 -> 4"]
    assert fleet.told[0].endswith("; this machine has room for 4")
    fleet.wanted, fleet.room = 6, 4
    scaler.sync(45.0)
    assert fleet.wanted == 6


@pytest.mark.parametrize("values", [[], [float("nan")], [1.0, 2.0]])
def test_no_single_number_changes_nothing(values: list[float]) -> None:
    fleet = Fleet()
    fleet.values = values
    scaler = autoscaler(fleet)
    for i in range(5):
        scaler.sync(15.0 * i)
    assert fleet.wanted == 2
    assert fleet.told == ["autoscaler: tier0: stays at 2: prometheus has no values for it yet, or no more"]


def test_while_prometheus_is_away_it_is_told_once_and_kedas_fallback_counts() -> None:
    fleet = Fleet()
    fleet.values = ServerError("prometheus does not answer: gone")
    scaler = autoscaler(fleet, Fallback(failure_threshold=3, replicas=5))
    for i in range(2):
        scaler.sync(15.0 * i)
        assert fleet.wanted == 2
    scaler.sync(30.0)  # the third request, and KEDA's own poll of these 30 s
    assert fleet.wanted == 5
    fleet.values = [100.0]
    scaler.sync(60.0)
    assert fleet.wanted == 2
    assert [line for line in fleet.told if "->" not in line] == [
        "autoscaler: prometheus does not answer: gone; no scaling by metrics until it answers",
        "autoscaler: prometheus answers again",
    ]


def test_a_prometheus_that_is_silent_is_asked_once_a_round_and_one_that_refuses_for_every_query(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fleet, asked = Fleet(), []
    rules = {
        name: ScaledObject(
            name,
            name,
            HpaSpec(1, 10, (MetricTarget("AverageValue", 50_000),) * 2, QUICK),
            (Trigger("throughput", "http://unused", "sum(x)", ignore_null=False, cached=False),) * 2,
            30,
            None,
        )
        for name in ("tier0", "tier1")
    }
    monkeypatch.setattr(fleet, "pods", lambda _: Pods(2, 2, 2))

    def ask(error: ServerError, query: str) -> Sequence[float]:
        asked.append(query)
        raise error

    for error, times in ((NoAnswerError("gone"), 1), (ServerError("refused"), 4)):
        asked.clear()
        Autoscaler(rules, fleet, partial(ask, error), fleet.told.append).sync(0.0)
        assert len(asked) == times
