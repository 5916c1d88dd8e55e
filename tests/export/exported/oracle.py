"""What a cut model answers, done in numpy by the model's description: look-ups, partial sums, and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from repo_builder.model.source import Partial, Source
from repo_builder.model.types import Columns, Lookup, Model

Query = Mapping[str, NDArray[Any]]


def ids_of_bags(lookup: Lookup, tensors: Query) -> list[list[list[tuple[int, float]]]]:
    """Of each row of the group, each bag's ids with their weights."""
    ids = tensors[lookup.ids.tensor].reshape(-1)
    weights = tensors[lookup.ids.weights].reshape(-1) if lookup.ids.weights else np.ones(len(ids))
    layout = lookup.ids.layout
    if isinstance(layout, Columns):
        width = tensors[lookup.ids.tensor].shape[-1] if layout.width is None else layout.width
        bag = width if layout.width is None else layout.bag
        rows = len(ids) // width
        starts = [[row * width + layout.begin + each * bag for each in range(lookup.count)] for row in range(rows)]
        spans = [[(start, start + bag) for start in row] for row in starts]
    else:
        bounds = [int(each) for each in tensors[layout.bounds].reshape(-1)]
        if layout.kind == "lengths":
            size = len(bounds) // layout.blocks
            ends = np.cumsum([0, *bounds])[layout.block * size :][: size + 1].tolist()
        else:
            ends = bounds if layout.kind == "ends" else [*bounds, len(ids)]
        spans = [[(begin, end)] for begin, end in pairwise(ends)]
    return [[[(int(ids[k]), float(weights[k])) for k in range(*span)] for span in row] for row in spans]


def partials_of(model: Model, shards: int = 2) -> list[Partial]:
    """Some partials a group, that hold all of its look-ups each, and one that holds the first alone."""
    made = []
    for group in range(len(model.groups)):
        columns, width = {}, 0
        for i in model.in_group(group):
            columns[i] = width
            width += model.width(model.lookups[i])
        made += [Partial(f"shard{k}_{group}", group, width, columns) for k in range(shards)]
        first = model.in_group(group)[0]
        made.append(Partial(f"first_{group}", group, model.width(model.lookups[first]), {first: 0}))
    return made


def whole_tables(source: Source) -> list[NDArray[np.float32]]:
    return [np.concatenate(list(source.table_chunks(table))) for table in source.model.tables]


def fed(model: Model, tables: Sequence[NDArray[np.float32]], partials: Sequence[Partial], tensors: Query) -> Query:
    """Partial sums, each row of a table in one of the partials that hold the look-up, and divisors."""
    made: dict[str, NDArray[np.float32]] = {}
    divisors: dict[int, list[NDArray[np.float32]]] = {}
    for i, lookup in enumerate(model.lookups):
        bags, dim = ids_of_bags(lookup, tensors), model.tables[lookup.table].format.dim
        holders = [partial for partial in partials if i in partial.columns]
        counts = np.ones((len(bags), lookup.count), np.float32)
        for partial in holders:
            made.setdefault(partial.name, np.zeros((len(bags), partial.width), np.float32))
        for r, row in enumerate(bags):
            for b, bag in enumerate(row):
                kept = [(each, weight) for each, weight in bag if each != lookup.ids.padding]
                assert lookup.mode != "none" or len(kept) == 1
                for each, weight in kept:
                    assert -len(tables[lookup.table]) * lookup.ids.from_end <= each < len(tables[lookup.table])
                    partial = holders[each % len(holders)]
                    begin = partial.columns[i] + b * dim
                    made[partial.name][r, begin : begin + dim] += tables[lookup.table][each] * np.float32(weight)
                if lookup.mode == "mean":
                    counts[r, b] = max(len(kept), 1)
        divisors.setdefault(lookup.group, []).append(counts)
    for group, columns in divisors.items():
        if model.has_means(group):
            made["divisors" + (f"_{group}" if group else "")] = np.concatenate(columns, axis=1)
    return made


class Cut:
    """A source's model, written and run as its servers would."""

    def __init__(self, source: Source, folder: Path) -> None:
        self.model, self._tables, self._partials = source.model, whole_tables(source), partials_of(source.model)
        for name in ("dense", "ids"):
            (folder / name).mkdir()
        self.files = source.write_dense(self._partials, folder / "dense")
        self._dense = onnxruntime.InferenceSession(folder / "dense" / "model.onnx")
        self._ids = None
        if self.model.ids_graph is not None:
            assert source.write_ids(folder / "ids") == ["model.onnx"]
            self._ids = onnxruntime.InferenceSession(folder / "ids" / "model.onnx")

    def answers(self, query: Query) -> dict[str, NDArray[Any]]:
        """The model's outputs by name."""
        tensors = dict(query)
        if self._ids is not None and self.model.ids_graph is not None:
            names = [tensor.name for tensor in self.model.ids_graph.outputs]
            taken = {tensor.name: query[tensor.name] for tensor in self.model.ids_graph.inputs}
            tensors |= dict(zip(names, self._ids.run(names, taken), strict=True))
        inputs = {tensor.name: tensors[tensor.name] for tensor in self.model.dense.inputs}
        inputs |= fed(self.model, self._tables, self._partials, tensors)
        assert {entry.name for entry in self._dense.get_inputs()} == set(inputs)
        names = [tensor.name for tensor in self.model.outputs]
        return dict(zip(names, self._dense.run(names, inputs), strict=True))


def assert_same(want: Query, got: Query, bound: float = 1e-5) -> None:
    assert list(want) == list(got)
    for name in want:
        assert want[name].dtype == got[name].dtype and want[name].shape == got[name].shape, name
        error = np.abs(want[name].astype(float) - got[name].astype(float))
        assert (error <= bound * np.maximum(1, np.abs(want[name].astype(float)))).all(), (name, error.max())
