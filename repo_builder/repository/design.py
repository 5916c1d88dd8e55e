"""The design of a repository: a spec's model by a plan in a layout, and all that follows from these three."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from repo_builder.errors import PlanError
from repo_builder.model.source import Partial, divisors_name
from repo_builder.model.types import BATCH, Model, Tensor
from repo_builder.partition.plan import Plan, Service, check_plan, plan_sha256
from repo_builder.repository.descriptions import routed_tensors
from repo_builder.repository.manifest import PLAN, Layout
from repo_builder.repository.wiring import Holding, divisors_width, joined, model_name, on_wire, partials, wire
from repo_builder.spec import Spec

FRONTEND: Final = "frontend"


@dataclass(frozen=True, slots=True)
class Arrangement:
    """A layout.

    frontend: the folder of the repository with the ensemble and all that is no embedding service; "": the top itself.
    separate: each embedding service has a repository of its own, in a folder of its name, and servers of its own: a
    replica is a server more there, else an instance more. router: what gives the ids to the services: `router`, by the
    ensemble's tensors, or `fanout`, over the network. versioned: the embedding services' version folder is a number
    made of the build's weights and cuts, else 1. uncut: the plan has all tables whole, and a replica is a server more.
    unpooled: rows of un-pooled look-ups travel as they are, each once; else as sums of one row.
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
        return service.instances if self.separate or self.uncut else service.instances * service.deployed


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
    if arrangement.separate and plan.grouping == "model_wise":
        problems.append(
            f"grouping: expected a plan that cuts for the layout {layout}, got model_wise; build it with --layout "
            "model-wise, or plan with --grouping tiered"
        )
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


DEGRADED = "degraded"
FIRST_VERSION = "1"


@dataclass(frozen=True, slots=True)
class Design:
    """What is to be built. wiring: of the plan's embedding services, in its order."""

    spec: Spec
    plan: Plan
    layout: Layout
    wiring: Sequence[Holding]

    @classmethod
    def of(cls, spec: Spec, plan: Plan, layout: Layout) -> Design:
        """Raises PlanError where the plan does not fit the spec or the layout."""
        check_plan(plan, spec)
        check_layout(plan, layout)
        design = cls(spec, plan, layout, wire(spec.model, plan, unpooled=LAYOUTS[layout].unpooled))
        problems = list(design._name_problems())
        if problems:
            raise PlanError(*problems)
        return design

    @property
    def model(self) -> Model:
        """The model that is served."""
        return self.spec.model

    @property
    def arrangement(self) -> Arrangement:
        """What the layout means."""
        return LAYOUTS[self.layout]

    @property
    def metadata(self) -> dict[str, str]:
        """What stands in every config as its parameters."""
        sha256 = plan_sha256(self.plan)
        return {"elasticrec.plan": f"{self.plan.grouping}, {PLAN}", "elasticrec.plan_sha256": sha256}

    @property
    def sums(self) -> Sequence[Partial]:
        """The dense graph's inputs for looked-up vectors."""
        return joined(self.model) if self.arrangement.router == "fanout" else partials(self.wiring)

    @property
    def divisors(self) -> dict[str, int]:
        """The dense graph's inputs for what bags' sums are divided by, and their widths."""
        groups = [group for group in range(len(self.model.groups)) if self.model.has_means(group)]
        return {divisors_name(group): divisors_width(self.model, group) for group in groups}

    @property
    def flags(self) -> list[str]:
        """Outputs beside the model's, that say of each row how it was answered."""
        degrades = self.arrangement.router == "fanout" and self.spec.fleet.missing_shard == "degrade"
        return [DEGRADED] if degrades else []

    @property
    def recodes(self) -> bool:
        """Whether services store rows in fewer bits than they came in."""
        tables = enumerate(self.model.tables)
        formats = ((held.stored(i), table.format) for i, table in tables for held in self.wiring if i in held.matrix_of)
        return any(stored != came for stored, came in formats)

    @property
    def joins(self) -> bool:
        """Whether the dense model joins the rows of several queries."""
        return self.model.dense.batched and [group.rows for group in self.model.groups] == [BATCH]

    @property
    def routed(self) -> list[Tensor]:
        """The router's inputs: what look-ups name, what it checks, and what nobody else reads of the model's inputs."""
        model, graph = self.model, self.model.ids_graph
        named = {*routed_tensors(model), *model.finite}
        read = {tensor.name for tensor in (*model.dense.inputs, *(graph.inputs if graph else ()))}
        made = [tensor for tensor in (graph.outputs if graph else ()) if tensor.name in named]
        return [tensor for tensor in model.inputs if tensor.name in named or tensor.name not in read] + made

    def folder(self, service: Service, version: str = FIRST_VERSION) -> str:
        """The version folder of a service's model, relative to the repository's root."""
        return f"{self.arrangement.repository(service)}{model_name(self.spec, service.name)}/{version}"

    def front_folder(self, part: str) -> str:
        """The version folder of a model beside the dense one: `router`, `ids`."""
        return f"{self.frontend}{model_name(self.spec, part)}/{FIRST_VERSION}"

    @property
    def frontend(self) -> str:
        """The folder of the repository with the ensemble, "" for the top or ending with a slash."""
        return self.arrangement.repository(self.dense)

    @property
    def dense(self) -> Service:
        """The plan's dense service."""
        return next(service for service in self.plan.services if service.kind == "dense")

    def _name_problems(self) -> Iterator[str]:
        """The model's tensors and the wiring's meet in one ensemble; and the ids graph is a model of its own."""
        model, graph = self.model, self.model.ids_graph
        own = {tensor.name for tensor in (*model.inputs, *model.outputs, *(graph.outputs if graph else ()))}
        ours = {*self.divisors, *self.flags, *(partial.name for partial in self.sums)}
        for held in self.wiring:
            kinds = ((kind, share.group) for share in held.shares for kind in share.asks)
            ours |= {on_wire(held.name, kind, group) for kind, group in kinds}
            if graph and held.name == "ids":
                yield "plan: services: expected no embedding service named ids, which computes them; rename it"
        for name in sorted(own & ours):
            yield f"model: {name}: this name of an input or output is taken by the wiring; export it under another"
