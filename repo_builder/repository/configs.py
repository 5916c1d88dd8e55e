"""The models' `config.pbtxt`, written through Triton's own protobuf: the ensemble and its steps.

    ensemble NAME      the model's inputs -> its outputs
    NAME_ids           where ids are computed: inputs -> ids
    NAME_router        ids -> for each embedding service S and group: S_ids, S_lengths, S_weights (`wiring.py`)
    NAME_S             ids, lengths, weights -> sums FP32 [rows of the group, width]
    NAME_dense         what it reads of the inputs, S_sums of every service S -> the outputs

Where bags are averaged, the router also gives NAME_dense `divisors` FP32 [rows, bags]: the number of a bag's ids where
it is averaged, else 1; so sums over shards are divided once, when they are whole. In a fleet the router calls the
embedding services over gRPC, adds up what they answer, and gives `sums` alone; with `missing_shard: degrade` also
`degraded` BOOL [B, 1].

The ensemble and the router of one server do not batch: the router is native code in the server's own process, so that a
call costs next to nothing. The dense model joins the rows of several queries where it scores each row for itself, and
an embedding service takes several queries, each with its own number of ids, in one call (ragged batches). A native one
in a fleet takes one after another: it sums them so all the same, and Triton's batcher is one thread more that each call
wakes, up to a fifth or more of its CPU (`benchmarks/README.md`, "What a call costs").

All others that have company in their server have a batcher, those too that join nothing: beside one with a batcher,
one without corrupts Triton's heap under a flood (2.51, and its sources of June 2026). Each waiting request of a model
without is a payload of its own, and Triton keeps 1,000 to use again. Once it has so many, a batcher that takes a new
payload frees the one before while it holds that one's lock (`DynamicBatchScheduler::BatcherThread`), and unlocks it
afterwards.

Triton has no tensors without dimensions: what has none is served as one of [1]. And one of [batch] has none in a model
that batches: between the steps it is [batch, 1] there.

No model has a queue policy of Triton's, so a shard's queue has no bound of its own. Triton 2.51 refuses at once what
`max_queue_size` has no place for, but leaves others lying until its batcher looks again after 500 ms (compare
triton-inference-server/server issue 8870). Measured on a shard, bound 8, no timeout, 16 clients in a loop: 48 of 451
answers took over 300 ms, where without the bound all 8,572 took less than 33 ms; native shards 48 of 1,048 against none
of 16,156. With a bound of 2 even a lone client met it, and a timeout of 50 ms made errors of the same half seconds. So
what may wait at a shard is bounded where queries come in: by `max_in_flight` of each front end, which answers one query
more with an error at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from repo_builder.model.types import BATCH, Ragged, Tensor
from repo_builder.partition.plan import Plan, Service
from repo_builder.repository.descriptions import MAX_BATCH_ROWS
from repo_builder.repository.design import Arrangement, Design
from repo_builder.repository.native import native_backend
from repo_builder.repository.wiring import SUMS, Holding, at_shard, model_name, on_wire
from repo_builder.spec import Spec

MAX_BATCH_QUERIES = 64  # queries in one call of an embedding service
LEAST_ROUTERS = 2

ShardBackend = Literal["python", "native"]  # what serves embedding services on the CPU


def to_text(config: pb.ModelConfig) -> str:
    """A config as the text that Triton reads from `config.pbtxt`."""
    return str(text_format.MessageToString(config))


def ensemble_config(design: Design) -> pb.ModelConfig:
    """The model that clients call: ids, router, then all embedding services at once, then dense."""
    model, spec = design.model, design.spec
    config = _base(spec.name, design.metadata, max_batch_size=0)
    config.platform = "ensemble"
    for tensor in model.inputs:
        _set_dims(config.input.add(name=tensor.name), tensor, _dims(tensor.shape), _inner(design, tensor))
    for tensor in model.outputs:
        _set_dims(config.output.add(name=tensor.name), tensor, _dims(tensor.shape), _inner(design, tensor))
    config.output.extend(_output(name, pb.TYPE_BOOL, -1, 1) for name in design.flags)
    steps = config.ensemble_scheduling.step
    if model.ids_graph:
        steps.append(_step(model_name(spec, "ids"), _own(model.ids_graph.inputs), _own(model.ids_graph.outputs)))
    routed = [tensor.name for tensor in _router_outputs(design)]
    steps.append(_step(model_name(spec, "router"), _own(design.routed), {name: name for name in routed}))
    if design.arrangement.router == "router":
        steps.extend(_service_step(spec, held) for held in design.wiring)
    inputs = [tensor.name for tensor in model.dense.inputs] + [partial.name for partial in design.sums]
    inputs += list(design.divisors)
    steps.append(_step(model_name(spec, "dense"), {name: name for name in inputs}, _own(model.outputs)))
    return config


def whole_config(design: Design) -> pb.ModelConfig:
    """The whole model in ONNX, as its owner would serve it: rows of several queries are joined where that can be."""
    model = design.model
    joins = design.joins and all(len(tensor.shape) > 1 for tensor in (*model.inputs, *model.outputs))
    config = _base(design.spec.name, design.metadata, MAX_BATCH_ROWS if joins else 0)
    config.backend = "onnxruntime"
    for items, tensors in ((config.input, model.inputs), (config.output, model.outputs)):
        for tensor in tensors:
            dims = _dims(tensor.shape)[int(joins) :]
            _set_dims(items.add(name=tensor.name), tensor, dims, dims)
    _place_graph(config, design)
    if joins:
        config.dynamic_batching.SetInParent()
    _set_session(config)
    return config


def ids_configs(design: Design) -> list[pb.ModelConfig]:
    """The ids graph in ONNX, where the model has one."""
    graph = design.model.ids_graph
    if graph is None:
        return []
    config = _base(model_name(design.spec, "ids"), design.metadata, max_batch_size=0)
    config.backend = "onnxruntime"
    for tensor in graph.inputs:
        _set_dims(config.input.add(name=tensor.name), tensor, _inner(design, tensor), _dims(tensor.shape))
    for tensor in graph.outputs:
        _set_dims(config.output.add(name=tensor.name), tensor, _inner(design, tensor), _dims(tensor.shape))
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=router_threads(design.plan))
    config.dynamic_batching.SetInParent()
    _set_session(config)
    return [config]


def router_config(design: Design) -> pb.ModelConfig:
    """The router: always on the CPU. That of one server in threads of it; a fleet's has queries under way."""
    batches = design.arrangement.router == "fanout" and design.joins and _all_batched(design.routed)
    config = _base(model_name(design.spec, "router"), design.metadata, MAX_BATCH_ROWS if batches else 0)
    config.backend = native_backend(design.arrangement.router)
    config.dynamic_batching.SetInParent()
    skipped = int(batches)
    for tensor in design.routed:
        config.input.append(_input(tensor.name, _datatype(tensor), *_inner(design, tensor)[skipped:]))
    for tensor in _router_outputs(design):
        config.output.append(_output(tensor.name, _datatype(tensor), *_dims(tensor.shape)[skipped:]))
    if design.arrangement.router == "fanout":
        config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=design.dense.instances)
        return config
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=router_threads(design.plan))
    if not any(isinstance(lookup.ids.layout, Ragged) for lookup in design.model.lookups):  # zeros are no bounds
        _warm_up(config, 1, {item.name: (item.data_type, _of_a_query(design.spec, item.dims)) for item in config.input})
    return config


