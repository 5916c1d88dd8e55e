"""The plan: which rows each service holds, how many replicas serve the target traffic; its file and its rules."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from repo_builder.documents import format_problems, read_document, schema_problems
from repo_builder.errors import PlanError
from repo_builder.model.types import RowDtype, Table
from repo_builder.spec import Spec

FORMAT = 1
"""Of plan files; one of another number is refused by name."""

S_MAX = 16
"""The most services that a table, or the merged tables, may be cut into."""

ROUTER, DENSE = "router", "dense"
MAX_ROWS = 2**31 - 1

Grouping = Literal["tiered", "per_table", "model_wise"]  # the last: nothing cut, the baseline
Kind = Literal["dense", "embedding"]
Device = Literal["cpu", "gpu"]


@dataclass(frozen=True, slots=True)
class Shard:
    """The rows at the ranks begin <= rank < end of a table's hotness order."""

    table: str
    begin: int
    end: int

    @property
    def rows(self) -> int:
        """Rows of the shard."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Service:
    """One microservice. `memory_bytes` and `qps` are of one replica; `gathers` are embedding rows per query, and
    `gathered_bytes` theirs as they are stored, 0 in a plan that does not say them.

    `gpus` are the numbers of the devices that its instances use; empty on the CPU. `replicas` are those that the
    throughput needs (the paper's recurrence); `added` are more of them, so that the latency meets the SLA.
    `row_dtype` is how an embedding service stores rows that come in float32 (`RowFormat.stored_as`).
    """

    name: str
    kind: Kind
    device: Device
    instances: int
    replicas: int
    memory_bytes: int
    gathers: float
    qps: float
    shards: tuple[Shard, ...]
    gpus: tuple[int, ...] = ()
    added: int = 0
    row_dtype: RowDtype = "fp32"
    gathered_bytes: float = 0.0

    @property
    def deployed(self) -> int:
        """All replicas that the plan starts."""
        return self.replicas + self.added


@dataclass(frozen=True, slots=True)
class Latency:
    """A query's predicted latency at the target traffic: quantiles, and what an idle fleet takes; ms."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    idle_ms: float


@dataclass(frozen=True, slots=True)
class Choice:
    """What was weighed: the best fleet that cuts the tables, and replicas of the whole model, each within the SLA.

    Memory is that of all replicas, those added for the latency too; `services` counts the dense one. The whole model is
    taken where cutting would save less than `least_saving` of its memory.
    """

    grouping: Grouping
    services: int
    memory_bytes: int
    whole_replicas: int
    whole_memory_bytes: int
    least_saving: float

    @property
    def saving(self) -> float:
        """The share of the whole replicas' memory that cutting saves; negative where it costs some."""
        return 1 - self.memory_bytes / self.whole_memory_bytes

    @property
    def is_whole(self) -> bool:
        """Whether to replicate the whole model."""
        return self.saving < self.least_saving


@dataclass(frozen=True, slots=True)
class Plan:
    """The services of a model. What only documents how the plan was made is None in a plan that does not say it."""

    spec: str
    grouping: Grouping
    services: tuple[Service, ...]
    target_qps: float | None = None
    batch: int | None = None
    s_max: int | None = None
    profile: str | None = None
    latency: Latency | None = None
    choice: Choice | None = None

    @property
    def memory_bytes(self) -> int:
        """Memory of all services' `replicas`: what the target throughput needs."""
        return sum(service.replicas * service.memory_bytes for service in self.services)

    @property
    def deployed_memory_bytes(self) -> int:
        """Memory of all replicas that the plan starts, those added for the latency included."""
        return sum(service.deployed * service.memory_bytes for service in self.services)

    @property
    def embedding_memory_bytes(self) -> int:
        """Memory of the embedding services' `replicas`: what the recurrence counts and makes small."""
        return sum(service.replicas * service.memory_bytes for service in self.embedding_services)

    @property
    def embedding_services(self) -> tuple[Service, ...]:
        """The services that hold shards, in the plan's order."""
        return tuple(service for service in self.services if service.kind == "embedding")


def plan_to_json(plan: Plan) -> str:
    """The plan as the text of a plan file: the same plan gives the same bytes."""
    return json.dumps({"format": FORMAT, **_document(plan)}, indent=2, allow_nan=False) + "\n"


def plan_sha256(plan: Plan) -> str:
    """SHA-256 of what the plan says, in canonical JSON (sorted keys, no spaces, no `format`), in hex."""
    canonical = json.dumps(_document(plan), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def load_plan(path: Path) -> Plan:
    """Read a plan file, written by hand or by `plan_to_json`; keys beyond `plan.schema.json` are passed over.

    The totals `memory_bytes` and `embedding_memory_bytes` follow from the services and are not read.
    Raises PlanError with one problem per line: file, field, what was expected, what came.
    """
    document = read_document(path, PlanError)
    problems = format_problems(document, FORMAT, "make the plan again with elasticrec plan")
    problems = problems or schema_problems(document, "plan.schema.json")
    if not problems and isinstance(document, Mapping):
        problems = list(_service_problems(document))
    if problems or not isinstance(document, Mapping):
        raise PlanError(*(f"{path}: {problem}" for problem in problems))
    return Plan(
        spec=document["spec"],
        grouping=document["grouping"],
        services=tuple(_service(entry) for entry in document["services"]),
        target_qps=document.get("target_qps"),
        batch=document.get("batch"),
        s_max=document.get("s_max"),
        profile=document.get("profile"),
        latency=Latency(**document["latency"]) if "latency" in document else None,
        choice=Choice(**document["choice"]) if "choice" in document else None,
    )


def _document(plan: Plan) -> dict[str, Any]:
    made = {"target_qps": plan.target_qps, "batch": plan.batch, "s_max": plan.s_max, "profile": plan.profile}
    return {
        "spec": plan.spec,
        "grouping": plan.grouping,
        **{key: value for key, value in made.items() if value is not None},
        "memory_bytes": plan.memory_bytes,
        "embedding_memory_bytes": plan.embedding_memory_bytes,
        "deployed_memory_bytes": plan.deployed_memory_bytes,
        **({"latency": asdict(plan.latency)} if plan.latency else {}),
        **({"choice": asdict(plan.choice)} if plan.choice else {}),
        "services": [_service_document(service) for service in plan.services],
    }


def _service_document(service: Service) -> dict[str, Any]:
    return {
        "name": service.name,
        "kind": service.kind,
        "device": service.device,
        **({"gpus": list(service.gpus)} if service.gpus else {}),
        "instances": service.instances,
        "replicas": service.replicas,
        **({"added": service.added} if service.added else {}),
        "memory_bytes": service.memory_bytes,
        "gathers": service.gathers,
        **({"gathered_bytes": service.gathered_bytes} if service.gathered_bytes else {}),
        "qps": service.qps,
        **({"row_dtype": service.row_dtype} if service.row_dtype != "fp32" else {}),
        "shards": [_shard_document(shard) for shard in service.shards],
    }


def _shard_document(shard: Shard) -> dict[str, Any]:
    return {"table": shard.table, "begin": shard.begin, "end": shard.end, "rows": shard.rows}


def _service(entry: Mapping[str, Any]) -> Service:
    return Service(
        name=entry["name"],
        kind=entry["kind"],
        device=entry["device"],
        instances=entry["instances"],
        replicas=entry["replicas"],
        memory_bytes=entry["memory_bytes"],
        gathers=float(entry["gathers"]),
        qps=float(entry["qps"]),
        shards=tuple(Shard(shard["table"], shard["begin"], shard["end"]) for shard in entry["shards"]),
        gpus=tuple(entry.get("gpus", [0] if entry["device"] == "gpu" else [])),
        added=entry.get("added", 0),
        row_dtype=entry.get("row_dtype", "fp32"),
        gathered_bytes=float(entry.get("gathered_bytes", 0.0)),
    )


def on_cpu(plan: Plan) -> Plan:
    """The plan with every service on the CPU; replicas and memory stay as they are."""
    return replace(plan, services=tuple(replace(service, device="cpu", gpus=()) for service in plan.services))


def _service_problems(document: Mapping[str, Any]) -> Iterator[str]:
    """What the schema cannot say: that GPUs go with the device, and the shards' ends and rows with each other."""
    for i, service in enumerate(document["services"]):
        if service["device"] == "cpu" and service.get("gpus"):
            yield f"services[{i}].gpus: expected none on device cpu, got {service['gpus']}; say device: gpu"
        for j, shard in enumerate(service["shards"]):
            where, rows = f"services[{i}].shards[{j}]", shard["end"] - shard["begin"]
            if rows <= 0:
                yield f"{where}.end: expected more than begin = {shard['begin']}, got {shard['end']}"
            elif shard.get("rows", rows) != rows:
                yield f"{where}.rows: expected end - begin = {rows}, got {shard['rows']}"


def check_plan(plan: Plan, spec: Spec, where: str = "plan") -> None:
    """Raise PlanError, one problem per line beginning with `where`, unless the plan can be built for the spec.

    It must be the spec's own; have one dense service, named so, and shards in embedding services only, no two of a
    table in one; hold every table's rows exactly once, in at most 16 shards, and at most 2^31 - 1 rows in a service
    (ids are INT32); and its names must differ from each other and the router's.
    """
    problems = [*_name_problems(plan, spec), *_kind_problems(plan), *_shard_problems(plan, spec)]
    if problems:
        raise PlanError(*(f"{where}: {problem}" for problem in problems))


def _name_problems(plan: Plan, spec: Spec) -> Iterator[str]:
    if plan.spec != spec.name:
        yield f"spec: expected {spec.name!r}, the spec's name, got {plan.spec!r}"
    names = [service.name for service in plan.services]
    for name in duplicates(names):
        yield f"services: expected unique names, got {name!r} twice; rename a table or the service"
    if ROUTER in names:
        yield f"services[{names.index(ROUTER)}].name: {ROUTER!r} is the name of the router; rename the service"


def _kind_problems(plan: Plan) -> Iterator[str]:
    dense = [service.name for service in plan.services if service.kind == "dense"]
    if len(dense) != 1:
        yield f"services: expected one service of kind dense, got {len(dense)}"
    for i, service in enumerate(plan.services):
        if (service.kind == "dense") != (service.name == DENSE):
            yield f"services[{i}].name: expected {DENSE!r} for the dense service and it alone, got {service.name!r}"
        if service.kind == "dense" and service.shards:
            yield f"services[{i}].shards: expected none in the dense service, got {len(service.shards)}"
        if service.kind == "embedding" and not service.shards:
            yield f"services[{i}].shards: expected at least one shard in an embedding service, got none"


def _shard_problems(plan: Plan, spec: Spec) -> Iterator[str]:
    held: dict[str, list[Shard]] = {table.name: [] for table in spec.model.tables}
    kept = {each.name for each in spec.model.kept}
    for i, service in enumerate(plan.services):
        for j, shard in enumerate(service.shards):
            if shard.table in held:
                held[shard.table].append(shard)
            else:
                dense = ", which stays dense: plan again" if shard.table in kept else ""
                yield f"services[{i}].shards[{j}].table: expected a table of the spec, got {shard.table!r}{dense}"
        for name in duplicates([shard.table for shard in service.shards]):
            yield f"services[{i}].shards: expected one shard per table in a service, got two of {name!r}; join them"
        rows = sum(shard.rows for shard in service.shards)
        if rows > MAX_ROWS:
            yield f"services[{i}].shards: expected at most {MAX_ROWS} rows in a service (INT32 ids), got {rows}"
    for table in spec.model.tables:
        yield from _cover_problems(table, sorted(held[table.name], key=lambda shard: (shard.begin, shard.end)))


def _cover_problems(table: Table, shards: list[Shard]) -> Iterator[str]:
    if len(shards) > S_MAX:
        yield f"table {table.name}: expected at most {S_MAX} shards, got {len(shards)}; join some"
    ranks = [0, *(rank for shard in shards for rank in (shard.begin, shard.end)), table.rows]
    for end, begin in list(pairwise(ranks))[::2]:
        if begin > end:
            yield f"table {table.name}: the rows {end} to {begin} of its hotness order are in no shard"
        elif begin < end:
            yield f"table {table.name}: expected each of its {table.rows} rows once, got {begin} to {end} again"


def duplicates(names: Sequence[str]) -> list[str]:
    """The names that come more than once, in the order of their second coming."""
    seen: set[str] = set()
    again: dict[str, None] = {}
    for name in names:
        if name in seen:
            again[name] = None
        seen.add(name)
    return list(again)
