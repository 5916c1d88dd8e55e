"""An ONNX graph with an index: who makes and who reads each tensor, its type and its shape."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

from repo_builder.errors import ModelFileError
from repo_builder.export.onnx_file.tensors import all_reads, inner_graphs
from repo_builder.model.types import BATCH

MAX_IR_VERSION = 10
"""The newest that onnxruntime 1.19 reads; what newer ones add is not of opset 21."""


@dataclass(frozen=True, slots=True)
class Size:
    """A dimension: a number times the product of symbols; a symbol is a varying dimension of an input, or any other."""

    number: int
    symbols: tuple[str, ...] = ()

    def __mul__(self, other: Size) -> Size:
        return Size(self.number * other.number, _sorted((*self.symbols, *other.symbols)))

    @property
    def dimension(self) -> int | str:
        """A number, or a name."""
        if not self.symbols:
            return self.number
        return "*".join([*([str(self.number)] if self.number != 1 else []), *self.symbols])

    def at(self, sizes: Mapping[str, int]) -> int | None:
        """The number where symbols have these sizes; None where one has none."""
        if any(symbol not in sizes for symbol in self.symbols):
            return None
        return self.number * prod(sizes[symbol] for symbol in self.symbols)


Shape = tuple[Size, ...]

ONE_MORE = "+1"
"""What the name of a dimension ends with that is another's and 1, as that of the ends of bags."""


def sized(symbols: Iterable[str], draw: Callable[[str], int]) -> dict[str, int]:
    """A size for each symbol, one more than another's for those that say so."""
    names = sorted(set(symbols))
    sizes = {name: draw(name) for name in names if not name.endswith(ONE_MORE)}
    for name in names:
        if name.endswith(ONE_MORE):
            base = name.removesuffix(ONE_MORE)
            sizes[name] = sizes.setdefault(base, draw(base)) + 1
    return sizes


def _sorted(symbols: Iterable[str]) -> tuple[str, ...]:
    """In one order, the batch first."""
    return tuple(sorted(symbols, key=lambda symbol: (symbol != BATCH, symbol)))


