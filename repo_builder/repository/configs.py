"""The models' `config.pbtxt`, written through Triton's own protobuf.

All shapes on the wire and between the steps, for B candidate rows:

    ensemble NAME      dense FP32 [B, dense_features], indices INT64/INT32 [B, sum of pooling] -> score FP32 [B, 1]
    NAME_router        the same inputs -> for each embedding service S: S_ids INT32 [1, nnz], S_lengths INT32 [1, B * T]
    NAME_S             ids, lengths -> sums FP32 [B, T * dim], where S holds a shard of T tables
    NAME_dense         dense, S_sums of every service S -> score FP32 [B, 1]

Where tables are averaged, the router also gives NAME_dense divisors FP32 [B, tables]: the number of a bag's ids where
its table is averaged, else 1; so sums over shards are divided once, when they are whole.

The ensemble and the router do not batch: the router is native code in the server's own process, so that a call costs
next to nothing. The dense model joins the rows of several queries, and an embedding service takes several queries, each
with its own number of ids, in one call (ragged batches).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from repo_builder.errors import PlanError
from repo_builder.model.source import DIVISORS
from repo_builder.partition.plan import Plan, Service
from repo_builder.spec import Spec

MAX_BATCH_ROWS = 4096  # rows of one query (native/queries.h, shard.json), and of all in one call of the dense model
MAX_BATCH_QUERIES = 64  # queries in one call of an embedding service
MAX_INSTANCES = 64  # processes of one model in one server
LEAST_ROUTERS = 2

ShardBackend = Literal["python", "native"]  # what serves embedding services on the CPU

_INDEX_TYPES = {"int64": pb.TYPE_INT64, "int32": pb.TYPE_INT32}


def to_text(config: pb.ModelConfig) -> str:
    """A config as the text that Triton reads from `config.pbtxt`."""
    return str(text_format.MessageToString(config))


def model_name(spec: Spec, part: str) -> str:
    """A step's model name: the spec's name first, so that several models can share a server."""
    return f"{spec.name}_{part}"


def sums_name(service: str) -> str:
    """The dense model's input for a service's partial sums: a name that no node of the exported graph has."""
    return f"{service}_sums"


def held_tables(spec: Spec, service: Service) -> tuple[int, ...]:
    """The tables of which a service holds a shard, as places in the spec, ascending: the order of its bags."""
    held = {shard.table for shard in service.shards}
    return tuple(i for i, table in enumerate(spec.tables) if table.name in held)


def check_instances(plan: Plan) -> None:
    """Raise PlanError where one server would start more processes of a service than makes sense in a machine."""
    problems = [
        f"plan: services[{i}].replicas: expected at most {MAX_INSTANCES} instances of {service.name} in one server, "
        f"got {service.instances * service.deployed}; lower replicas in the plan, or serving.target_qps in the spec"
        for i, service in enumerate(plan.services)
        if service.instances * service.deployed > MAX_INSTANCES
    ]
    if problems:
        raise PlanError(*problems)


def ensemble_config(spec: Spec, plan: Plan, metadata: Mapping[str, str]) -> pb.ModelConfig:
    """The model that clients call: router, then all embedding services at once, then dense."""
    names = [service.name for service in plan.embedding_services]
    config = _base(spec.name, metadata, max_batch_size=0)
    config.platform = "ensemble"
    config.input.extend(
        [_input("dense", pb.TYPE_FP32, -1, spec.dense_features), _indices(spec, -1, spec.index_columns)]
    )
    config.output.append(_output("score", pb.TYPE_FP32, -1, 1))
    routed = {f"{name}_{kind}": f"{name}_{kind}" for name in names for kind in ("ids", "lengths")}
    divisors = {name: name for name in divisors_inputs(spec)}
    steps = [_step(model_name(spec, "router"), {"dense": "dense", "indices": "indices"}, {**routed, **divisors})]
    for name in names:
        inputs = {kind: f"{name}_{kind}" for kind in ("ids", "lengths")}
        steps.append(_step(model_name(spec, name), inputs, {"sums": f"{name}_sums"}))
    sums = {sums_name(name): f"{name}_sums" for name in names}
    steps.append(_step(model_name(spec, "dense"), {"dense": "dense", **sums, **divisors}, {"score": "score"}))
    config.ensemble_scheduling.step.extend(steps)
    return config


def router_config(spec: Spec, plan: Plan, metadata: Mapping[str, str]) -> pb.ModelConfig:
    """The router: always on the CPU, in `router_threads` threads of the server."""
    config = _base(model_name(spec, "router"), metadata, max_batch_size=0)
    config.dynamic_batching.SetInParent()  # joins nothing; without it Triton 2.51 corrupts its heap under a flood
    config.backend = native_backend("router")
    config.input.extend(
        [_input("dense", pb.TYPE_FP32, -1, spec.dense_features), _indices(spec, -1, spec.index_columns)]
    )
    for service in plan.embedding_services:
        config.output.extend(_output(f"{service.name}_{kind}", pb.TYPE_INT32, 1, -1) for kind in ("ids", "lengths"))
    config.output.extend(_output(name, pb.TYPE_FP32, -1, width) for name, width in divisors_inputs(spec).items())
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=router_threads(plan))
    rows = min(spec.serving.batch, MAX_BATCH_ROWS)
    _warm_up(config, 1, {item.name: (item.data_type, [rows, item.dims[1]]) for item in config.input})
    return config


def router_threads(plan: Plan) -> int:
    """As many as the dense service has instances, two at least.

    Queries that wait for one router's thread reach the shards one by one, and are not joined there.
    """
    dense = dense_service(plan)
    return max(LEAST_ROUTERS, dense.instances * dense.deployed)


def embedding_config(
    spec: Spec, service: Service, metadata: Mapping[str, str], shard_backend: ShardBackend
) -> pb.ModelConfig:
    """An embedding service; its warm-up is a query of one row with row 0 in each bag (`warmup/lengths` holds ones)."""
    tables = len(service.shards)
    config = _base(model_name(spec, service.name), metadata, MAX_BATCH_QUERIES)
    config.backend = native_backend("shard") if is_native(service, shard_backend) else "python"
    for name in ("ids", "lengths"):
        config.input.append(pb.ModelInput(name=name, data_type=pb.TYPE_INT32, dims=[-1], allow_ragged_batch=True))
    config.output.append(_output("sums", pb.TYPE_FP32, tables * spec.dim))
    _place(config, service)
    config.dynamic_batching.SetInParent()
    warmup = config.model_warmup.add(name="one_row", batch_size=1)
    warmup.inputs["ids"].CopyFrom(pb.ModelWarmup.Input(data_type=pb.TYPE_INT32, dims=[tables], zero_data=True))
    warmup.inputs["lengths"].CopyFrom(
        pb.ModelWarmup.Input(data_type=pb.TYPE_INT32, dims=[tables], input_data_file="lengths")
    )
    return config


def native_backend(kind: str) -> str:
    """The name of one of `triton_backends/native`; its library is `libtriton_<name>.so`."""
    return f"elasticrec_{kind}"


def is_native(service: Service, shard_backend: ShardBackend) -> bool:
    """Whether a service is served by the native backend: only the CPU's can be."""
    return shard_backend == "native" and service.device == "cpu"


