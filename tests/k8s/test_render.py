"""Every rendered object against Kubernetes' and KEDA's own schemas, and against each other."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from k8s.objects import KUBERNETES
from k8s.render import render, to_yaml, write
from repo_builder.errors import RepositoryError
from repo_builder.machine import ALLOCATOR
from repo_builder.repository.built_fleet import BuiltFleet
from repo_builder.scaling.edited import read_scaled_object
from tests.k8s.fleets import fleet, options
from tests.k8s.manifests import Rendered, containers, of_kind

ROOT = Path(__file__).parents[2]
SCHEMAS = Path(__file__).parent / "schemas"
CUSTOM = {
    "ScaledObject": "scaledobject.json",
    "PodMonitor": "podmonitor.json",
    "PrometheusRule": "prometheusrule.json",
}


@pytest.mark.parametrize("version", [KUBERNETES, "1.37"])
def test_core_objects_are_valid(version: str, rendered: Rendered) -> None:
    checked = 0
    for item in rendered[1].values():
        if item["kind"] not in CUSTOM:
            kubernetes_validate.validate(item, version, strict=True)
            checked += 1
    assert checked == 5 * len(rendered[0].services) + 2  # the two ConfigMaps


def test_custom_objects_are_what_we_mean_to_write(rendered: Rendered) -> None:
    for kind, schema in CUSTOM.items():
        assert of_kind(rendered[1], kind)
        for item in of_kind(rendered[1], kind).values():
            jsonschema.validate(item, json.loads((SCHEMAS / schema).read_text()))


def test_scaled_objects_are_what_keda_takes(rendered: Rendered) -> None:
    for item in of_kind(rendered[1], "ScaledObject").values():
        jsonschema.validate(item, json.loads((SCHEMAS / "keda.json").read_text()))


def test_scaled_objects_are_followed_by_the_local_controller(rendered: Rendered) -> None:
    for name, item in of_kind(rendered[1], "ScaledObject").items():
        read = read_scaled_object(item, name)
        assert read.workload == name
        assert read.hpa.min_replicas <= read.fallback.replicas <= read.hpa.max_replicas
        assert not any(trigger.ignore_null for trigger in read.triggers)


def emptiness(value: Any, where: str) -> Iterator[str]:
    """Where an object holds an empty list, mapping or null: the server drops it, and `kubectl diff` is never clean."""
    if value in ([], {}, None):
        yield where
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from emptiness(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from emptiness(inner, f"{where}[{i}]")


def test_nothing_is_written_that_the_server_would_drop(rendered: Rendered) -> None:
    assert [place for name, item in rendered[1].items() for place in emptiness(item, name)] == []


def test_a_shard_that_loads_from_a_claim_may_call_nobody(tmp_path: Path) -> None:
    """Egress among the policy's types and no rule for it: Kubernetes then lets nothing out."""
    spec = render(fleet(tmp_path), options("pvc:models"))["rm1-tier0-networkpolicy.yaml"]["spec"]
    assert "Egress" in spec["policyTypes"] and "egress" not in spec


def test_no_setting_is_written_that_keda_calls_irrelevant(rendered: Rendered) -> None:
    """KEDA 2.20 warns of both at each apply where at least one replica is asked for and no metric is cached."""
    for item in of_kind(rendered[1], "ScaledObject").values():
        assert item["spec"]["minReplicaCount"] >= 1
        assert not {"pollingInterval", "cooldownPeriod"} & item["spec"].keys()


def test_the_oldest_versions_are_stated_on_every_object(rendered: Rendered, written: tuple[BuiltFleet, Path]) -> None:
    for item in rendered[1].values():
        assert item["metadata"]["annotations"] == {"elasticrec/requires": "Kubernetes >= 1.30, KEDA >= 2.18"}
    assert "**Needs** Kubernetes 1.30 (native `preStop` sleep) and KEDA 2.18" in (written[1] / "SCALING.md").read_text()
    assert "Kubernetes 1.30 or later with KEDA 2.18 or later" in (ROOT / "README.md").read_text()


def test_each_service_has_one_of_each(rendered: Rendered) -> None:
    built, objects = rendered
    names = {service.name for service in built.services}
    for kind in ("Deployment", "Service", "ScaledObject", "PodDisruptionBudget", "NetworkPolicy", "ServiceAccount"):
        assert set(of_kind(objects, kind)) == names
    assert len({item["metadata"]["namespace"] for item in objects.values()}) == 1


def test_selectors_find_their_own_pods_alone(rendered: Rendered) -> None:
    _, objects = rendered
    pods = {
        name: item["spec"]["template"]["metadata"]["labels"] for name, item in of_kind(objects, "Deployment").items()
    }

    def found(selector: Mapping[str, str]) -> list[str]:
        return [name for name, labels in pods.items() if selector.items() <= labels.items()]

    for name in pods:
        assert found(of_kind(objects, "Deployment")[name]["spec"]["selector"]["matchLabels"]) == [name]
        assert found(of_kind(objects, "Service")[name]["spec"]["selector"]) == [name]
        assert found(of_kind(objects, "PodDisruptionBudget")[name]["spec"]["selector"]["matchLabels"]) == [name]
        assert found(of_kind(objects, "NetworkPolicy")[name]["spec"]["podSelector"]["matchLabels"]) == [name]
        assert of_kind(objects, "ScaledObject")[name]["spec"]["scaleTargetRef"]["name"] == name
    (monitor,) = of_kind(objects, "PodMonitor").values()
    assert found(monitor["spec"]["selector"]["matchLabels"]) == list(pods)