class Graph:
    """The index of a model's main graph. Initializers that are large lie in files of `folder`."""

    def __init__(self, model: onnx.ModelProto, folder: Path, symbols: Mapping[tuple[str, int], str]) -> None:
        """symbols: the name of each varying dimension of an input, by (input, axis)."""
        self.model, self.folder, self.symbols = model, folder, symbols
        self.nodes: Sequence[onnx.NodeProto] = list(model.graph.node)
        self.initializers: Mapping[str, TensorProto] = {each.name: each for each in model.graph.initializer}
        self.inputs: Sequence[str] = [entry.name for entry in model.graph.input]
        self.outputs: Sequence[str] = [entry.name for entry in model.graph.output]
        self.made_by: Mapping[str, int] = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.reads: Sequence[Sequence[str]] = [list(dict.fromkeys(all_reads(node))) for node in self.nodes]
        read_by: dict[str, list[int]] = defaultdict(list)
        for i, names in enumerate(self.reads):
            for name in names:
                read_by[name].append(i)
        self.read_by: Mapping[str, Sequence[int]] = read_by
        self._infer()

    def _infer(self) -> None:
        """Types and shapes of all tensors that can be told."""
        self.types: dict[str, int] = {}
        self.shapes: dict[str, Shape] = {}
        safe = {symbol: f"d{i}" for i, symbol in enumerate(_sorted(set(self.symbols.values())))}
        names = {short: symbol for symbol, short in safe.items()}
        bare = onnx.ModelProto()
        bare.CopyFrom(self.model)
        del bare.graph.value_info[:]
        for entry in bare.graph.input:
            for axis, dimension in enumerate(entry.type.tensor_type.shape.dim):
                if (entry.name, axis) in self.symbols:
                    dimension.dim_param = safe[self.symbols[entry.name, axis]]
        for entry in bare.graph.output:
            entry.type.tensor_type.ClearField("shape")
        for inferred in _inferred(bare):
            for entry in (*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output):
                tensor = entry.type.tensor_type
                if tensor.elem_type:
                    self.types.setdefault(entry.name, tensor.elem_type)
                if tensor.HasField("shape"):
                    shape = tuple(_size(d, names, f"{entry.name}_{axis}") for axis, d in enumerate(tensor.shape.dim))
                    self.shapes.setdefault(entry.name, shape)
        for name, tensor in self.initializers.items():
            self.types[name] = tensor.data_type
            self.shapes[name] = tuple(Size(size) for size in tensor.dims)

    def needed(self, outputs: Iterable[str], given: Iterable[str] = ()) -> list[int]:
        """The nodes that make the outputs from what is given, from inputs and from initializers, in order."""
        seen, todo = set(given), list(outputs)
        found: set[int] = set()
        while todo:
            name = todo.pop()
            if name in seen:
                continue
            seen.add(name)
            if name in self.made_by and self.made_by[name] not in found:
                found.add(self.made_by[name])
                todo += self.reads[self.made_by[name]]
        return sorted(found)

    def extract(
        self, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto],
        before: Sequence[onnx.NodeProto] = (), numbers: Sequence[TensorProto] = (),
    ) -> onnx.ModelProto:  # fmt: skip
        """The part of the graph between tensors as a model; nodes `before` make some tensors instead of its own."""
        given = [entry.name for entry in inputs] + [name for node in before for name in node.output]
        read_before = [name for node in before for name in node.input]
        wanted = [entry.name for entry in outputs]
        positions = self.needed([*wanted, *read_before], given)
        nodes = self._in_order([*before, *(self.nodes[position] for position in positions)], given)
        read = {name for node in nodes for name in all_reads(node)} | set(wanted)
        initializers = [each for name, each in self.initializers.items() if name in read and name not in given]
        graph = helper.make_graph(nodes, "model", inputs, outputs, [*initializers, *numbers])
        sparse = [each for each in self.model.graph.sparse_initializer if each.values.name in read]
        graph.sparse_initializer.extend(sparse)
        domains = {node.domain for node in nodes} | {""}
        opsets = [each for each in self.model.opset_import if each.domain in domains or each.domain == "ai.onnx"]
        ir_version = min(self.model.ir_version, MAX_IR_VERSION)
        return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, producer_name="elasticrec")

    def _in_order(self, nodes: Sequence[onnx.NodeProto], given: Sequence[str]) -> list[onnx.NodeProto]:
        """The nodes, each after those whose outputs it reads, else in their order."""
        made = {name for node in nodes for name in node.output if name}
        ordered, done = list[onnx.NodeProto](), set[str]()
        waiting = list(nodes)
        while waiting:
            later = []
            for node in waiting:
                if any(name in made and name not in done for name in all_reads(node)):
                    later.append(node)
                else:
                    ordered.append(node)
                    done.update(node.output)
            if len(later) == len(waiting):
                raise ValueError(f"a circle of nodes: {[node.name for node in later]}")
            waiting = later
        return ordered

    def dtype(self, name: str) -> np.dtype[Any]:
        """A tensor's numbers, as NumPy calls them."""
        return helper.tensor_dtype_to_np_dtype(self.types[name])

    def info(self, name: str, shape: Sequence[int | str | None] | None) -> onnx.ValueInfoProto:
        """A tensor as an input or output of a model."""
        return helper.make_tensor_value_info(name, self.types[name], shape)


def _inferred(model: onnx.ModelProto) -> Iterator[onnx.ModelProto]:
    """The model with its tensors' shapes, by onnxruntime's inference, which knows products of sizes, and ONNX's."""
    log = logging.getLogger("onnxruntime.tools.symbolic_shape_infer")
    level = log.level
    log.setLevel(logging.CRITICAL)  # what it cannot infer is asked of the other
    for part in (model, _before_control_flow(model)):
        with suppress(Exception):  # it raises whatever an operator's rule happens to: the next one goes on
            yield _symbolically(part)
            break
    log.setLevel(level)
    yield onnx.shape_inference.infer_shapes(model, data_prop=True)


class _Inference(SymbolicShapeInference):  # type: ignore[misc] # onnxruntime comes without types
    """Of inputs' dimensions that must be alike the batch stays, or the first: onnxruntime takes what a set of strings
    gives first, another in each process.
    """

    input_symbols_: set[str]

    def _add_suggested_merge(self, symbols: Iterable[Any], apply: bool = False) -> None:
        known = self.input_symbols_
        inputs = {self.suggested_merge_.get(symbol, symbol) for symbol in symbols} & known
        self.input_symbols_ = {min(inputs, key=lambda name: (len(name), name))} if inputs else known
        try:
            super()._add_suggested_merge(symbols, apply)
        finally:
            self.input_symbols_ = known


def _symbolically(model: onnx.ModelProto) -> onnx.ModelProto:
    """As `SymbolicShapeInference.infer_shapes` does, but for the file that it writes into the working folder where it
    cannot tell all shapes. Raises ValueError there.
    """
    inference = _Inference(int_max=2**31 - 1, auto_merge=True, guess_output_rank=False, verbose=0)
    inference._preprocess(model)
    complete = False
    while inference.run_:
        complete = inference._infer_impl()
    inference._update_output_from_vi()
    if not complete:
        raise ValueError("a shape cannot be told")
    inferred: onnx.ModelProto = inference.out_mp_
    return inferred


