"""What a pod needs, from a built fleet."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from repo_builder.errors import InputError
from repo_builder.model.dlrm import DlrmTable
from repo_builder.repository.built_fleet import load_fleet
from repo_builder.repository.manifest import describe
from tests.hand_models import RANKER, hand_spec
from tests.k8s.fleets import DIM, MB, Made, fleet, write_fleet

MIB = 1024**2


def test_a_service_knows_its_models(tmp_path: Path) -> None:
    made = fleet(tmp_path)
    assert [service.name for service in made.services] == ["rm1-frontend", "rm1-tier0", "rm1-tier1"]
    assert [service.model for service in made.services] == ["rm1", "rm1_tier0", "rm1_tier1"]
    assert made.frontend.steps == ("rm1_dense", "rm1_router")
    assert made.shards[0].steps == ("rm1_tier0",)
    assert (made.sla_ms, made.target_qps) == (400, 2000)


def test_memory_is_weights_and_the_measured_minimum_and_shm(tmp_path: Path) -> None:
    """Counted by hand: 2 tables of 10^6 rows of 32 bytes; and 40 MB of id maps, which the plan does not know."""
    made = fleet(tmp_path)
    shard = made.shards[0]
    assert shard.files_bytes == 64 * MB
    assert shard.memory_bytes == 64 * MB + 300 * MB + shard.shm_bytes
    assert made.frontend.memory_bytes == 310 * MB + 40 * MB + made.frontend.shm_bytes


@pytest.mark.parametrize("instances", [1, 3])
def test_shm_holds_two_of_the_largest_calls_in_each_process(instances: int, tmp_path: Path) -> None:
    """4096 rows: 13 ids and 2 lengths of 4 bytes, and sums of 2 tables. The front end has no such process."""
    made = fleet(tmp_path, Made(instances=instances))
    call = 4096 * (4 * (13 + 2) + 4 * 2 * DIM)
    assert made.shards[0].shm_bytes == 64 * MIB + instances * (16 * MIB + 2 * call)
    assert made.frontend.shm_bytes == 64 * MIB
    assert made.frontend.instances == 2 * instances


def test_shm_counts_what_any_models_look_ups_take(tmp_path: Path) -> None:
    """By hand, numbers of a candidate row. items: 1 id, 1 length, 8 sums; and 6, 2, 16. tags: 2.5 ids and weights, a
    length, 4 sums. users: 2 ids, 2 lengths and 32 sums for each fourth row.
    """
    made = Made(tables=tuple(DlrmTable(table.name, 1, 1, 1) for table in RANKER.tables))
    folder, spec = write_fleet(tmp_path, made), hand_spec(replace(RANKER, name=made.model))
    manifest = describe(spec, "fleet", "0" * 64, "elasticrec 0", [])
    (folder / "manifest.json").write_text(manifest.to_json())
    call = 4096 * 4 * (10 + 24 + 10 + 9)
    assert load_fleet(folder).shards[0].shm_bytes == 64 * MIB + 16 * MIB + 2 * call


def test_a_front_end_holds_what_may_be_under_way(tmp_path: Path) -> None:
    """By hand, of a row: 13 numbers and 13 ids of 8 bytes come, twice; a score goes; 13 ids in 32 bits go to services,
    and 2 lengths and 2 sums of 8 numbers come from each of two. 20 queries of 32 rows, one of 4096, and 8 spare ones.
    """
    made = fleet(tmp_path, Made(max_in_flight=20))
    inputs = 4 * 13 + 8 * 13
    row = 2 * inputs + 4 + 4 * 13 + 2 * 4 * (2 + 2 * DIM)
    assert made.frontend.in_flight_bytes == (20 * 32 + 4096) * row + 8 * 4096 * inputs
    assert made.frontend.most_memory_bytes == made.frontend.memory_bytes + made.frontend.in_flight_bytes


@pytest.mark.parametrize(("made", "instances"), [(Made(instances=3), 3), (Made(device="gpu", gpus=(0, 1)), 2)])
def test_a_shard_holds_a_largest_call_of_each_front_end_for_every_instance(
    made: Made, instances: int, tmp_path: Path
) -> None:
    """The plan has two front ends."""
    assert fleet(tmp_path, made).shards[0].in_flight_bytes == 2 * instances * 4096 * (4 * (13 + 2) + 4 * 2 * DIM)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "expected one router with a fanout.json, found 0; build again"),
        ("{", "fanout.json: expected a router's settings, but "),
        ("[]", "fanout.json: expected a router's settings, but "),
        ("{}", "fanout.json: expected a router's settings, but "),
        ('{"max_in_flight": 0}', "fanout.json: max_in_flight: expected a number of queries, got 0; build again"),
        ('{"max_in_flight": true}', "fanout.json: max_in_flight: expected a number of queries, got True; build again"),
    ],
)
def test_a_front_end_says_how_many_queries_may_be_under_way(text: str | None, told: str, tmp_path: Path) -> None:
    settings = write_fleet(tmp_path, Made()) / "frontend/rm1_router/1/fanout.json"
    settings.unlink() if text is None else settings.write_text(text)
    with pytest.raises(InputError, match=re.escape(told)):
        load_fleet(tmp_path)


def test_models_without_processes_of_their_own_need_no_more_shm(tmp_path: Path) -> None:
    assert fleet(tmp_path, Made(backend="elasticrec_shard")).shards[0].shm_bytes == 64 * MIB


@pytest.mark.parametrize(
    ("made", "listen"),
    [
        (Made(backend="elasticrec_shard"), True),
        (Made(backend="elasticrec_shard", library=b"of an earlier build"), False),
        (Made(), False),
    ],
)
def test_native_services_whose_library_can_listen_do(made: Made, listen: bool, tmp_path: Path) -> None:
    built = fleet(tmp_path, made)
    assert [service.listens for service in built.services] == [False, listen, listen]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"layout": "single"}, "expected a repository of layout fleet, got single; .* build --layout fleet"),
        ({"services": ("T", "t_")}, "'T' and 't_' are both rm1-t"),
    ],
)
def test_what_is_no_fleet_is_refused(change: dict, told: str, tmp_path: Path) -> None:
    write_fleet(tmp_path, replace(Made(), **change))
    with pytest.raises(InputError, match=told):
        load_fleet(tmp_path)


def test_an_embedding_service_may_not_take_the_front_ends_name(tmp_path: Path) -> None:
    path = write_fleet(tmp_path) / "plan.json"
    path.write_text(path.read_text().replace('"tier1"', '"frontend"'))
    with pytest.raises(InputError, match=r"plan.json: services: .* none of them frontend"):
        load_fleet(tmp_path)


@pytest.mark.parametrize(
    ("text", "told"),
    [("backend: nonsense", r"tier0/rm1_tier0/config.pbtxt: expected a model's config, but"), (None, "found none")],
)
def test_a_broken_model_is_named(text: str | None, told: str, tmp_path: Path) -> None:
    config = write_fleet(tmp_path) / "tier0/rm1_tier0/config.pbtxt"
    config.write_text(text) if text else config.unlink()
    with pytest.raises(InputError, match=told):
        load_fleet(tmp_path)


def test_a_plan_without_dense_service_is_refused(tmp_path: Path) -> None:
    path = write_fleet(tmp_path) / "plan.json"
    plan = json.loads(path.read_text())
    plan["services"] = plan["services"][1:]
    path.write_text(json.dumps(plan))
    with pytest.raises(InputError, match="expected one of kind dense"):
        load_fleet(tmp_path)
