"""The dense service's graph: partial sums of the embeddings in, scores out, as one ONNX file.

Every weight, the interaction's order and the sums of the partials are in the graph, so any ONNX runtime serves it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx.checker import ValidationError
from onnxruntime import InferenceSession, SessionOptions
from torch import nn

from repo_builder.errors import ExportError
from repo_builder.export.dlrm.layers import DenseWeights, Layer, TablePartial
from repo_builder.export.dlrm.reference import score_pooled
from repo_builder.export.torch_onnx import OPSET, clean, quiet
from repo_builder.model.dlrm import Dlrm
from repo_builder.model.interaction import InteractionKind
from repo_builder.model.source import DIVISORS


@dataclass(frozen=True, slots=True)
class _TableRun:
    """Neighbouring tables held by the same partials: summed together. `slices` is (partial, first column, width)."""

    slices: tuple[tuple[int, int, int], ...]


def dense_module(dlrm: Dlrm, weights: DenseWeights, partials: Sequence[TablePartial]) -> DenseModule:
    """The dense layers of a model, with the interaction that it has."""
    return _MODULES[dlrm.interaction.kind](dlrm, weights, partials)


class DenseModule(nn.Module, ABC):
    """Dense features and partial sums to scores."""

    def __init__(self, dlrm: Dlrm, weights: DenseWeights, partials: Sequence[TablePartial]) -> None:
        super().__init__()
        self.bottom = nn.ModuleList(_linear(layer) for layer in weights.bottom)
        self.top = nn.ModuleList(_linear(layer) for layer in weights.top)
        self.vectors, self.dim = dlrm.vectors, dlrm.dim
        self.runs = _runs(partials, len(dlrm.tables), dlrm.dim)
        self.averages = dlrm.has_means

    def forward(self, dense: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        """Dense (B, dense_features), partials (B, tables * dim), and with means divisors (B, F), all float32, to scores
        (B, 1) float32.
        """
        bottom = dense
        for layer in self.bottom:
            bottom = torch.relu(layer(bottom))  # (B, D)
        pooled = [_sum_of_run(run, inputs) for run in self.runs]  # together (B, F*D)
        if self.averages:
            sums = torch.cat(pooled, dim=1).reshape(-1, self.vectors - 1, self.dim)
            pooled = [(sums / inputs[-1].unsqueeze(2)).reshape(-1, (self.vectors - 1) * self.dim)]
        hidden = self.interact(bottom, torch.cat([bottom, *pooled], dim=1))
        for layer in self.top[:-1]:
            hidden = torch.relu(layer(hidden))
        return torch.sigmoid(self.top[-1](hidden))

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


def _runs(partials: Sequence[TablePartial], tables: int, dim: int) -> tuple[_TableRun, ...]:
    def holders(table: int) -> tuple[int, ...]:
        return tuple(i for i, partial in enumerate(partials) if table in partial.tables)

    runs = []
    for held_by, group in groupby(range(tables), holders):
        members = list(group)
        width = len(members) * dim
        runs.append(_TableRun(tuple((i, partials[i].tables.index(members[0]) * dim, width) for i in held_by)))
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


def export_dense(dlrm: Dlrm, weights: DenseWeights, partials: Sequence[TablePartial], path: Path) -> None:
    """Write the dense layers to one ONNX file and check it against plain PyTorch.

    Inputs, in order: `dense` FP32 [batch, dense_features], then each partial under its name, FP32
    [batch, len(tables) * dim]; where tables are averaged also `divisors` FP32 [batch, tables], what each bag's sum is
    divided by. Output: `score` FP32 [batch, 1]. The same weights give the same bytes.
    Raises ExportError when the partials do not make up the model, the file would pass 2 GiB, or its scores differ.
    """
    _check_partials(dlrm, partials)
    _check_size(weights)
    module = dense_module(dlrm, weights, partials).eval()
    model = clean(_traced(module, dlrm, partials))
    try:
        onnx.checker.check_model(model, full_check=True)
    except ValidationError as exc:
        raise ExportError(f"{path}: torch's exporter made an ONNX graph that is not valid: {exc}") from exc
    content = model.SerializeToString(deterministic=True)
    _check_scores(dlrm, weights, partials, content, path)
    path.write_bytes(content)


def _check_partials(dlrm: Dlrm, partials: Sequence[TablePartial]) -> None:
    names = [partial.name for partial in partials]
    problems = [
        f"partial {name!r}: expected names that differ, and not dense, divisors or score, got {names}"
        for name in sorted(set(names))
        if names.count(name) > 1 or name in {"dense", DIVISORS, "score"}
    ]
    problems += [
        f"partial {partial.name!r}: expected ascending table numbers below {len(dlrm.tables)}, got {partial.tables}"
        for partial in partials
        if not partial.tables
        or list(partial.tables) != sorted(set(partial.tables))
        or not 0 <= partial.tables[0] <= partial.tables[-1] < len(dlrm.tables)
    ]
    held = {table for partial in partials for table in partial.tables}
    problems += [
        f"table {table.name}: expected a partial that holds it, got none"
        for i, table in enumerate(dlrm.tables)
        if i not in held
    ]
    if problems:
        raise ExportError("\n".join(problems))


def _check_size(weights: DenseWeights) -> None:
    if weights.size_bytes + _GRAPH_BYTES > MAX_FILE_BYTES:
        raise ExportError(
            f"the MLPs and the interaction: expected at most {MAX_FILE_BYTES - _GRAPH_BYTES} bytes of weights, the "
            f"limit of one ONNX file, got {weights.size_bytes}; make the layers narrower"
        )


def _traced(module: DenseModule, dlrm: Dlrm, partials: Sequence[TablePartial]) -> onnx.ModelProto:
    batch = {0: torch.export.Dim("batch")}
    inputs = _example(dlrm, partials, _TRACE_BATCH)
    with quiet():
        program = torch.onnx.export(
            module,
            tuple(inputs),
            dynamo=True,
            opset_version=OPSET,
            input_names=[name for name, _ in _inputs(dlrm, partials)],
            output_names=["score"],
            dynamic_shapes=(batch, (batch,) * (len(inputs) - 1)),
            external_data=False,
            verbose=False,
        )
    if program is None:
        raise ExportError("torch.onnx.export: expected a program, got None")
    model: onnx.ModelProto = program.model_proto
    return model


def _example(dlrm: Dlrm, partials: Sequence[TablePartial], batch: int) -> list[torch.Tensor]:
    """The graph's inputs, drawn from a fixed seed."""
    rng = np.random.default_rng(batch)
    drawn = [rng.random((batch, width), dtype=np.float32) - 0.5 for _, width in _inputs(dlrm, partials)]
    if dlrm.has_means:
        drawn[-1] = np.ceil(4 * drawn[-1] + 2).clip(1)  # whole numbers, as bags have ids
    return [torch.from_numpy(values) for values in drawn]


