"""Building the model-wise layout: the baseline that the others are measured against, the whole model in one server.

It is the single layout with nothing cut: the same ensemble, router, kernels and backends, and one embedding service
that holds every table whole. With one shard a table there is nothing to look up, so the router's id maps are empty.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from repo_builder.access.hotness import Hotness
from repo_builder.access.progress import Progress, silent
from repo_builder.errors import PlanError
from repo_builder.export.weights import WeightSource
from repo_builder.partition.cost import Profile
from repo_builder.partition.plan import Plan
from repo_builder.partition.planner import make_plan
from repo_builder.repository.build import build
from repo_builder.repository.configs import ShardBackend
from repo_builder.repository.manifest import Manifest
from repo_builder.spec import Spec

LAYOUT: Final = "model-wise"
GROUPING: Final = "model_wise"
EMBEDDING = "tables"
"""The name of the one embedding service."""


def model_wise_plan(spec: Spec, hotness: Hotness, profile: Profile) -> Plan:
    """One embedding service with all tables, and the dense layers; one instance of each, whatever the target traffic.

    More traffic is served by more whole servers, which is what the layout is there to show: so the plan says neither
    the target traffic nor a latency at it. Raises PlanError where even idle services miss the spec's SLA.
    """
    uncut = make_plan(spec, hotness, profile, "tiered", s_max=1)
    services = tuple(
        replace(service, name=EMBEDDING if service.kind == "embedding" else service.name, replicas=1, added=0)
        for service in uncut.services
    )
    return replace(uncut, grouping=GROUPING, services=services, target_qps=None, s_max=None, latency=None)


def build_model_wise(
    spec: Spec,
    plan: Plan,
    hotness: Hotness,
    weights: WeightSource,
    target: Path,
    progress: Progress = silent,
    shard_backend: ShardBackend = "python",
) -> Manifest:
    """Write the repository of the model-wise layout to `target`, as `build` does that of the single layout.

    Raises what `build` raises, and PlanError for a plan that is not `model_wise_plan`'s.
    """
    if plan.grouping != GROUPING:
        raise PlanError(f"plan: grouping: expected {GROUPING} for the layout {LAYOUT}, got {plan.grouping}")
    return build(spec, plan, hotness, weights, target, progress, shard_backend, layout=LAYOUT)
