"""The dense service's graph: partial sums of the embeddings in, scores out, as one ONNX file.

Every weight, the interaction's order and the sums of the partials are in the graph, so any ONNX runtime serves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx.checker import ValidationError
from onnxruntime import InferenceSession, SessionOptions

from repo_builder.errors import ExportError
from repo_builder.export.dense_module import DenseModule, dense_module
from repo_builder.export.layers import DenseWeights, Partial
from repo_builder.export.reference import score_pooled
from repo_builder.export.torch_onnx import OPSET, clean, quiet
from repo_builder.model.dlrm import Dlrm
from repo_builder.model.source import DIVISORS

MAX_FILE_BYTES = 2**31 - 1
"""The most a protobuf message, and so an ONNX file without external data, can hold."""

_GRAPH_BYTES = 1024**2  # room for the nodes beside the weights
_TOLERANCE = 1e-5  # of a score, between onnxruntime and plain PyTorch
_TRACE_BATCH = 3  # more than 1: the exporter takes batches of 0 and 1 for constants


def export_dense(dlrm: Dlrm, weights: DenseWeights, partials: Sequence[Partial], path: Path) -> None:
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


def _check_partials(dlrm: Dlrm, partials: Sequence[Partial]) -> None:
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


def _traced(module: DenseModule, dlrm: Dlrm, partials: Sequence[Partial]) -> onnx.ModelProto:
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


def _example(dlrm: Dlrm, partials: Sequence[Partial], batch: int) -> list[torch.Tensor]:
    """The graph's inputs, drawn from a fixed seed."""
    rng = np.random.default_rng(batch)
    drawn = [rng.random((batch, width), dtype=np.float32) - 0.5 for _, width in _inputs(dlrm, partials)]
    if dlrm.has_means:
        drawn[-1] = np.ceil(4 * drawn[-1] + 2).clip(1)  # whole numbers, as bags have ids
    return [torch.from_numpy(values) for values in drawn]


def _inputs(dlrm: Dlrm, partials: Sequence[Partial]) -> list[tuple[str, int]]:
    """The graph's inputs in order, and their widths."""
    sums = [(partial.name, len(partial.tables) * dlrm.dim) for partial in partials]
    return [("dense", dlrm.dense_features), *sums, *([(DIVISORS, len(dlrm.tables))] if dlrm.has_means else [])]


def _check_scores(dlrm: Dlrm, weights: DenseWeights, partials: Sequence[Partial], content: bytes, path: Path) -> None:
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


def _pooled(dlrm: Dlrm, partials: Sequence[Partial], others: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Each table's sum over its partials, (B, dim), added up one by one, and divided where there are divisors."""
    pooled = [torch.zeros(len(others[0]), dlrm.dim) for _ in dlrm.tables]
    for partial, values in zip(partials, others, strict=False):
        for place, table in enumerate(partial.tables):
            pooled[table] = pooled[table] + values[:, place * dlrm.dim : (place + 1) * dlrm.dim]
    if dlrm.has_means:
        pooled = [sums / others[-1][:, table : table + 1] for table, sums in enumerate(pooled)]
    return pooled