def test_only_the_front_end_reaches_the_shards_and_only_prometheus_the_metrics(
    rendered: Rendered,
) -> None:
    built, objects = rendered
    front = of_kind(objects, "Deployment")[built.frontend.name]["spec"]["template"]["metadata"]["labels"]
    for name, item in of_kind(objects, "NetworkPolicy").items():
        callers, prometheus = item["spec"]["ingress"]
        assert item["spec"]["policyTypes"] == ["Ingress", "Egress"]
        assert [each["port"] for each in prometheus["ports"]] == [8002]
        (peer,) = prometheus["from"]
        assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}
        assert peer["podSelector"]["matchLabels"]
        if name == built.frontend.name:
            assert [each["port"] for each in callers["ports"]] == [8000, 8001]
            assert "from" not in callers
            to = item["spec"]["egress"][0]["to"][0]["podSelector"]
            assert set(to["matchExpressions"][0]["values"]) == {shard.name for shard in built.shards}
        else:
            assert [each["port"] for each in callers["ports"]] == [8001]
            assert callers["from"] == [{"podSelector": {"matchLabels": front}}]


def test_the_router_is_told_the_services_that_there_are(rendered: Rendered) -> None:
    built, objects = rendered
    config = of_kind(objects, "ConfigMap")[f"{built.frontend.name}-addresses"]
    addresses = json.loads(config["data"]["addresses.json"])
    assert list(addresses) == [shard.planned.name for shard in built.shards]
    for name, address in zip((shard.name for shard in built.shards), addresses.values(), strict=True):
        service = of_kind(objects, "Service")[name]
        assert service["spec"]["clusterIP"] == "None"
        assert {"name": "grpc", "port": 8001, "targetPort": "grpc"} in service["spec"]["ports"]
        assert address == f"dns:///{name}.{service['metadata']['namespace']}.svc.cluster.local:8001"
    (front,) = of_kind(objects, "Deployment")[built.frontend.name]["spec"]["template"]["spec"]["containers"]
    (mount,) = [each for each in front["volumeMounts"] if each["name"] == "addresses"]
    told = {each["name"]: each.get("value") for each in front["env"]}["ELASTICREC_ADDRESSES"]
    assert told == f"{mount['mountPath']}/addresses.json"


def test_every_server_is_told_how_to_keep_freed_memory(rendered: Rendered) -> None:
    """Whatever the image says, which may be another than ours; heaps follow the plan's cores, as its memory does."""
    for deployment in of_kind(rendered[1], "Deployment").values():
        container = next(containers(deployment))
        variables = {each["name"]: each.get("value") for each in container["env"]}
        assert variables.items() >= ALLOCATOR.items()
        assert int(variables["MALLOC_ARENA_MAX"]) == int(container["resources"]["requests"]["cpu"])


def test_ports_are_named_alike_everywhere(rendered: Rendered) -> None:
    for deployment in of_kind(rendered[1], "Deployment").values():
        container = next(containers(deployment))
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}
        assert ports == {"http": 8000, "grpc": 8001, "metrics": 8002}
        probed = {container[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "liveness", "readiness")}
        assert probed == {"http"}
    (monitor,) = of_kind(rendered[1], "PodMonitor").values()
    assert monitor["spec"]["podMetricsEndpoints"][0]["port"] == "metrics"


def test_every_query_is_documented_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "fleet").mkdir()
    objects = write(fleet(tmp_path / "fleet"), options(), tmp_path / "out")
    text = (tmp_path / "out/SCALING.md").read_text()
    for item in of_kind(objects, "ScaledObject").values():
        for trigger in item["spec"]["triggers"]:
            assert f"\n{trigger['metadata']['query']}\n" in text
            assert f"**{trigger['name']}**: {trigger['metricType']} {trigger['metadata']['threshold']} " in text
    (rule,) = of_kind(objects, "PrometheusRule").values()
    for alert in rule["spec"]["groups"][0]["rules"]:
        assert f"\n**{alert['alert']}** ({alert['labels']['severity']}, after " in text
        assert f"\n{alert['expr']}\n" in text