def sums_widths(spec: Spec, plan: Plan) -> Mapping[str, int]:
    """The dense model's inputs for partial sums, one an embedding service, and their widths."""
    return {sums_name(service.name): len(service.shards) * spec.dim for service in plan.embedding_services}


def divisors_inputs(spec: Spec) -> Mapping[str, int]:
    """The dense model's input for what bags' sums are divided by, and its width; none where all are sums."""
    return {DIVISORS: len(spec.tables)} if spec.has_means else {}


def dense_config(spec: Spec, plan: Plan, sums: Mapping[str, int], metadata: Mapping[str, str]) -> pb.ModelConfig:
    """The dense layers in ONNX; one thread an instance on the CPU, since instances are what scales.

    sums: its inputs beside `dense`, and their widths.
    """
    config = _base(model_name(spec, "dense"), metadata, MAX_BATCH_ROWS)
    config.backend = "onnxruntime"
    config.input.append(_input("dense", pb.TYPE_FP32, spec.dense_features))
    config.input.extend(_input(name, pb.TYPE_FP32, width) for name, width in {**sums, **divisors_inputs(spec)}.items())
    config.output.append(_output("score", pb.TYPE_FP32, 1))
    _place(config, dense_service(plan))
    config.dynamic_batching.SetInParent()
    config.parameters["intra_op_thread_count"].string_value = "1"
    rows = min(spec.serving.batch, MAX_BATCH_ROWS)
    _warm_up(config, rows, {item.name: (item.data_type, item.dims) for item in config.input})
    return config


def dense_service(plan: Plan) -> Service:
    """The plan's dense service."""
    return next(service for service in plan.services if service.kind == "dense")


def _base(name: str, metadata: Mapping[str, str], max_batch_size: int) -> pb.ModelConfig:
    config = pb.ModelConfig(name=name, max_batch_size=max_batch_size)
    config.version_policy.latest.num_versions = 1
    for key, value in metadata.items():
        config.parameters[key].string_value = value
    return config


def _place(config: pb.ModelConfig, service: Service) -> None:
    """In one server a replica is an instance more: all instances of a shard share its pages."""
    count = service.instances * service.deployed
    if service.device == "gpu":
        config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_GPU, count=count, gpus=service.gpus)
    else:
        config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=count)


def _warm_up(config: pb.ModelConfig, batch: int, inputs: Mapping[str, tuple[int, Iterable[int]]]) -> None:
    warmup = config.model_warmup.add(name="one_query", batch_size=batch)
    for name, (data_type, dims) in inputs.items():
        warmup.inputs[name].CopyFrom(pb.ModelWarmup.Input(data_type=data_type, dims=dims, zero_data=True))


def _indices(spec: Spec, *dims: int) -> pb.ModelInput:
    return _input("indices", _INDEX_TYPES[spec.index_dtype], *dims)


def _input(name: str, data_type: int, *dims: int) -> pb.ModelInput:
    return pb.ModelInput(name=name, data_type=data_type, dims=dims)


def _output(name: str, data_type: int, *dims: int) -> pb.ModelOutput:
    return pb.ModelOutput(name=name, data_type=data_type, dims=dims)


def _step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> pb.ModelEnsembling.Step:
    return pb.ModelEnsembling.Step(model_name=model, model_version=-1, input_map=inputs, output_map=outputs)
