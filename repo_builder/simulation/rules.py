"""What Prometheus would answer to the scaling rules' queries (`repo_builder.scaling.rules`) in a simulation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repo_builder.scaling.hpa import Target
from repo_builder.scaling.rules import GUARD_SHARE, MAX_VALUE, SCRAPE_S, WINDOW_S
from repo_builder.simulation.queues import STEP_S

Floats = NDArray[np.float64]
_LEAST_QPS = 0.001  # of the queries' clamp_min


@dataclass(frozen=True, slots=True)
class Rule:
    """A trigger of a service: `name` is that of `repo_builder.scaling.rules.Trigger`."""

    name: str
    target: Target


@dataclass(frozen=True, slots=True)
class Sample:
    """A service over the window: mean wait in its queue, mean time since a query was sent, its ready pods.

    `rate_qps` are the queries a second that the service answered, or the front end if these are more.
    """

    rate_qps: float
    queue_us: float
    latency_us: float
    ready: int


@dataclass(slots=True)
class Counters:
    """The counters of the last window and scrape, of every service; entry -1 is now, the front end the last service.

    Prometheus knows them as they were at its last scrape, which is taken to be as old as it can be.

    sent        (w + 1,)    queries that clients sent, in all
    came, done  (w + 1, n)  queries that came to and left each service, in all
    """

    sent: Floats
    came: Floats
    done: Floats

    @classmethod
    def begin(cls, services: int, rate_qps: float) -> Counters:
        """Counters of a steady rate that came and went; they are 0 now."""
        sent = rate_qps * STEP_S * np.arange(-(WINDOW_S + SCRAPE_S) / STEP_S, 1.0)
        came = np.repeat(sent[:, None], services, axis=1)
        return cls(sent, came, came.copy())

    def add(self, sent: Floats, came: Floats, done: Floats) -> None:
        """Let s steps pass, (s,) and (s, n), and as many old ones go."""
        steps = len(sent)
        self.sent = np.concatenate([self.sent, sent])[steps:]
        self.came = np.concatenate([self.came, came])[steps:]
        self.done = np.concatenate([self.done, done])[steps:]

    def samples(self, ready: Sequence[int], idle_s: float) -> list[Sample]:
        """Every service's sample; waits are means by Little's law, where Prometheus has a percentile for the latency.

        `idle_s` is the latency when none waits.
        """
        seen = slice(round(WINDOW_S / STEP_S) + 1)
        done = self.done[seen]
        rates = (done[-1] - done[0]) / WINDOW_S
        us_per_query = 1e6 / np.maximum(rates, _LEAST_QPS)
        queue_us = np.maximum(0.0, (self.came[seen] - done).mean(axis=0)) * us_per_query
        latency_us = np.maximum(0.0, (self.sent[seen, None] - done).mean(axis=0)) * us_per_query + 1e6 * idle_s
        columns = (np.maximum(rates, rates[-1]).tolist(), queue_us.tolist(), latency_us.tolist(), ready)
        return [Sample(*row) for row in zip(*columns, strict=True)]


def values_milli(rules: tuple[Rule, ...], sample: Sample) -> list[int | None]:
    """What the rules' queries answer, in thousandths; no pod, no answer."""
    if not sample.ready:
        return [None] * len(rules)
    thresholds = {rule.name: rule.target.threshold_milli / 1000 for rule in rules}
    return [int(1000 * _ANSWERS[rule.name](sample, thresholds)) for rule in rules]


def _queue(sample: Sample, thresholds: Mapping[str, float]) -> float:
    return min(sample.queue_us, MAX_VALUE * thresholds["queue"])


def _latency(sample: Sample, thresholds: Mapping[str, float]) -> float:
    """Nothing where the front end has neither much to do nor a queue: then others are slow."""
    busy = sample.rate_qps / sample.ready >= GUARD_SHARE * thresholds["throughput"]
    queued = sample.queue_us >= GUARD_SHARE * thresholds["queue"]
    return min(sample.latency_us, MAX_VALUE * thresholds["latency"]) if busy or queued else 0.0


_ANSWERS: Mapping[str, Callable[[Sample, Mapping[str, float]], float]] = {
    "throughput": lambda sample, _: sample.rate_qps,
    "queue": _queue,
    "latency": _latency,
}