def _before_control_flow(model: onnx.ModelProto) -> onnx.ModelProto:
    """The nodes that need no result of a loop or a branch, with all that they make as outputs."""
    part = onnx.ModelProto()
    part.CopyFrom(model)
    after = set[str]()
    nodes = []
    for node in model.graph.node:
        if after.intersection(node.input) or any(True for _ in inner_graphs(node)):
            after.update(node.output)
        else:
            nodes.append(node)
    made = [name for node in nodes for name in node.output if name]
    for field, values in ((part.graph.node, nodes), (part.graph.output, [onnx.ValueInfoProto(name=n) for n in made])):
        del field[:]
        field.extend(values)
    return part


def _size(dimension: onnx.TensorShapeProto.Dimension, names: Mapping[str, str], unknown: str) -> Size:
    """A dimension as inferred; what is no product of inputs' sizes is a symbol of its own.

    A quotient is a guess: inference takes the parts of a Split whose sizes are computed for equal ones.
    """
    if dimension.HasField("dim_value"):
        return Size(int(dimension.dim_value))
    factors = dimension.dim_param.split("*") if dimension.dim_param else [unknown]
    if all(factor.isdigit() or factor in names for factor in factors):
        number = prod(int(factor) for factor in factors if factor.isdigit())
        return Size(number, _sorted(names[factor] for factor in factors if not factor.isdigit()))
    base = dimension.dim_param.removesuffix(" + 1")
    if base in names and base != dimension.dim_param:
        return Size(1, (names[base] + ONE_MORE,))
    known = dimension.dim_param and "/" not in dimension.dim_param
    return Size(1, (re.sub(r"\W+", "_", dimension.dim_param if known else unknown).strip("_"),))


_UNNAMED = "?"
_UNKNOWN = re.compile(r"unk__\d+|None|\?|-1")
"""What exporters call a dimension that has no name."""


def name_symbols(graph: onnx.GraphProto, path: Path) -> Mapping[tuple[str, int], str]:
    """The name of each varying dimension of an input, by (input, axis). First dimensions without a name are the batch.

    The batch is the first dimension of the outputs, or else of most inputs. Raises ModelFileError where none varies.
    """
    found = {
        (entry.name, axis): name
        for entry in graph.input
        for axis, dimension in enumerate(entry.type.tensor_type.shape.dim)
        if (name := _symbol(dimension)) is not None
    }
    first = [name for (_, axis), name in found.items() if axis == 0]
    answered = {_symbol(entry.type.tensor_type.shape.dim[0]) for entry in graph.output if _rank(entry)} - {_UNNAMED}
    candidates = [name for name in dict.fromkeys(found.values()) if name in answered or name in first]
    if not candidates:
        raise ModelFileError(f"{path}: {_static(graph)}")
    batch = max(candidates, key=lambda name: (name in answered, first.count(name), -candidates.index(name)))
    named, taken = {batch: BATCH}, {BATCH}
    symbols = {}
    for (entry, axis), name in found.items():
        key = name if name != _UNNAMED else batch if axis == 0 else f"{entry}_{axis}"
        if key not in named:
            named[key] = (
                named[one_less] + ONE_MORE
                if (one_less := key.removesuffix(" + 1")) in named
                else _free(re.sub(r"\W+", "_", key), taken)
            )
            taken.add(named[key])
        symbols[entry, axis] = named[key]
    return symbols


def _symbol(dimension: onnx.TensorShapeProto.Dimension) -> str | None:
    """As the file calls a dimension; None where it is a number."""
    if dimension.dim_value > 0:
        return None
    name = str(dimension.dim_param)
    return _UNNAMED if not name or _UNKNOWN.fullmatch(name) else name


def _rank(entry: onnx.ValueInfoProto) -> int:
    return len(entry.type.tensor_type.shape.dim)


def _free(name: str, taken: set[str]) -> str:
    return (
        name
        if name not in taken
        else next(f"{name}_{i}" for i in range(1, len(taken) + 2) if f"{name}_{i}" not in taken)
    )


def _static(graph: onnx.GraphProto) -> str:
    """What is wrong with a model none of whose inputs takes a batch of any size, and the call that mends it."""
    shapes = {entry.name: [d.dim_value for d in entry.type.tensor_type.shape.dim] for entry in graph.input}
    name, shape = max(shapes.items(), key=lambda item: len(item[1]))
    axes = ", ".join(f'"{each}": {{0: "batch"}}' for each, sizes in shapes.items() if sizes[:1] == shape[:1])
    return (
        f"input {name}: expected a first dimension that varies, the batch, got the shape {shape}; export the model "
        f"with torch.onnx.export(..., dynamic_axes={{{axes}}}), or its dynamic_shapes"
    )
