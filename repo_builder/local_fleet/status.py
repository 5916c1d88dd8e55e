"""What a running fleet does: queries per second, latency and memory, sampled of its own servers, and as a document."""

from __future__ import annotations

import math
import time
import urllib.request
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import psutil
from prometheus_client.parser import text_string_to_metric_families

from repo_builder.local_fleet.run_folder import Events
from repo_builder.local_fleet.services import LocalService, Replica
from repo_builder.local_fleet.supervisor import Supervisor
from repo_builder.repository.built_fleet import BuiltService
from repo_builder.serving.processes import memory_by_model
from repo_builder.serving.server import Server

PERIOD_S = 2.0
HISTORY_S = 300.0
WINDOW_S = 60.0  # that Triton's summaries look back
STARTUP_SHARE = 0.05  # of the calls in a window: more of a start's own slow ones would make the 95th percentile


@dataclass(frozen=True, slots=True)
class ServiceSample:
    """A service over the last seconds: queries/s of all replicas, the slowest replica's 95th percentile (None where no
    query came, or too few beside the calls of its start), and memory (PSS: shared pages are counted once over all
    processes).
    """

    qps: float = 0.0
    p95_ms: float | None = None
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Moment:
    """What was seen at a time (Unix, s): samples and ready replicas by service."""

    at_unix_s: float
    samples: Mapping[str, ServiceSample]
    ready: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ReplicaReading:
    """A replica's counters and memory at one moment; `startup`: its successes at the first one, those of its start;
    `ready_s`: since when it is ready.
    """

    successes: float
    p95_us: float
    memory_bytes: int
    startup: float = 0.0
    ready_s: float = WINDOW_S


class Sampler:
    """Looks at every replica at each `sample`."""

    def __init__(self, services: Iterable[LocalService]) -> None:
        self.samples: Mapping[str, ServiceSample] = {}
        self.history: deque[Moment] = deque(maxlen=round(HISTORY_S / PERIOD_S))
        self._services = tuple(services)
        self._before: Mapping[str, ReplicaReading] = {}  # by replica
        self._at_s = time.monotonic()

    def sample(self) -> None:
        """Read all replicas; `samples` is what they did since the last time."""
        now_s, readings = time.monotonic(), dict(self._read())
        spent_s, before = now_s - self._at_s, self._before
        self.samples = {
            service.name: combine([(before.get(r.name), readings.get(r.name)) for r in service.replicas], spent_s)
            for service in self._services
        }
        self._before, self._at_s = readings, now_s
        ready = {service.name: len(service.ready) for service in self._services}
        self.history.append(Moment(time.time(), self.samples, ready))

    def _read(self) -> Iterator[tuple[str, ReplicaReading]]:
        for service in self._services:
            for replica in service.replicas:
                if reading := _reading(service.about, replica):
                    first = self._before.get(replica.name)
                    startup = first.startup if first else reading.successes
                    if service.about.is_frontend:  # the ensemble has no warm-up: whatever it answers is a query
                        startup = 0.0
                    ready_s = time.monotonic() - (replica.ready_at_s or math.inf)
                    yield replica.name, replace(reading, startup=startup, ready_s=ready_s)


def combine(readings: Iterable[tuple[ReplicaReading | None, ReplicaReading | None]], spent_s: float) -> ServiceSample:
    """A sample of a service; `readings`: of each replica the one before and the one now, `spent_s` apart."""
    successes, memory_bytes, p95_us = 0.0, 0, [0.0]
    for before, now in readings:
        if now is not None:
            memory_bytes += now.memory_bytes
            new = max(0.0, now.successes - before.successes) if before else 0.0
            successes += new
            if new and _has_own_p95(now):
                p95_us.append(now.p95_us)
    slowest_us = max(p95_us)
    return ServiceSample(successes / spent_s, slowest_us / 1000 if slowest_us else None, memory_bytes)


def _has_own_p95(reading: ReplicaReading) -> bool:
    """Whether the calls of its start no longer make its 95th percentile: few among many, or too long ago."""
    return reading.ready_s >= WINDOW_S or reading.startup <= STARTUP_SHARE * reading.successes


def _reading(about: BuiltService, replica: Replica) -> ReplicaReading | None:
    """None where the replica is not there, or just goes."""
    if replica.server is None or replica.state == "ended":
        return None
    try:
        text = metrics_text(replica.server)
        memory_bytes = sum(memory_by_model(replica.server.process.pid).values())
    except (OSError, psutil.Error):
        return None
    successes = sum(metric(text, "nv_inference_request_success", model=about.model))
    quantiles = metric(text, "nv_inference_request_summary_us", model=about.model, quantile="0.95")
    return ReplicaReading(
        successes, max((value for value in quantiles if math.isfinite(value)), default=0.0), memory_bytes
    )


def metric(text: str, name: str, **labels: str) -> Iterator[float]:
    """The values of a metric's series that have these labels, in Prometheus's text format.

    The parser calls every counter NAME_total, as the format's successor asks; Triton does not.
    """
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in (name, f"{name}_total") and labels.items() <= sample.labels.items():
                yield sample.value


def metrics_text(server: Server) -> str:
    """A server's metrics in Prometheus's text format; raises OSError where it does not answer."""
    with urllib.request.urlopen(server.metrics, timeout=2) as answer:  # noqa: S310 - http, to a server that we started
        content: bytes = answer.read()
    return content.decode()


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
            **asdict(samples.get(service.name, ServiceSample())),
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
        "calls": server.calls if server else None,
        "grpc": server.grpc if server else None,
        "http": server.http if server else None,
        "metrics": server.metrics if server else None,
        "log": str(replica.log),
    }
