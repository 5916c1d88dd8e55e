"""All models of the zoo by name, and the files that each is written as. Imports no library of models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.zoo.example import Example

SUFFIXES = {"exported": ".pt2", "dynamo": ".dynamo.onnx", "torchscript": ".torchscript.onnx"}
EVERY = tuple(SUFFIXES)
NO_TORCHSCRIPT = ("exported", "dynamo")

MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "wide_deep": ("rechub", EVERY),
    "deepfm": ("rechub", EVERY),
    "dcn": ("rechub", EVERY),
    "dcn_v2": ("rechub", EVERY),
    "autoint": ("rechub", EVERY),
    "din": ("rechub", EVERY),
    "bst": ("rechub", EVERY),
    "mmoe": ("rechub", EVERY),
    "two_tower": ("rechub", EVERY),
    # traced, the totals of a KeyedJaggedTensor's lengths become constants: that file answers its example alone
    "dlrm": ("jagged", NO_TORCHSCRIPT),
    "dlrm_flat": ("jagged", NO_TORCHSCRIPT),
    "dlrm_dcn": ("jagged", NO_TORCHSCRIPT),
    "dlrm_projection": ("jagged", NO_TORCHSCRIPT),
    "own_collection": ("jagged", NO_TORCHSCRIPT),
    "sasrec": ("sequences", EVERY),
    "hstu": ("sequences", EVERY),
    "one_matrix": ("plain", EVERY),
    "bags": ("plain", NO_TORCHSCRIPT),  # that exporter knows no embedding bag with a padding id
    "candidates": ("plain", EVERY),
}


def example(name: str, times: int = 1) -> Example:
    """Make a model: imports the library that it is of. times: so many times the rows of its module's `ROWS`."""
    module = import_module(f"tests.zoo.{MODELS[name][0]}")
    module.ROWS.update({table: rows * times for table, rows in module.ROWS.items()})
    made: Example = getattr(module, name)()
    return made
