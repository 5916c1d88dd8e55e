"""A model's files as its owner makes them: by torch.export, and by both of torch's exporters to ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from tests.zoo.example import Example, Query


class Positional(nn.Module):
    """A module that takes one dict, called by its tensors one after another."""

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return self.module(dict(zip(self.names, tensors, strict=True)))


def program(example: Example) -> ExportedProgram:
    """The module as an exported program whose example inputs come first from the generator of seed 0."""
    query = first_query(example)
    tensors = {name: torch.from_numpy(array) for name, array in query.items()}
    shapes = {name: dict.fromkeys(example.axes(name), Dim.AUTO) for name in query}
    if example.as_dict:
        return torch.export.export(example.module, (tensors,), dynamic_shapes=(shapes,), strict=False)
    return torch.export.export(
        example.module, tuple(tensors.values()), dynamic_shapes=tuple(shapes.values()), strict=False
    )


def write_exported(example: Example, path: Path) -> None:
    torch.export.save(program(example), path)


def write_dynamo(example: Example, path: Path) -> None:
    torch.onnx.export(program(example), f=path, dynamo=True, output_names=list(example.outputs), verbose=False)


def write_torchscript(example: Example, path: Path) -> None:
    query = first_query(example)
    module = Positional(example.module, tuple(query)) if example.as_dict else example.module
    axes = {name: {axis: f"{name}_{axis}" if axis else "batch" for axis in example.axes(name)} for name in query}
    torch.backends.mha.set_fastpath_enabled(False)  # its fused encoder layer has no ONNX form there
    torch.onnx.export(
        module.eval(),
        tuple(map(torch.from_numpy, query.values())),
        path,
        dynamo=False,
        input_names=list(query),
        output_names=list(example.outputs),
        dynamic_axes=axes | {name: {0: "batch"} for name in example.outputs},
        opset_version=17,
    )


EXPORTED_WITH = 5  # rows: neither 0 nor 1, which torch.export takes for constants


def first_query(example: Example) -> Query:
    return example.draw(np.random.default_rng(0), EXPORTED_WITH)
