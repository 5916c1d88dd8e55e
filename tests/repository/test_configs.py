"""Configs of any model's inputs and outputs, as Triton's own parser reads them back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from repo_builder.errors import PlanError
from repo_builder.model.types import BATCH, Tensor
from repo_builder.partition.plan import Shard
from repo_builder.repository import configs
from repo_builder.repository.design import Design
from repo_builder.repository.manifest import Layout
from repo_builder.spec import FleetSettings, Spec
from tests.repository.test_wiring import plan, service
from tests.toy_source import MODELS, toy_spec


def design(kind: str, layout: Layout, **changes: object) -> Design:
    spec, _ = toy_spec(kind)
    spec = replace(spec, **changes)
    cuts = [(0, 10), (10, None)]
    services = [
        service(f"s{k}", [Shard(table.name, begin, end or table.rows) for table in spec.model.tables])
        for k, (begin, end) in enumerate(cuts)
    ]
    return Design.of(spec, plan(spec.model, *services), layout)


def on_gpus(*gpus: int) -> Design:
    """All services, in two instances on each of these."""
    each = design("rows", "single")
    services = tuple(replace(service, device="gpu", gpus=gpus, instances=2) for service in each.plan.services)
    return Design.of(each.spec, replace(each.plan, services=services), "single")


def read(config: pb.ModelConfig) -> pb.ModelConfig:
    return text_format.Parse(configs.to_text(config), pb.ModelConfig())


def tensors(items: Iterable[pb.ModelInput | pb.ModelOutput]) -> dict[str, tuple[str, list[int], list[int] | None]]:
    """Datatype, dims and reshape by name."""
    return {
        item.name: (
            pb.DataType.Name(item.data_type).removeprefix("TYPE_"),
            list(item.dims),
            list(item.reshape.shape) if item.HasField("reshape") else None,
        )
        for item in items
    }


def test_the_ensemble_has_the_models_inputs_and_outputs() -> None:
    ensemble = read(configs.ensemble_config(design("toy", "single")))
    assert tensors(ensemble.input) == {
        "price": ("FP32", [-1, 3], None),
        "item": ("INT64", [-1], None),
        "history": ("INT32", [-1, 5], None),
        "tags": ("INT64", [-1], None),
        "tag_ends": ("INT64", [-1], None),
        "tag_weights": ("FP32", [-1], None),
        "user": ("INT64", [1, 2], None),
        "unused": ("BOOL", [-1, 1], None),
    }
    assert tensors(ensemble.output) == {"click": ("FP32", [-1], None), "watch": ("FP32", [-1, 2], None)}
    steps = {step.model_name: step for step in ensemble.ensemble_scheduling.step}
    assert list(steps) == ["toy_router", "toy_s0", "toy_s1", "toy_dense"]
    shares = {"ids": "s0_ids", "lengths": "s0_lengths", "weights": "s0_weights"}
    assert dict(steps["toy_s0"].input_map) == {**shares, "ids_1": "s0_ids_1", "lengths_1": "s0_lengths_1"}
    assert dict(steps["toy_s0"].output_map) == {"sums": "s0_sums", "sums_1": "s0_sums_1"}
    assert set(steps["toy_router"].input_map) == {tensor.name for tensor in ensemble.input} - {"price"}
    sums = {f"s{k}_sums{end}" for k in (0, 1) for end in ("", "_1")}
    assert set(steps["toy_dense"].input_map) == {"price", "divisors", *sums}
    made = {name for step in steps.values() for name in step.output_map.values()} | set(tensors(ensemble.input))
    assert {name for step in steps.values() for name in step.input_map.values()} <= made


def test_rows_that_depend_on_each_other_are_not_joined() -> None:
    """Candidates beside one user: nothing batches but the services."""
    each = design("toy", "single")
    dense, router = read(configs.dense_config(each)), read(configs.router_config(each))
    assert (dense.max_batch_size, len(dense.model_warmup)) == (0, 0)
    assert tensors(dense.input)["s0_sums_1"] == ("FP32", [-1, 32], None)
    assert tensors(dense.input)["divisors"] == ("FP32", [-1, 3], None)
    assert tensors(dense.output)["click"] == ("FP32", [-1], None)
    assert (router.max_batch_size, len(router.model_warmup)) == (0, 0)  # zeros are no bounds of bags
    assert tensors(router.output)["s1_weights"] == ("FP32", [1, -1], None)
    fanout = read(configs.router_config(design("toy", "fleet")))
    assert fanout.max_batch_size == 0
    assert tensors(fanout.output) == {
        "sums": ("FP32", [-1, 20], None),
        "sums_1": ("FP32", [-1, 32], None),
        "divisors": ("FP32", [-1, 3], None),
    }


@pytest.mark.parametrize("layout", ["single", "fleet"])
@pytest.mark.parametrize("shard_backend", ["python", "native"])
def test_only_native_shards_of_a_fleet_are_called_without_a_batcher(
    layout: Layout, shard_backend: configs.ShardBackend
) -> None:
    """Python shards join queries; and beside models with batchers one without corrupts Triton's heap under a flood."""
    each = design("toy", layout)
    for held in each.wiring:
        config = read(configs.embedding_config(each, held, shard_backend))
        assert config.HasField("dynamic_batching") == ((layout, shard_backend) != ("fleet", "native"))
        assert config.max_batch_size == 64


