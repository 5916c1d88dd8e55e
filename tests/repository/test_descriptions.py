"""What backends read: every number of the toy's by hand, the keys in the order that readers in C take them."""

from __future__ import annotations

import json
from dataclasses import replace

from repo_builder.model.dlrm import Dlrm, DlrmTable, Weights, dlrm_model
from repo_builder.model.types import Columns, Ids, Ragged
from repo_builder.partition.plan import Shard
from repo_builder.repository.descriptions import (
    default_addresses,
    fanout_description,
    router_description,
    shard_description,
)
from repo_builder.repository.service_names import service_names
from repo_builder.repository.wiring import wire
from repo_builder.spec import FleetSettings
from tests.repository.test_wiring import CUT, plan, service
from tests.toy_source import TOY, toy_spec

WIRING = wire(TOY, CUT)
PLAIN = {
    "mean": 0,
    "width": -1,
    "begin": 0,
    "bag": -1,
    "bounds": -1,
    "kind": 0,
    "block": 0,
    "blocks": 1,
    "weights": -1,
    "has_padding": 0,
    "padding": -1,
    "from_end": 0,
}


def shards(*each: tuple[int, int]) -> list[dict[str, int]]:
    return [{"unit": unit, "base": 0, "place": place} for unit, place in each]


def test_the_routers() -> None:
    document = router_description(TOY, WIRING, {0: 128, 1: 512, 2: 0}).document()
    assert document == {
        "finite": (),
        "inputs": ["item", "history", "tags", "tag_ends", "tag_weights", "user"],
        "tables": [
            {"name": "items", "rows": 500, "map_offset": 128, "shards": 2},
            {"name": "tags", "rows": 40, "map_offset": 512, "shards": 2},
            {"name": "users", "rows": 90, "map_offset": 0, "shards": 2},
        ],
        "lookups": [
            {**PLAIN, "name": "item", "table": 0, "group": 0, "count": 1, "ids": 0, "width": 1, "bag": 1}
            | {"from_end": 1, "shards": shards((0, 0), (3, 0))},
            {**PLAIN, "name": "seen", "table": 0, "group": 0, "count": 1, "ids": 1, "width": 5, "bag": 5, "mean": 1}
            | {"has_padding": 1, "shards": shards((0, 1), (3, 1))},
            {**PLAIN, "name": "tag", "table": 1, "group": 0, "count": 1, "ids": 2, "bounds": 3, "kind": 2, "weights": 4}
            | {"shards": shards((1, 0), (4, 0))},
            {**PLAIN, "name": "who", "table": 2, "group": 1, "count": 2, "ids": 5, "width": 2, "bag": 1}
            | {"shards": shards((2, 0), (5, 0))},
        ],
        "units": [
            {"service": service, "group": group, "bags": bags, "weighted": weighted}
            for service in (0, 1)
            for group, bags, weighted in ((0, 2, 0), (0, 1, 1), (1, 2, 0))
        ],
        "services": [{"name": "hot"}, {"name": "cold"}],
        "groups": [{"name": "batch"}, {"name": "1"}],
        "checked": [],
    }
    assert list(document) == ["finite", "inputs", "tables", "lookups", "units", "services", "groups", "checked"]
    assert list(document["lookups"][0]) == [
        "name", "table", "group", "count", "mean", "ids", "width", "begin", "bag", "bounds", "kind", "block", "blocks",
        "weights", "has_padding", "padding", "from_end", "shards",
    ]  # fmt: skip


