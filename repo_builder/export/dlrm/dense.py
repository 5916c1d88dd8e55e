"""The dense service's graph: partial sums of the embeddings in, scores out, as one ONNX file.

Every weight, the interaction's order and the sums of the partials are in the graph, so any ONNX runtime serves it; the
tables that stay dense too, with their look-ups (`kept.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx.checker import ValidationError
from onnxruntime import InferenceSession, SessionOptions
from torch import nn

from repo_builder.errors import ExportError
from repo_builder.export.dlrm.kept import KeptLookups
from repo_builder.export.dlrm.layers import DenseWeights, KeptRows, Layer, TablePartial
from repo_builder.export.dlrm.reference import pool, score_pooled
from repo_builder.export.torch_onnx import OPSET, clean, quiet
from repo_builder.model.dlrm import PADDING, Dlrm
from repo_builder.model.interaction import InteractionKind
from repo_builder.model.source import DIVISORS


@dataclass(frozen=True, slots=True)
class _TableRun:
    """Neighbouring tables held by the same partials: summed together. `slices` is (partial, first column, width).

    first: among all of the model's tables.
    """

    first: int
    slices: tuple[tuple[int, int, int], ...]


def dense_module(
    dlrm: Dlrm, weights: DenseWeights, partials: Sequence[TablePartial], kept: Sequence[KeptRows] = ()
) -> DenseModule:
    """The dense layers of a model, with the interaction that it has, and the tables that stay."""
    module = _MODULES[dlrm.interaction.kind](dlrm, weights, partials)
    if kept:
        module.kept = KeptLookups(dlrm, kept)
    return module


class DenseModule(nn.Module, ABC):
    """Dense features and partial sums to scores."""

    def __init__(self, dlrm: Dlrm, weights: DenseWeights, partials: Sequence[TablePartial]) -> None:
        super().__init__()
        self.bottom = nn.ModuleList(_linear(layer) for layer in weights.bottom)
        self.top = nn.ModuleList(_linear(layer) for layer in weights.top)
        self.vectors, self.dim = dlrm.vectors, dlrm.dim
        self.runs, self.cut = _runs(partials, dlrm), len(dlrm.cut)
        self.averages = dlrm.has_means
        self.kept: KeptLookups | None = None

    def forward(self, dense: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        """Dense (B, dense_features), where tables stay indices (B, columns), partials (B, tables * dim), and with means
        divisors (B, tables that are cut), all float32 but the indices, to scores (B, 1) float32.
        """
        bottom = dense
        for layer in self.bottom:
            bottom = torch.relu(layer(bottom))  # (B, D)
        sums = inputs if self.kept is None else inputs[1:]
        pooled = [_sum_of_run(run, sums) for run in self.runs]  # together (B, cut*D)
        if self.averages:
            pooled = self._averaged(pooled, inputs[-1])
        if self.kept is not None:
            pooled = self._in_order(pooled, self.kept, inputs[0])
        hidden = self.interact(bottom, torch.cat([bottom, *pooled], dim=1))  # of (B, F*D)
        for layer in self.top[:-1]:
            hidden = torch.relu(layer(hidden))
        return torch.sigmoid(self.top[-1](hidden))

    def _averaged(self, pooled: list[torch.Tensor], divisors: torch.Tensor) -> list[torch.Tensor]:
        """The runs' sums over their bags' divisors; all in one where nothing stands between them."""
        sums = torch.cat(pooled, dim=1).reshape(-1, self.cut, self.dim)
        means = (sums / divisors.unsqueeze(2)).reshape(-1, self.cut * self.dim)
        if self.kept is None:
            return [means]
        return list(torch.split(means, [run.slices[0][2] for run in self.runs], dim=1))

    def _in_order(self, cut: Sequence[torch.Tensor], kept: KeptLookups, indices: torch.Tensor) -> list[torch.Tensor]:
        """The vectors of all tables in the model's order."""
        firsts = [*(run.first for run in self.runs), *(bags.first for bags in kept.bags)]
        found = zip(firsts, (*cut, *kept(indices)), strict=True)
        return [vectors for _, vectors in sorted(found, key=lambda pair: pair[0])]

    @abstractmethod
    def interact(self, bottom: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """What the top MLP takes, from the bottom output (B, D) and all vectors' numbers (B, (F+1)*D)."""


class _Dot(DenseModule):
    """The arithmetic of the open-source DLRM."""

    def __init__(self, dlrm: Dlrm, weights: DenseWeights, partials: Sequence[TablePartial]) -> None:
        super().__init__(dlrm, weights, partials)
        lower = [i * self.vectors + j for i in range(self.vectors) for j in range(i)]
        self.register_buffer("pairs", torch.tensor(lower))  # positions in the flattened (F+1, F+1) products

    def interact(self, bottom: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        vectors = numbers.reshape(-1, self.vectors, self.dim)  # (B, F+1, D)
        products = torch.matmul(vectors, vectors.transpose(1, 2)).reshape(-1, self.vectors**2)
        interaction = torch.index_select(products, 1, self.get_buffer("pairs"))  # (B, F(F+1)/2)
        return torch.cat([bottom, interaction], dim=1)


class _Cross(DenseModule):
    """A cross network: each layer multiplies its input, down to the rank and up again, with the first one's."""

    def __init__(self, dlrm: Dlrm, weights: DenseWeights, partials: Sequence[TablePartial]) -> None:
        super().__init__(dlrm, weights, partials)
        layers = weights.interaction["cross"]
        self.down = nn.ParameterList(_parameter(down.T) for down, _, _ in layers)  # (numbers, rank): MatMul's way
        self.up = nn.ModuleList(_linear((up, bias)) for _, up, bias in layers)

    def interact(self, bottom: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        crossed = numbers
        for down, up in zip(self.down, self.up, strict=True):
            crossed = numbers * up(torch.matmul(crossed, down)) + crossed
        return crossed


class _Projection(DenseModule):
    """Two MLPs of all vectors' numbers, and the products of their outputs."""

    def __init__(self, dlrm: Dlrm, weights: DenseWeights, partials: Sequence[TablePartial]) -> None:
        super().__init__(dlrm, weights, partials)
        self.branch1 = nn.ModuleList(_linear((weight, bias)) for weight, bias in weights.interaction["branch1"])
        self.branch2 = nn.ModuleList(_linear((weight, bias)) for weight, bias in weights.interaction["branch2"])
        last1, last2 = len(weights.interaction["branch1"][-1][1]), len(weights.interaction["branch2"][-1][1])
        self.ones, self.others = last1 // dlrm.dim, last2 // dlrm.dim

    def interact(self, bottom: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        ones, others = numbers, numbers
        for layer in self.branch1:
            ones = torch.relu(layer(ones))
        for layer in self.branch2:
            others = torch.relu(layer(others))
        left, right = ones.reshape(-1, self.ones, self.dim), others.reshape(-1, self.dim, self.others)
        return torch.cat([bottom, torch.matmul(left, right).reshape(-1, self.ones * self.others)], dim=1)


_MODULES: Mapping[InteractionKind, type[DenseModule]] = {"dot": _Dot, "dcn": _Cross, "projection": _Projection}


def _parameter(array: NDArray[np.float32]) -> nn.Parameter:
    return nn.Parameter(torch.from_numpy(np.require(array, requirements=["C", "W"])), requires_grad=False)


def _linear(layer: Layer) -> nn.Linear:
    linear = nn.Linear(layer[0].shape[1], layer[0].shape[0], device="meta")  # its own weights are never drawn
    linear.weight, linear.bias = map(_parameter, layer)
    return linear


def _runs(partials: Sequence[TablePartial], dlrm: Dlrm) -> tuple[_TableRun, ...]:
    """The tables that are cut in runs, with none between them that stays."""

    def holders(pair: tuple[int, int]) -> tuple[int, tuple[int, ...]]:
        number, table = pair
        return table - number, tuple(i for i, partial in enumerate(partials) if table in partial.tables)

    runs = []
    for (_, held_by), group in groupby(enumerate(dlrm.cut), holders):
        members = [table for _, table in group]
        width = len(members) * dlrm.dim
        slices = tuple((i, partials[i].tables.index(members[0]) * dlrm.dim, width) for i in held_by)
        runs.append(_TableRun(members[0], slices))
    return tuple(runs)


def _sum_of_run(run: _TableRun, partials: Sequence[torch.Tensor]) -> torch.Tensor:
    """The sum over the run's partials, (B, tables in the run * dim); a whole partial is not sliced."""
    pieces = [
        partials[i] if width == partials[i].shape[1] else partials[i][:, begin : begin + width]
        for i, begin, width in run.slices
    ]
    total = pieces[0]
    for piece in pieces[1:]:
        total = total + piece
    return total


MAX_FILE_BYTES = 2**31 - 1
"""The most a protobuf message, and so an ONNX file without external data, can hold."""

_GRAPH_BYTES = 1024**2  # room for the nodes beside the weights
_TOLERANCE = 1e-5  # of a score, between onnxruntime and plain PyTorch
_TRACE_BATCH = 3  # more than 1: the exporter takes batches of 0 and 1 for constants


def export_dense(
    dlrm: Dlrm, weights: DenseWeights, partials: Sequence[TablePartial], path: Path, kept: Sequence[KeptRows] = ()
) -> None:
    """Write the dense layers to one ONNX file and check it against plain PyTorch.

    kept: the rows of the tables that stay, in the model's order. Inputs, in order: `dense` FP32 [batch,
    dense_features]; where tables stay `indices` [batch, columns]; then each partial under its name, FP32
    [batch, len(tables) * dim]; where tables that are cut are averaged also `divisors` FP32 [batch, those tables], what
    each bag's sum is divided by. Output: `score` FP32 [batch, 1]. The same weights give the same bytes.
    Raises ExportError when the partials do not make up the model, the file would pass 2 GiB, or its scores differ.
    """
    _check_partials(dlrm, partials)
    _check_size(weights, kept)
    module = dense_module(dlrm, weights, partials, kept).eval()
    model = clean(_traced(module, dlrm, partials))
    try:
        onnx.checker.check_model(model, full_check=True)
    except ValidationError as exc:
        raise ExportError(f"{path}: torch's exporter made an ONNX graph that is not valid: {exc}") from exc
    content = model.SerializeToString(deterministic=True)
    _check_scores(dlrm, weights, partials, kept, content, path)
    path.write_bytes(content)


def _check_partials(dlrm: Dlrm, partials: Sequence[TablePartial]) -> None:
    names, cut = [partial.name for partial in partials], dlrm.cut
    taken = ["dense", *(["indices"] if dlrm.kept else []), DIVISORS, "score"]
    problems = [
        f"partial {name!r}: expected names that differ, and not {', '.join(taken[:-1])} or score, got {names}"
        for name in sorted(set(names))
        if names.count(name) > 1 or name in taken
    ]
    problems += [
        f"partial {partial.name!r}: expected ascending table numbers below {len(dlrm.tables)}, got {partial.tables}"
        for partial in partials
        if not partial.tables or list(partial.tables) != sorted({*partial.tables} & {*cut})
    ]
    held = {table for partial in partials for table in partial.tables}
    problems += [
        f"table {dlrm.tables[i].name}: expected a partial that holds it, got none" for i in cut if i not in held
    ]
    if problems:
        raise ExportError("\n".join(problems))


def _check_size(weights: DenseWeights, kept: Sequence[KeptRows]) -> None:
    size_bytes = weights.size_bytes + sum(rows.nbytes for rows in kept)
    if size_bytes + _GRAPH_BYTES > MAX_FILE_BYTES:
        told, remedy = ("", "") if not kept else (", and the tables that stay dense", ", or keep fewer tables")
        raise ExportError(
            f"the MLPs and the interaction{told}: expected at most {MAX_FILE_BYTES - _GRAPH_BYTES} bytes of weights, "
            f"the limit of one ONNX file, got {size_bytes}; make the layers narrower{remedy}"
        )


def _traced(module: DenseModule, dlrm: Dlrm, partials: Sequence[TablePartial]) -> onnx.ModelProto:
    batch = {0: torch.export.Dim("batch")}
    inputs = _example(dlrm, partials, _TRACE_BATCH)
    with quiet():
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=["score"],
            dynamic_shapes=(batch, (batch,) * (len(inputs) - 1)),
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx.export: expected a program, got None")
    model: onnx.ModelProto = program.model_proto
    return model


def _example(dlrm: Dlrm, partials: Sequence[TablePartial], batch: int) -> dict[str, torch.Tensor]:
    """The graph's inputs in order, drawn from a fixed seed; ids of all tables, some slots empty."""
    rng = np.random.default_rng(batch)

    def numbers(width: int) -> NDArray[np.float32]:
        return rng.random((batch, width), dtype=np.float32) - 0.5

    drawn: dict[str, NDArray[Any]] = {"dense": numbers(dlrm.dense_features)}
    if dlrm.kept:
        ids = [rng.integers(PADDING, table.rows, (batch, table.pooling)) for table in dlrm.tables]
        drawn["indices"] = np.hstack(ids).astype(dlrm.index_dtype)
    drawn |= {partial.name: numbers(len(partial.tables) * dlrm.dim) for partial in partials}
    if dlrm.has_means:
        drawn[DIVISORS] = np.ceil(4 * numbers(len(dlrm.cut)) + 2).clip(1)  # whole numbers, as bags have ids
    return {name: torch.from_numpy(values) for name, values in drawn.items()}


def _check_scores(
    dlrm: Dlrm,
    weights: DenseWeights,
    partials: Sequence[TablePartial],
    kept: Sequence[KeptRows],
    content: bytes,
    path: Path,
) -> None:
    options = SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    session = InferenceSession(content, options, providers=["CPUExecutionProvider"])
    for batch in (1, _TRACE_BATCH + 1):
        inputs = _example(dlrm, partials, batch)
        expected = score_pooled(dlrm, weights, inputs["dense"], _pooled(dlrm, partials, kept, inputs)).numpy()
        (got,) = session.run(["score"], {name: value.numpy() for name, value in inputs.items()})
        error = float(np.max(np.abs(got - expected)))
        if got.shape != (batch, 1) or not error <= _TOLERANCE:  # written so that NaN fails too
            raise ExportError(
                f"{path}: expected ({batch}, 1) scores within {_TOLERANCE} of plain PyTorch's, got {got.shape} and a "
                f"difference of {error}; report the torch and onnxruntime versions with the model's spec"
            )


def _pooled(
    dlrm: Dlrm, partials: Sequence[TablePartial], kept: Sequence[KeptRows], inputs: Mapping[str, torch.Tensor]
) -> list[torch.Tensor]:
    """Each table's sum over its partials, (B, dim), added up one by one, and divided where there are divisors; of those
    that stay what PyTorch pools.
    """
    pooled = [torch.zeros(len(inputs["dense"]), dlrm.dim) for _ in dlrm.tables]
    for partial in partials:
        for position, table in enumerate(partial.tables):
            pooled[table] = pooled[table] + inputs[partial.name][:, position * dlrm.dim : (position + 1) * dlrm.dim]
    if dlrm.has_means:
        for column, table in enumerate(dlrm.cut):
            pooled[table] = pooled[table] / inputs[DIVISORS][:, column : column + 1]
    columns = torch.split(inputs["indices"], [table.pooling for table in dlrm.tables], dim=1) if kept else []
    for rows, table in zip(kept, dlrm.kept, strict=True):
        pooled[table] = pool(dlrm.tables[table], rows, columns[table].numpy())
    return pooled
