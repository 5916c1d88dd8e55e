"""Partial sums joined to looked-up vectors, before a dense graph that takes these.

partials ── columns ── added up ── divided where it is a mean ── in the look-up's shape ── the cut graph
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import onnx
from onnx import TensorProto, helper

from repo_builder.errors import ExportError
from repo_builder.model.source import Partial, divisors_name
from repo_builder.model.types import Lookup, Model


def lookup_name(index: int) -> str:
    """The cut graph's input with what a look-up gives, FP32 of the look-up's shape."""
    return f"lookup_{index}"


def join_partials(cut: onnx.ModelProto, model: Model, partials: Sequence[Partial]) -> onnx.ModelProto:
    """The cut graph on partial sums: takes `model.dense.inputs`, the partials, `divisors_name(g)` of groups with means.

    cut: takes `model.dense.inputs` and `lookup_name(i)` of each look-up; opset 13 or later. Look-ups that stand side by
    side in the same partials are added up as one. Raises ExportError where the partials do not make up the model.
    """
    joined = onnx.ModelProto()
    joined.CopyFrom(cut)
    graph = joined.graph
    divisors = [group for group in range(len(model.groups)) if model.has_means(group)]
    _check(model, partials, [divisors_name(group) for group in divisors])
    added = {partial.name for partial in partials} | {divisors_name(group) for group in divisors}
    prefix = free_prefix("joined_", all_names(graph) | added)
    rename_tensors(graph, {name: f"{prefix}was_{name}" for name in sorted(all_names(graph) & added)})
    before = _Joined(model, partials, prefix, _opset(cut))
    looked_up = {lookup_name(index) for index in range(len(model.lookups))}
    inputs = [entry for entry in graph.input if entry.name not in looked_up]
    inputs += [_input(model, partial.name, partial.group, partial.width) for partial in partials]
    inputs += [_input(model, divisors_name(group), group, _bags(model, group)) for group in divisors]
    nodes = [*before.nodes, *graph.node]
    for field, values in ((graph.input, inputs), (graph.node, nodes)):
        del field[:]
        field.extend(values)
    graph.initializer.extend(before.numbers)
    return joined


@dataclass(frozen=True, slots=True)
class _Run:
    """Look-ups whose columns stand side by side in each of the partials that hold them, in this order."""

    holders: tuple[Partial, ...]
    lookups: tuple[int, ...]


class _Joined:
    """The nodes from the partials to every look-up, and the whole numbers that they take."""

    def __init__(self, model: Model, partials: Sequence[Partial], prefix: str, opset: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.numbers: list[TensorProto] = []
        self._model, self._prefix, self._opset = model, prefix, opset
        self._placed: dict[tuple[int, ...], str] = {}
        self._shapes: dict[str, str] = {}
        runs = _runs(model, partials)
        pieces = {partial.name: self._pieces(partial, runs) for partial in partials}
        divisors = {index: begin for group in range(len(model.groups)) for index, begin in _columns(model, group)}
        for run in runs:
            self._write(run, [pieces[holder.name][run.lookups[0]] for holder in run.holders], divisors)

    def _pieces(self, partial: Partial, runs: Sequence[_Run]) -> Mapping[int, str]:
        """The partial's columns of each run, by the run's first look-up."""
        held = sorted(
            (partial.columns[run.lookups[0]], self._width(run.lookups), run.lookups[0])
            for run in runs
            if partial in run.holders
        )
        sizes, owners, end = list[int](), list[int | None](), 0
        for begin, width, first in held:
            gap = [begin - end] if begin > end else []
            sizes += [*gap, width]
            owners += [*([None] * len(gap)), first]
            end = begin + width
        if partial.width > end:
            sizes.append(partial.width - end)
            owners.append(None)
        names = self._split(partial.name, sizes)
        return {owner: name for owner, name in zip(owners, names, strict=True) if owner is not None}

    def _write(self, run: _Run, pieces: Sequence[str], divisors: Mapping[int, int]) -> None:
        """One run's look-ups, from the pieces of its holders."""
        lookups = [self._model.lookups[index] for index in run.lookups]
        total = pieces[0] if len(pieces) == 1 else self._node("Sum", pieces)
        if lookups[0].mode == "mean":
            total = self._mean(total, lookups, divisors[run.lookups[0]])
        parts = self._split(total, [self._model.width(lookup) for lookup in lookups])
        for index, part in zip(run.lookups, parts, strict=True):
            self._shaped(part, index)

    def _mean(self, total: str, lookups: Sequence[Lookup], begin: int) -> str:
        """Sums [rows, bags * dim] over their bags' divisors: each bag of look-ups that have one dim."""
        bags = sum(lookup.count for lookup in lookups)
        group, dim = lookups[0].group, self._model.tables[lookups[0].table].format.dim
        divisors = divisors_name(group)
        if bags < _bags(self._model, group):
            divisors = self._node("Slice", [divisors, *map(self._number, ([begin], [begin + bags], [1]))])
        if bags == 1:
            return self._node("Div", [total, divisors])
        cubes = self._node("Reshape", [total, self._number([0, bags, dim])])
        means = self._node("Div", [cubes, self._node("Unsqueeze", [divisors, self._number([2])])])
        return self._node("Reshape", [means, self._number([0, bags * dim])])

    def _shaped(self, part: str, index: int) -> None:
        lookup = self._model.lookups[index]
        if lookup.shape == (self._model.groups[lookup.group].rows, self._model.width(lookup)):
            self._node("Identity", [part], lookup_name(index))
            return
        sizes = [-1 if isinstance(size, str) else size for size in lookup.shape]
        shape, attributes = self._number(sizes), dict[str, int]()
        if sizes.count(-1) > 1:
            axes = _axes(self._model, lookup)
            shape = self._node("Concat", [self._size(axes, size) for size in lookup.shape], axis=0)
            if self._opset >= _ALLOWZERO_OPSET and all(size in axes for size in lookup.shape if isinstance(size, str)):
                attributes = {"allowzero": 1}
        self._node("Reshape", [part, shape], lookup_name(index), **attributes)

    def _size(self, axes: Mapping[str, tuple[str, int]], size: int | str) -> str:
        """One size of a shape as a tensor [1]; -1 where it is to be inferred."""
        if isinstance(size, int):
            return self._number([size])
        if size not in axes:
            return self._number([-1])
        tensor, axis = axes[size]
        if tensor not in self._shapes:
            self._shapes[tensor] = self._node("Shape", [tensor])
        return self._node("Gather", [self._shapes[tensor], self._number([axis])])

    def _split(self, tensor: str, sizes: Sequence[int]) -> Sequence[str]:
        """The columns of a matrix in consecutive pieces; the matrix itself where there is one."""
        if len(sizes) == 1:
            return [tensor]
        outputs = [f"{self._prefix}{len(self.nodes)}_{i}" for i in range(len(sizes))]
        self.nodes.append(helper.make_node("Split", [tensor, self._number(sizes)], outputs, outputs[0], axis=1))
        return outputs

    def _node(self, op_type: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        name = f"{self._prefix}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [output or name], name, **attributes))
        return output or name

    def _number(self, values: Sequence[int]) -> str:
        key = tuple(values)
        if key not in self._placed:
            self._placed[key] = name = f"{self._prefix}number_{len(self._placed)}"
            self.numbers.append(helper.make_tensor(name, TensorProto.INT64, [len(key)], key))
        return self._placed[key]

    def _width(self, lookups: Sequence[int]) -> int:
        return sum(self._model.width(self._model.lookups[index]) for index in lookups)


_ALLOWZERO_OPSET = 14  # before it a size of 0 cannot be said in a Reshape


def _axes(model: Model, lookup: Lookup) -> Mapping[str, tuple[str, int]]:
    """Where a look-up's varying sizes can be read: an input that has each, the ids' own before others, and its axis."""
    tensors = sorted(model.dense.inputs, key=lambda tensor: tensor.name == lookup.ids.tensor)
    return {
        size: (tensor.name, axis)
        for tensor in tensors
        for axis, size in reversed(list(enumerate(tensor.shape)))
        if isinstance(size, str)
    }


def _runs(model: Model, partials: Sequence[Partial]) -> Sequence[_Run]:
    """All look-ups in runs; one that is neither added nor divided is a run of its own."""
    holders = {
        index: tuple(partial for partial in partials if index in partial.columns) for index in range(len(model.lookups))
    }
    order = sorted(holders, key=lambda index: [(p.name, p.columns[index]) for p in holders[index]])
    divisors = {index: begin for group in range(len(model.groups)) for index, begin in _columns(model, group)}
    runs: list[_Run] = []
    for index in order:
        last = runs[-1].lookups[-1] if runs else index
        joins = runs and _side_by_side(model, last, index, holders[last]) and holders[last] == holders[index]
        if joins and _alike(model, last, index, divisors) and (len(holders[index]) > 1 or _is_mean(model, index)):
            runs[-1] = _Run(runs[-1].holders, (*runs[-1].lookups, index))
        else:
            runs.append(_Run(holders[index], (index,)))
    return runs


def _side_by_side(model: Model, left: int, right: int, holders: Sequence[Partial]) -> bool:
    width = model.width(model.lookups[left])
    return all(partial.columns[left] + width == partial.columns.get(right) for partial in holders)


def _alike(model: Model, left: int, right: int, divisors: Mapping[int, int]) -> bool:
    """Whether one division does for two look-ups that stand side by side, or both need none."""
    if not _is_mean(model, left) or not _is_mean(model, right):
        return _is_mean(model, left) == _is_mean(model, right)
    dims = {model.tables[model.lookups[index].table].format.dim for index in (left, right)}
    return len(dims) == 1 and divisors[left] + model.lookups[left].count == divisors[right]


def _is_mean(model: Model, index: int) -> bool:
    return model.lookups[index].mode == "mean"


def _columns(model: Model, group: int) -> Iterator[tuple[int, int]]:
    """Each look-up of a group and the first of its divisors' columns."""
    indexes = model.in_group(group)
    yield from zip(indexes, accumulate((model.lookups[index].count for index in indexes), initial=0), strict=False)


def _bags(model: Model, group: int) -> int:
    return sum(model.lookups[index].count for index in model.in_group(group))


def _input(model: Model, name: str, group: int, width: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [model.groups[group].rows, width])


def _opset(model: onnx.ModelProto) -> int:
    return next(int(opset.version) for opset in model.opset_import if opset.domain in ("", "ai.onnx"))


def _check(model: Model, partials: Sequence[Partial], divisors: Sequence[str]) -> None:
    names = [partial.name for partial in partials] + list(divisors)
    taken = {tensor.name for tensor in (*model.dense.inputs, *model.outputs)}
    problems = [
        f"{name!r}: expected names of partials and divisors that differ from one another and from the model's inputs "
        f"and outputs, got {sorted([*names, *taken])}; rename the model's tensor"
        for name in sorted(set(names))
        if names.count(name) > 1 or name in taken
    ]
    problems += [problem for partial in partials for problem in _misplaced(model, partial)]
    held = {index for partial in partials for index in partial.columns}
    problems += [
        f"look-up {lookup.name}: expected a partial that holds it, got none"
        for index, lookup in enumerate(model.lookups)
        if index not in held
    ]
    for lookup in model.lookups:
        unknown = sorted({size for size in lookup.shape if isinstance(size, str)} - set(_axes(model, lookup)))
        if len(unknown) > 1:
            problems.append(
                f"look-up {lookup.name}: expected an input of the dense graph of size {' and '.join(unknown)}"
            )
    if problems:
        raise ExportError("\n".join(problems))


def _misplaced(model: Model, partial: Partial) -> Iterator[str]:
    """What is wrong with a partial's columns."""
    end = 0
    for index, begin in sorted(partial.columns.items(), key=lambda item: item[1]):
        if not 0 <= index < len(model.lookups) or model.lookups[index].group != partial.group:
            yield f"partial {partial.name!r}: expected look-ups of group {partial.group}, got look-up {index}"
            return
        width = model.width(model.lookups[index])
        if begin < end or begin + width > partial.width:
            yield (
                f"partial {partial.name!r}: expected {width} columns of its {partial.width} for look-up "
                f"{model.lookups[index].name} alone, got those from {begin}"
            )
        end = begin + width


def all_names(graph: onnx.GraphProto) -> set[str]:
    """Every name of a tensor or a node, in sub-graphs too."""
    names = {entry.name for entry in (*graph.input, *graph.output, *graph.initializer, *graph.value_info)}
    names |= {entry.values.name for entry in graph.sparse_initializer}
    for node in graph.node:
        names |= {node.name, *node.input, *node.output}
        for inner in _inner(node):
            names |= all_names(inner)
    return names


def _inner(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        yield from ([attribute.g] if attribute.HasField("g") else attribute.graphs)


def free_prefix(prefix: str, names: set[str]) -> str:
    """The prefix, after as many `_` as it takes for no name to begin with it."""
    while any(name.startswith(prefix) for name in names):
        prefix = f"_{prefix}"
    return prefix


def rename_tensors(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Give tensors within a graph other names, in its sub-graphs too; not its inputs and outputs."""
    if not names:
        return
    for entry in (*graph.initializer, *graph.value_info):
        entry.name = names.get(entry.name, entry.name)
    for entry in graph.sparse_initializer:
        entry.values.name = names.get(entry.values.name, entry.values.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for inner in _inner(node):
            rename_tensors(inner, names)
