"""A plan beside replicas of the whole model: at equal traffic, and over hours of traffic that comes and goes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from elasticrec.loading import StrPath, Watch, load_hotness, log, unwatched
from elasticrec.planning import of_containers
from elasticrec.rows import compare_rows, with_chosen_rows
from repo_builder.analysis.compare import SWEEP_REPLICAS, Comparison, ComparisonReport
from repo_builder.analysis.compare import compare as compare_fleets
from repo_builder.analysis.fleets import ComparisonCase, model_wise
from repo_builder.analysis.row_formats import FormatComparison
from repo_builder.errors import InputError
from repo_builder.output import Tell
from repo_builder.partition.accesses import model_accesses
from repo_builder.partition.cost import DEFAULT_PROFILE, Profile
from repo_builder.partition.placement.cluster import Cluster
from repo_builder.partition.plan import Grouping
from repo_builder.partition.planner import make_plan
from repo_builder.partition.worth import LEAST_SAVING, PROFILE_ERROR
from repo_builder.spec import Spec
from repo_builder.traffic import Traffic
from repo_builder.traffic import load_traffic as read_traffic

if TYPE_CHECKING:
    from repo_builder.simulation.fleets import SimulatedFleet, Timing
    from repo_builder.simulation.report import Played


def compare(
    specs: Iterable[Spec],
    cluster: Cluster,
    *,
    profile: Profile = DEFAULT_PROFILE,
    s_max: int = 16,
    least_saving: float = LEAST_SAVING,
    profile_error: float = PROFILE_ERROR,
    replicas: int = 10,
    row_speed: bool = False,
    watch: Watch = unwatched,
    tell: Tell = log,
) -> ComparisonReport:
    """Compare plans with replicas of the whole model, at the traffic of so many of those and over a sweep of traffic.

    Row formats are compared at the same traffic: their bytes, and where a spec's trained weights are there what they do
    to scores, for which the tables are read once. row_speed: measure on this machine how fast rows are read, too.
    specs: may be a generator; only one spec's accesses are held at a time. least_saving, profile_error: as for `plan`.

    >>> spec, cluster = elasticrec.load_spec("rm1.yaml"), elasticrec.load_cluster("examples/clusters/cpu.yaml")
    >>> (found,) = elasticrec.compare([spec], cluster).comparisons
    >>> [result.strategy for result in found.results]
    ['model-wise', 'per_table', 'tiered']
    """

    def found(spec: Spec) -> tuple[Comparison, tuple[Comparison, ...], FormatComparison]:
        hotness = load_hotness(spec, watch=watch, tell=tell)
        planned = partial(
            make_plan,
            hotness=hotness,
            profile=profile,
            grouping="tiered",
            s_max=s_max,
            least_saving=least_saving,
            profile_error=profile_error,
        )
        spec = with_chosen_rows(spec, hotness, planned, watch, tell)
        accesses = model_accesses(spec, hotness, keep=True)
        case = ComparisonCase(spec, accesses, profile, cluster, s_max, least_saving, profile_error)
        comparison, points = compare_fleets(case, replicas, SWEEP_REPLICAS)
        return comparison, points, compare_rows(case, hotness, comparison.target_qps, row_speed, watch)

    if replicas < 1:
        raise InputError(f"replicas: expected at least 1, of the whole model, to compare with, got {replicas}")
    of_specs = [found(spec) for spec in specs]
    if not of_specs:
        raise InputError("specs: expected at least one to compare, got none")
    comparisons, sweeps, row_formats = zip(*of_specs, strict=True)
    return ComparisonReport(profile, cluster, s_max, replicas, comparisons, sweeps, row_formats)


def load_traffic(path: StrPath) -> Traffic:
    """Read traffic over time: a CSV of `seconds,qps`, each rate until the next row, the last row only an end.

    >>> traffic = elasticrec.load_traffic("examples/traffic/day.csv")
    >>> traffic.end_s
    86400.0
    """
    return read_traffic(Path(path))


def simulate(
    spec: Spec,
    traffic: Traffic,
    *,
    profile: Profile = DEFAULT_PROFILE,
    cluster: Cluster | None = None,
    grouping: Grouping = "tiered",
    s_max: int = 16,
    timing: Timing | None = None,
    watch: Watch = unwatched,
    tell: Tell = log,
) -> tuple[Played, Played]:
    """Play traffic against replicas of the whole model and against the plan's fleet, in this order.

    Both are scaled by the rules that `k8s` renders and Kubernetes' own arithmetic, cold starts included; with a cluster
    their price is known too, and its containers' least memory counts.
    timing: how long new pods take, by default the documented guesses.

    >>> spec, traffic = elasticrec.load_spec("rm1.yaml"), elasticrec.load_traffic("examples/traffic/day.csv")
    >>> whole, ours = elasticrec.simulate(spec, traffic)
    >>> whole.name, ours.name
    ('model-wise', 'tiered')
    """
    from repo_builder.simulation.fleets import DEFAULT_TIMING, SimulatedModel, planned_fleet, whole_fleet
    from repo_builder.simulation.play import simulate as play  # these import gRPC's Python
    from repo_builder.simulation.report import Played, prices_over_time

    profile = of_containers(profile, cluster)
    hotness = load_hotness(spec, watch=watch, tell=tell)
    planned = partial(
        make_plan,
        hotness=hotness,
        profile=profile,
        grouping=grouping,
        s_max=s_max,
        least_saving=LEAST_SAVING,
        profile_error=PROFILE_ERROR,
    )
    spec = with_chosen_rows(spec, hotness, planned, watch, tell)
    plan = planned(spec)
    model = SimulatedModel(spec.name, spec.serving.sla_ms, spec.serving.target_qps, profile)
    whole = model_wise(spec, model_accesses(spec, hotness), profile)
    simulated = (
        whole_fleet(model, whole.replicas(model.target_qps), whole.alone_s),
        planned_fleet(model, plan),
    )

    def played(fleet: SimulatedFleet) -> Played:
        timeline = play(fleet, traffic, timing or DEFAULT_TIMING, spec.serving.sla_ms / 1000)
        return Played(timeline, prices_over_time(timeline, cluster) if cluster else None)

    return played(simulated[0]), played(simulated[1])
