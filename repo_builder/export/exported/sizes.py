"""Names for the sizes that vary: `batch`, and the others by input and axis."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import sympy
import torch
from torch.fx import Node
from torch.utils._sympy.functions import FloorDiv

from repo_builder.errors import ModelFileError
from repo_builder.export.exported.archive import EXPORT_CALL
from repo_builder.export.exported.graph import ProgramGraph, Size, shape_of, simple
from repo_builder.model.types import BATCH, Datatype, Tensor

DATATYPES: Mapping[torch.dtype, Datatype] = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8",
    torch.int8: "INT8",
    torch.int16: "INT16",
    torch.int32: "INT32",
    torch.int64: "INT64",
    torch.float16: "FP16",
    torch.float32: "FP32",
    torch.float64: "FP64",
    torch.bfloat16: "BF16",
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """batch: the size that a query's rows are. equal: others that are always it. symbols: each symbol in words."""

    batch: sympy.Expr
    equal: frozenset[sympy.Expr]
    symbols: Mapping[sympy.Symbol, sympy.Expr]

    def is_batch(self, size: Size) -> bool:
        """Whether it is the batch, however it is written."""
        return size == self.batch or size in self.equal

    def name(self, size: Size) -> int | str:
        """The number, or the name: alike where equal."""
        if isinstance(size, int):
            return size
        if self.is_batch(size):
            return BATCH
        words = size.subs(dict(self.symbols))
        return int(words) if words.is_Integer else str(words)

    def tensor(self, node: Node, name: str) -> Tensor:
        """A node's tensor as clients see it."""
        return Tensor(name, DATATYPES[node.meta["val"].dtype], tuple(self.name(size) for size in shape_of(node)))


def named_sizes(graph: ProgramGraph) -> Sizes:
    """Name the sizes that vary; the batch is what outputs, else inputs, begin with.

    Raises ModelFileError where none begins with one that varies: the commonest mistake at the export.
    """
    problems = [
        f"{graph.program.path}: {node.name}: expected {', '.join(DATATYPES.values())}, got {node.meta['val'].dtype}; "
        "let the model take and give tensors of these"
        for node in (*graph.inputs, *graph.outputs)
        if node.meta["val"].dtype not in DATATYPES
    ]
    if problems:
        raise ModelFileError(*problems)
    firsts = _varying_firsts(graph.outputs) or _varying_firsts(graph.inputs)
    if not firsts:
        example = next((node for node in graph.inputs if shape_of(node)), None)
        seen = f"{example.name} of shape {list(shape_of(example))}" if example is not None else "none"
        raise ModelFileError(
            f"{graph.program.path}: expected inputs whose batch varies, got fixed sizes ({seen}); "
            f"name the batch at the export: {EXPORT_CALL}"
        )
    batch = firsts.most_common(1)[0][0]
    symbols: dict[sympy.Symbol, sympy.Expr] = {}
    if len(batch.free_symbols) == 1 and (rest := batch - next(iter(batch.free_symbols))).is_Integer:
        symbols[next(iter(batch.free_symbols))] = _word(BATCH) - rest
    for node in graph.inputs:
        for axis, size in enumerate(shape_of(node)):
            if isinstance(size, sympy.Symbol) and size not in symbols:
                symbols[size] = _word(f"{node.name}_{axis}")
    return Sizes(batch, frozenset(_equal_to(graph, batch)), symbols)


def _varying_firsts(nodes: Any) -> Counter[sympy.Expr]:
    firsts = (shape_of(node)[0] for node in nodes if shape_of(node))
    return Counter(size for size in firsts if not isinstance(size, int))


def _word(name: str) -> sympy.Symbol:
    return sympy.Symbol(name, positive=True, integer=True)


def _equal_to(graph: ProgramGraph, batch: sympy.Expr) -> Iterator[sympy.Expr]:
    """What the exporter found to be the batch too, as `L['lengths'].size()[0] // 4 == L['dense'].size()[0]` says."""
    for guard in graph.program.guards:
        try:
            compared = ast.parse(guard, mode="eval").body
            if isinstance(compared, ast.Compare) and isinstance(compared.ops[0], ast.Eq):
                sides = [_simple(_size(graph, side)) for side in (compared.left, compared.comparators[0])]
                if batch in sides:
                    yield from (side for side in sides if not isinstance(side, int))
        except (SyntaxError, ValueError, LookupError, RecursionError):
            continue  # what says something else does not matter


def _simple(size: Size) -> Size:
    return size if isinstance(size, int) else simple(size)


def _size(graph: ProgramGraph, part: ast.expr) -> Size:
    """A size in a guard: whole numbers, sizes of inputs, and what arithmetic makes of them."""
    if isinstance(part, ast.Constant) and isinstance(part.value, int):
        return part.value
    if isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.USub):
        return -_size(graph, part.operand)
    if isinstance(part, ast.BinOp) and type(part.op) in _ARITHMETIC:
        return _ARITHMETIC[type(part.op)](_size(graph, part.left), _size(graph, part.right))
    if isinstance(part, ast.Subscript) and isinstance(part.slice, ast.Constant):  # ... .size()[axis]
        call, axis = part.value, part.slice.value
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "size":
            path = "_".join(reversed(list(_keys(call.func.value))))
            node = next((node for node in graph.inputs if node.name == path), None)
            if node is not None and isinstance(axis, int):
                return shape_of(node)[axis]
    raise ValueError(ast.dump(part))


def _keys(part: ast.expr) -> Iterator[str]:
    """The keys of `L['x']['user']`, last first."""
    while isinstance(part, ast.Subscript) and isinstance(part.slice, ast.Constant):
        yield str(part.slice.value)
        part = part.value


_ARITHMETIC: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.FloorDiv: FloorDiv,
}
