"""Every rendered object against Kubernetes' and KEDA's own schemas, and against each other."""

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
from k8s.pods import load_s
from k8s.render import render, to_yaml, write
from repo_builder.errors import PlanError, RepositoryError
from repo_builder.machine import ALLOCATOR
from repo_builder.repository.built_fleet import BuiltFleet
from repo_builder.scaling.edited import read_scaled_object
from tests.k8s.fleets import TLS_SECRET, Made, fleet, options

ROOT = Path(__file__).parents[2]
SCHEMAS = Path(__file__).parent / "schemas"
CUSTOM = {
    "ScaledObject": "scaledobject.json",
    "PodMonitor": "podmonitor.json",
    "PrometheusRule": "prometheusrule.json",
}

VARIANTS = {
    "store": (Made(), options()),
    "claim": (Made(), options("pvc:models/rm1/v7", min_replicas=2, priority_class="high", namespace="other")),
    "image": (Made(device="gpu", instances=2), options("init:registry/rm1@sha256:0123", tls_secret=TLS_SECRET)),
    "long": (Made(model="R" * 60, services=("C_1_s0", "C_1_s1")), options()),
}

Objects = Mapping[str, Mapping[str, Any]]
Rendered = tuple[BuiltFleet, Objects]


@pytest.fixture(scope="module", params=VARIANTS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[BuiltFleet, Path]:
    """A fleet and the folder of its manifests, once a variant."""
    made, chosen = VARIANTS[request.param]
    built, out = fleet(tmp_path_factory.mktemp("fleet"), made), tmp_path_factory.mktemp("k8s") / "out"
    write(built, chosen, out)
    return built, out


@pytest.fixture(scope="module")
def rendered(written: tuple[BuiltFleet, Path]) -> Rendered:
    """The objects parsed again, as kubectl would read them."""
    built, out = written
    files = {path.name: yaml.safe_load(path.read_text()) for path in out.glob("*.yaml")}
    listed = files.pop("kustomization.yaml")["resources"]
    assert sorted(files) == sorted(listed)
    return built, files


def of_kind(objects: Objects, kind: str) -> dict[str, Any]:
    return {item["metadata"]["name"]: item for item in objects.values() if item["kind"] == kind}


def containers(deployment: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    pod = deployment["spec"]["template"]["spec"]
    yield from [*pod["containers"], *pod.get("initContainers", [])]


def test_files_are_checked_before_the_server_starts(rendered: Rendered) -> None:
    """Where they lie in the pod: last of what runs before, by the server's own image."""
    for item in of_kind(rendered[1], "Deployment").values():
        pod = item["spec"]["template"]["spec"]
        first = [each["command"][0] for each in pod.get("initContainers", [])]
        mounted = any(mount["name"] == "models" for mount in pod["containers"][0]["volumeMounts"])
        assert first in ([["sha256sum"], ["cp", "sha256sum"]] if mounted else [[]])
        if mounted:
            assert pod["initContainers"][-1]["image"] == pod["containers"][0]["image"]


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
    """Whatever the image says, which may be another than ours."""
    for deployment in of_kind(rendered[1], "Deployment").values():
        variables = {each["name"]: each.get("value") for each in next(containers(deployment))["env"]}
        assert variables.items() >= ALLOCATOR.items()


def test_ports_are_named_alike_everywhere(rendered: Rendered) -> None:
    for deployment in of_kind(rendered[1], "Deployment").values():
        container = next(containers(deployment))
        ports = {each["name"]: each["containerPort"] for each in container["ports"]}
        assert ports == {"http": 8000, "grpc": 8001, "metrics": 8002}
        probed = {container[f"{kind}Probe"]["httpGet"]["port"] for kind in ("startup", "liveness", "readiness")}
        assert probed == {"http"}
    (monitor,) = of_kind(rendered[1], "PodMonitor").values()
    assert monitor["spec"]["podMetricsEndpoints"][0]["port"] == "metrics"


def test_probes_ask_what_fails_after_the_start(rendered: Rendered) -> None:
    """The pod's own model, whose process may die; while models load, the startup probe alone is asked."""
    fleet, objects = rendered
    for service in fleet.services:
        container = next(containers(of_kind(objects, "Deployment")[service.name]))
        startup, liveness, readiness = (container[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness"))
        assert startup["httpGet"]["path"] == "/v2/health/ready"
        assert startup["failureThreshold"] * startup["periodSeconds"] >= load_s(service)
        assert (
            liveness["httpGet"] == readiness["httpGet"] == {"path": f"/v2/models/{service.model}/ready", "port": "http"}
        )
        for probe, patience_s in ((liveness, 30), (readiness, 10)):
            assert probe["failureThreshold"] * probe["periodSeconds"] == patience_s


def test_pods_may_do_nothing_but_serve(rendered: Rendered) -> None:
    for account in of_kind(rendered[1], "ServiceAccount").values():
        assert account["automountServiceAccountToken"] is False
    for name, deployment in of_kind(rendered[1], "Deployment").items():
        pod = deployment["spec"]["template"]["spec"]
        assert pod["serviceAccountName"] == name
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(deployment):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def quantity_bytes(text: str) -> int:
    return int(text.removesuffix("Mi")) * 1024**2


def test_memory_holds_weights_and_shm_and_requests_are_limits(rendered: Rendered) -> None:
    built, objects = rendered
    for service in built.services:
        deployment = of_kind(objects, "Deployment")[service.name]
        volumes = {each["name"]: each for each in deployment["spec"]["template"]["spec"]["volumes"]}
        shm = quantity_bytes(volumes["shm"]["emptyDir"]["sizeLimit"])
        for container in containers(deployment):
            resources = container["resources"]
            memory = quantity_bytes(resources["limits"]["memory"])
            assert memory >= service.files_bytes + shm - 1024**2
            assert memory >= service.planned.memory_bytes + service.shm_bytes
            assert {**resources["limits"], **resources["requests"]} == resources["limits"]
            assert int(resources["limits"]["cpu"]) == service.instances
            gpus = resources["limits"].get("nvidia.com/gpu")
            assert gpus == ("1" if service.planned.device == "gpu" else None)
        disk = sum(quantity_bytes(each["emptyDir"]["sizeLimit"]) for each in volumes.values() if "emptyDir" in each)
        assert disk - shm <= quantity_bytes(resources["limits"]["ephemeral-storage"])


def test_a_pod_numbers_its_gpus_itself(tmp_path: Path) -> None:
    """Two of a node's four are 0 and 1 in the pod that is lent them, whichever they are."""
    of_a_node, of_a_pod = (fleet(tmp_path / str(gpus), Made(device="gpu", gpus=gpus)) for gpus in ((2, 3), (1, 0)))
    with pytest.raises(PlanError) as caught:
        render(of_a_node, options())
    assert caught.value.problems == tuple(
        f"{name}: gpus: expected [0, 1], as a pod numbers the GPUs that it is lent, got [2, 3]; change it in the plan "
        "and build the fleet again"
        for name in ("tier0", "tier1")
    )
    deployments = of_kind(render(of_a_pod, options()), "Deployment").values()
    limits = [next(containers(each))["resources"]["limits"].get("nvidia.com/gpu") for each in deployments]
    assert sorted(limits, key=str) == ["2", "2", None]


def test_pods_go_to_nodes_that_can_run_them(rendered: Rendered) -> None:
    built, objects = rendered
    for service in built.services:
        pod = of_kind(objects, "Deployment")[service.name]["spec"]["template"]["spec"]
        on_gpu = service.planned.device == "gpu"
        assert pod["nodeSelector"]["kubernetes.io/arch"] == "amd64"
        assert ("nvidia.com/gpu.present" in pod["nodeSelector"]) == on_gpu
        assert ("tolerations" in pod) == on_gpu
        assert [each["topologyKey"] for each in pod["topologySpreadConstraints"]] == [
            "topology.kubernetes.io/zone",
            "kubernetes.io/hostname",
        ]


def test_a_pod_has_time_to_load_and_to_end(rendered: Rendered) -> None:
    built, objects = rendered
    for service in built.services:
        deployment = of_kind(objects, "Deployment")[service.name]
        container = next(containers(deployment))
        startup = container["startupProbe"]
        assert startup["periodSeconds"] * startup["failureThreshold"] >= 60 + service.files_bytes / 50e6
        (drain,) = [int(each.split("=")[1]) for each in container["args"] if each.startswith("--exit-timeout-secs")]
        grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        assert grace >= container["lifecycle"]["preStop"]["sleep"]["seconds"] + drain + 10
        assert drain > built.sla_ms / 1000
        assert "replicas" not in deployment["spec"]
        assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


@pytest.mark.parametrize(
    ("source", "repository"),
    [
        ("s3://https://minio.store:9000/models/v7/", "s3://https://minio.store:9000/models/v7/tier0"),
        ("gs://models", "gs://models/tier0"),
        ("pvc:models", "/models"),
        ("init:registry/rm1", "/models"),
    ],
)
def test_models_come_from_where_they_are(source: str, repository: str, tmp_path: Path) -> None:
    objects = render(fleet(tmp_path), options(source))
    pod = objects["rm1-tier0-deployment.yaml"]["spec"]["template"]["spec"]
    assert f"--model-repository={repository}" in pod["containers"][0]["args"]
    mounts = {each["name"]: each for each in pod["containers"][0]["volumeMounts"]}
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert mounts.keys() == volumes.keys()
    assert ("models" in mounts) == (repository == "/models")
    if source == "pvc:models":
        assert mounts["models"] == {"name": "models", "mountPath": "/models", "readOnly": True, "subPath": "tier0"}
    egress = objects["rm1-tier0-networkpolicy.yaml"]["spec"].get("egress", [])
    ports = {each["port"] for rule in egress for each in rule["ports"]}
    assert ports == ({53, 80, 443} | ({9000} if "minio" in source else set()) if "//" in source else set())


def test_tls_is_mutual_and_on_the_shards(tmp_path: Path) -> None:
    objects = render(fleet(tmp_path), options(tls_secret=TLS_SECRET))
    front, shard = (
        objects[f"rm1-{name}-deployment.yaml"]["spec"]["template"]["spec"] for name in ("frontend", "tier0")
    )
    for pod in (front, shard):
        assert {"secretName": TLS_SECRET, "defaultMode": 0o440} in [each.get("secret") for each in pod["volumes"]]
    assert "--grpc-use-ssl-mutual=true" in shard["containers"][0]["args"]
    assert not any("ssl" in word for word in front["containers"][0]["args"])
    env = {each["name"]: each.get("value") for each in front["containers"][0]["env"]}
    named = {env[f"ELASTICREC_TLS_{part}"].rpartition("/")[2] for part in ("CA", "CERT", "KEY")}
    assert named == {"ca.crt", "tls.crt", "tls.key"}


def test_new_addresses_start_new_front_ends(tmp_path: Path) -> None:
    built = fleet(tmp_path)
    hashes = set()
    for namespace in ("a", "b"):
        template = render(built, options(namespace=namespace))["rm1-frontend-deployment.yaml"]["spec"]["template"]
        hashes.add(template["metadata"]["annotations"]["elasticrec/addresses-sha256"])
    assert len(hashes) == 2


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
    assert {path.name for path in theirs.iterdir()} == {"kustomization.yaml", "deployment.yaml"}


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
