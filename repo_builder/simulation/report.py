"""What a simulation found: a summary of each fleet, what its pods cost, and all of it as JSON or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.errors import PlacementError
from repo_builder.partition.placement.cluster import Cluster
from repo_builder.partition.placement.nodes import Demand, price_in_parts
from repo_builder.scaling.hpa import SYNC_S
from repo_builder.simulation.play import Timeline

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Played:
    """A fleet's timeline, and what its pods cost an hour over time, (k,); None without a cluster."""

    timeline: Timeline
    price_per_hour: Floats | None

    @property
    def name(self) -> str:
        """The fleet's name."""
        return self.timeline.fleet.name

    @property
    def missed_share(self) -> Floats:
        """(k,) The share of the queries that missed the SLA; 0 where none came."""
        timeline = self.timeline
        return np.asarray(timeline.missed / np.where(timeline.arrived > 0, timeline.arrived, 1.0))


@dataclass(frozen=True, slots=True)
class SimulationSummary:
    """A fleet over the whole time. `price` is of it all; `at_maximum` names services that reached their maximum."""

    fleet: str
    mean_replicas: float
    peak_replicas: int
    mean_memory_bytes: float
    peak_memory_bytes: int
    missed_share: float
    price: float | None
    at_maximum: tuple[str, ...]


def summarize(played: Played) -> SimulationSummary:
    """The means over time, the peaks, and the share of all queries that missed the SLA."""
    timeline, price = played.timeline, played.price_per_hour
    replicas, memory = timeline.replicas.sum(axis=1), timeline.memory_bytes
    services = zip(timeline.fleet.services, timeline.replicas.max(axis=0), strict=True)
    return SimulationSummary(
        fleet=played.name,
        mean_replicas=float(replicas.mean()),
        peak_replicas=int(replicas.max()),
        mean_memory_bytes=float(memory.mean()),
        peak_memory_bytes=int(memory.max()),
        missed_share=float(timeline.missed.sum() / max(float(timeline.arrived.sum()), 1e-9)),
        price=None if price is None else float(price.mean() * len(price) * SYNC_S / 3600),
        at_maximum=tuple(service.name for service, most in services if most >= service.hpa.max_replicas),
    )


def prices_over_time(timeline: Timeline, cluster: Cluster) -> Floats:
    """(k,) An hour's price if nodes were sold in parts, by `price_in_parts`: whole nodes and spreading come on top.

    Packing them takes seconds, and a day has 5,760 syncs. Raises PlacementError where no pool's nodes hold a replica of
    every service.
    """
    services = timeline.fleet.services
    demands = [Demand(s.name, 1, s.instances * cluster.instance_millicores, s.memory_bytes) for s in services]
    pools = [pool for pool in cluster.pools if all(demand.fits(pool) for demand in demands)]
    if not pools:
        most = max(demands, key=lambda demand: demand.memory_bytes)
        raise PlacementError(
            f"{cluster.name}: expected a pool whose nodes hold a replica of {most.name}, {most.memory_bytes / 1e9:.1f} "
            f"GB and {most.millicores / 1000:g} cores, and of all other services, found none; add larger nodes"
        )
    return price_in_parts(timeline.replicas @ np.array([demand.vector for demand in demands], float), pools)


def report_json(played: Sequence[Played], about: Mapping[str, object], series: bool) -> str:
    """Summaries, and with `series` what happened at each sync; `about` says what was played."""
    document: dict[str, Any] = {**about, "fleets": [asdict(summarize(each)) for each in played]}
    if series:
        document["seconds"] = played[0].timeline.times_s.tolist()
        document["qps"] = _rounded(played[0].timeline.arrived / SYNC_S)
        for each, entry in zip(played, document["fleets"], strict=True):
            entry["series"] = _series(each)
    return json.dumps(document, indent=None if series else 2, allow_nan=False) + "\n"


def _series(played: Played) -> dict[str, Any]:
    timeline = played.timeline
    return {
        "memory_bytes": [int(value) for value in timeline.memory_bytes],
        "missed_share": _rounded(played.missed_share),
        "price_per_hour": None if played.price_per_hour is None else _rounded(played.price_per_hour),
        "replicas": {name: counts.tolist() for name, counts in timeline.by_service().items()},
        "ready": dict(zip(timeline.by_service(), timeline.ready.T.tolist(), strict=True)),
    }


def report_csv(played: Sequence[Played]) -> str:
    """A row per sync and fleet: what came, and what the fleet had."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["seconds", "qps", "fleet", "replicas", "ready", "memory_bytes", "missed_share", "price_per_hour"])
    for each in played:
        timeline = each.timeline
        price = _rounded(each.price_per_hour) if each.price_per_hour is not None else [""] * len(timeline.times_s)
        writer.writerows(
            zip(
                timeline.times_s.tolist(),
                _rounded(timeline.arrived / SYNC_S),
                [each.name] * len(timeline.times_s),
                timeline.replicas.sum(axis=1).tolist(),
                timeline.ready.sum(axis=1).tolist(),
                [int(value) for value in timeline.memory_bytes],
                _rounded(each.missed_share),
                price,
                strict=True,
            )
        )
    return text.getvalue()


def _rounded(values: Floats) -> list[float]:
    """To nine digits behind the point: enough for every reader, and the same on every machine."""
    return [round(value, 9) for value in values.tolist()]
