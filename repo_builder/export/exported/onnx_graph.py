"""Programs as ONNX: what torch's exporter makes of them, without what a runtime does not need."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from onnxruntime import InferenceSession, SessionOptions
from torch.export import ExportedProgram

from repo_builder.errors import ExportError

OPSET = 18
"""The exporter's native opset; every onnxruntime since 1.14 reads it."""

_MOST_BYTES = 2**31 - 1 - 1024**2  # of a protobuf message, with room for the nodes beside the weights
MODEL_FILE, WEIGHTS_FILE = "model.onnx", "model.onnx.data"


def to_onnx(program: ExportedProgram, output_names: Sequence[str], what: str) -> onnx.ModelProto:
    """A program as ONNX; the same program gives the same bytes. Raises ExportError where torch cannot export it."""
    made = _exported(program, what, optimize=True)
    model: onnx.ModelProto = made.model_proto
    for output, name in zip(model.graph.output, output_names, strict=True):
        _rename(model.graph, output.name, name)
    return _clean(model)


def output_names(program: ExportedProgram, what: str) -> list[str]:
    """What torch's exporter calls a program's outputs."""
    return [str(value.name) for value in _exported(program, what, optimize=False).model.graph.outputs]


def _exported(program: ExportedProgram, what: str, *, optimize: bool) -> torch.onnx.ONNXProgram:
    shape_env = next(
        node.meta["val"].fake_mode for node in program.graph.nodes if hasattr(node.meta.get("val"), "fake_mode")
    ).shape_env
    shape_env.pending_fresh_unbacked_symbols.clear()  # an export before this one, of the same sizes, may have left some
    try:
        with _quiet():
            made = torch.onnx.export(
                program, dynamo=True, opset_version=OPSET, external_data=False, verbose=False, optimize=optimize
            )
    except Exception as exc:  # torch wraps whatever an operator's translation raises
        lines = [line for line in f"{exc.__cause__ or exc}".splitlines() if line.strip()] or [type(exc).__name__]
        raise ExportError(f"{what}: torch {torch.__version__} cannot write it as ONNX: {lines[0][:300]}") from exc
    if made is None:
        raise ExportError("torch.onnx.export: expected a program, got None")
    return made


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter off the console, and its known warnings from becoming errors; everything else passes."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns that torchvision, which we do not use, is not installed
    try:
        with warnings.catch_warnings():
            # torch's own export code copies LeafSpec objects, which torch deprecated
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    if old == new:
        return
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    for output in graph.output:
        if output.name == old:
            output.name = new


def _clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what a runtime does not need: stack traces with the building machine's paths, and intermediate shapes."""
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    model.doc_string = graph.doc_string = ""
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    for function in model.functions:
        del function.metadata_props[:], function.value_info[:]
        for node in function.node:
            del node.metadata_props[:]
    return model


def write_onnx(model: onnx.ModelProto, folder: Path) -> list[str]:
    """Write a model as `model.onnx`, its weights in a file beside it where they pass 2 GiB; the files' names."""
    size_bytes = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    path = folder / MODEL_FILE
    if size_bytes <= _MOST_BYTES:
        path.write_bytes(model.SerializeToString(deterministic=True))
        return [MODEL_FILE]
    onnx.save_model(model, path, save_as_external_data=True, location=WEIGHTS_FILE, size_threshold=1024)
    return [MODEL_FILE, WEIGHTS_FILE]


def session(path: Path) -> InferenceSession:
    """An ONNX Runtime session of one thread on a file."""
    options = SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    return InferenceSession(path, options, providers=["CPUExecutionProvider"])
