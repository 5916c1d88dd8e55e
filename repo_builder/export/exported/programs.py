"""Programs cut out of a program: the dense graph, in which look-ups are inputs, and the graph that computes ids."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.fx import Graph, Node
from torch.utils import _pytree as pytree

from repo_builder.export.exported.cut import ProgramCut, ProgramLookup, row_format
from repo_builder.export.exported.graph import ProgramGraph, ancestors, shape_of, size_of
from repo_builder.export.exported.sizes import Sizes

_ATEN = torch.ops.aten


class Cutter:
    """Builds a program out of parts of another one, node by node."""

    def __init__(self, graph: ProgramGraph) -> None:
        self._source = graph
        self._graph = Graph()
        self._copies: dict[Node, Node] = {}
        self._specs: list[InputSpec] = []
        example = graph.inputs[0].meta["val"]
        self._fake = example.fake_mode

    def inputs(self, used: set[Node]) -> list[Node]:
        """Copy the placeholders that are used, parameters first, as they stand; the inputs among them."""
        by_name = {spec.arg.name: spec for spec in self._source.program.exported.graph_signature.input_specs}
        for node in self._source.program.exported.graph.nodes:
            if node.op == "placeholder" and node in used:
                self._copies[node] = self._graph.node_copy(node)
                self._specs.append(copy.copy(by_name[node.name]))
        return [node for node in self._source.inputs if node in used]

    def new_input(self, name: str, shape: Sequence[Any], dtype: torch.dtype) -> Node:
        """Another input, after those."""
        node = self._graph.placeholder(name)
        with self._fake:
            node.meta["val"] = torch.empty(list(shape), dtype=dtype)
        self._specs.append(InputSpec(InputKind.USER_INPUT, TensorArgument(node.name), None))
        return node

    def call(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        """An operator on what is there."""
        node = self._graph.call_function(target, args, kwargs)
        fake_args, fake_kwargs = torch.fx.node.map_arg((args, kwargs), lambda each: each.meta["val"])
        with self._fake:
            node.meta["val"] = target(*fake_args, **fake_kwargs)
        return node

    def stands_for(self, node: Node, copied: Node) -> None:
        """From now on a node of the source is this one."""
        self._copies[node] = copied

    def copy_all(self, used: set[Node]) -> None:
        """Copy the operators that are used and not there yet, in order."""
        for node in self._source.nodes:
            if node in used and node not in self._copies:
                self._copies[node] = self._graph.node_copy(node, lambda each: self._copies[each])

    def copied(self, node: Node) -> Node:
        """What a node of the source is here."""
        return self._copies[node]

    def program(self, outputs: Sequence[Node]) -> ExportedProgram:
        """The finished program."""
        placeholders = {node.name for node in self._graph.nodes if node.op == "placeholder"}
        ends: list[Node] = []
        for node in outputs:  # an output of its own, where it is an input or stands twice
            ends.append(self.call(_ATEN.clone.default, node) if node.name in placeholders or node in ends else node)
        self._graph.output(tuple(ends)).meta["val"] = tuple(node.meta["val"] for node in ends)
        specs = [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(node.name), None) for node in ends]
        exported = self._source.program.exported
        held = {spec.target for spec in self._specs if spec.target is not None}
        inputs = [spec.arg.name for spec in self._specs if spec.kind is InputKind.USER_INPUT]
        within = {str(node.target) for node in self._graph.nodes if node.op == "get_attr"}
        return ExportedProgram(
            root={name: getattr(exported.graph_module, name) for name in within},
            graph=self._graph,
            graph_signature=ExportGraphSignature(self._specs, specs),
            state_dict={name: value for name, value in exported.state_dict.items() if name in held},
            range_constraints=exported.range_constraints,
            module_call_graph=[_flat_call(inputs, len(ends))],
            constants={name: value for name, value in exported.constants.items() if name in held},
            verifiers=exported.verifiers,
        )


def _flat_call(inputs: Sequence[str], outputs: int) -> ModuleCallEntry:
    in_spec = pytree.tree_structure((tuple(range(len(inputs))), {}))
    out_spec = pytree.tree_structure(tuple(range(outputs)))
    return ModuleCallEntry("", ModuleCallSignature([], [], in_spec, out_spec, forward_arg_names=list(inputs)))


def dense_program(graph: ProgramGraph, choice: ProgramCut, sizes: Sizes) -> tuple[ExportedProgram, list[Node]]:
    """The program with the look-ups as inputs `lookup_{i}`, and which of the source's inputs it still reads."""
    results = {site.result for read in choice.reads for _, site in read.sites}
    counts = _counts(graph, choice, sizes)
    used = ancestors(graph.outputs, stop=[*results, *counts]) - results - set(counts)
    cutter = Cutter(graph)
    inputs = cutter.inputs(used)
    stored = graph.program.weights.tensors
    widths = {name: row_format(each).dim for name, each in stored.items() if len(each.shape) == 2}
    looked_up = []
    for i, read in enumerate(choice.reads):
        table = choice.tables[read.table].table
        shape = [*list(_symbolic(graph, sizes, read.sites[0][1].result))[:-1], table.format.dim]
        looked_up.append(cutter.new_input(f"lookup_{i}", shape, torch.float32))
    for count, (position, axis) in counts.items():
        cutter.stands_for(count, cutter.call(_ATEN.sym_size.int, looked_up[position], axis))
    for read, node in zip(choice.reads, looked_up, strict=True):
        members = choice.tables[read.table].members
        for member, site in read.sites:
            begin = sum(widths[name] for name in members[:member])
            cutter.stands_for(site.result, _part(cutter, node, read, begin, widths[members[member]], site.result))
    cutter.copy_all(used)
    return cutter.program([cutter.copied(node) for node in graph.outputs]), inputs


