"""The strategies side by side at equal target traffic, for one spec and averaged over several; as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repo_builder.analysis.fleets import MODEL_WISE, STRATEGIES, ComparisonCase, SizedFleet, SizedFleets
from repo_builder.analysis.row_formats import FormatComparison, format_document
from repo_builder.analysis.utility import FIRST_QUERIES, Utility, UtilityModel
from repo_builder.partition.cost import Profile
from repo_builder.partition.placement.cluster import Cluster

PAPER = {"memory": 3.3, "utility": 8.1, "price": 1.6}
"""ElasticRec's published averages over model-wise serving (ISCA 2024, abstract)."""

METRICS = ("memory", "utility", "utility by bytes", "price", "price in parts")
SWEEP_REPLICAS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100)

ASSUMPTIONS = (
    "equal traffic: the most that so many model-wise replicas serve with a 95th percentile within the SLA",
    "equal replicas: one instance on one core, times from the same profile, none loaded above what model-wise may be",
    "cuts that save less than a container is worth are merged (--least-saving), the others have the least memory on "
    "average where the profile is off (--profile-error)",
    "model-wise: all tables and the dense layers in one container; a query takes the dense time plus one call",
    "GPU cache: the hottest rows and the dense layers on the GPU, misses on the CPU at the same time",
    f"utility: share of a replica's rows touched by its first {FIRST_QUERIES:,} queries, mean over replicas; by bytes: "
    "replicas weighed by their rows",
    "price in parts: as if nodes were sold in parts; price: whole nodes with the cluster's spread",
    "sweep: nothing is placed on nodes, ElasticRec's services on CPUs",
)

_FIELDS = (
    "memory_bytes",
    "utility",
    "utility_by_bytes",
    "services",
    "replicas",
    "remote_calls",
    "nodes",
    "price_per_hour",
    "parts_price_per_hour",
    "bottleneck",
    "unplaced",
)


@dataclass(frozen=True, slots=True)
class Result:
    """What one strategy takes. Prices are an hour's.

    `services` counts kinds of containers, `replicas` containers; `memory_bytes` is of all of them. `nodes` and
    `price_per_hour` are of whole nodes, None where it was not placed or could not be (`unplaced` says why);
    `parts_price_per_hour` is as if nodes were sold in parts (`SizedFleet.price_in_parts`).
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


@dataclass(frozen=True, slots=True)
class ComparisonReport:
    """All that `elasticrec compare` found: a comparison, a sweep of comparisons and the row formats per spec."""

    profile: Profile
    cluster: Cluster
    s_max: int
    model_wise_replicas: int
    comparisons: tuple[Comparison, ...]
    sweeps: tuple[tuple[Comparison, ...], ...]
    row_formats: tuple[FormatComparison, ...] = ()

    @property
    def strategies(self) -> tuple[str, ...]:
        """The strategies that were compared, model-wise first."""
        return tuple(strategy for strategy in STRATEGIES if self.comparisons[0].result(strategy))

    def sweep_at(self, point: int) -> tuple[Comparison, ...]:
        """The comparisons of all specs at one point of the sweep."""
        return tuple(sweep[point] for sweep in self.sweeps)


def compare(
    case: ComparisonCase, replicas: int, sweep: Sequence[int] = ()
) -> tuple[Comparison, tuple[Comparison, ...]]:
    """The comparison on the cluster at the traffic of so many model-wise replicas, and a sweep without nodes.

    The sweep's results have prices in parts alone, and no services on GPUs but the cache.
    """
    fleets, utility = SizedFleets(case), UtilityModel(case.accesses.tables)
    return (
        _compare(fleets, utility, replicas, fleets.placed),
        tuple(_compare(fleets, utility, count, fleets.fleet) for count in sweep),
    )


def average_gains(comparisons: Sequence[Comparison], strategy: str) -> Mapping[str, float | None]:
    """The arithmetic mean of `gains` over specs, by METRICS; None where one of them has none."""
    gains = [comparison.gains(strategy) for comparison in comparisons]
    return {metric: _mean([gain[metric] for gain in gains]) for metric in METRICS}


def report_json(report: ComparisonReport) -> str:
    """The report as the text of a JSON file."""
    document = {
        "profile": report.profile.name,
        "cluster": report.cluster.name,
        "s_max": report.s_max,
        "model_wise_replicas": report.model_wise_replicas,
        "assumptions": list(ASSUMPTIONS),
        "comparisons": [_comparison(comparison) for comparison in report.comparisons],
        "average_gains": {name: average_gains(report.comparisons, name) for name in report.strategies},
        "paper_gains": PAPER,
        "sweeps": [[_comparison(comparison) for comparison in sweep] for sweep in report.sweeps],
        "row_formats": [format_document(found) for found in report.row_formats],
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def report_csv(report: ComparisonReport) -> str:
    """A line per spec, number of model-wise replicas and strategy; `placed` is yes for what was packed onto nodes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["spec", "model_wise_replicas", "target_qps", "placed", "strategy", *_FIELDS])
    writer.writerows(_rows(report.comparisons, "yes"))
    for sweep in report.sweeps:
        writer.writerows(_rows(sweep, "no"))
    return text.getvalue()


def _rows(comparisons: Sequence[Comparison], placed: str) -> Iterator[list[Any]]:
    for found in comparisons:
        for result in found.results:
            figures = _figures(result)
            head = [found.spec, found.model_wise_replicas, found.target_qps, placed, result.strategy]
            yield [*head, *("" if figures[field] is None else figures[field] for field in _FIELDS)]


def _figures(result: Result) -> dict[str, Any]:
    own = {field: getattr(result, field) for field in _FIELDS if not field.startswith("utility")}
    return {**own, "utility": result.utility.by_replica, "utility_by_bytes": result.utility.by_bytes}


def _comparison(found: Comparison) -> dict[str, Any]:
    return {
        "spec": found.spec,
        "model_wise_replicas": found.model_wise_replicas,
        "target_qps": found.target_qps,
        "utilisation": found.utilisation,
        "strategies": {
            result.strategy: {**_figures(result), "gains": found.gains(result.strategy)} for result in found.results
        },
    }


def _ratio(base: float | None, ours: float | None) -> float | None:
    return None if base is None or not ours else base / ours


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _compare(
    fleets: SizedFleets, utility: UtilityModel, replicas: int, make: Callable[[str, float], SizedFleet]
) -> Comparison:
    case, target_qps = fleets.case, fleets.target_qps(replicas)
    results = tuple(_result(make(strategy, target_qps), utility, case.cluster) for strategy in fleets.strategies)
    return Comparison(case.spec.name, replicas, target_qps, fleets.whole.utilisation, results)


def _result(fleet: SizedFleet, utility: UtilityModel, cluster: Cluster) -> Result:
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