def test_layouts_of_ids() -> None:
    """Blocks of ragged bags, any number of columns, padding of any value."""
    first, seen, tag, who = TOY.lookups
    layouts = (
        replace(first, ids=Ids("item", Columns(0, 0, None), padding=0)),
        replace(seen, ids=Ids("history", Columns(2, 1, 5))),
        replace(tag, ids=Ids("tags", Ragged("tag_ends", "lengths", block=1, blocks=3))),
    )
    model = replace(TOY, lookups=(*layouts, who))
    varying, columns, ragged, _ = router_description(model, wire(model, CUT), {0: 0, 1: 0, 2: 0}).document()["lookups"]
    told = ("width", "begin", "bag", "bounds", "kind", "block", "blocks", "has_padding", "padding")
    assert [varying[key] for key in told] == [-1, 0, -1, -1, 0, 0, 1, 1, 0]
    assert [columns[key] for key in told] == [5, 2, 1, -1, 0, 0, 1, 0, -1]
    assert [ragged[key] for key in told] == [-1, 0, -1, 3, 3, 1, 3, 0, -1]


def test_a_shards() -> None:
    document = shard_description(WIRING[0]).document()
    assert document == {
        "matrices": [
            {"rows": 30, "dim": 16, "dtype": "fp32"},
            {"rows": 100, "dim": 8, "dtype": "fp32"},
            {"rows": 5, "dim": 4, "dtype": "fp32"},
        ],
        "groups": [
            {
                "group": 0,
                "max_rows": 4096,
                "units": [
                    {"matrix": 1, "bags": 2, "columns": 6, "weighted": 0},
                    {"matrix": 2, "bags": 1, "columns": -1, "weighted": 1},
                ],
            },
            {"group": 1, "max_rows": 1 << 20, "units": [{"matrix": 0, "bags": 2, "columns": 2, "weighted": 0}]},
        ],
    }
    assert list(document["groups"][0]["units"][0]) == ["matrix", "bags", "columns", "weighted"]


def test_a_fleets() -> None:
    spec, _ = toy_spec("toy")
    spec = replace(
        spec, fleet=FleetSettings(missing_shard="degrade", hedge_quantile=0.95, max_in_flight=7, sums_dtype="fp16")
    )
    document = fanout_description(spec, WIRING, "77")
    whole = [{"from": 0, "to": 0, "columns": 20}], [{"from": 0, "to": 0, "columns": 32}]
    groups = [
        {"group": 0, "width": 20, "dims": [8, 4], "pieces": whole[0]},
        {"group": 1, "width": 32, "dims": [16], "pieces": whole[1]},
    ]
    assert json.loads(json.dumps(document)) == {
        "name": "toy_router",
        "version": "77",
        "widths": [20, 32],
        "deadline_us": 400_000,
        "hedge_quantile_ppm": 950_000,
        "max_in_flight": 7,
        "degrade": 1,
        "half_sums": 1,
        "services": [
            {"name": name, "model": f"toy_{name}", "instances": 1, "groups": groups} for name in ("hot", "cold")
        ],
    }
    assert list(document)[:3] == ["name", "version", "widths"]
    assert default_addresses(spec, WIRING) == {name: f"dns:///toy-{name}:8001" for name in ("hot", "cold")}
    long = replace(spec, name="My_Model" * 7)
    assert default_addresses(long, WIRING) == {
        service: f"dns:///{name}:8001" for service, name in service_names(long.name, ["hot", "cold"]).items()
    }


def test_what_a_dlrm_keeps_is_checked_by_routers() -> None:
    """Its look-up is the dense graph's: it is in no table and no unit."""
    tables = (DlrmTable("kept", 7, 4, 2, keep="dense"), DlrmTable("cut", 90, 4, 3))
    model = dlrm_model("m", Dlrm(2, (4,), (1,), tables, "int64", Weights("random")))
    cut = plan(model, service("tier0", [Shard("cut", 0, 90)]))
    document = router_description(model, wire(model, cut), {0: 0}).document()
    assert document["checked"] == [
        {"name": "kept", "rows": 7, "ids": 0, "width": 5, "begin": 0, "columns": 2, "padding": -1}
    ]
    assert [(each["name"], each["table"], each["begin"]) for each in document["lookups"]] == [("cut", 0, 2)]
    assert [table["name"] for table in document["tables"]] == ["cut"]
