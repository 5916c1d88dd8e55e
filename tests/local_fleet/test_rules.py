"""Reading what `elasticrec k8s` wrote."""

from pathlib import Path

import pytest
import yaml

from k8s.options import Options
from k8s.render import write
from k8s.source import parse_source
from repo_builder.errors import InputError
from repo_builder.local_fleet.rules import load_rules, render_rules
from repo_builder.repository.built_fleet import Fleet
from tests.k8s.fleets import fleet


@pytest.fixture
def made(tmp_path: Path) -> Fleet:
    return fleet(tmp_path / "fleet")


def test_every_service_has_the_rules_that_were_rendered(made: Fleet, tmp_path: Path) -> None:
    options = Options(source=parse_source("pvc:claim"), namespace="elsewhere")
    objects = write(made, options, tmp_path / "out")
    rules = load_rules(made, tmp_path / "out")
    assert rules.namespace == "elsewhere"
    assert set(rules.by_service) == {service.folder for service in made.services}
    for service in made.services:
        spec = objects[f"{service.name}-scaledobject.yaml"]["spec"]
        found = rules.by_service[service.folder]
        assert [query.text for query in found.queries] == [t["metadata"]["query"] for t in spec["triggers"]]
        assert found.autoscaler.max_replicas == spec["maxReplicaCount"]


def test_rules_rendered_for_here_ask_the_local_prometheus(made: Fleet, tmp_path: Path) -> None:
    rules = load_rules(made, render_rules(made, "http://127.0.0.1:9", tmp_path / "out"))
    assert {query.server for rule in rules.by_service.values() for query in rule.queries} == {"http://127.0.0.1:9"}


def test_what_does_not_fit_the_fleet_is_named(made: Fleet, tmp_path: Path) -> None:
    out = render_rules(made, "http://127.0.0.1:9", tmp_path / "out")
    path = out / "rm1-tier0-scaledobject.yaml"
    document = yaml.safe_load(path.read_text())
    path.unlink()
    with pytest.raises(InputError, match=r"expected .*-scaledobject.yaml for tier0, found none; run elasticrec k8s"):
        load_rules(made, out)
    document["spec"]["scaleTargetRef"]["name"] = "rm1-other"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(InputError, match=r"scaleTargetRef.name: expected one of .*, got 'rm1-other'"):
        load_rules(made, out)
    document["spec"]["scaleTargetRef"]["name"] = "rm1-tier0"
    document["metadata"]["namespace"] = "other"
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(InputError, match=r"metadata.namespace: expected one in all files, got elasticrec, other"):
        load_rules(made, out)
    with pytest.raises(InputError, match=r"nowhere: expected"):
        load_rules(made, tmp_path / "nowhere")
