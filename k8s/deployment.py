"""A service's Deployment."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from k8s.objects import PORTS, Object, mebibytes, metadata, selector
from k8s.options import Options
from k8s.server import (
    ADDRESSES_FOLDER,
    PRE_STOP_S,
    TLS_FOLDER,
    environment,
    flags,
    grace_s,
    load_s,
)
from repo_builder.repository.built_fleet import MIB, Fleet, FleetService

SCRATCH_BYTES = 256 * MIB  # /tmp, besides what is copied there from an object store
LOG_BYTES = 256 * MIB  # what the container runtime keeps of the log
PROBE_S = 5

_CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
_POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "runAsGroup": 1000,
    "fsGroup": 1000,
    "fsGroupChangePolicy": "OnRootMismatch",  # a large volume is not walked at every start
    "seccompProfile": {"type": "RuntimeDefault"},
}


def addresses_name(fleet: Fleet) -> str:
    """The ConfigMap with the addresses of the embedding services."""
    return f"{fleet.frontend.name}-addresses"


def deployment(fleet: Fleet, service: FleetService, options: Options, addresses: str) -> Object:
    """The Deployment; `addresses` is the text of the front end's addresses file: when it changes, its pods do."""
    labels = selector(fleet, service)
    template: dict[str, Any] = {"labels": labels}
    if service.is_frontend:
        template["annotations"] = {"elasticrec/addresses-sha256": hashlib.sha256(addresses.encode()).hexdigest()}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(service.name, options.namespace, labels),
        "spec": {  # no replicas: the ScaledObject's business
            "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": "25%"}},
            "progressDeadlineSeconds": 600 + 2 * load_s(service),
            "template": {"metadata": template, "spec": _pod(fleet, service, options)},
        },
    }


def _pod(fleet: Fleet, service: FleetService, options: Options) -> Mapping[str, Any]:
    resources = _resources(service, options)
    pod: dict[str, Any] = {
        "serviceAccountName": service.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": _POD_SECURITY,
        "terminationGracePeriodSeconds": grace_s(fleet),
        "nodeSelector": _node_selector(service),
        "topologySpreadConstraints": list(_spread(fleet, service)),
        "containers": [_container(fleet, service, options, resources)],
        "volumes": list(_volumes(fleet, service, options)),
    }
    first = options.source.init_containers(service.folder, options.image, resources, _CONTAINER_SECURITY)
    if first:
        pod["initContainers"] = first
    if options.priority_class:
        pod["priorityClassName"] = options.priority_class
    if service.planned.device == "gpu":
        pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return pod


def _container(
    fleet: Fleet, service: FleetService, options: Options, resources: Mapping[str, Any]
) -> Mapping[str, Any]:
    tls = options.tls_secret is not None
    uid = {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
    variables = [{"name": name, "value": value} for name, value in environment(service, tls).items()]
    return {
        "name": "triton",
        "image": options.image,
        "command": ["tritonserver"],
        "args": list(flags(fleet, service, options.source.model_repository(service.folder), tls)),
        "env": [uid, *variables],
        "ports": [{"name": name, "containerPort": port} for name, port in PORTS.items()],
        "resources": resources,
        "securityContext": _CONTAINER_SECURITY,
        **_probes(service),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_S}}},
        "volumeMounts": list(_mounts(service, options)),
    }


def _probes(service: FleetService) -> Mapping[str, Any]:
    """Whether the server has loaded all its models, then whether its own model can still work.

    Triton opens its ports only once its models are loaded: until then the startup probe alone is asked, as long as that
    may take, so that slow loads are no reason for a restart. A model's own readiness is what sees a Python process that
    died (from Triton 2.65 on; the server's liveness never does). It asks neither the queue nor other servers: a load
    that is too high is none either, and a front end lives whatever its shards do. Whoever is not ready for 10 s gets no
    queries, whoever is dead for 30 s is started again.
    """

    def probe(path: str, failures: int) -> Mapping[str, Any]:
        return {
            "httpGet": {"path": path, "port": "http"},
            "periodSeconds": PROBE_S,
            "timeoutSeconds": PROBE_S,
            "failureThreshold": failures,
        }

    return {
        "startupProbe": probe("/v2/health/ready", -(-load_s(service) // PROBE_S)),
        "livenessProbe": probe(f"/v2/models/{service.model}/ready", 6),
        "readinessProbe": probe(f"/v2/models/{service.model}/ready", 2),
    }


def _resources(service: FleetService, options: Options) -> Mapping[str, Any]:
    """Requests equal limits: a core an instance (each works in one thread), the plan's memory and GPUs."""
    scratch = SCRATCH_BYTES + options.source.scratch_bytes(service.files_bytes)
    needed = {
        "cpu": str(service.instances),
        "memory": mebibytes(service.memory_bytes),
        "ephemeral-storage": mebibytes(scratch + LOG_BYTES + options.source.copied_bytes(service.files_bytes)),
    }
    gpus = {"nvidia.com/gpu": str(len(service.planned.gpus))} if service.planned.device == "gpu" else {}
    return {"requests": needed, "limits": {**needed, **gpus}}


def _node_selector(service: FleetService) -> Mapping[str, str]:
    """The kernels are built for Linux on x86-64; nodes with GPUs bear the label of NVIDIA's GPU feature discovery."""
    gpu = {"nvidia.com/gpu.present": "true"} if service.planned.device == "gpu" else {}
    return {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", **gpu}


def _spread(fleet: Fleet, service: FleetService) -> Iterator[Mapping[str, Any]]:
    """Over zones and nodes where there are some; a new version's pods are spread by themselves."""
    for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname"):
        yield {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector(fleet, service)},
            "matchLabelKeys": ["pod-template-hash"],
        }


def _volumes(fleet: Fleet, service: FleetService, options: Options) -> Iterator[Mapping[str, Any]]:
    scratch = SCRATCH_BYTES + options.source.scratch_bytes(service.files_bytes)
    yield {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": mebibytes(service.shm_bytes)}}
    yield {"name": "tmp", "emptyDir": {"sizeLimit": mebibytes(scratch)}}
    yield from options.source.volumes(service.files_bytes)
    if service.is_frontend:
        yield {"name": "addresses", "configMap": {"name": addresses_name(fleet)}}
    if options.tls_secret:
        yield {"name": "tls", "secret": {"secretName": options.tls_secret, "defaultMode": 0o440}}


def _mounts(service: FleetService, options: Options) -> Iterator[Mapping[str, Any]]:
    yield {"name": "shm", "mountPath": "/dev/shm"}  # noqa: S108 - a mount point in the pod, no temporary file here: Triton's Python backend looks there
    yield {"name": "tmp", "mountPath": "/tmp"}  # noqa: S108 - a mount point in the pod, whose root is read-only
    yield from options.source.mounts(service.folder)
    if service.is_frontend:
        yield {"name": "addresses", "mountPath": ADDRESSES_FOLDER, "readOnly": True}
    if options.tls_secret:
        yield {"name": "tls", "mountPath": TLS_FOLDER, "readOnly": True}