def router_threads(plan: Plan) -> int:
    """As many as the dense service has instances, two at least.

    Queries that wait for one router's thread reach the shards one by one, and are not joined there.
    """
    dense = next(service for service in plan.services if service.kind == "dense")
    return max(LEAST_ROUTERS, dense.instances * dense.deployed)


def embedding_config(design: Design, held: Holding, shard_backend: ShardBackend) -> pb.ModelConfig:
    """An embedding service; its warm-up is a query of one row with row 0 in each bag (`warmup/lengths` holds ones).

    In a fleet the answers' type is `fleet.sums_dtype`.
    """
    config = _base(model_name(design.spec, held.name), design.metadata, MAX_BATCH_QUERIES)
    config.backend = native_backend("shard") if is_native(held.service, shard_backend) else "python"
    half = sends_halves(design)
    for share in held.shares:
        for kind in share.asks:
            data_type = pb.TYPE_FP32 if kind == "weights" else pb.TYPE_INT32
            name = at_shard(kind, share.group)
            config.input.append(pb.ModelInput(name=name, data_type=data_type, dims=[-1], allow_ragged_batch=True))
        for kind in share.answers:
            data_type, width = pb.TYPE_FP16 if half else pb.TYPE_FP32, share.width if kind == SUMS else -1
            config.output.append(_output(at_shard(kind, share.group), data_type, width))
    _place(config, held.service, design.arrangement)
    if not (design.arrangement.separate and is_native(held.service, shard_backend)):
        config.dynamic_batching.SetInParent()
    warmup = config.model_warmup.add(name="one_row", batch_size=1)
    for share in held.shares:
        ids, lengths, weights = (at_shard(kind, share.group) for kind in ("ids", "lengths", "weights"))
        bags = share.bags + len(share.unpooled)
        zeros = pb.ModelWarmup.Input(data_type=pb.TYPE_INT32, dims=[bags], zero_data=True)
        warmup.inputs[ids].CopyFrom(zeros)
        ones = pb.ModelWarmup.Input(data_type=pb.TYPE_INT32, dims=[bags], input_data_file=lengths)
        warmup.inputs[lengths].CopyFrom(ones)
        if share.weighted_bags:
            zeros = pb.ModelWarmup.Input(data_type=pb.TYPE_FP32, dims=[share.weighted_bags], zero_data=True)
            warmup.inputs[weights].CopyFrom(zeros)
    return config


