"""The dashboard as Grafana reads it; its queries meet a real Prometheus elsewhere."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s.dashboard import dashboard, dashboard_config_map
from k8s.render import to_yaml
from tests.k8s.fleets import Made, fleet, options

UNITS = {"reqps", "ms", "percentunit", "short", "bytes"}  # of Grafana


@pytest.fixture
def drawn(tmp_path: Path) -> Any:
    return dashboard(fleet(tmp_path), options())


def test_grafanas_sidecar_finds_it_and_json_is_in_it(tmp_path: Path) -> None:
    made = fleet(tmp_path)
    config = yaml.safe_load(to_yaml(dashboard_config_map(made, options())))
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert config["metadata"]["name"] == "rm1-dashboard"
    (text,) = config["data"].values()
    assert json.loads(text) == dashboard(made, options())
    assert len(text) < 100_000  # a ConfigMap's annotation of the last apply has room for 256 KiB


def test_panels_have_their_own_places_ids_and_units(drawn: Any) -> None:
    panels = drawn["panels"]
    assert [panel["id"] for panel in panels] == list(range(1, len(panels) + 1))
    for one, two in combinations((panel["gridPos"] for panel in panels), 2):
        beside = one["x"] + one["w"] <= two["x"] or two["x"] + two["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= two["y"] or two["y"] + two["h"] <= one["y"]
    for panel in panels:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        assert panel["title"] and panel["description"]
        letters = [target["refId"] for target in panel["targets"]]
        assert letters == list("ABCDEFGH"[: len(letters)])


def test_every_query_asks_the_chosen_prometheus_for_this_fleet(drawn: Any) -> None:
    (variable,) = drawn["templating"]["list"]
    for panel in drawn["panels"]:
        for target in panel["targets"]:
            assert target["datasource"] == {"type": "prometheus", "uid": f"${{{variable['name']}}}"}
            assert 'namespace="elasticrec"' in target["expr"]


def test_the_sla_is_a_line_across_the_latency(tmp_path: Path) -> None:
    drawn = dashboard(fleet(tmp_path, Made(sla_ms=250.0)), options())
    (latency,) = (panel for panel in drawn["panels"] if panel["title"] == "Latency")
    defaults = latency["fieldConfig"]["defaults"]
    assert defaults["thresholds"]["steps"][1]["value"] == 250
    assert defaults["custom"]["thresholdsStyle"] == {"mode": "line"}


def test_two_fleets_have_two_dashboards(tmp_path: Path) -> None:
    seen = set()
    for folder, made, chosen in (
        ("a", Made(), options()),
        ("b", Made(model="rm2"), options()),
        ("c", Made(), options(namespace="other")),
    ):
        (tmp_path / folder).mkdir()
        seen.add(dashboard(fleet(tmp_path / folder, made), chosen)["uid"])
    assert len(seen) == 3
    assert all(len(uid) <= 40 for uid in seen)  # Grafana's limit
