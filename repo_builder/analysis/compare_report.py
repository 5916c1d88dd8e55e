"""A comparison as JSON and CSV, and the assumptions it rests on."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from repo_builder.analysis.compare import PAPER, Comparison, Result, average_gains
from repo_builder.analysis.fleets import STRATEGIES
from repo_builder.analysis.utility import FIRST_QUERIES
from repo_builder.partition.cost import Profile
from repo_builder.partition.placement.cluster import Cluster

ASSUMPTIONS = (
    "equal traffic: the most that so many model-wise replicas serve with a 95th percentile within the SLA",
    "equal replicas: one instance on one core, times from the same profile, none loaded above what model-wise may be",
    "model-wise: all tables and the dense layers in one container; a query takes the dense time plus one call",
    "GPU cache: the hottest rows and the dense layers on the GPU, misses on the CPU at the same time",
    f"utility: share of a replica's rows touched by its first {FIRST_QUERIES:,} queries, mean over replicas; by bytes: "
    "replicas weighed by their rows",
    "price in parts: as if nodes were sold in parts; price: whole nodes with the cluster's spread",
    "sweep: nothing is placed on nodes, ElasticRec's services on CPUs",
)


@dataclass(frozen=True, slots=True)
class Report:
    """All that `elasticrec compare` found: a comparison a spec, and a sweep of comparisons a spec."""

    profile: Profile
    cluster: Cluster
    s_max: int
    model_wise_replicas: int
    comparisons: tuple[Comparison, ...]
    sweeps: tuple[tuple[Comparison, ...], ...]

    @property
    def strategies(self) -> tuple[str, ...]:
        """The strategies that were compared, model-wise first."""
        return tuple(strategy for strategy in STRATEGIES if self.comparisons[0].result(strategy))

    def sweep_at(self, point: int) -> tuple[Comparison, ...]:
        """The comparisons of all specs at one point of the sweep."""
        return tuple(sweep[point] for sweep in self.sweeps)


def report_json(report: Report) -> str:
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
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def report_csv(report: Report) -> str:
    """A line a spec, number of model-wise replicas and strategy; `placed` is yes for what was packed onto nodes."""
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