def sends_halves(design: Design) -> bool:
    """Whether embedding services send their sums in half precision: over a network they may."""
    return design.arrangement.separate and design.spec.fleet.sums_dtype == "fp16"


def is_native(service: Service, shard_backend: ShardBackend) -> bool:
    """Whether a service is served by the native backend: only the CPU's can be."""
    return shard_backend == "native" and service.device == "cpu"


def dense_config(design: Design) -> pb.ModelConfig:
    """The dense layers in ONNX; one thread per instance on the CPU, since instances are what scales."""
    config = _base(model_name(design.spec, "dense"), design.metadata, MAX_BATCH_ROWS if design.joins else 0)
    config.backend = "onnxruntime"
    skipped = int(design.joins)
    for tensor in design.model.dense.inputs:
        _set_dims(config.input.add(name=tensor.name), tensor, *_at_dense(design, tensor))
    sums = {**{partial.name: partial.width for partial in design.sums}, **design.divisors}
    config.input.extend(_input(name, pb.TYPE_FP32, *(-1, width)[skipped:]) for name, width in sums.items())
    for tensor in design.model.outputs:
        _set_dims(config.output.add(name=tensor.name), tensor, *_at_dense(design, tensor))
    _place_graph(config, design)
    config.dynamic_batching.SetInParent()
    _set_session(config)
    if design.joins and not any(-1 in item.dims for item in config.input):
        rows = min(design.spec.serving.batch, MAX_BATCH_ROWS)
        _warm_up(config, rows, {item.name: (item.data_type, item.dims) for item in config.input})
    return config


def _router_outputs(design: Design) -> list[Tensor]:
    """What the router gives to the other steps."""
    found = []
    if design.arrangement.router == "fanout":
        found += [Tensor(each.name, "FP32", ("rows", each.width)) for each in design.sums]
    for held in design.wiring if design.arrangement.router == "router" else ():
        for share in held.shares:
            for kind in share.asks:
                name = on_wire(held.name, kind, share.group)
                found.append(Tensor(name, "FP32" if kind == "weights" else "INT32", (1, "ids")))
    found += [Tensor(name, "FP32", ("rows", width)) for name, width in design.divisors.items()]
    return found + [Tensor(name, "BOOL", ("rows", 1)) for name in design.flags]


def _service_step(spec: Spec, held: Holding) -> pb.ModelEnsembling.Step:
    asked = [(kind, share.group) for share in held.shares for kind in share.asks]
    inputs = {at_shard(kind, group): on_wire(held.name, kind, group) for kind, group in asked}
    groups = [share.group for share in held.shares]
    outputs = {at_shard(SUMS, group): on_wire(held.name, SUMS, group) for group in groups}
    return _step(model_name(spec, held.name), inputs, outputs)


