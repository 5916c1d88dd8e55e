"""A service's Deployment: how tritonserver runs in a pod, with what flags, times, resources and probes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from k8s.objects import GRPC, PORTS, TRITON_GRPC, Object, mebibytes, metadata, selector
from k8s.options import ManifestOptions
from repo_builder.machine import allocator
from repo_builder.repository.built_fleet import MIB, BuiltFleet, BuiltService
from repo_builder.repository.native import LISTEN, LISTEN_CA, LISTEN_CERT, LISTEN_KEY
from repo_builder.scaling.queries import latency_flags

PRE_STOP_S = 15
"""A pod that ends goes on serving so long, while clients and kube-proxy learn that it left."""

CONNECTION_AGE_MS = 30_000
"""After which a channel is closed gracefully, so that its client asks the DNS again and finds new pods."""

LOAD_BYTES_PER_S = 50_000_000
START_S = 60
"""To start Triton and its Python processes, and to warm up."""

TLS_FOLDER = "/etc/elasticrec/tls"
TLS_CA, TLS_CERT, TLS_KEY = f"{TLS_FOLDER}/ca.crt", f"{TLS_FOLDER}/tls.crt", f"{TLS_FOLDER}/tls.key"
"""As cert-manager writes them; of both ends of the calls."""

RESTRICTED = "shared-memory,model-config,model-repository,statistics,trace,logging"
ADMIN_KEY = "elasticrec-admin=$(POD_UID)"
"""The header that opens the restricted APIs, with the pod's uid: nobody knows it who may not read pods."""

# mount points in the pod, each an emptyDir of its own: nothing of this machine's shared folders is written or read
SHM_FOLDER = "/dev/shm"  # noqa: S108 - where Triton's Python backend makes its shared memory
SCRATCH_FOLDER = "/tmp"  # noqa: S108 - the one place that can be written, as the pod's root is read-only

ADDRESSES_FOLDER = "/etc/elasticrec/addresses"
ADDRESSES_FILE = "addresses.json"
ADDRESSES = f"{ADDRESSES_FOLDER}/{ADDRESSES_FILE}"

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


def addresses_name(fleet: BuiltFleet) -> str:
    """The ConfigMap with the addresses of the embedding services."""
    return f"{fleet.frontend.name}-addresses"


def deployment(fleet: BuiltFleet, service: BuiltService, options: ManifestOptions, addresses: str) -> Object:
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


def _pod(fleet: BuiltFleet, service: BuiltService, options: ManifestOptions) -> Mapping[str, Any]:
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
    fleet: BuiltFleet, service: BuiltService, options: ManifestOptions, resources: Mapping[str, Any]
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


def _probes(service: BuiltService) -> Mapping[str, Any]:
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


def _resources(service: BuiltService, options: ManifestOptions) -> Mapping[str, Any]:
    """Requests are the plan's cores and memory; limits a core per instance, for each works in one thread, and GPUs.

    The plan's replica of a front end has a core for its dense layers and its router, of which two could work at once. A
    limit of memory that left out the queries under way would end a front end whose shards are slow; one that requested
    them would reserve for every replica what few take, and seldom.
    """
    scratch = SCRATCH_BYTES + options.source.scratch_bytes(service.files_bytes)
    needed = {
        "cpu": str(_planned_cores(service)),
        "memory": mebibytes(service.memory_bytes),
        "ephemeral-storage": mebibytes(scratch + LOG_BYTES + options.source.copied_bytes(service.files_bytes)),
    }
    gpus = {"nvidia.com/gpu": str(len(service.planned.gpus))} if service.planned.device == "gpu" else {}
    most = {**needed, "cpu": str(service.instances), "memory": mebibytes(service.most_memory_bytes)}
    return {"requests": needed, "limits": {**most, **gpus}}


def _planned_cores(service: BuiltService) -> int:
    return service.planned.instances * max(1, len(service.planned.gpus))


def _node_selector(service: BuiltService) -> Mapping[str, str]:
    """The kernels are built for Linux on x86-64; nodes with GPUs bear the label of NVIDIA's GPU feature discovery."""
    gpu = {"nvidia.com/gpu.present": "true"} if service.planned.device == "gpu" else {}
    return {"kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64", **gpu}


