"""The model's forward in plain PyTorch on whole tables: the oracle that what we build is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from repo_builder.errors import InputError
from repo_builder.export.dlrm.layers import Arrays, DenseWeights, Layer, WeightSource
from repo_builder.model.dlrm import Dlrm, DlrmTable
from repo_builder.model.interaction import InteractionKind
from triton_backends.kernels.row_formats import decode_rows


def reference_scores(
    dlrm: Dlrm, source: WeightSource, dense: NDArray[np.float32], indices: NDArray[np.integer[Any]]
) -> NDArray[np.float32]:
    """Score candidate rows with the unsharded model; one table is in memory at a time.

    dense: (B, dense_features) float32. indices: (B, sum of pooling) int64 or int32, tables side by side, -1 = padding.
    Returns (B, 1) float32. Raises InputError for a wrong shape or an id outside its table.
    """
    _check_inputs(dlrm, dense, indices)
    starts = np.cumsum([0, *(table.pooling for table in dlrm.tables)])
    pooled = [
        pool(table, whole_rows(source, table), indices[:, start : start + table.pooling])
        for table, start in zip(dlrm.tables, starts[:-1], strict=True)
    ]
    scores: NDArray[np.float32] = score_pooled(dlrm, source.dense(), torch.from_numpy(dense.copy()), pooled).numpy()
    return scores


def score_pooled(dlrm: Dlrm, weights: DenseWeights, dense: torch.Tensor, pooled: list[torch.Tensor]) -> torch.Tensor:
    """The dense layers: dense (B, dense_features) and a pooled (B, dim) per table, all float32, to scores (B, 1)."""
    bottom = _perceptrons(weights.bottom, dense)
    hidden = _INTERACTIONS[dlrm.interaction.kind](weights.interaction, [bottom, *pooled])
    return torch.sigmoid(_linear(weights.top[-1], _perceptrons(weights.top[:-1], hidden)))


_Stacks = Mapping[str, tuple[Arrays, ...]]


def _dot(_: _Stacks, vectors: list[torch.Tensor]) -> torch.Tensor:
    pairs = [(vectors[i] * vectors[j]).sum(dim=1, keepdim=True) for i in range(len(vectors)) for j in range(i)]
    return torch.cat([vectors[0], *pairs], dim=1)  # (B, D + F(F+1)/2)


def _cross(stacks: _Stacks, vectors: list[torch.Tensor]) -> torch.Tensor:
    first = crossed = torch.cat(vectors, dim=1)  # (B, (F+1)*D)
    for down, up, bias in stacks["cross"]:
        inner = torch.einsum("bn,rn->br", crossed, _tensor(down))
        crossed = first * (torch.einsum("br,nr->bn", inner, _tensor(up)) + _tensor(bias)) + crossed
    return crossed


def _projection(stacks: _Stacks, vectors: list[torch.Tensor]) -> torch.Tensor:
    numbers, (batch, dim) = torch.cat(vectors, dim=1), vectors[0].shape
    ones = _perceptrons(stacks["branch1"], numbers).reshape(batch, -1, dim)  # (B, n, D)
    others = _perceptrons(stacks["branch2"], numbers).reshape(batch, dim, -1)  # (B, D, m)
    return torch.cat([vectors[0], torch.einsum("bnd,bdm->bnm", ones, others).reshape(batch, -1)], dim=1)


_INTERACTIONS: Mapping[InteractionKind, Callable[[_Stacks, list[torch.Tensor]], torch.Tensor]] = {
    "dot": _dot,
    "dcn": _cross,
    "projection": _projection,
}


def _perceptrons(layers: Sequence[Arrays], inputs: torch.Tensor) -> torch.Tensor:
    for weight, bias in layers:
        inputs = torch.relu(_linear((weight, bias), inputs))
    return inputs


def _linear(layer: Layer, inputs: torch.Tensor) -> torch.Tensor:
    return functional.linear(inputs, *map(_tensor, layer))


def _tensor(array: NDArray[np.float32]) -> torch.Tensor:
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def whole_rows(source: WeightSource, table: DlrmTable) -> NDArray[np.float32]:
    """All rows of a table, (rows, dim)."""
    weight = np.empty((table.rows, table.dim), np.float32)
    begin = 0
    for block in source.table_chunks(table.stored):
        rows = block if table.dtype == "fp32" else decode_rows(block, table.dim, table.dtype)
        weight[begin : begin + len(block)] = rows
        begin += len(block)
    return weight


def pool(table: DlrmTable, weight: NDArray[np.float32], ids: NDArray[np.integer[Any]]) -> torch.Tensor:
    """Each bag of a table's rows pooled, (B, dim) float32, for ids (B, pooling) with -1 for an empty place."""
    filled = ids >= 0
    ends = np.cumsum(filled.sum(axis=1))
    offsets = np.concatenate([[0], ends[:-1]]) if len(ends) else ends
    return functional.embedding_bag(
        torch.from_numpy(ids[filled].astype(np.int64)),
        torch.from_numpy(weight),
        torch.from_numpy(offsets.astype(np.int64)),
        mode=table.mode,
    )


def _check_inputs(dlrm: Dlrm, dense: NDArray[np.float32], indices: NDArray[np.integer[Any]]) -> None:
    batch = len(dense)
    if dense.shape != (batch, dlrm.dense_features) or dense.dtype != np.float32:
        raise InputError(f"dense: expected (B, {dlrm.dense_features}) float32, got {dense.shape} {dense.dtype}")
    if indices.shape != (batch, dlrm.index_columns) or not np.issubdtype(indices.dtype, np.integer):
        raise InputError(
            f"indices: expected ({batch}, {dlrm.index_columns}) integers, got {indices.shape} {indices.dtype}"
        )
    rows = np.repeat([table.rows for table in dlrm.tables], [table.pooling for table in dlrm.tables])
    bad = np.argwhere((indices < -1) | (indices >= rows))
    if len(bad):
        row, column = bad[0]
        raise InputError(
            f"indices[{row}, {column}]: expected an id from 0 to {rows[column] - 1}, or -1 for an empty place, "
            f"got {indices[row, column]}"
        )
