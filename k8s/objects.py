"""What all objects share: labels, names, ports and quantities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from repo_builder.repository.built_fleet import BuiltFleet, BuiltService
from repo_builder.repository.service_names import dns_name

Object = Mapping[str, Any]

HTTP, GRPC, METRICS = 8000, 8001, 8002
PORTS = {"http": HTTP, "grpc": GRPC, "metrics": METRICS}

TRITON_GRPC = 8003
"""Of Triton itself where a shard's own listener has GRPC, so that addresses and rules are the same for all shards."""

KUBERNETES, KEDA = "1.30", "2.18"
"""The oldest versions that keep every field: Kubernetes 1.30 has `preStop.sleep` on by default; KEDA 2.17 knows
`fallback.behavior`, which an older one drops silently, and 2.18 falls back for metrics of type Value too.
"""

_REQUIRES = {"elasticrec/requires": f"Kubernetes >= {KUBERNETES}, KEDA >= {KEDA}"}


def fleet_labels(fleet: BuiltFleet) -> dict[str, str]:
    """What selects every pod of the fleet."""
    return {"app.kubernetes.io/name": "elasticrec", "app.kubernetes.io/instance": dns_name(fleet.model)}


def selector(fleet: BuiltFleet, service: BuiltService) -> dict[str, str]:
    """What selects a service's pods; it never changes, or a Deployment could not be updated."""
    return {**fleet_labels(fleet), "app.kubernetes.io/component": service.name}


def metadata(name: str, namespace: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """An object's metadata; as an annotation, what the objects need of the cluster."""
    return {"name": name, "namespace": namespace, "labels": dict(labels), "annotations": dict(_REQUIRES)}


def mebibytes(size_bytes: int) -> str:
    """A quantity of memory or disk, rounded up."""
    return f"{-(-size_bytes // 1024**2)}Mi"