def _spread(fleet: BuiltFleet, service: BuiltService) -> Iterator[Mapping[str, Any]]:
    """Over zones and nodes where there are some; a new version's pods are spread by themselves."""
    for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname"):
        yield {
            "maxSkew": 1,
            "topologyKey": key,
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": selector(fleet, service)},
            "matchLabelKeys": ["pod-template-hash"],
        }


def _volumes(fleet: BuiltFleet, service: BuiltService, options: ManifestOptions) -> Iterator[Mapping[str, Any]]:
    scratch = SCRATCH_BYTES + options.source.scratch_bytes(service.files_bytes)
    yield {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": mebibytes(service.shm_bytes)}}
    yield {"name": "tmp", "emptyDir": {"sizeLimit": mebibytes(scratch)}}
    yield from options.source.volumes(service.files_bytes)
    if service.is_frontend:
        yield {"name": "addresses", "configMap": {"name": addresses_name(fleet)}}
    if options.tls_secret:
        yield {"name": "tls", "secret": {"secretName": options.tls_secret, "defaultMode": 0o440}}


def _mounts(service: BuiltService, options: ManifestOptions) -> Iterator[Mapping[str, Any]]:
    yield {"name": "shm", "mountPath": SHM_FOLDER}
    yield {"name": "tmp", "mountPath": SCRATCH_FOLDER}
    yield from options.source.mounts(service.folder)
    if service.is_frontend:
        yield {"name": "addresses", "mountPath": ADDRESSES_FOLDER, "readOnly": True}
    if options.tls_secret:
        yield {"name": "tls", "mountPath": TLS_FOLDER, "readOnly": True}


def drain_s(fleet: BuiltFleet) -> int:
    """How long Triton may finish what is in flight: half a minute, and more where the SLA is of that order."""
    return 30 + math.ceil(fleet.sla_ms / 1000)


def grace_s(fleet: BuiltFleet) -> int:
    """The pod's terminationGracePeriodSeconds."""
    return PRE_STOP_S + drain_s(fleet) + 10


def load_s(service: BuiltService) -> int:
    """How long a pod may take until it is ready, from the size of what it loads."""
    return START_S + math.ceil(service.files_bytes / LOAD_BYTES_PER_S)


def flags(fleet: BuiltFleet, service: BuiltService, model_repository: str, tls: bool) -> Sequence[str]:
    """The command line of tritonserver 2.51 and later; `$(POD_UID)` is filled in by Kubernetes."""
    words = [
        f"--model-repository={model_repository}",
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={drain_s(fleet)}",
        f"--grpc-max-connection-age={CONNECTION_AGE_MS}",
        f"--grpc-max-connection-age-grace={1000 * drain_s(fleet)}",
        f"--http-restricted-api={RESTRICTED}:{ADMIN_KEY}",
        f"--grpc-restricted-protocol={RESTRICTED}:{ADMIN_KEY}",
    ]
    if service.listens:
        words.append(f"--grpc-port={TRITON_GRPC}")
    if service.is_frontend:
        words += latency_flags()
    elif tls:
        words += [
            "--grpc-use-ssl=true",
            "--grpc-use-ssl-mutual=true",
            f"--grpc-server-cert={TLS_CERT}",
            f"--grpc-server-key={TLS_KEY}",
            f"--grpc-root-cert={TLS_CA}",
        ]
    return words


def environment(service: BuiltService, tls: bool) -> Mapping[str, str]:
    """Environment variables, besides POD_UID; the router of the front end finds the embedding services by its own."""
    words = {"HOME": SCRATCH_FOLDER, "PYTHONDONTWRITEBYTECODE": "1", **allocator(_planned_cores(service))}
    if service.listens:
        words[LISTEN] = f"0.0.0.0:{GRPC}"  # where Triton's own ports are bound too
        if tls:
            words |= {LISTEN_CA: TLS_CA, LISTEN_CERT: TLS_CERT, LISTEN_KEY: TLS_KEY}
    if service.is_frontend:
        words["ELASTICREC_ADDRESSES"] = ADDRESSES
        if tls:
            words |= {"ELASTICREC_TLS_CA": TLS_CA, "ELASTICREC_TLS_CERT": TLS_CERT, "ELASTICREC_TLS_KEY": TLS_KEY}
    return words
