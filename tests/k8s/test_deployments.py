"""What a pod is given and may do: its files, memory, GPUs, times, probes and certificates."""

from pathlib import Path

import pytest

from k8s.pods import load_s
from k8s.render import render
from repo_builder.errors import PlanError
from tests.k8s.fleets import TLS_SECRET, Made, fleet, options
from tests.k8s.manifests import Rendered, containers, of_kind


def test_files_are_checked_before_the_server_starts(rendered: Rendered) -> None:
    """Where they lie in the pod: last of what runs before, by the server's own image."""
    for item in of_kind(rendered[1], "Deployment").values():
        pod = item["spec"]["template"]["spec"]
        first = [each["command"][0] for each in pod.get("initContainers", [])]
        mounted = any(mount["name"] == "models" for mount in pod["containers"][0]["volumeMounts"])
        assert first in ([["sha256sum"], ["cp", "sha256sum"]] if mounted else [[]])
        if mounted:
            assert pod["initContainers"][-1]["image"] == pod["containers"][0]["image"]


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


def test_memory_holds_weights_and_shm_and_its_limit_what_is_under_way_too(rendered: Rendered) -> None:
    built, objects = rendered
    for service in built.services:
        deployment = of_kind(objects, "Deployment")[service.name]
        volumes = {each["name"]: each for each in deployment["spec"]["template"]["spec"]["volumes"]}
        shm = quantity_bytes(volumes["shm"]["emptyDir"]["sizeLimit"])
        for container in containers(deployment):
            resources = container["resources"]
            memory = quantity_bytes(resources["requests"]["memory"])
            assert memory >= service.files_bytes + shm - 1024**2
            assert memory >= service.planned.memory_bytes + service.shm_bytes
            most = quantity_bytes(resources["limits"]["memory"])
            assert memory + service.in_flight_bytes <= most <= memory + service.in_flight_bytes + 1024**2
            disk = "ephemeral-storage"
            assert resources["limits"][disk] == resources["requests"][disk]
            assert int(resources["limits"]["cpu"]) == service.instances
            assert int(resources["requests"]["cpu"]) == service.planned.instances  # as the plan packs it on nodes
            assert resources["requests"].keys() == {"cpu", "memory", disk}
            gpus = resources["limits"].get("nvidia.com/gpu")
            assert gpus == ("1" if service.planned.device == "gpu" else None)
        volumes_bytes = sum(
            quantity_bytes(each["emptyDir"]["sizeLimit"]) for each in volumes.values() if "emptyDir" in each
        )
        assert volumes_bytes - shm <= quantity_bytes(resources["limits"]["ephemeral-storage"])


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
        ("s3://minio.store:9000/models", "s3://minio.store:9000/models/tier0"),
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
    own = {9000} if "minio" in source else {988} if source.startswith("gs:") else set()
    assert ports == ({53, 80, 443} | own if "//" in source else set())


CALLED = {"name": "ELASTICREC_LISTEN", "value": "0.0.0.0:8001"}


def test_native_shards_take_calls_where_all_shards_are_called(tmp_path: Path) -> None:
    """Triton's own gRPC makes room there; nobody else's pod, address or rule differs from those of Python shards."""
    native, python = (
        render(fleet(tmp_path / backend, Made(backend=backend)), options())
        for backend in ("elasticrec_shard", "python")
    )
    for name, differs in (("tier0", True), ("tier1", True), ("frontend", False)):
        file = f"rm1-{name}-deployment.yaml"
        mine, others = next(containers(native[file])), next(containers(python[file]))
        assert (CALLED in mine["env"]) == ("--grpc-port=8003" in mine["args"]) == differs
        assert CALLED not in others["env"] and "--grpc-port=8003" not in others["args"]
        assert mine["ports"] == others["ports"] and {"name": "grpc", "containerPort": 8001} in mine["ports"]
    rest = {path for path in native if not path.endswith("deployment.yaml")}
    unlike = {path for path in rest if native[path] != python[path]}
    assert not {path for path in unlike if "network" in path or "service" in path or "addresses" in path}


@pytest.mark.parametrize("tls", [None, TLS_SECRET])
@pytest.mark.parametrize(
    "made",
    [
        Made(backend="elasticrec_shard", library=b"of an earlier build"),
        Made(backend="elasticrec_shard", library=b"reads ELASTICREC_LISTEN, of one that knows no TLS"),
        Made(device="gpu"),
    ],
    ids=["earlier", "plain", "gpu"],
)
def test_other_shards_are_called_at_tritons_grpc(made: Made, tls: str | None, tmp_path: Path) -> None:
    objects = render(fleet(tmp_path, made), options(tls_secret=tls))
    for deployment in of_kind(objects, "Deployment").values():
        container = next(containers(deployment))
        assert "ELASTICREC_LISTEN" not in {each["name"] for each in container["env"]}
        assert not any(word.startswith("--grpc-port") for word in container["args"])


@pytest.mark.parametrize("backend", ["python", "elasticrec_shard"])
def test_tls_is_mutual_and_on_the_shards(backend: str, tmp_path: Path) -> None:
    """At Triton's gRPC, and by the same files where a native shard takes calls past it."""
    objects = render(fleet(tmp_path, Made(backend=backend)), options(tls_secret=TLS_SECRET))
    front, shard = (
        objects[f"rm1-{name}-deployment.yaml"]["spec"]["template"]["spec"] for name in ("frontend", "tier0")
    )
    for pod in (front, shard):
        assert {"secretName": TLS_SECRET, "defaultMode": 0o440} in [each.get("secret") for each in pod["volumes"]]
    words = dict(word.partition("=")[::2] for word in shard["containers"][0]["args"])
    assert words["--grpc-use-ssl"] == words["--grpc-use-ssl-mutual"] == "true"
    listener = {each["name"]: each["value"] for each in shard["containers"][0]["env"] if "LISTEN" in each["name"]}
    assert listener == (
        {}
        if backend == "python"
        else {
            "ELASTICREC_LISTEN": "0.0.0.0:8001",
            "ELASTICREC_LISTEN_CA": words["--grpc-root-cert"],
            "ELASTICREC_LISTEN_CERT": words["--grpc-server-cert"],
            "ELASTICREC_LISTEN_KEY": words["--grpc-server-key"],
        }
    )
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
