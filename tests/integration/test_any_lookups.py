"""Look-ups of every kind on a real server: native router, native and Python shards, and the ONNX stand-in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import tritonclient.grpc as grpcclient
from google.protobuf import text_format
from onnx import TensorProto, helper
from tritonclient.grpc import model_config_pb2 as pb
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

import triton_backends
from repo_builder.serving.server import Server
from tests.servers import serving
from tests.triton_backends.drawn_cuts import by_hand
from tests.triton_backends.lookups import Cut, Query
from triton_backends.router.routing import suffix

TYPES = {np.dtype(np.int64): pb.TYPE_INT64, np.dtype(np.int32): pb.TYPE_INT32, np.dtype(np.float32): pb.TYPE_FP32}
PACKAGE = Path(triton_backends.__file__).parent


def add(folder: Path, config: pb.ModelConfig) -> Path:
    """A model's config; its version folder."""
    version = folder / config.name / "1"
    version.mkdir(parents=True)
    (folder / config.name / "config.pbtxt").write_text(text_format.MessageToString(config))
    return version


def add_native(folder: Path, config: pb.ModelConfig, kind: str) -> Path:
    config.backend = f"elasticrec_{kind}"
    version = add(folder, config)
    name = f"libtriton_elasticrec_{kind}.so"
    (version.parent / name).write_bytes((PACKAGE / "native" / name).read_bytes())
    return version


def add_router(folder: Path, cut: Cut, query: Query) -> dict[str, int]:
    """The router; its outputs and their types."""
    config = pb.ModelConfig(name="m_router", max_batch_size=0)
    for name, tensor in query.items():
        config.input.add(name=name, data_type=TYPES[tensor.dtype], dims=[-1] * tensor.ndim)
    outputs = {name: TYPES[tensor.dtype] for name, tensor in cut.router().route(query).tensors.items()}
    for name, kind in outputs.items():
        config.output.add(name=name, data_type=kind, dims=[-1, -1])
    cut.write_router(add_native(folder, config, "router"))
    return outputs


def answers(cut: Cut, service: int) -> dict[str, int]:
    """What a service answers: sums of so many columns, and rows as they are, of any number."""
    found = {}
    for group in cut.held(service).groups:
        if group.bags:
            found[f"sums{suffix(group.group)}"] = sum(cut.width(i) for i in cut.columns(service, group.group))
        if group.unpooled:
            found[f"rows{suffix(group.group)}"] = -1
    return found


def add_shard(folder: Path, cut: Cut, service: int, native: bool, names: Sequence[str]) -> None:
    config = pb.ModelConfig(name=f"m_s{service}", max_batch_size=8)
    for name in names:
        kind = pb.TYPE_FP32 if name.startswith("weights") else pb.TYPE_INT32
        config.input.add(name=name, data_type=kind, dims=[-1], allow_ragged_batch=True)
    for name, width in answers(cut, service).items():
        config.output.add(name=name, data_type=pb.TYPE_FP32, dims=[width])
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
    config.dynamic_batching.SetInParent()
    if native:
        cut.write_shard(service, add_native(folder, config, "shard"))
        return
    config.backend = "python"
    version = add(folder, config)
    cut.write_shard(service, version)
    code = version / "triton_backends"
    for name in ("__init__.py", "kernels/__init__.py", "kernels/row_formats.py", "kernels/kernels.so"):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_bytes((PACKAGE / name).read_bytes())
    (code / "embedding_shard").mkdir()
    for name in ("__init__.py", "shard.py", "torch_shard.py"):
        (code / "embedding_shard" / name).write_bytes((PACKAGE / "embedding_shard" / name).read_bytes())
    (version / "model.py").write_bytes((PACKAGE / "embedding_shard/model.py").read_bytes())


def add_ensemble(folder: Path, cut: Cut, query: Query, outputs: dict[str, int]) -> None:
    """The router and then all shards: their answers and the divisors come out."""
    config = pb.ModelConfig(name="m", max_batch_size=0, platform="ensemble")
    for name, tensor in query.items():
        config.input.add(name=name, data_type=TYPES[tensor.dtype], dims=[-1] * tensor.ndim)
    steps = config.ensemble_scheduling.step
    steps.add(
        model_name="m_router", model_version=-1, input_map={n: n for n in query}, output_map={n: n for n in outputs}
    )
    for name in (name for name in outputs if name.startswith("divisors")):
        config.output.add(name=name, data_type=pb.TYPE_FP32, dims=[-1, -1])
    for service in cut.holders():
        mine = {name.removeprefix(f"s{service}_"): name for name in outputs if name.startswith(f"s{service}_")}
        found = {name: f"s{service}_{name}" for name in answers(cut, service)}
        steps.add(model_name=f"m_s{service}", model_version=-1, input_map=mine, output_map=found)
        config.output.extend(
            pb.ModelOutput(name=name, data_type=pb.TYPE_FP32, dims=[-1, -1]) for name in found.values()
        )
    add(folder, config)


