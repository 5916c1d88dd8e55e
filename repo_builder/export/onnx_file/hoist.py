"""Look-ups taken out of loops: torch's older exporter writes EmbeddingBag as a loop that looks up a bag at a time.

In a loop's body Gather(table, Slice(ids)) becomes Slice(rows), where rows is Gather(table, ids), before the loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from repo_builder.export.join import all_names, free_prefix
from repo_builder.export.onnx_file.read import inner_graphs, values


def hoist_look_ups(graph: onnx.GraphProto, folder: Path) -> None:
    """Change the graph so that what loops look up in parts is looked up whole before them."""
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    prefix = free_prefix("rows_of_", all_names(graph))
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        for body in inner_graphs(node) if node.op_type == "Loop" else ():
            nodes += _hoisted(body, initializers, prefix, folder)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _hoisted(
    body: onnx.GraphProto, initializers: Mapping[str, TensorProto], prefix: str, folder: Path
) -> Iterator[onnx.NodeProto]:
    made_by = {name: node for node in body.node for name in node.output}
    own = {*made_by, *(entry.name for entry in (*body.input, *body.initializer))}
    for node in body.node:
        part = made_by.get(node.input[1]) if node.op_type == "Gather" else None
        is_table = part is not None and node.input[0] in initializers and not any(each.i for each in node.attribute)
        if part is None or not is_table or part.op_type != "Slice" or part.input[0] in own:
            continue
        axes = initializers.get(part.input[3]) if len(part.input) > 3 else None
        if axes is None or values(axes, folder).reshape(-1).tolist() != [0]:
            continue
        rows = f"{prefix}{node.output[0]}"
        yield helper.make_node("Gather", [node.input[0], part.input[0]], [rows], rows)
        node.CopyFrom(helper.make_node("Slice", [rows, *part.input[1:]], list(node.output), node.name))
