"""A model that its owner already has as a file, and what a spec may say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

FileSource = Literal["exported", "onnx"]
Keep = Literal["dense", "shard"]

KEEP_UNDER_BYTES = 1024**2
"""A table below it stays in the dense graph: a service of its own would cost more than its rows."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A program of torch.export (`.pt2`) or an ONNX file.

    samples: an `.npz` with an array an input, a query that the model is known to take. keep: whether a table stays in
    the dense graph or is cut into shards, where not its size is to decide.
    """

    source: FileSource
    path: Path
    samples: Path | None = None
    keep_under_bytes: int = KEEP_UNDER_BYTES
    keep: Mapping[str, Keep] = field(default_factory=dict)
