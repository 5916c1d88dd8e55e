"""The layouts as data: where each model lies, what routes, and what a replica is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from repo_builder.errors import PlanError
from repo_builder.partition.plan import Plan, Service
from repo_builder.repository.manifest import Layout

FRONTEND: Final = "frontend"


@dataclass(frozen=True, slots=True)
class Arrangement:
    """A layout.

    frontend: the folder of the repository with the ensemble and all that is no embedding service; "": the top itself.
    separate: each embedding service has a repository of its own, in a folder of its name, and servers of its own: a
    replica is a server more there, else an instance more. router: what gives the ids to the services: `router`, by the
    ensemble's tensors, or `fanout`, over the network. versioned: the embedding services' version folder is a number
    made of the build's weights and cuts, else 1. uncut: the plan has all tables whole. unpooled: rows of un-pooled
    look-ups travel as they are, each once; else as sums of one row.
    """

    frontend: str
    separate: bool
    router: Literal["router", "fanout"]
    versioned: bool
    uncut: bool = False
    unpooled: bool = False

    def repository(self, service: Service) -> str:
        """The folder of the repository that a service's model is in, "" for the top or ending with a slash."""
        folder = service.name if self.separate and service.kind == "embedding" else self.frontend
        return f"{folder}/" if folder else ""

    def count(self, service: Service) -> int:
        """Instances of a service in a server."""
        return service.instances if self.separate else service.instances * service.deployed


LAYOUTS: Mapping[Layout, Arrangement] = {
    "single": Arrangement("", separate=False, router="router", versioned=False),
    "fleet": Arrangement(FRONTEND, separate=True, router="fanout", versioned=True, unpooled=True),
    "model-wise": Arrangement("", separate=False, router="router", versioned=False, uncut=True),
}

MAX_INSTANCES = 64  # processes of one model in one server


def check_layout(plan: Plan, layout: Layout) -> None:
    """Raise PlanError where a plan cannot be laid out so."""
    arrangement = LAYOUTS[layout]
    problems = []
    if arrangement.uncut and plan.grouping != "model_wise":
        problems.append(f"grouping: expected model_wise for the layout {layout}, got {plan.grouping}")
    for i, service in enumerate(plan.services):
        if arrangement.separate and service.kind == "embedding" and service.name == arrangement.frontend:
            problems.append(f"services: expected no embedding service named {service.name} in a fleet; rename it")
        if arrangement.count(service) > MAX_INSTANCES:
            problems.append(
                f"services[{i}].replicas: expected at most {MAX_INSTANCES} instances of {service.name} in one server, "
                f"got {arrangement.count(service)}; lower replicas in the plan, or serving.target_qps in the spec"
            )
    if problems:
        raise PlanError(*(f"plan: {problem}" for problem in problems))