def _dims(shape: Sequence[int | str]) -> list[int]:
    """A shape as Triton takes it."""
    return [size if isinstance(size, int) else -1 for size in shape] or [1]


def _inner(design: Design, tensor: Tensor) -> list[int]:
    """The dims of a tensor between the steps."""
    return [-1, 1] if design.joins and tensor.shape == (BATCH,) else _dims(tensor.shape)


def _at_dense(design: Design, tensor: Tensor) -> tuple[list[int], list[int]]:
    """The dims of a tensor at the dense model, and those that its graph wants."""
    if not design.joins:
        return _dims(tensor.shape), _dims(tensor.shape)
    return _inner(design, tensor)[1:], _dims(tensor.shape)[1:]


def _set_dims(
    item: pb.ModelInput | pb.ModelOutput, tensor: Tensor, outside: Sequence[int], inside: Sequence[int]
) -> None:
    """A tensor of a model: its dims as it comes, and where the model wants it in other ones, these."""
    item.data_type = _datatype(tensor)
    item.dims.extend(outside)
    if list(outside) != list(inside):
        item.reshape.SetInParent()
        item.reshape.shape.extend(inside)


def _all_batched(tensors: Iterable[Tensor]) -> bool:
    return all(tensor.shape[:1] == (BATCH,) for tensor in tensors)


def _datatype(tensor: Tensor) -> int:
    return int(pb.DataType.Value(f"TYPE_{tensor.datatype}"))


def _base(name: str, metadata: Mapping[str, str], max_batch_size: int) -> pb.ModelConfig:
    config = pb.ModelConfig(name=name, max_batch_size=max_batch_size)
    config.version_policy.latest.num_versions = 1
    for key, value in metadata.items():
        config.parameters[key].string_value = value
    return config


def _place(config: pb.ModelConfig, service: Service, arrangement: Arrangement) -> None:
    """All instances of a shard share its pages."""
    count = arrangement.count(service)
    if service.device == "gpu":
        config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_GPU, count=count, gpus=service.gpus)
    else:
        config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=count)


def _place_graph(config: pb.ModelConfig, design: Design) -> None:
    """A graph in ONNX. On a GPU it multiplies in float32, as where it was proven: by default ONNX Runtime's CUDA
    provider rounds to the 10 bits of TF32 first, on GPUs that have it.
    """
    _place(config, design.dense, design.arrangement)
    if design.dense.device == "gpu":
        cuda = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name="cuda")
        cuda.parameters["use_tf32"] = "0"


def _set_session(config: pb.ModelConfig) -> None:
    """ONNX Runtime's session: one thread, and no arena, which would keep what the largest batch ever took."""
    config.parameters["intra_op_thread_count"].string_value = "1"
    config.parameters["enable_mem_arena"].string_value = "0"


def _of_a_query(spec: Spec, dims: Sequence[int]) -> list[int]:
    """Dims of a router's input: the spec's batch for the first where it varies, one for others that do."""
    rows = min(spec.serving.batch, MAX_BATCH_ROWS)
    return [rows if i == 0 and size == -1 else abs(size) for i, size in enumerate(dims)]


def _warm_up(config: pb.ModelConfig, batch: int, inputs: Mapping[str, tuple[int, Iterable[int]]]) -> None:
    warmup = config.model_warmup.add(name="one_query", batch_size=batch)
    for name, (data_type, dims) in inputs.items():
        warmup.inputs[name].CopyFrom(pb.ModelWarmup.Input(data_type=data_type, dims=dims, zero_data=True))


def _own(tensors: Iterable[Tensor]) -> dict[str, str]:
    return {tensor.name: tensor.name for tensor in tensors}


def _input(name: str, data_type: int, *dims: int) -> pb.ModelInput:
    return pb.ModelInput(name=name, data_type=data_type, dims=dims)


def _output(name: str, data_type: int, *dims: int) -> pb.ModelOutput:
    return pb.ModelOutput(name=name, data_type=data_type, dims=dims)


def _step(model: str, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> pb.ModelEnsembling.Step:
    return pb.ModelEnsembling.Step(model_name=model, model_version=-1, input_map=inputs, output_map=outputs)
