"""What was written, against the whole program, on its samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from repo_builder.errors import ExportError
from repo_builder.export.exported.cut import ProgramCut
from repo_builder.export.exported.graph import ProgramGraph
from repo_builder.export.exported.looked_up import LookedUp
from repo_builder.export.exported.queries import Query, feeds_of, to_numpy
from repo_builder.export.torch_onnx import session
from repo_builder.model.source import Partial, divisors_name
from repo_builder.model.types import IdsGraph, Model

TOLERANCE = 1e-5
"""Of what the whole program answers, where that is over 1."""

_HALF_TOLERANCE = 2e-2  # where a program computes in half precision


def check_lookups(
    graph: ProgramGraph, choice: ProgramCut, model: Model, query: Query, found: Sequence[LookedUp]
) -> None:
    """Raise ExportError where a look-up, as it was described, gives other vectors than the program's node does."""
    sites = [read.sites for read in choice.reads]
    results = graph.run([site.result for each in sites for _, site in each], feeds_of(graph, query))
    widths = [[graph.program.weights.tensors[name].shape[1] for name in joined.members] for joined in choice.tables]
    for lookup, each, got in zip(model.lookups, sites, found, strict=True):
        dim = model.tables[lookup.table].format.dim
        vectors = got.sums.reshape(-1, dim)
        if lookup.mode == "mean":
            vectors = vectors / got.divisors.reshape(-1, 1)
        for member, site in each:
            begin = sum(widths[lookup.table][:member])
            part = vectors[:, begin : begin + widths[lookup.table][member]]
            want = to_numpy(results[site.result])
            error = difference(want, part.reshape(want.shape))
            if not error <= tolerance(graph):
                raise ExportError(
                    f"{graph.program.path}: look-up {lookup.name}: what node {site.result.name} gives on the samples "
                    f"differs by {error:.3g} from the rows of {lookup.ids.tensor}'s ids; report it with the model"
                )


def tolerance(graph: ProgramGraph) -> float:
    """How far answers may lie apart."""
    values = (node.meta.get("val") for node in graph.nodes)
    dtypes = {value.dtype for value in values if isinstance(value, torch.Tensor)}
    return _HALF_TOLERANCE if dtypes & {torch.float16, torch.bfloat16} else TOLERANCE


def difference(want: NDArray[Any], got: NDArray[Any]) -> float:
    """The largest difference, of what is wanted where that is over 1; NaN is one only where both are not NaN."""
    if want.shape != got.shape:
        return float("inf")
    if not want.size:
        return 0.0
    wide = want.astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.abs(got.astype(np.float64) - wide) / np.maximum(1, np.abs(wide))
    return float(np.max(np.where((want == got) | (np.isnan(wide) & np.isnan(got.astype(np.float64))), 0, error)))


def check_dense(
    path: Path,
    model: Model,
    partials: Sequence[Partial],
    tensors: Query,
    found: Sequence[LookedUp],
    answers: Mapping[str, NDArray[Any]],
    bound: float,
) -> None:
    """Raise ExportError where the written graph, fed the samples' partial sums, answers otherwise than the program."""
    run = session(path)
    inputs: Query = {
        **{tensor.name: tensors[tensor.name] for tensor in model.dense.inputs},
        **partial_sums(model, partials, found),
    }
    queries = [(inputs, answers)]
    if model.dense.batched:
        queries.append((_first_row(inputs), _first_row(answers)))
    for fed, wanted in queries:
        for name, got in zip(wanted, run.run(list(wanted), fed), strict=True):
            error = difference(wanted[name], np.asarray(got))
            if not error <= bound:
                raise ExportError(
                    f"{path}: output {name}: the cut model's answer differs by {error:.3g} from the whole one's on the "
                    f"samples, more than {bound}; report the torch and onnxruntime versions with the model"
                )


def _first_row(query: Query) -> Query:
    return {name: values[:1] for name, values in query.items()}


def partial_sums(
    model: Model, partials: Sequence[Partial], found: Sequence[LookedUp]
) -> dict[str, NDArray[np.float32]]:
    """The partials and divisors of a query: each holder of a look-up has half of what the ones before it left."""
    holders = {i: [p.name for p in partials if i in p.columns] for i in range(len(model.lookups))}
    fed: dict[str, NDArray[np.float32]] = {}
    for partial in partials:
        rows = len(found[model.in_group(partial.group)[0]].sums)
        fed[partial.name] = np.zeros((rows, partial.width), np.float32)
        for i, begin in partial.columns.items():
            place = holders[i].index(partial.name)
            halvings = place + (place + 1 < len(holders[i]))
            sums = found[i].sums * np.float32(0.5**halvings)
            fed[partial.name][:, begin : begin + sums.shape[1]] = sums
    for group in range(len(model.groups)):
        if model.has_means(group):
            columns = [
                found[i].divisors if model.lookups[i].mode == "mean" else np.ones_like(found[i].divisors)
                for i in model.in_group(group)
            ]
            fed[divisors_name(group)] = np.concatenate(columns, axis=1)
    return fed


def check_ids(path: Path, graph: IdsGraph, query: Query, tensors: Query) -> None:
    """Raise ExportError where the written ids graph gives other ids than the program."""
    run = session(path)
    got = run.run([each.name for each in graph.outputs], {each.name: query[each.name] for each in graph.inputs})
    for tensor, values in zip(graph.outputs, got, strict=True):
        if not difference(tensors[tensor.name], np.asarray(values)) <= (TOLERANCE if tensor.datatype == "FP32" else 0):
            raise ExportError(
                f"{path}: {tensor.name}: the ids graph gives other values than the program on the samples; "
                "report the torch and onnxruntime versions with the model"
            )