def _inputs(dlrm: Dlrm, partials: Sequence[TablePartial]) -> list[tuple[str, int]]:
    """The graph's inputs in order, and their widths."""
    sums = [(partial.name, len(partial.tables) * dlrm.dim) for partial in partials]
    return [("dense", dlrm.dense_features), *sums, *([(DIVISORS, len(dlrm.tables))] if dlrm.has_means else [])]


def _check_scores(
    dlrm: Dlrm, weights: DenseWeights, partials: Sequence[TablePartial], content: bytes, path: Path
) -> None:
    options = SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    session = InferenceSession(content, options, providers=["CPUExecutionProvider"])
    for batch in (1, _TRACE_BATCH + 1):
        dense, *others = _example(dlrm, partials, batch)
        expected = score_pooled(dlrm, weights, dense, _pooled(dlrm, partials, others)).numpy()
        names = [entry.name for entry in session.get_inputs()]
        inputs = (dense, *others)
        (got,) = session.run(["score"], {name: value.numpy() for name, value in zip(names, inputs, strict=True)})
        error = float(np.max(np.abs(got - expected)))
        if got.shape != (batch, 1) or not error <= _TOLERANCE:  # written so that NaN fails too
            raise ExportError(
                f"{path}: expected ({batch}, 1) scores within {_TOLERANCE} of plain PyTorch's, got {got.shape} and a "
                f"difference of {error}; report the torch and onnxruntime versions with the model's spec"
            )


def _pooled(dlrm: Dlrm, partials: Sequence[TablePartial], others: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Each table's sum over its partials, (B, dim), added up one by one, and divided where there are divisors."""
    pooled = [torch.zeros(len(others[0]), dlrm.dim) for _ in dlrm.tables]
    for partial, values in zip(partials, others, strict=False):
        for position, table in enumerate(partial.tables):
            pooled[table] = pooled[table] + values[:, position * dlrm.dim : (position + 1) * dlrm.dim]
    if dlrm.has_means:
        pooled = [sums / others[-1][:, table : table + 1] for table, sums in enumerate(pooled)]
    return pooled
