"""Whether a model is cut or replicated whole, and what a plan says of that."""

from dataclasses import replace
from pathlib import Path

import pytest

from elasticrec.tables_compare import comparison_notes
from elasticrec.tables_plan import choice_line
from repo_builder.analysis.choice import LEAST_FLEET_SAVING, best_plan
from repo_builder.analysis.compare import ComparisonReport, compare
from repo_builder.analysis.fleets import MODEL_WISE, ComparisonCase, SizedFleets, model_wise
from repo_builder.errors import PlanError
from repo_builder.partition.cost import FrontTime, Profile
from repo_builder.partition.placement.place import WHOLE_MODEL, place
from repo_builder.partition.plan import Grouping, Plan, load_plan, plan_to_json
from repo_builder.partition.planner import plan_accesses
from repo_builder.repository.design import LAYOUTS, check_layout
from repo_builder.spec import Spec
from tests.analysis.helpers import CPUS, PROFILE, SPEC, accesses

ACCESSES = accesses()
# containers that weigh more than the tables
DEAR = replace(PROFILE, min_memory_bytes=10**7, front_time=FrontTime(per_call_s=2.2e-5))


def at(target_qps: float) -> Spec:
    return replace(SPEC, serving=replace(SPEC.serving, target_qps=target_qps))


def chosen(spec: Spec, grouping: Grouping | None = None, least_saving: float = 0.01) -> tuple[Plan, Plan]:
    return best_plan(spec, ACCESSES, DEAR, grouping, 8, 1.0, least_saving)


@pytest.mark.parametrize("target_qps", [50.0, 3000.0])
def test_a_model_that_cutting_makes_no_smaller_is_replicated(target_qps: float) -> None:
    spec = at(target_qps)
    best, cut = chosen(spec)
    whole = model_wise(spec, ACCESSES, DEAR)
    replicas = whole.replicas(target_qps).replicas
    assert best.grouping == "model_wise" and cut.grouping == "tiered" and best.choice == cut.choice
    assert best.deployed_memory_bytes == replicas * whole.memory_bytes == best.choice.whole_memory_bytes
    assert best.choice.memory_bytes == cut.deployed_memory_bytes
    assert cut.deployed_memory_bytes > (1 - LEAST_FLEET_SAVING) * best.deployed_memory_bytes
    assert {service.replicas for service in best.services} == {replicas}
    assert best.latency.p95_ms <= spec.serving.sla_ms
    assert best.latency.idle_ms == pytest.approx(1000 * whole.alone_s)
    assert [shard.rows for shard in best.embedding_services[0].shards] == [20_000, 3_000, 3_000]


def test_a_model_that_cutting_makes_smaller_is_cut() -> None:
    best, cut = best_plan(at(30_000.0), ACCESSES, PROFILE, None, 8, 1.0, 0.01)
    assert best is cut and best.grouping == "tiered" and not best.choice.is_whole
    assert best.deployed_memory_bytes < (1 - LEAST_FLEET_SAVING) * best.choice.whole_memory_bytes
    assert best.choice.saving == pytest.approx(1 - best.deployed_memory_bytes / best.choice.whole_memory_bytes)


@pytest.mark.parametrize("grouping", ["tiered", "per_table"])
def test_a_grouping_that_is_asked_for_is_kept_and_told_not_to_pay(grouping: Grouping) -> None:
    best, cut = chosen(SPEC, grouping)
    assert best is cut and best.grouping == grouping and best.choice.is_whole
    told = choice_line(best.choice, grouping, 3000.0)
    assert "this cut does not pay at 3000 queries/s" in told and "better replicate the model" in told


def test_the_papers_recurrence_weighs_nothing() -> None:
    best, cut = chosen(SPEC, least_saving=0.0)
    assert best == cut == plan_accesses(SPEC, ACCESSES, DEAR, "tiered", 8) and best.choice is None
    assert choice_line(None, "tiered", 3000.0) == ""


def test_what_a_whole_replica_cannot_serve_is_cut() -> None:
    """One whose idle query takes longer than the SLA, as the gathers of all tables add up in it."""
    slow = replace(PROFILE, service_time=replace(PROFILE.service_time, per_row_s=1e-6), remote_call_s=0.0)
    spec = replace(at(200.0), serving=replace(SPEC.serving, target_qps=200.0, sla_ms=8.0))
    with pytest.raises(PlanError):
        model_wise(spec, ACCESSES, slow)
    best, _ = best_plan(spec, ACCESSES, slow, "per_table", 1, 1.0, 0.01)
    assert best.grouping == "per_table" and best.choice is None


def test_the_file_of_a_plan_has_what_was_weighed(tmp_path: Path) -> None:
    best, _ = chosen(SPEC)
    (tmp_path / "plan.json").write_text(plan_to_json(best))
    assert load_plan(tmp_path / "plan.json") == best


def test_words_say_why() -> None:
    best, _ = chosen(SPEC)
    told = choice_line(best.choice, best.grouping, 3000.0)
    assert told.startswith("do not cut this model at 3000 queries/s: replicate it: ")
    assert "whole replica" in told and "tiered in 2 services takes" in told
    assert "% more; a fleet must save 5% to be worth it (--grouping tiered cuts it all the same)" in told
    smaller = best_plan(at(30_000.0), ACCESSES, PROFILE, None, 8, 1.0, 0.01)[0]
    told = choice_line(smaller.choice, "tiered", 30_000.0)
    assert told.startswith("cut this model: ") and told.endswith("% less\n")


def test_whole_replicas_are_placed_whole() -> None:
    """A demand that has all of a replica's memory on one core, and not one for each of its services."""
    best, _ = chosen(at(3000.0))
    room = replace(CPUS, pools=(replace(CPUS.pools[0], memory_bytes=10**9),))
    found = place(at(3000.0), best, DEAR, room)
    (demand,) = found.demands
    assert (demand.name, demand.replicas, demand.millicores) == (WHOLE_MODEL, best.choice.whole_replicas, 1000)
    assert demand.replicas * demand.memory_bytes == best.choice.whole_memory_bytes


def test_whole_replicas_are_a_server_each_and_no_fleet() -> None:
    best, _ = chosen(at(3000.0))
    check_layout(best, "model-wise")
    assert all(LAYOUTS["model-wise"].count(service) == 1 for service in best.services)
    with pytest.raises(PlanError, match="expected a plan that cuts for the layout fleet, got model_wise"):
        check_layout(best, "fleet")


def test_whole_replicas_too_take_one_more_where_that_needs_a_node_less() -> None:
    """At three replicas' traffic four stand on two nodes, as half of them may share one."""
    fleets = SizedFleets(ComparisonCase(SPEC, ACCESSES, PROFILE, CPUS, 4))
    fleet = fleets.placed(MODEL_WISE, fleets.target_qps(3))
    assert (fleets.fleet(MODEL_WISE, fleets.target_qps(3)).replicas, fleet.replicas, fleet.packing.nodes) == (3, 4, 2)


@pytest.mark.parametrize(("profile", "told"), [(DEAR, True), (PROFILE, False)])
def test_a_comparison_says_no_too(profile: Profile, told: bool) -> None:
    """With containers that weigh more than the tables no fleet pays at one replica's traffic."""
    replicas = 1 if told else 10
    found, _ = compare(ComparisonCase(SPEC, ACCESSES, profile, CPUS, 4, 0.01), replicas)
    notes = comparison_notes(ComparisonReport(profile, CPUS, 4, replicas, (found,), (), ()))
    assert ("m: do not cut this model at this traffic: replicate it: " in notes) == told
