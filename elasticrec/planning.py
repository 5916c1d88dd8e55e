"""Plans: where the tables are cut, why there, what if, and on which nodes."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from elasticrec.loading import Watch, load_hotness, log, unwatched
from elasticrec.rows import with_chosen_rows
from repo_builder.access.hotness import Hotness
from repo_builder.analysis.choice import best_plan
from repo_builder.analysis.explain import Chain
from repo_builder.analysis.explain import explain as explain_plan
from repo_builder.analysis.sizing import Sizing, sizings
from repo_builder.analysis.sweep import FIELDS, Setting, Sweep, SweepPoint, run_sweep
from repo_builder.errors import InputError
from repo_builder.output import Tell
from repo_builder.partition.accesses import ModelAccesses, model_accesses
from repo_builder.partition.cost import DEFAULT_PROFILE, Profile
from repo_builder.partition.placement.cluster import Cluster
from repo_builder.partition.placement.place import Placement, placement_document
from repo_builder.partition.placement.place import place as place_plan
from repo_builder.partition.plan import Grouping, Plan, plan_to_json
from repo_builder.partition.worth import LEAST_SAVING, PROFILE_ERROR
from repo_builder.spec import Spec


def plan(
    spec: Spec,
    hotness: Hotness | None = None,
    *,
    profile: Profile = DEFAULT_PROFILE,
    cluster: Cluster | None = None,
    grouping: Grouping | None = None,
    s_max: int = 16,
    utilisation: float = 1.0,
    least_saving: float = LEAST_SAVING,
    profile_error: float = PROFILE_ERROR,
    watch: Watch = unwatched,
    tell: Tell = log,
) -> Plan:
    """Cut the tables by hotness so that the fleet's memory is smallest at the spec's target traffic.

    hotness: read from the spec's accesses where it is not given; cluster: whose containers' least memory counts;
    grouping: `tiered`, a service holds one hotness tier of all tables, or `per_table`, a service a shard; where none is
    given, `tiered`, or replicas of the whole model (`model_wise`) where cutting saves less than 5% of their memory;
    s_max: the most shards per table; utilisation: the share of a replica's most queries per second to count on;
    least_saving: the share of the embedding services' memory that a service must save, beside the front ends that its
    calls take up: cuts that save less are merged. With 0 none is, nothing but cutting is weighed, and the profile is
    taken to the letter: the paper's recurrence; profile_error: the share by which the profile's times may be off,
    either way: the cuts are those with the least memory on average over that. Where the spec has a budget of score
    error (`rows`) the formats with the least memory within it are chosen first, and told.

    >>> spec = elasticrec.load_spec("rm1.yaml")
    >>> plan = elasticrec.plan(spec)
    >>> plan.grouping, [service.name for service in plan.services], plan.choice.whole_replicas
    ('model_wise', ['dense', 'tables'], 1)
    >>> [service.name for service in elasticrec.plan(spec, grouping="tiered").services]
    ['dense', 'tier0']
    >>> profile = elasticrec.load_profile("profile.json")
    >>> plan = elasticrec.plan(spec, profile=profile, grouping="tiered", s_max=4)
    >>> [(service.name, sum(shard.rows for shard in service.shards)) for service in plan.embedding_services]
    [('tier0', 131), ('tier1', 587), ('tier2', 19282)]
    """
    found = hotness or load_hotness(spec, watch=watch, tell=tell)
    profile = of_containers(profile, cluster)
    spec = _with_rows(spec, found, profile, grouping, s_max, utilisation, least_saving, profile_error, watch, tell)
    accesses = model_accesses(spec, found)
    return best_plan(spec, accesses, profile, grouping, s_max, utilisation, least_saving, profile_error)[0]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A plan, its cuts with what they and their neighbours cost, and the accesses that all that rests on.

    `cut` is the best plan that cuts, which is explained: `plan` itself, unless that is the whole model's.
    `sizes` are its replicas counted both ways; none where the profile does not know the CPU at light load.
    """

    plan: Plan
    cut: Plan
    chains: tuple[Chain, ...]
    sizes: tuple[Sizing, ...]
    accesses: ModelAccesses


def explain(
    spec: Spec,
    hotness: Hotness | None = None,
    *,
    profile: Profile = DEFAULT_PROFILE,
    cluster: Cluster | None = None,
    grouping: Grouping | None = None,
    s_max: int = 16,
    utilisation: float = 1.0,
    least_saving: float = LEAST_SAVING,
    profile_error: float = PROFILE_ERROR,
    watch: Watch = unwatched,
    tell: Tell = log,
) -> Explanation:
    """Plan as `plan` does, and say why each cut lies where it does, and which were merged.

    >>> spec, profile = elasticrec.load_spec("rm1.yaml"), elasticrec.load_profile("profile.json")
    >>> (cut,) = elasticrec.explain(spec, profile=profile, grouping="tiered", s_max=2).chains[0].cuts
    >>> cut.left.name, cut.right.name, all(move.cost_bytes >= 0 for move in cut.moves)
    ('tier0', 'tier1', True)
    """
    found = hotness or load_hotness(spec, watch=watch, tell=tell)
    profile = of_containers(profile, cluster)
    spec = _with_rows(spec, found, profile, grouping, s_max, utilisation, least_saving, profile_error, watch, tell)
    accesses = model_accesses(spec, found, keep=True)
    best, cut = best_plan(spec, accesses, profile, grouping, s_max, utilisation, least_saving, profile_error)
    sizes = sizings(spec, cut, profile, utilisation) if profile.light_load else ()
    chains = explain_plan(spec, accesses, profile, cut, utilisation, least_saving, profile_error)
    return Explanation(best, cut, chains, sizes, accesses)


