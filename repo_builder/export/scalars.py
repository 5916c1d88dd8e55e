"""What has no dimensions, as Triton can serve it: it takes no such tensors of a model that does not batch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx

from repo_builder.export.join import all_names, free_prefix, rename_tensors
from repo_builder.model.types import Tensor


def serve_scalars(path: Path, tensors: Iterable[Tensor]) -> None:
    """Let inputs and outputs of no dimensions in an ONNX file be of [1] instead; inside they stay what they are.

    tensors: the file's, as its model has them; where none of them is a scalar the file stays as it is.
    """
    if all(tensor.shape for tensor in tensors):
        return
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    inputs = [entry for entry in graph.input if _is_scalar(entry)]
    outputs = [entry for entry in graph.output if _is_scalar(entry)]
    prefix = free_prefix("scalar_", all_names(graph))
    rename_tensors(graph, {entry.name: f"{prefix}{entry.name}" for entry in (*inputs, *outputs)})
    axis = f"{prefix}axis"
    before = [onnx.helper.make_node("Squeeze", [entry.name], [f"{prefix}{entry.name}"]) for entry in inputs]
    after = [onnx.helper.make_node("Unsqueeze", [f"{prefix}{entry.name}", axis], [entry.name]) for entry in outputs]
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
    if outputs:
        graph.initializer.append(onnx.helper.make_tensor(axis, onnx.TensorProto.INT64, [1], [0]))
    for entry in (*inputs, *outputs):
        entry.type.tensor_type.shape.dim.add(dim_value=1)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _is_scalar(entry: onnx.ValueInfoProto) -> bool:
    kind = entry.type.tensor_type
    return bool(kind.HasField("shape")) and not kind.shape.dim