@pytest.mark.parametrize(
    ("address", "namespace"),
    [
        ("http://prometheus-operated.observability.svc:9090", "observability"),
        ("http://prometheus.observability:9090", "observability"),
        ("http://prometheus.observability.svc.cluster.local:9090", "observability"),
        ("http://10.0.0.3:9090", "monitoring"),
        ("https://metrics.example.com", "monitoring"),
    ],
)
def test_prometheus_runs_where_its_address_says(address: str, namespace: str, tmp_path: Path) -> None:
    policy = render(fleet(tmp_path), options(prometheus=address))["rm1-tier0-networkpolicy.yaml"]
    (peer,) = policy["spec"]["ingress"][1]["from"]
    assert peer["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": namespace}


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(fleet(tmp_path / name), options(), tmp_path / f"{name}-out")
    one, two = ({path.name: path.read_bytes() for path in tmp_path.glob(f"{name}-out/*")} for name in ("one", "two"))
    assert one == two


def test_what_is_not_ours_is_never_replaced(tmp_path: Path) -> None:
    """A former run is; an overlay that someone put beside it is not, nor is an edited file, nor another's base."""
    (tmp_path / "fleet").mkdir()
    built, out = fleet(tmp_path / "fleet"), tmp_path / "out"
    write(built, options(), out)
    write(built, options(namespace="second"), out)
    assert "second" in (out / "podmonitor.yaml").read_text()
    (out / "mine.yaml").write_text("kind: Mine\n")
    with pytest.raises(RepositoryError, match=r"expected elasticrec k8s's own files alone, got mine\.yaml too"):
        write(built, options(), out)
    assert (out / "mine.yaml").read_text() == "kind: Mine\n"
    (out / "mine.yaml").unlink()
    rule = out / "rm1-tier0-scaledobject.yaml"
    rule.write_text(rule.read_text().replace("maxReplicaCount: ", "maxReplicaCount: 1"))
    with pytest.raises(RepositoryError, match=r"rm1-tier0-scaledobject\.yaml was edited since elasticrec k8s wrote it"):
        write(built, options(), out)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "kustomization.yaml").write_text("resources: [deployment.yaml]\n")
    (theirs / "deployment.yaml").write_text("kind: Deployment\n")
    with pytest.raises(RepositoryError, match=r"expected what elasticrec k8s wrote before.*got other files"):
        write(built, options(), theirs)
    sums = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in theirs.iterdir())
    (theirs / "SHA256SUMS").write_text(sums)  # as a release's files have them
    with pytest.raises(RepositoryError, match=r"expected what elasticrec k8s wrote before.*got other files"):
        write(built, options(), theirs)
    assert {path.name for path in theirs.iterdir()} == {"kustomization.yaml", "deployment.yaml", "SHA256SUMS"}


KUBECTL = Path(sys.executable).with_name("kubectl")  # of the test packages, beside the tests' own Python


def kustomize(folder: Path) -> list[dict[str, Any]]:
    done = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return list(yaml.safe_load_all(done.stdout))


def test_kustomize_renders_the_base_unchanged(written: tuple[BuiltFleet, Path], rendered: Rendered) -> None:
    def key(item: Mapping[str, Any]) -> tuple[str, str]:
        return item["kind"], item["metadata"]["name"]

    assert sorted(kustomize(written[1]), key=key) == sorted(rendered[1].values(), key=key)


@pytest.mark.parametrize("namespace", ["1e3", "0o17", "0x1f", "12e4", "2026", "null"])
def test_a_name_that_looks_like_a_number_stays_a_name(namespace: str, tmp_path: Path) -> None:
    """To kubectl, which reads another YAML than Python does."""
    write(fleet(tmp_path), options(namespace=namespace, priority_class="7e10"), tmp_path / "out")
    objects = kustomize(tmp_path / "out")
    assert {each["metadata"]["namespace"] for each in objects} == {namespace}
    pods = [each["spec"]["template"]["spec"] for each in objects if each["kind"] == "Deployment"]
    assert {pod["priorityClassName"] for pod in pods} == {"7e10"}


OVERLAY = """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../out]
images:
  - {name: elasticrec-triton, newName: registry.example.com/elasticrec-triton, newTag: 26.04-1}
patches:
  - target: {kind: ScaledObject, name: rm1-frontend}
    patch: |
      - {op: replace, path: /spec/maxReplicaCount, value: 40}
  - target: {kind: ServiceAccount}
    patch: |
      - op: add
        path: /metadata/annotations
        value: {eks.amazonaws.com/role-arn: arn:aws:iam::123456789012:role/rm1-models}
"""


def test_an_overlay_changes_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "fleet").mkdir()
    write(fleet(tmp_path / "fleet"), options(), tmp_path / "out")
    (tmp_path / "production").mkdir()
    (tmp_path / "production/kustomization.yaml").write_text(OVERLAY)
    objects = {f"{item['kind']}/{item['metadata']['name']}": item for item in kustomize(tmp_path / "production")}
    assert objects["ScaledObject/rm1-frontend"]["spec"]["maxReplicaCount"] == 40
    (container,) = objects["Deployment/rm1-tier0"]["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example.com/elasticrec-triton:26.04-1"
    assert "eks.amazonaws.com/role-arn" in objects["ServiceAccount/rm1-tier1"]["metadata"]["annotations"]


def test_yaml_has_no_anchors(tmp_path: Path) -> None:
    assert not any("&id" in to_yaml(item) for item in render(fleet(tmp_path), options()).values())
