"""What the dense graph costs, and whether it scores each row of a batch for itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram
from torch.utils.flop_counter import FlopCounterMode

from repo_builder.export.exported.graph import ProgramGraph, open_graph, to_numpy
from repo_builder.export.exported.program import Program
from repo_builder.model.arrays import difference
from repo_builder.model.lookups import LookupBags
from repo_builder.model.types import BATCH, Dense, Model

_ROWS = 3


def dense_costs(
    whole: Program,
    cut: ExportedProgram,
    model: Model,
    tensors: Mapping[str, NDArray[Any]],
    found: Sequence[LookupBags],
    batch: int,
    tolerance: float,
) -> Dense:
    """The dense graph's work and weights, measured on a query, with drawn vectors in the place of looked-up ones.

    Queries whose values choose between branches are never joined: the one would choose for the other.
    """
    graph = open_graph(replace(whole, exported=cut))
    feeds = _feeds(graph, model, tensors, found)
    with FlopCounterMode(display=False) as counter:
        graph.run(graph.outputs, feeds)
    parameters = {parameter.name: parameter.values for parameter in graph.parameters.values()}
    return replace(
        model.dense,
        flops_per_row=counter.get_total_flops() / max(batch, 1),
        parameter_bytes=sum(values.numel() * values.element_size() for values in parameters.values()),
        batched=_may_batch(model) and not graph.branches and _scores_alone(graph, feeds, tolerance),
    )


def _feeds(
    graph: ProgramGraph, model: Model, tensors: Mapping[str, NDArray[Any]], found: Sequence[LookupBags]
) -> dict[Any, torch.Tensor]:
    sizes, rng = _sizes(model, tensors), np.random.default_rng(0)
    looked_up = {}
    for i, (lookup, bags) in enumerate(zip(model.lookups, found, strict=True)):
        vectors = rng.standard_normal((bags.bags, model.tables[lookup.table].format.dim), np.float32)
        looked_up[f"lookup_{i}"] = vectors.reshape(
            [size if isinstance(size, int) else sizes[size] for size in lookup.shape]
        )
    values = {**tensors, **looked_up}
    return {
        node: torch.from_numpy(np.require(values[node.name], requirements=["C", "W"])).to(node.meta["val"].dtype)
        for node in graph.inputs
    }


def _sizes(model: Model, tensors: Mapping[str, NDArray[Any]]) -> dict[int | str, int]:
    """What varying sizes are in a query."""
    sizes: dict[int | str, int] = {
        size: got
        for tensor in model.dense.inputs
        for size, got in zip(tensor.shape, tensors[tensor.name].shape, strict=True)
    }
    for lookup in model.lookups:
        varying = [size for size in lookup.shape if isinstance(size, str) and size not in sizes]
        if len(varying) == 1:
            sizes[varying[0]] = -1
    return sizes


def _may_batch(model: Model) -> bool:
    """Whether all that the dense graph takes and gives begins with the batch."""
    shapes = [tensor.shape for tensor in (*model.dense.inputs, *model.outputs)]
    shapes += [lookup.shape for lookup in model.lookups]
    return all(shape[:1] == (BATCH,) and BATCH not in shape[1:] for shape in shapes) and len(model.groups) == 1


def _scores_alone(graph: ProgramGraph, feeds: Mapping[Any, torch.Tensor], tolerance: float) -> bool:
    """Whether a few rows, no two alike, are scored together as each alone."""
    rows = {node: _few(values) for node, values in feeds.items()}
    try:
        together = graph.run(graph.outputs, rows)
        for row in range(_ROWS):
            alone = graph.run(graph.outputs, {node: values[row : row + 1] for node, values in rows.items()})
            for node in graph.outputs:
                want, got = (to_numpy(each) for each in (together[node][row : row + 1], alone[node]))
                if not difference(got, want) <= tolerance:
                    return False
    except (RuntimeError, IndexError, ValueError):
        return False
    return True


def _few(values: torch.Tensor) -> torch.Tensor:
    """The first rows, or those again and again, with some noise where they are no whole numbers."""
    few = values.repeat(_ROWS, *[1] * (values.dim() - 1))[:_ROWS]
    if not few.is_floating_point():
        return few
    return few + (torch.rand(few.shape, generator=torch.Generator().manual_seed(0)) / 10).to(few.dtype)
