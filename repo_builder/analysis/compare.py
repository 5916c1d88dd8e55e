"""The strategies side by side at equal target traffic, for one spec and averaged over several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from repo_builder.analysis.fleets import MODEL_WISE, Case, Fleet, Fleets
from repo_builder.analysis.utility import Utility, UtilityModel
from repo_builder.partition.placement.cluster import Cluster

PAPER = {"memory": 3.3, "utility": 8.1, "price": 1.6}
"""ElasticRec's published averages over model-wise serving (ISCA 2024, abstract)."""

METRICS = ("memory", "utility", "utility by bytes", "price", "price in parts")
SWEEP_REPLICAS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)


@dataclass(frozen=True, slots=True)
class Result:
    """What one strategy takes. Prices are an hour's.

    `services` counts kinds of containers, `replicas` containers; `memory_bytes` is of all of them. `nodes` and
    `price_per_hour` are of whole nodes, None where it was not placed or could not be (`unplaced` says why);
    `parts_price_per_hour` is as if nodes were sold in parts (`Fleet.price_in_parts`).
    """

    strategy: str
    memory_bytes: int
    utility: Utility
    services: int
    replicas: int
    remote_calls: int
    nodes: int | None
    price_per_hour: float | None
    parts_price_per_hour: float | None
    bottleneck: str
    unplaced: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """The results of one spec at the traffic that `model_wise_replicas` replicas of the whole model serve."""

    spec: str
    model_wise_replicas: int
    target_qps: float
    utilisation: float
    results: tuple[Result, ...]

    def result(self, strategy: str) -> Result | None:
        """A strategy's result; None where the cluster did not allow it."""
        return next((result for result in self.results if result.strategy == strategy), None)

    def gains(self, strategy: str) -> Mapping[str, float | None]:
        """How many times better than model-wise a strategy is, by METRICS; None where one of them has no figure."""
        base, ours = self.result(MODEL_WISE), self.result(strategy)
        if base is None or ours is None:
            return dict.fromkeys(METRICS)
        return {
            "memory": base.memory_bytes / ours.memory_bytes,
            "utility": ours.utility.by_replica / base.utility.by_replica,
            "utility by bytes": ours.utility.by_bytes / base.utility.by_bytes,
            "price": _ratio(base.price_per_hour, ours.price_per_hour),
            "price in parts": _ratio(base.parts_price_per_hour, ours.parts_price_per_hour),
        }


def compare(case: Case, replicas: int, sweep: Sequence[int] = ()) -> tuple[Comparison, tuple[Comparison, ...]]:
    """The comparison on the cluster at the traffic of so many model-wise replicas, and a sweep without nodes.

    The sweep's results have prices in parts alone, and no services on GPUs but the cache.
    """
    fleets, utility = Fleets(case), UtilityModel(case.workload.tables)
    return (
        _compare(fleets, utility, replicas, fleets.placed),
        tuple(_compare(fleets, utility, count, fleets.fleet) for count in sweep),
    )


def average_gains(comparisons: Sequence[Comparison], strategy: str) -> Mapping[str, float | None]:
    """The arithmetic mean of `gains` over specs, by METRICS; None where one of them has none."""
    gains = [comparison.gains(strategy) for comparison in comparisons]
    return {metric: _mean([gain[metric] for gain in gains]) for metric in METRICS}


def _ratio(base: float | None, ours: float | None) -> float | None:
    return None if base is None or not ours else base / ours


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _compare(fleets: Fleets, utility: UtilityModel, replicas: int, make: Callable[[str, float], Fleet]) -> Comparison:
    case, target_qps = fleets.case, fleets.target_qps(replicas)
    results = tuple(_result(make(strategy, target_qps), utility, case.cluster) for strategy in fleets.strategies)
    return Comparison(case.spec.name, replicas, target_qps, fleets.whole.utilisation, results)


def _result(fleet: Fleet, utility: UtilityModel, cluster: Cluster) -> Result:
    packing = fleet.packing
    return Result(
        strategy=fleet.strategy,
        memory_bytes=fleet.memory_bytes,
        utility=utility.of_fleet(fleet.services),
        services=len(fleet.services),
        replicas=fleet.replicas,
        remote_calls=fleet.remote_calls,
        nodes=packing.nodes if packing else None,
        price_per_hour=packing.price_per_hour if packing else None,
        parts_price_per_hour=fleet.price_in_parts(cluster),
        bottleneck=packing.bottleneck if packing else "",
        unplaced=fleet.unplaced,
    )
