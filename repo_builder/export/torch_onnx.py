"""Programs as ONNX: what torch's exporter makes of them, kept quiet, and without what a runtime does not need."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from onnxruntime import InferenceSession, SessionOptions
from torch.export import ExportedProgram

from repo_builder.errors import ExportError
from repo_builder.export.bfloat16 import in_float32
from repo_builder.model.types import Tensor

OPSET = 18
"""The exporter's native opset; every onnxruntime since 1.14 reads it, and Triton 2.51's is 1.19."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the exporter off the console, and its known warnings from becoming errors; everything else passes."""
    names = ("torch.onnx", "torch.export", "torch._export", "onnxscript", "onnx_ir")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)  # they warn of what we do not use, and of symbols that a program does not need
    try:
        with warnings.catch_warnings():
            # torch's own export code copies LeafSpec objects, which torch deprecated
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            # one name for the batch of all inputs is what we want
            warnings.filterwarnings("ignore", "# The axis name: batch will not be used", UserWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what a runtime does not need: stack traces with the building machine's paths, and intermediate shapes."""
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    model.doc_string = graph.doc_string = ""
    _strip(graph)
    for function in model.functions:
        del function.metadata_props[:], function.value_info[:]
        for node in function.node:
            del node.metadata_props[:]
    return model


def _strip(graph: onnx.GraphProto) -> None:
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    for node in graph.node:
        for attribute in node.attribute:
            for inner in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                inner.doc_string = ""
                del inner.metadata_props[:], inner.value_info[:]
                _strip(inner)


_ONNX_TYPES = {
    "BOOL": onnx.TensorProto.BOOL,
    "UINT8": onnx.TensorProto.UINT8,
    "UINT16": onnx.TensorProto.UINT16,
    "UINT32": onnx.TensorProto.UINT32,
    "UINT64": onnx.TensorProto.UINT64,
    "INT8": onnx.TensorProto.INT8,
    "INT16": onnx.TensorProto.INT16,
    "INT32": onnx.TensorProto.INT32,
    "INT64": onnx.TensorProto.INT64,
    "FP16": onnx.TensorProto.FLOAT16,
    "FP32": onnx.TensorProto.FLOAT,
    "FP64": onnx.TensorProto.DOUBLE,
    "BF16": onnx.TensorProto.BFLOAT16,
}
MOST_BYTES = 2**31 - 1 - 1024**2  # of a protobuf message, with room for the nodes beside the weights
SMALL_BYTES = 1024
MODEL_FILE, WEIGHTS_FILE = "model.onnx", "model.onnx.data"


def to_onnx(
    program: ExportedProgram, inputs: Sequence[Tensor], outputs: Sequence[Tensor], what: str
) -> onnx.ModelProto:
    """A program as ONNX; the same program gives the same bytes. Raises ExportError where torch cannot export it.

    inputs: those that have a known shape, and any that it is to have beside its own. outputs: all of its own, in order.
    """
    model: onnx.ModelProto = _exported(program, what, optimize=True).model_proto
    name_outputs(model.graph, [tensor.name for tensor in outputs])
    own = {entry.name: entry for entry in (*model.graph.input, *model.graph.output)}
    for tensor in (*inputs, *outputs):
        entry = own.get(tensor.name) or model.graph.input.add()
        entry.CopyFrom(onnx.helper.make_tensor_value_info(tensor.name, _ONNX_TYPES[tensor.datatype], tensor.shape))
    in_float32(model)
    return clean(model)


def output_names(program: ExportedProgram, what: str) -> list[str]:
    """What torch's exporter calls a program's outputs."""
    return [str(value.name) for value in _exported(program, what, optimize=False).model.graph.outputs]


def _exported(program: ExportedProgram, what: str, *, optimize: bool) -> torch.onnx.ONNXProgram:
    values = (node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder")
    mode = next(value.fake_mode for value in values if isinstance(value, torch._subclasses.FakeTensor))
    if mode.shape_env is not None:
        mode.shape_env.pending_fresh_unbacked_symbols.clear()  # the export of another part may have left some
    try:
        with quiet():
            made = torch.onnx.export(
                program, dynamo=True, opset_version=OPSET, external_data=False, verbose=False, optimize=optimize
            )
    except Exception as exc:  # torch wraps whatever an operator's translation raises
        lines = [line for line in f"{exc.__cause__ or exc}".splitlines() if line.strip()] or [type(exc).__name__]
        raise ExportError(f"{what}: torch {torch.__version__} cannot write it as ONNX: {lines[0][:300]}") from exc
    if made is None:
        raise ExportError("torch.onnx.export: expected a program, got None")
    return made


def name_outputs(graph: onnx.GraphProto, names: Sequence[str]) -> None:
    """Give the outputs these names, in order, which other values may have until now."""
    inner = {name for node in graph.node for name in node.output} | {tensor.name for tensor in graph.initializer}
    new: dict[str, str] = {name: f"inner.{name}" for name in inner & set(names)}
    for output, name in zip(graph.output, names, strict=True):
        if new.get(output.name, "inner.").startswith("inner."):
            new[output.name] = name
        else:  # one value that is two outputs
            graph.node.append(onnx.helper.make_node("Identity", [output.name], [name], name))
    _rename(graph, new)
    for output, name in zip(graph.output, names, strict=True):
        output.name = name


def _rename(graph: onnx.GraphProto, new: Mapping[str, str]) -> None:
    for tensor in graph.initializer:
        tensor.name = new.get(tensor.name, tensor.name)
    for node in graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]
        for attribute in node.attribute:
            _rename(attribute.g, new)


def write_onnx(model: onnx.ModelProto, folder: Path) -> list[str]:
    """Write a model as `model.onnx`, its weights in a file beside it where they pass 2 GiB; the files' names."""
    size_bytes = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    path = folder / MODEL_FILE
    if size_bytes <= MOST_BYTES:
        path.write_bytes(model.SerializeToString(deterministic=True))
        return [MODEL_FILE]
    onnx.save_model(model, path, save_as_external_data=True, location=WEIGHTS_FILE, size_threshold=SMALL_BYTES)
    return [MODEL_FILE, WEIGHTS_FILE]


def session(path: Path) -> InferenceSession:
    """An ONNX Runtime session of one thread on a file."""
    options = SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    return InferenceSession(path, options, providers=["CPUExecutionProvider"])
