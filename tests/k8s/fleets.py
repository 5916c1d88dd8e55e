"""BuiltFleet repositories made by hand: a manifest, a plan, and models of which only the configs are real."""

import json
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from k8s.options import ManifestOptions, parse_source
from repo_builder.model.dlrm import Dlrm, DlrmTable, Weights
from repo_builder.partition.plan import Plan, Service, Shard, plan_to_json
from repo_builder.repository.built_fleet import BuiltFleet, load_fleet
from repo_builder.repository.manifest import MANIFEST, PLAN, FileEntry, describe
from repo_builder.spec import Access, Serving, Spec

DIM = 8
MB = 10**6
TLS_SECRET = "rm1-tls"  # noqa: S105 - a name


@dataclass(frozen=True)
class Made:
    """What a test may change of the fleet."""

    model: str = "rm1"
    layout: str = "fleet"
    sla_ms: float = 400.0
    services: tuple[str, ...] = ("tier0", "tier1")
    device: str = "cpu"
    gpus: tuple[int, ...] = (0,)  # where the device is one
    backend: str = "python"
    library: bytes = b"reads ELASTICREC_LISTEN_CERT"  # a native backend's
    instances: int = 1
    rows: int = 1_000_000
    qps: float = 800.0
    dense_qps: float = 1500.0
    target_qps: float | None = 2000.0
    max_in_flight: int = 256
    tables: tuple[DlrmTable, ...] = (DlrmTable("users", 3_000_000, DIM, 4), DlrmTable("items", 500, DIM, 9))


def plan_of(made: Made) -> Plan:
    """The dense service, and embedding services of equal size that hold every table."""
    gpus = made.gpus if made.device == "gpu" else ()
    dense = Service("dense", "dense", "cpu", made.instances, 2, 310 * MB, 0.0, made.dense_qps, ())
    shards = tuple(Shard(table.name, 0, made.rows) for table in made.tables)
    weights_bytes = made.rows * len(made.tables) * DIM * 4
    embedding = tuple(
        Service(
            name, "embedding", made.device, made.instances, 3, weights_bytes + 300 * MB, 50.0, made.qps, shards, gpus
        )
        for name in made.services
    )
    return Plan(made.model, "tiered", (dense, *embedding), made.target_qps, 32)


def write_fleet(folder: Path, made: Made = Made()) -> Path:
    """Write the repository; the manifest tells sizes of files that are not there."""
    plan, files = plan_of(made), []
    for part, kind in (("", "ensemble"), ("_router", "elasticrec_fanout"), ("_dense", "onnxruntime")):
        _config(folder / "frontend" / f"{made.model}{part}", made, f"{made.model}{part}", kind)
    files.append(FileEntry(f"frontend/{made.model}_router/1/idmap.bin", 40 * MB, "0" * 64))
    settings = folder / f"frontend/{made.model}_router/1/fanout.json"
    settings.parent.mkdir(exist_ok=True)
    settings.write_text(json.dumps({"max_in_flight": made.max_in_flight}))
    for service in plan.embedding_services:
        name = f"{made.model}_{service.name}"
        _config(folder / service.name / name, made, name, made.backend)
        weights_bytes = made.rows * len(made.tables) * DIM * 4
        files.append(FileEntry(f"{service.name}/{name}/1/weights.bin", weights_bytes, "0" * 64))
    form = Dlrm(13, (DIM,), (1,), made.tables, "int64", Weights("random"))
    serving, access = Serving(100.0, 32, made.sla_ms), Access("powerlaw", locality=0.9)
    spec = Spec.of_dlrm(made.model, form, access, serving)
    manifest = describe(spec, made.layout, "0" * 64, "elasticrec 0", files)
    (folder / MANIFEST).write_text(manifest.to_json())
    (folder / PLAN).write_text(plan_to_json(plan))
    return folder


def fleet(folder: Path, made: Made = Made()) -> BuiltFleet:
    """Written and read again."""
    return load_fleet(write_fleet(folder, made))


def options(source: str = "s3://models/rm1/v7", **choices: object) -> ManifestOptions:
    return ManifestOptions(parse_source(source), **choices)


def _config(folder: Path, made: Made, name: str, kind: str) -> None:
    config = pb.ModelConfig(name=name)
    if kind == "ensemble":
        config.platform = kind
    else:
        config.backend = kind
        config.instance_group.add(count=made.instances)
        if not name.endswith(("_router", "_dense")):
            config.output.add(name="sums", dims=[len(made.tables) * DIM])
    folder.mkdir(parents=True)
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config))
    if config.backend == "elasticrec_shard":
        (folder / "libtriton_elasticrec_shard.so").write_bytes(made.library)