@dataclass(frozen=True, slots=True)
class Swept:
    """The plans at all values of a sweep, and the setting that it varies."""

    sweep: Sweep
    setting: Setting
    points: tuple[SweepPoint, ...]


def sweep(
    spec: Spec,
    values: Sweep,
    *,
    profile: Profile = DEFAULT_PROFILE,
    grouping: Grouping | None = None,
    s_max: int = 16,
    utilisation: float = 1.0,
    least_saving: float = LEAST_SAVING,
    profile_error: float = PROFILE_ERROR,
    watch: Watch = unwatched,
    tell: Tell = log,
) -> Swept:
    """Plan at every value of one setting, `tiered` where no grouping is given, beside replicas of the whole model.

    values: of `locality`, `target_qps`, `s_max`, `fixed_s` (of a call) or `min_memory` (bytes of a container).

    >>> spec, values = elasticrec.load_spec("rm1.yaml"), elasticrec.Sweep("target_qps", (100, 1000, 10_000))
    >>> [point.model_wise_replicas for point in elasticrec.sweep(spec, values).points]
    [1, 1, 3]
    """
    _check_sweep(values)
    if spec.rows.budget is not None:
        found = load_hotness(spec, watch=watch, tell=tell)
        spec = _with_rows(spec, found, profile, grouping, s_max, utilisation, least_saving, profile_error, watch, tell)
    setting = Setting(spec, profile, grouping or "tiered", s_max, utilisation, least_saving, profile_error)
    points = run_sweep(values, setting, lambda each: load_hotness(each, watch=watch, tell=tell))
    return Swept(values, setting, points)


def _check_sweep(sweep: Sweep) -> None:
    """As `plan --sweep` does of its words."""
    field = FIELDS.get(sweep.field)
    if field is None:
        raise InputError(f"sweep: field: expected one of {', '.join(FIELDS)}, got {sweep.field!r}")
    if not sweep.values or not all(field.low <= value <= field.high for value in sweep.values):
        raise InputError(
            f"sweep: values: expected {sweep.field} from {field.low:g} to {field.high:g}, got {sweep.values}"
        )


def place(spec: Spec, plan: Plan, cluster: Cluster, *, profile: Profile = DEFAULT_PROFILE) -> Placement:
    """Choose each service's device and pack the replicas onto a cluster's nodes, at the least price.

    >>> spec, cluster = elasticrec.load_spec("rm1.yaml"), elasticrec.load_cluster("examples/clusters/cpu.yaml")
    >>> placement = elasticrec.place(spec, elasticrec.plan(spec, cluster=cluster), cluster)
    >>> placement.packing.nodes, placement.packing.price_per_hour
    (1, 3.5)
    """
    return place_plan(spec, plan, of_containers(profile, cluster), cluster)


def plan_json(plan: Plan | Placement) -> str:
    """A plan's file, which `load_plan` and `elasticrec build --plan` read; of a placed plan with the nodes beside it.

    >>> print(elasticrec.plan_json(elasticrec.plan(elasticrec.load_spec("rm1.yaml"))).splitlines()[2].strip())
    "spec": "rm1",
    """
    if isinstance(plan, Plan):
        return plan_to_json(plan)
    document = {**json.loads(plan_to_json(plan.plan)), "placement": placement_document(plan)}
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def of_containers(profile: Profile, cluster: Cluster | None) -> Profile:
    """The profile with the least memory of a container that the cluster says, where it does."""
    if cluster is None or cluster.min_memory_bytes is None:
        return profile
    return replace(profile, min_memory_bytes=cluster.min_memory_bytes)


def _with_rows(
    spec: Spec,
    hotness: Hotness,
    profile: Profile,
    grouping: Grouping | None,
    s_max: int,
    utilisation: float,
    least_saving: float,
    profile_error: float,
    watch: Watch,
    tell: Tell,
) -> Spec:
    """The spec with the formats that its budget allows, by the plans that are made of it."""

    def planned(each: Spec) -> Plan:
        accesses = model_accesses(each, hotness)
        return best_plan(each, accesses, profile, grouping, s_max, utilisation, least_saving, profile_error)[0]

    return with_chosen_rows(spec, hotness, planned, watch, tell)
