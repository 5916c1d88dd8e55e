"""Plan files: round trip, reproducible bytes, and every mistake named."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repo_builder.errors import PlanError
from repo_builder.partition.plan import Plan, check_plan, load_plan, plan_sha256, plan_to_json
from repo_builder.partition.planner import make_plan
from tests.partition.helpers import small_spec
from tests.partition.test_planner import HOTNESS, PROFILE, TABLES

SPEC = small_spec(TABLES)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return make_plan(SPEC, HOTNESS, PROFILE, "tiered", 3)


def _saved(folder: Path, document: object) -> Path:
    path = folder / "plan.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def test_round_trip_and_reproducible_bytes(plan: Plan, tmp_path: Path) -> None:
    text = plan_to_json(plan)
    assert load_plan(_saved(tmp_path, text)) == plan
    assert text == plan_to_json(make_plan(SPEC, HOTNESS, PROFILE, "tiered", 3)) and text.endswith("}\n")
    assert plan_sha256(plan) == plan_sha256(load_plan(_saved(tmp_path, text)))
    assert plan_sha256(plan) != plan_sha256(replace(plan, batch=33))
    assert json.loads(text)["memory_bytes"] == plan.memory_bytes
    assert next(iter(json.loads(text))) == "format" and json.loads(text)["format"] == 1


def test_a_plan_edited_by_hand_is_loaded(plan: Plan, tmp_path: Path) -> None:
    document = json.loads(plan_to_json(plan))
    hot, cold = document["services"][1]["shards"][0], document["services"][2]["shards"][0]
    hot["end"], cold["begin"] = hot["end"] + 1, cold["begin"] + 1
    hot.pop("rows"), cold.pop("rows")
    document["services"][1].update(device="gpu", instances=2, note="mine")
    for key in ("format", "target_qps", "batch", "s_max", "profile"):
        del document[key]
    loaded = load_plan(_saved(tmp_path, document))
    check_plan(loaded, SPEC)
    assert (loaded.services[1].device, loaded.services[1].instances, loaded.target_qps) == ("gpu", 2, None)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.pop("services"), "services: expected this field"),
        (lambda d: d.update(format=2, services=3), "format: expected 1, got 2; make the plan again with"),
        (lambda d: d.update(format="1"), 'format: expected 1, got "1"; make the plan again'),
        (lambda d: d.update(format=True), "format: expected 1, got true; make the plan again"),
        (lambda d: d.update(grouping="x"), "grouping: expected one of tiered, per_table"),
        (lambda d: d["services"][1].update(device="tpu"), r"services\[1\].device: expected one of cpu, gpu"),
        (lambda d: d["services"][1].update(instances=0), r"services\[1\].instances: expected at least 1"),
        (lambda d: d["services"][1].pop("replicas"), r"services\[1\].replicas: expected this field"),
        (lambda d: d["services"][1].update(qps="fast"), r"services\[1\].qps: expected a number"),
        (lambda d: d["services"][1]["shards"][0].update(end=0), r"services\[1\].shards\[0\].end: expected at least 1"),
        (lambda d: d["services"][1]["shards"][0].update(begin=99), r"shards\[0\].end: expected more than begin = 99"),
        (lambda d: d["services"][1]["shards"][0].update(rows=1), r"shards\[0\].rows: expected end - begin"),
    ],
)
def test_mistakes_name_file_and_field(
    plan: Plan, tmp_path: Path, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    document = json.loads(plan_to_json(plan))
    edit(document)
    with pytest.raises(PlanError, match=f"plan.json: .*{message}"):
        load_plan(_saved(tmp_path, document))


def _shard(plan: Plan, **changes: Any) -> Plan:
    dense, first, *rest = plan.services
    shards = (replace(first.shards[0], **changes), *first.shards[1:])
    return replace(plan, services=(dense, replace(first, shards=shards), *rest))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda p: replace(p, spec="other"), "spec: expected 'm'"),
        (lambda p: replace(p, services=p.services[1:]), "expected one service of kind dense, got 0"),
        (lambda p: replace(p, services=(*p.services, p.services[0])), "expected unique names, got 'dense' twice"),
        (lambda p: replace(p, services=p.services[:-1]), "table A: the rows"),
        (lambda p: _shard(p, table="Z"), "expected a table of the spec, got 'Z'"),
        (lambda p: _shard(p, begin=1), "table A: the rows 0 to 1 of its hotness order are in no shard"),
        (lambda p: _shard(p, end=89), "table A: expected each of its 90 rows once"),
        (lambda p: _shard(p, end=999), "table A: expected each of its 90 rows once"),
        (lambda p: replace(p, services=(replace(p.services[0], name="router"), *p.services[1:])), "the router"),
        (lambda p: replace(p, services=(*p.services[:-1], replace(p.services[-1], shards=()))), "at least one shard"),
    ],
)
def test_a_plan_that_does_not_fit_the_spec_is_an_error(plan: Plan, edit: Callable[[Plan], Plan], message: str) -> None:
    check_plan(plan, SPEC)
    with pytest.raises(PlanError, match=message):
        check_plan(edit(plan), SPEC)
