"""What a built fleet says of itself: for each service its models, its size, and what a pod of it needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc import model_config_pb2 as pb

from repo_builder.errors import RepositoryError
from repo_builder.partition.plan import Service, load_plan
from repo_builder.repository.in_flight import (
    MAX_QUERY_ROWS,
    call_row_bytes,
    front_end_bytes,
    max_in_flight,
    shard_bytes,
)
from repo_builder.repository.manifest import PLAN, Manifest, load_manifest
from repo_builder.repository.native import listens, read_config
from repo_builder.repository.service_names import service_names

FRONTEND = "frontend"
"""The folder of the front end, and its service's name here; the plan calls its dense layers `dense`."""

ENSEMBLE = "ensemble"  # a model of that platform runs nothing itself
MIB = 1024**2
STUB_SHM_BYTES = 16 * MIB  # what a process of the Python backend starts with and keeps, rounded up
BASE_SHM_BYTES = 64 * MIB  # for the server itself, as containers have by default


@dataclass(frozen=True, slots=True)
class BuiltService:
    """A service of the fleet.

    `folder` is its model repository below the fleet's root; `model` the Triton model whose requests are its queries,
    `steps` the models that do its work (the same model, but for the front end's ensemble). `instances` are all
    Triton instances of a replica, `files_bytes` what it loads, `shm_bytes` the /dev/shm that its largest calls take,
    `in_flight_bytes` what the queries under way take at most (`in_flight.py`); `listens` is whether it can take calls
    past Triton's gRPC.
    """

    name: str
    folder: str
    model: str
    steps: tuple[str, ...]
    planned: Service
    instances: int
    files_bytes: int
    shm_bytes: int
    in_flight_bytes: int
    listens: bool

    @property
    def is_frontend(self) -> bool:
        """Whether it is what clients call."""
        return self.planned.kind == "dense"

    @property
    def memory_bytes(self) -> int:
        """Of one pod: the plan's (weights and the measured minimum), the front end's id maps too, and /dev/shm."""
        beside = self.files_bytes if self.is_frontend else 0  # the plan counts only the dense layers' parameters
        return max(self.planned.memory_bytes + beside, self.files_bytes) + self.shm_bytes

    @property
    def most_memory_bytes(self) -> int:
        """Of one pod with as many queries under way as there may be."""
        return self.memory_bytes + self.in_flight_bytes


@dataclass(frozen=True, slots=True)
class BuiltFleet:
    """A built fleet: the model's name, its latency bound, the target traffic, and its services, the front end first."""

    model: str
    sla_ms: float
    target_qps: float | None
    services: tuple[BuiltService, ...]

    @property
    def frontend(self) -> BuiltService:
        """The service that clients call."""
        return self.services[0]

    @property
    def shards(self) -> tuple[BuiltService, ...]:
        """The embedding services."""
        return self.services[1:]


def load_fleet(folder: Path) -> BuiltFleet:
    """Read a repository of the `fleet` layout. Raises InputError where `folder` is none."""
    manifest = load_manifest(folder)
    if manifest.layout != "fleet":
        raise RepositoryError(
            f"{folder}: expected a repository of layout fleet, got {manifest.layout}; "
            "build it with elasticrec build --layout fleet"
        )
    plan = load_plan(folder / PLAN)
    dense = next((service for service in plan.services if service.kind == "dense"), None)
    if dense is None:
        raise RepositoryError(f"{folder / PLAN}: services: expected one of kind dense, got none; build again")
    planned = {FRONTEND: dense, **{service.name: service for service in plan.embedding_services}}
    if len(planned) != 1 + len(plan.embedding_services):
        raise RepositoryError(f"{folder / PLAN}: services: expected names that differ, none of them {FRONTEND}")
    names = service_names(manifest.name, list(planned))
    configs = {key: tuple(_configs(folder / key)) for key in planned}
    in_flight = {service.name: shard_bytes(manifest, service, dense.replicas) for service in plan.embedding_services}
    in_flight[FRONTEND] = front_end_bytes(manifest, plan.embedding_services, max_in_flight(folder / FRONTEND))
    services = [
        _service(manifest, names[key], folder / key, service, configs[key], in_flight[key])
        for key, service in planned.items()
    ]
    return BuiltFleet(manifest.name, manifest.sla_ms, plan.target_qps, tuple(services))


def _service(
    manifest: Manifest, name: str, folder: Path, planned: Service, configs: tuple[pb.ModelConfig, ...], in_flight: int
) -> BuiltService:
    key = folder.name
    working = [config for config in configs if config.platform != ENSEMBLE]
    stubs = sum(_instances(config) for config in working if config.backend == "python")
    return BuiltService(
        name=name,
        folder=key,
        model=manifest.name if key == FRONTEND else f"{manifest.name}_{planned.name}",
        steps=tuple(sorted(config.name for config in working)),
        planned=planned,
        instances=sum(_instances(config) for config in working),
        files_bytes=sum(entry.size_bytes for entry in manifest.files if entry.path.startswith(f"{key}/")),
        shm_bytes=BASE_SHM_BYTES + stubs * (STUB_SHM_BYTES + 2 * MAX_QUERY_ROWS * call_row_bytes(manifest, planned)),
        in_flight_bytes=in_flight,
        listens=listens(folder),
    )


def _configs(folder: Path) -> Iterator[pb.ModelConfig]:
    """The configs of a service's models. Raises RepositoryError where there is none, or one that is broken."""
    paths = sorted(folder.glob("*/config.pbtxt"))
    if not paths:
        raise RepositoryError(f"{folder}: expected models with a config.pbtxt, found none; build again")
    for path in paths:
        config = read_config(path)
        config.name = config.name or path.parent.name
        yield config


def _instances(config: pb.ModelConfig) -> int:
    """Instances that Triton starts of a model: on GPUs, a group's count is of each."""
    counts: list[int] = [max(1, group.count) * max(1, len(group.gpus)) for group in config.instance_group]
    return max(1, sum(counts))
