"""A running fleet as a document: what `ps --json`, the terminal view and the status page show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from repo_builder.local_fleet.events import Events
from repo_builder.local_fleet.replica import Replica
from repo_builder.local_fleet.sampler import Moment, Sample, Sampler
from repo_builder.local_fleet.supervisor import Supervisor

EVENTS = 12

Status = Mapping[str, Any]


def status(supervisor: Supervisor, sampler: Sampler, events: Events, links: Mapping[str, str | None]) -> Status:
    """The services with their replicas, the latest events, and `links`: `page`, `prometheus` and `rules`, or None."""
    samples = sampler.samples
    services = [
        {
            "name": service.name,
            "wanted": service.wanted,
            "ready": len(service.ready),
            **asdict(samples.get(service.name, Sample())),
            "replicas": [_replica(replica) for replica in service.replicas],
        }
        for service in supervisor.services.values()
    ]
    return {
        "model": supervisor.model,
        "phase": supervisor.phase,
        **links,
        "services": services,
        "events": events.last(EVENTS),
    }


def page_status(found: Status, sampler: Sampler) -> Status:
    """What the page shows beside the status: totals, and what was seen over the last minutes, oldest first.

    Each query goes through the front end, the first service: its queries/s and latency are the fleet's.
    """
    services, moments = found["services"], tuple(sampler.history)
    return {
        **found,
        "totals": {
            "qps": services[0]["qps"],
            "p95_ms": services[0]["p95_ms"],
            "ready": sum(service["ready"] for service in services),
            "wanted": sum(service["wanted"] for service in services),
            "memory_bytes": sum(service["memory_bytes"] for service in services),
        },
        "history": {service["name"]: _past(service["name"], moments) for service in services},
        "history_unix_s": [moment.at_unix_s for moment in moments],
    }


def _past(service: str, moments: Sequence[Moment]) -> Status:
    samples = [moment.samples[service] for moment in moments]
    return {
        "qps": [sample.qps for sample in samples],
        "p95_ms": [sample.p95_ms for sample in samples],
        "ready": [moment.ready[service] for moment in moments],
    }


def _replica(replica: Replica) -> Status:
    server = replica.server
    return {
        "name": replica.name,
        "state": replica.state,
        "pid": server.process.pid if server else None,
        "grpc": server.grpc if server else None,
        "http": server.http if server else None,
        "metrics": server.metrics if server else None,
        "log": str(replica.log),
    }
