"""Whether to cut a model at all: the best cut fleet beside replicas of the whole model, at the target traffic.

A whole replica has no calls over the network, no fleet of services to watch, and scales by adding one more. So it is
taken where cutting saves less than `LEAST_FLEET_SAVING` of its memory, the replicas added for the SLA counted on both
sides.
"""

from __future__ import annotations

from dataclasses import replace

from repo_builder.analysis.fleets import WholeModel, model_wise
from repo_builder.errors import PlanError
from repo_builder.partition.accesses import ModelAccesses
from repo_builder.partition.cost import Profile
from repo_builder.partition.latency import Queue, queue_latency
from repo_builder.partition.plan import Choice, Grouping, Plan
from repo_builder.partition.planner import plan_accesses, replicated_plan
from repo_builder.spec import Spec

LEAST_FLEET_SAVING = 0.05
"""The share of the whole replicas' memory that a cut fleet must save."""


def best_plan(
    spec: Spec,
    accesses: ModelAccesses,
    profile: Profile,
    grouping: Grouping | None,
    s_max: int,
    utilisation: float,
    least_saving: float,
    profile_error: float = 0.0,
) -> tuple[Plan, Plan]:
    """The plan to follow, and the best one that cuts: the same, or the whole model's where no grouping is asked for.

    Both say what was weighed (`Plan.choice`), but for a `least_saving` of 0, the paper's recurrence, which weighs none.
    """
    cut = plan_accesses(spec, accesses, profile, grouping or "tiered", s_max, utilisation, least_saving, profile_error)
    if not least_saving:
        return cut, cut
    try:
        whole = model_wise(spec, accesses, profile, utilisation)
    except PlanError:  # even an idle replica misses the SLA
        return cut, cut
    replicas = whole.replicas(spec.serving.target_qps).replicas
    choice = Choice(
        grouping=cut.grouping,
        services=len(cut.services),
        memory_bytes=cut.deployed_memory_bytes,
        whole_replicas=replicas,
        whole_memory_bytes=replicas * whole.memory_bytes,
        least_saving=LEAST_FLEET_SAVING,
    )
    cut = replace(cut, choice=choice)
    if grouping or not choice.is_whole:
        return cut, cut
    return replace(_replicated(spec, accesses, profile, whole, replicas), choice=choice), cut


def _replicated(spec: Spec, accesses: ModelAccesses, profile: Profile, whole: WholeModel, replicas: int) -> Plan:
    load = spec.serving.target_qps * whole.service_s / replicas
    latency = queue_latency(Queue(load, whole.service_s, 1, whole.alone_s))
    return replicated_plan(spec, accesses, profile, replicas, whole.capacity_qps, latency)
