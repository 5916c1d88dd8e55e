"""A running fleet as a document: what `ps --json`, the terminal view and the status page show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from repo_builder.fleet.events import Events
from repo_builder.fleet.replica import Replica
from repo_builder.fleet.sampler import Sample, Sampler
from repo_builder.fleet.supervisor import Supervisor

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
