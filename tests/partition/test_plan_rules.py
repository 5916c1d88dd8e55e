"""Plans that cannot be built are refused, each problem by its field."""

from dataclasses import replace

import pytest

from repo_builder.errors import PlanError
from repo_builder.partition.plan import Plan, Service, Shard, check_plan
from tests.partition.helpers import small_spec

SPEC = small_spec([{"name": "A", "rows": 9, "pooling": 1}, {"name": "B", "rows": 4, "pooling": 2}])


def service(name: str, kind: str, *shards: Shard) -> Service:
    return Service(name, kind, "cpu", 1, 1, 10, 1.0, 100.0, shards)  # type: ignore[arg-type] # a parameter of the tests


DENSE = service("dense", "dense")
GOOD = Plan(
    SPEC.name,
    "tiered",
    (
        DENSE,
        service("tier0", "embedding", Shard("A", 0, 2), Shard("B", 0, 4)),
        service("t", "embedding", Shard("A", 2, 9)),
    ),
)


def with_services(*services: Service) -> Plan:
    return replace(GOOD, services=services)


def test_a_good_plan_passes() -> None:
    check_plan(GOOD, SPEC)


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        (replace(GOOD, spec="other"), "plan: spec: expected "),
        (
            with_services(service("foo", "dense"), *GOOD.services[1:]),
            "services[0].name: expected 'dense' for the dense",
        ),
        (with_services(*GOOD.services[1:]), "services: expected one service of kind dense, got 0"),
        (
            with_services(DENSE, service("router", "embedding", Shard("A", 0, 9), Shard("B", 0, 4))),
            "services[1].name: 'router' is the name of the router",
        ),
        (
            with_services(DENSE, service("x", "embedding", Shard("A", 0, 2), Shard("A", 2, 9), Shard("B", 0, 4))),
            "services[1].shards: expected one shard per table in a service, got two of 'A'",
        ),
        (
            with_services(DENSE, service("x", "embedding", Shard("A", 0, 9), Shard("B", 0, 3))),
            "table B: the rows 3 to 4 of its hotness order are in no shard",
        ),
        (
            with_services(DENSE, service("x", "embedding", Shard("A", 0, 2**31), Shard("B", 0, 4))),
            "services[1].shards: expected at most 2147483647 rows in a service",
        ),
    ],
)
def test_a_plan_that_cannot_be_built_is_refused(plan: Plan, told: str) -> None:
    with pytest.raises(PlanError) as caught:
        check_plan(plan, SPEC)
    assert any(told in problem for problem in caught.value.problems), caught.value.problems


def test_the_file_is_named() -> None:
    with pytest.raises(PlanError, match=r"^mine\.json: spec"):
        check_plan(replace(GOOD, spec="other"), SPEC, "mine.json")