@pytest.mark.parametrize("layout", ["single", "fleet"])
@pytest.mark.parametrize("kind", MODELS)
def test_all_of_a_front_end_has_batchers(kind: str, layout: Layout) -> None:
    """One model without, beside others, corrupts Triton's heap under a flood."""
    each = design(kind, layout)
    made = [configs.dense_config(each), configs.router_config(each), *configs.ids_configs(each)]
    assert len(made) == (3 if kind == "ids" else 2)
    assert all(read(config).HasField("dynamic_batching") for config in made)


@pytest.mark.parametrize("layout", ["single", "fleet"])
def test_one_number_a_row_is_a_column_between_the_steps_where_rows_are_joined(layout: Layout) -> None:
    """Triton takes no dims of nothing: [batch] is [batch, 1] inside, and as it was at the client's and the graph's."""
    each = design("rows", layout)
    ensemble, dense, router = (
        read(make(each)) for make in (configs.ensemble_config, configs.dense_config, configs.router_config)
    )
    assert tensors(ensemble.input)["item"] == ("INT64", [-1], [-1, 1])
    assert tensors(ensemble.output) == {"click": ("FP32", [-1], [-1, 1]), "watch": ("FP32", [-1, 2], None)}
    assert dense.max_batch_size == 4096 and dense.HasField("dynamic_batching")
    assert tensors(dense.output) == {"click": ("FP32", [1], []), "watch": ("FP32", [2], None)}
    assert {name: dims for name, (_, dims, _) in tensors(dense.input).items()} == (
        {"price": [3], "s0_sums": [16], "s1_sums": [16], "divisors": [2]}
        if layout == "single"
        else {"price": [3], "sums": [16], "divisors": [2]}
    )
    (warmup,) = dense.model_warmup
    assert warmup.batch_size == 8 and set(warmup.inputs) == set(tensors(dense.input))
    if layout == "fleet":
        assert router.max_batch_size == 4096
        assert tensors(router.input) == {"item": ("INT64", [1], None), "history": ("INT32", [5], None)}
    else:
        assert router.max_batch_size == 0
        assert tensors(router.input) == {"item": ("INT64", [-1, 1], None), "history": ("INT32", [-1, 5], None)}
        assert {name: list(each.dims) for name, each in router.model_warmup[0].inputs.items()} == {
            "item": [8, 1],
            "history": [8, 5],
        }


def test_ids_that_are_computed_come_from_a_step_before_the_router() -> None:
    each = design("ids", "single")
    (graph,) = (read(config) for config in configs.ids_configs(each))
    assert (graph.name, graph.backend, graph.max_batch_size) == ("toy_ids", "onnxruntime", 0)
    assert tensors(graph.input) == {"features": ("FP32", [-1, 4], None), "shift": ("FP32", [-1, 1], [-1])}
    assert tensors(graph.output) == {"first": ("INT64", [-1, 1], [-1]), "computed": ("INT64", [-1, 5], None)}
    ensemble = read(configs.ensemble_config(each))
    first, router, *_ = ensemble.ensemble_scheduling.step
    assert (first.model_name, dict(first.input_map)) == ("toy_ids", {name: name for name in ("features", "shift")})
    assert dict(router.input_map) == {name: name for name in ("first", "computed")}
    assert tensors(ensemble.input)["shift"] == ("FP32", [-1], [-1, 1])
    assert configs.ids_configs(design("toy", "single")) == []


