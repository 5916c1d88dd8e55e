"""Names for the varying dimensions of a model's inputs: the batch, and others as the file calls them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import onnx

from repo_builder.errors import ModelFileError
from repo_builder.export.onnx_file.graph import ONE_MORE
from repo_builder.model.types import BATCH

_UNNAMED = "?"
_UNKNOWN = re.compile(r"unk__\d+|None|\?|-1")
"""What exporters call a dimension that has no name."""


def name_symbols(graph: onnx.GraphProto, path: Path) -> Mapping[tuple[str, int], str]:
    """The name of each varying dimension of an input, by (input, axis). First dimensions without a name are the batch.

    The batch is the first dimension of the outputs, or else of most inputs. Raises ModelFileError where none varies.
    """
    found = {
        (entry.name, axis): name
        for entry in graph.input
        for axis, dimension in enumerate(entry.type.tensor_type.shape.dim)
        if (name := _name(dimension)) is not None
    }
    first = [name for (_, axis), name in found.items() if axis == 0]
    answered = {_name(entry.type.tensor_type.shape.dim[0]) for entry in graph.output if _rank(entry)} - {_UNNAMED}
    candidates = [name for name in dict.fromkeys(found.values()) if name in answered or name in first]
    if not candidates:
        raise ModelFileError(f"{path}: {_static(graph)}")
    batch = max(candidates, key=lambda name: (name in answered, first.count(name), -candidates.index(name)))
    named, taken = {batch: BATCH}, {BATCH}
    symbols = {}
    for (entry, axis), name in found.items():
        key = name if name != _UNNAMED else batch if axis == 0 else f"{entry}_{axis}"
        if key not in named:
            named[key] = (
                named[one_less] + ONE_MORE
                if (one_less := key.removesuffix(" + 1")) in named
                else _free(re.sub(r"\W+", "_", key), taken)
            )
            taken.add(named[key])
        symbols[entry, axis] = named[key]
    return symbols


def _name(dimension: onnx.TensorShapeProto.Dimension) -> str | None:
    """As the file calls a dimension; None where it is a number."""
    if dimension.dim_value > 0:
        return None
    name = str(dimension.dim_param)
    return _UNNAMED if not name or _UNKNOWN.fullmatch(name) else name


def _rank(entry: onnx.ValueInfoProto) -> int:
    return len(entry.type.tensor_type.shape.dim)


def _free(name: str, taken: set[str]) -> str:
    return (
        name
        if name not in taken
        else next(f"{name}_{i}" for i in range(1, len(taken) + 2) if f"{name}_{i}" not in taken)
    )


def _static(graph: onnx.GraphProto) -> str:
    """What is wrong with a model none of whose inputs takes a batch of any size, and the call that mends it."""
    shapes = {entry.name: [d.dim_value for d in entry.type.tensor_type.shape.dim] for entry in graph.input}
    name, shape = max(shapes.items(), key=lambda item: len(item[1]))
    axes = ", ".join(f'"{each}": {{0: "batch"}}' for each, sizes in shapes.items() if sizes[:1] == shape[:1])
    return (
        f"input {name}: expected a first dimension that varies, the batch, got the shape {shape}; export the model "
        f"with torch.onnx.export(..., dynamic_axes={{{axes}}}), or its dynamic_shapes"
    )