def _counts(graph: ProgramGraph, choice: ProgramCut, sizes: Sizes) -> dict[Node, tuple[int, int]]:
    """Nodes that read a size which a look-up's vectors have too, and where: so no ids are needed for their number."""
    known = {
        sizes.name(size): (position, axis)
        for position, read in enumerate(choice.reads)
        for axis, size in enumerate(shape_of(read.sites[0][1].result)[:-1])
        if not isinstance(size, int)
    }
    readers = (node for node in graph.nodes if node.target is _ATEN.sym_size.int)
    names = {node: sizes.name(size_of(node.meta["val"])) for node in readers}
    return {node: known[name] for node, name in names.items() if name in known}


def _part(cutter: Cutter, node: Node, read: ProgramLookup, begin: int, width: int, result: Node) -> Node:
    """One member's columns of a looked-up tensor, in the shape and dtype that the graph goes on with."""
    if width != node.meta["val"].shape[-1]:
        node = cutter.call(_ATEN.slice.Tensor, node, len(node.meta["val"].shape) - 1, begin, begin + width)
    if shape_of(node) != shape_of(result):
        fixed = [size if isinstance(size, int) else -1 for size in shape_of(result)]
        node = cutter.call(_ATEN.reshape.default, node, fixed)
        node.meta["val"] = result.meta["val"].to(torch.float32)
    if result.meta["val"].dtype != torch.float32:
        node = cutter.call(_ATEN._to_copy.default, node, dtype=result.meta["val"].dtype)
    return node


def _symbolic(graph: ProgramGraph, sizes: Sizes, node: Node) -> Iterator[Any]:
    """A node's shape, in the sizes of the inputs where they are theirs."""
    known = {size_of(each): each for given in reversed(graph.inputs) for each in given.meta["val"].shape}
    for each in node.meta["val"].shape:
        size = sizes.batch if sizes.is_batch(size_of(each)) else size_of(each)
        yield known.get(size, each)


def ids_program(graph: ProgramGraph, wanted: Sequence[Node]) -> ExportedProgram:
    """The program that computes some integer tensors (and weights)."""
    used = ancestors(wanted)
    cutter = Cutter(graph)
    cutter.inputs(used)
    cutter.copy_all(used)
    outputs = []
    for node in wanted:
        dtype = ids_dtype(node)
        same = node.meta["val"].dtype == dtype
        outputs.append(
            cutter.copied(node) if same else cutter.call(_ATEN._to_copy.default, cutter.copied(node), dtype=dtype)
        )
    return cutter.program(outputs)


def ids_dtype(node: Node) -> torch.dtype:
    """What an output of the ids graph is: ids as they are, weights in float32."""
    dtype: torch.dtype = node.meta["val"].dtype
    return torch.float32 if dtype.is_floating_point else torch.int32 if dtype == torch.int32 else torch.int64