def test_a_services_warm_up_is_a_row_of_each_group() -> None:
    each = design("toy", "single")
    config = read(configs.embedding_config(each, each.wiring[0], "native"))
    assert config.backend == "elasticrec_shard"
    assert {item.name: item.allow_ragged_batch for item in config.input} == dict.fromkeys(
        ["ids", "lengths", "weights", "ids_1", "lengths_1"], True
    )
    assert tensors(config.output) == {"sums": ("FP32", [20], None), "sums_1": ("FP32", [32], None)}
    inputs = config.model_warmup[0].inputs
    assert {name: list(item.dims) for name, item in inputs.items()} == {
        "ids": [3],
        "lengths": [3],
        "weights": [1],
        "ids_1": [2],
        "lengths_1": [2],
    }
    assert inputs["lengths_1"].input_data_file == "lengths_1" and inputs["ids"].zero_data
    half = design("toy", "fleet", fleet=FleetSettings(sums_dtype="fp16"))
    outputs = configs.embedding_config(half, half.wiring[0], "python").output
    assert {item.data_type for item in outputs} == {pb.TYPE_FP16}


def test_what_has_no_dimensions_is_served_as_one_number() -> None:
    spec, _ = toy_spec("toy")
    scalar = Tensor("scalar", "INT32", ())
    model = replace(
        spec.model, inputs=(*spec.model.inputs, scalar), outputs=(*spec.model.outputs, replace(scalar, name="n"))
    )
    each = design("toy", "single", model=model)
    ensemble = read(configs.ensemble_config(each))
    assert tensors(ensemble.input)["scalar"] == ("INT32", [1], None)
    assert tensors(ensemble.output)["n"] == tensors(configs.dense_config(each).output)["n"] == ("INT32", [1], None)
    assert tensors(configs.router_config(each).input)["scalar"] == ("INT32", [1], None)  # nobody else reads it


def renamed(spec: Spec, name: str) -> Spec:
    outputs = (replace(spec.model.outputs[0], name=name), *spec.model.outputs[1:])
    return replace(spec, model=replace(spec.model, outputs=outputs))


@pytest.mark.parametrize(
    ("layout", "name"), [("single", "s0_ids"), ("single", "s1_sums_1"), ("fleet", "sums"), ("fleet", "degraded")]
)
def test_names_that_the_wiring_takes_are_refused(layout: Layout, name: str) -> None:
    spec = replace(renamed(toy_spec("toy")[0], name), fleet=FleetSettings(missing_shard="degrade"))
    with pytest.raises(PlanError, match=f"model: {name}: this name of an input or output is taken by the wiring"):
        design("toy", layout, model=spec.model, fleet=spec.fleet)
    assert BATCH in spec.model.outputs[0].shape


def test_a_service_named_as_the_ids_graph_is_refused() -> None:
    spec, _ = toy_spec("ids")
    whole = plan(spec.model, service("ids", [Shard("items", 0, 500)]))
    with pytest.raises(PlanError, match="expected no embedding service named ids"):
        Design.of(spec, whole, "single")


def test_a_graph_on_a_gpu_multiplies_in_float32() -> None:
    """As NVIDIA's ONNX Runtime backend takes it, by its README: the accelerator `cuda` with the provider's options."""
    for make in (configs.dense_config, configs.whole_config):
        config = read(make(on_gpus(0, 3)))
        assert [(group.kind, group.count, list(group.gpus)) for group in config.instance_group] == [
            (pb.ModelInstanceGroup.KIND_GPU, 2, [0, 3])
        ]
        (cuda,) = config.optimization.execution_accelerators.gpu_execution_accelerator
        assert (cuda.name, dict(cuda.parameters)) == ("cuda", {"use_tf32": "0"})
        assert not read(make(design("rows", "single"))).HasField("optimization")
    config = read(configs.embedding_config(on_gpus(0), on_gpus(0).wiring[0], "native"))
    assert config.backend == "python" and not config.HasField("optimization")


def test_a_graph_has_one_thread_and_no_arena() -> None:
    """As NVIDIA's ONNX Runtime backend takes it, by its README; an arena would keep what the largest batch took."""
    made = [configs.dense_config(design("rows", "fleet")), configs.whole_config(design("rows", "single"))]
    made += configs.ids_configs(design("ids", "single"))
    assert len(made) == 3
    for config in map(read, made):
        found = {key: config.parameters[key].string_value for key in ("intra_op_thread_count", "enable_mem_arena")}
        assert found == {"intra_op_thread_count": "1", "enable_mem_arena": "0"}
