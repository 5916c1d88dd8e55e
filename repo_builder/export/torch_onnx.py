"""Around torch's ONNX exporter: what it says is kept quiet, and what it writes is cleaned."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx

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
    for item in (*graph.node, *graph.input, *graph.output, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""
    for function in model.functions:
        del function.metadata_props[:], function.value_info[:]
        for node in function.node:
            del node.metadata_props[:]
    return model