def add_numbers(folder: Path) -> None:
    """`twice` = 2 * `a`, a number a row, in a model that batches; `above` = `rows` > 0, of rows that vary, in one that
    does not.
    """
    number = pb.ModelTensorReshape(shape=[])  # Triton has no scalars: a row's number comes as one of one
    config = pb.ModelConfig(name="twice", max_batch_size=8, backend="onnxruntime")
    config.input.add(name="a", data_type=pb.TYPE_INT64, dims=[1], reshape=number)
    config.output.add(name="twice", data_type=pb.TYPE_INT64, dims=[1], reshape=number)
    inputs = [helper.make_tensor_value_info("a", TensorProto.INT64, ["n"])]
    outputs = [helper.make_tensor_value_info("twice", TensorProto.INT64, ["n"])]
    add_onnx(folder, config, [helper.make_node("Add", ["a", "a"], ["twice"])], inputs, outputs)
    config = pb.ModelConfig(name="above", max_batch_size=0, backend="onnxruntime")
    config.input.add(name="rows", data_type=pb.TYPE_FP16, dims=[-1, 3])
    config.output.add(name="above", data_type=pb.TYPE_BOOL, dims=[-1, 3])
    inputs = [helper.make_tensor_value_info("rows", TensorProto.FLOAT16, ["n", 3])]
    outputs = [helper.make_tensor_value_info("above", TensorProto.BOOL, ["n", 3])]
    zero = helper.make_tensor("zero", TensorProto.FLOAT16, [], [0])
    add_onnx(folder, config, [helper.make_node("Greater", ["rows", "zero"], ["above"])], inputs, outputs, zero)


def add_onnx(
    folder: Path, config: pb.ModelConfig, nodes: list, inputs: list, outputs: list, *constants: onnx.TensorProto
) -> None:
    config.instance_group.add(kind=pb.ModelInstanceGroup.KIND_CPU, count=1)
    graph = helper.make_graph(nodes, config.name, inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, add(folder, config) / "model.onnx")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Service 0 is native, service 1 in Python."""
    folder = tmp_path_factory.mktemp("any") / "repository"
    cut, query = by_hand()
    outputs = add_router(folder, cut, query)
    for service in cut.holders():
        mine = [name.removeprefix(f"s{service}_") for name in outputs if name.startswith(f"s{service}_")]
        add_shard(folder, cut, service, service == 0, mine)
    add_ensemble(folder, cut, query, outputs)
    add_numbers(folder)
    with serving(folder, folder.parent / "server.log") as started:
        yield started


def infer(server: Server, model: str, arrays: Query) -> Query:
    inputs = []
    for name, array in arrays.items():
        item = grpcclient.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        item.set_data_from_numpy(array)
        inputs.append(item)
    with grpcclient.InferenceServerClient(server.grpc) as client:
        result = client.infer(model, inputs)
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}


def test_groups_of_any_look_ups_are_served(server: Server) -> None:
    cut, query = by_hand()
    outputs = infer(server, "m", query)
    found = cut.joined(
        {k: {name: outputs[f"s{k}_{name}"] for name in answers(cut, k)} for k in range(2)},
        {**cut.router().route(query).tensors, **outputs},
        query,
    )
    for each, expected in zip(found, cut.expected(query), strict=True):
        np.testing.assert_allclose(each, expected, rtol=1e-5, atol=1e-5)


def test_a_bad_bound_is_told_to_the_client(server: Server) -> None:
    _, query = by_hand()
    query["bounds2"] = np.array([0, 4])
    with pytest.raises(InferenceServerException, match="table t0: bounds2: expected offsets that rise to at most 3"):
        infer(server, "m", query)


def test_other_numbers_and_shapes_pass_the_stand_in(server: Server) -> None:
    rows = np.array([[1, -1, 0], [2, 0, -3]], np.float16)
    np.testing.assert_array_equal(infer(server, "above", {"rows": rows})["above"], rows > 0)
    assert infer(server, "twice", {"a": np.array([[21], [4]])})["twice"].tolist() == [[42], [8]]
