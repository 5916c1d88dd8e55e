"""Where models lie in each layout, and plans that cannot be laid out so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from repo_builder.errors import PlanError
from repo_builder.partition.plan import Plan
from repo_builder.repository.design import LAYOUTS, Design, check_layout
from repo_builder.repository.manifest import Layout
from repo_builder.repository.wiring import wire
from tests.repository.test_wiring import CUT
from tests.toy_source import TOY, toy_spec


def changed(**changes: object) -> Plan:
    """The plan with its first embedding service changed."""
    dense, hot, *others = CUT.services
    return replace(CUT, services=(dense, replace(hot, **changes), *others))


@pytest.mark.parametrize(
    ("layout", "dense", "router", "hot", "instances"),
    [
        ("single", "toy_dense/1", "toy_router/1", "toy_hot/7", 6),
        ("model-wise", "toy_dense/1", "toy_router/1", "toy_hot/7", 2),
        ("fleet", "frontend/toy_dense/1", "frontend/toy_router/1", "hot/toy_hot/7", 2),
    ],
)
def test_where_models_lie(layout: Layout, dense: str, router: str, hot: str, instances: int) -> None:
    """And how many instances of two, with two replicas and one added, a server has; whole replicas are servers."""
    plan = changed(instances=2, replicas=2, added=1)
    design = Design(toy_spec("toy")[0], plan, layout, wire(TOY, plan))
    service = plan.embedding_services[0]
    assert (design.folder(design.dense), design.front_folder("router")) == (dense, router)
    assert design.folder(service, "7") == hot
    assert LAYOUTS[layout].count(service) == instances


@pytest.mark.parametrize(
    ("layout", "plan", "told"),
    [
        ("model-wise", CUT, "plan: grouping: expected model_wise for the layout model-wise, got tiered"),
        ("fleet", changed(name="frontend"), "plan: services: expected no embedding service named frontend"),
        (
            "single",
            changed(replicas=65),
            r"services\[1\].replicas: expected at most 64 instances of hot .* got 65",
        ),
        (
            "fleet",
            changed(instances=65),
            r"services\[1\].replicas: expected at most 64 instances of hot .* got 65",
        ),
    ],
)
def test_plans_that_do_not_fit_a_layout_are_refused(layout: Layout, plan: Plan, told: str) -> None:
    with pytest.raises(PlanError, match=told):
        check_layout(plan, layout)


def test_what_is_another_layouts_trouble_is_none_here() -> None:
    check_layout(changed(name="frontend"), "single")
    check_layout(changed(replicas=65), "fleet")
