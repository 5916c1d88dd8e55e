"""What each service of a running fleet does and takes: queries a second, latency, memory; from its own servers."""

from __future__ import annotations

import math
import re
import time
import urllib.request
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import psutil

from repo_builder.local_fleet.replica import Replica
from repo_builder.local_fleet.service import Service
from repo_builder.repository.built_fleet import BuiltService
from repo_builder.serving.processes import memory_by_model
from repo_builder.serving.server import Server

PERIOD_S = 2.0
HISTORY_S = 300.0
WINDOW_S = 60.0  # that Triton's summaries look back
STARTUP_SHARE = 0.05  # of the calls in a window: more of a start's own slow ones would make the 95th percentile
_SERIES = re.compile(r"^(\w+)\{([^}]*)\} (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sample:
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
    samples: Mapping[str, Sample]
    ready: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Reading:
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

    def __init__(self, services: Iterable[Service]) -> None:
        self.samples: Mapping[str, Sample] = {}
        self.history: deque[Moment] = deque(maxlen=round(HISTORY_S / PERIOD_S))
        self._services = tuple(services)
        self._before: Mapping[str, Reading] = {}  # by replica
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

    def _read(self) -> Iterator[tuple[str, Reading]]:
        for service in self._services:
            for replica in service.replicas:
                if reading := _reading(service.about, replica):
                    first = self._before.get(replica.name)
                    startup = first.startup if first else reading.successes
                    if service.about.is_frontend:  # the ensemble has no warm-up: whatever it answers is a query
                        startup = 0.0
                    ready_s = time.monotonic() - (replica.ready_at_s or math.inf)
                    yield replica.name, replace(reading, startup=startup, ready_s=ready_s)


def combine(readings: Iterable[tuple[Reading | None, Reading | None]], spent_s: float) -> Sample:
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
    return Sample(successes / spent_s, slowest_us / 1000 if slowest_us else None, memory_bytes)


def _has_own_p95(reading: Reading) -> bool:
    """Whether the calls of its start no longer make its 95th percentile: few among many, or too long ago."""
    return reading.ready_s >= WINDOW_S or reading.startup <= STARTUP_SHARE * reading.successes


def _reading(about: BuiltService, replica: Replica) -> Reading | None:
    """None where the replica is not there, or just goes."""
    if replica.server is None or replica.state == "ended":
        return None
    try:
        text = _text(replica.server)
        memory_bytes = sum(memory_by_model(replica.server.process.pid).values())
    except (OSError, psutil.Error):
        return None
    successes = sum(metric(text, "nv_inference_request_success", model=about.model))
    quantiles = metric(text, "nv_inference_request_summary_us", model=about.model, quantile="0.95")
    return Reading(successes, max((value for value in quantiles if math.isfinite(value)), default=0.0), memory_bytes)


def metric(text: str, name: str, **labels: str) -> Iterator[float]:
    """The values of a metric's series that have these labels, in Prometheus's text format."""
    wanted = {f'{key}="{value}"' for key, value in labels.items()}
    for series, found, value in _SERIES.findall(text):
        if series == name and wanted <= set(found.split(",")):
            yield float(value)


def _text(server: Server) -> str:
    with urllib.request.urlopen(server.metrics, timeout=2) as answer:  # noqa: S310 - our own server
        content: bytes = answer.read()
    return content.decode()
