"""Services, who may talk to whom, and what Prometheus scrapes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from k8s.objects import GRPC, HTTP, METRICS, PORTS, Object, fleet_labels, metadata, selector
from k8s.options import ManifestOptions
from repo_builder.repository.built_fleet import BuiltFleet, BuiltService
from repo_builder.scaling.queries import SCRAPE_S

_DNS = {"ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]}


def addresses_json(fleet: BuiltFleet, namespace: str) -> str:
    """The front end's addresses file: each embedding service under the plan's name, by the DNS of its pods."""
    addresses = {
        service.planned.name: f"dns:///{service.name}.{namespace}.svc.cluster.local:{GRPC}" for service in fleet.shards
    }
    return json.dumps(addresses, indent=1) + "\n"


def service(fleet: BuiltFleet, each: BuiltService, options: ManifestOptions) -> Object:
    """A headless Service: its name resolves to every ready pod, and gRPC clients balance among them."""
    labels = selector(fleet, each)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(each.name, options.namespace, labels),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "selector": labels,
            "ports": [{"name": name, "port": port, "targetPort": name} for name, port in PORTS.items()],
        },
    }


def network_policy(fleet: BuiltFleet, each: BuiltService, options: ManifestOptions) -> Object:
    """Who reaches a service's pods, and whom they reach: nobody else, and nobody else.

    Clients come from anywhere to the front end; only the front end comes to the embedding services; metrics are
    Prometheus's. A node's own probes pass, as Kubernetes has it.
    """
    labels = selector(fleet, each)
    egress = list(_egress(fleet, each, options))
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata(each.name, options.namespace, labels),
        "spec": {
            "podSelector": {"matchLabels": labels},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [_callers(fleet, each), _prometheus(options)],
            **({"egress": egress} if egress else {}),  # an empty list would be gone on the server, and a diff for ever
        },
    }


def _callers(fleet: BuiltFleet, each: BuiltService) -> Mapping[str, Any]:
    if each.is_frontend:
        return {"ports": _tcp(HTTP, GRPC)}
    return {"from": [{"podSelector": {"matchLabels": selector(fleet, fleet.frontend)}}], "ports": _tcp(GRPC)}


def _prometheus(options: ManifestOptions) -> Mapping[str, Any]:
    """Prometheus, by the label that its operator and its chart give it."""
    namespace = {"matchLabels": {"kubernetes.io/metadata.name": options.prometheus_namespace}}
    pods = {"matchLabels": {"app.kubernetes.io/name": "prometheus"}}
    return {"from": [{"namespaceSelector": namespace, "podSelector": pods}], "ports": _tcp(METRICS)}


def _egress(fleet: BuiltFleet, each: BuiltService, options: ManifestOptions) -> Iterator[Mapping[str, Any]]:
    store_ports = options.source.egress_ports
    if each.is_frontend:
        shards = {
            "matchLabels": fleet_labels(fleet),
            "matchExpressions": [
                {
                    "key": "app.kubernetes.io/component",
                    "operator": "In",
                    "values": [shard.name for shard in fleet.shards],
                }
            ],
        }
        yield {"to": [{"podSelector": shards}], "ports": _tcp(GRPC)}
    if each.is_frontend or store_ports:
        yield _DNS
    if store_ports:
        yield {"ports": _tcp(*store_ports)}


def _tcp(*ports: int) -> Sequence[Mapping[str, Any]]:
    return [{"protocol": "TCP", "port": port} for port in ports]


def pod_monitor(fleet: BuiltFleet, options: ManifestOptions) -> Object:
    """What Prometheus's operator scrapes; it adds the labels `namespace` and `instance` that the rules select by."""
    labels = fleet_labels(fleet)
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PodMonitor",
        "metadata": metadata(labels["app.kubernetes.io/instance"], options.namespace, labels),
        "spec": {
            "selector": {"matchLabels": labels},
            "podMetricsEndpoints": [
                {
                    "port": "metrics",
                    "path": "/metrics",
                    "interval": f"{SCRAPE_S}s",
                    "scrapeTimeout": f"{SCRAPE_S}s",
                    "honorLabels": False,
                }
            ],
        },
    }
