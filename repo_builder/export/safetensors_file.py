"""The tensors of a `.safetensors` file: an 8-byte length, a JSON header with every tensor's place, then the values."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from safetensors import SafetensorError, safe_open

from repo_builder.errors import CheckpointError
from repo_builder.export.stored import Checkpoint, StoredTensor

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}


def read_safetensors(path: Path) -> Checkpoint:
    """List the tensors of a `.safetensors` file; the library checks that the header is whole and fits the file.

    Raises CheckpointError when it does not.
    """
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as exc:
        raise CheckpointError(
            f"{path}: expected a safetensors file, got a truncated, damaged or other file ({exc}); copy it again"
        ) from exc
    with path.open("rb") as file:
        (header_bytes,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(header_bytes))
    header.pop("__metadata__", None)
    return Checkpoint(path, {key: _stored(key, entry, 8 + header_bytes) for key, entry in header.items()})


def _stored(key: str, entry: dict[str, object], base_bytes: int) -> StoredTensor:
    dtype, shape, offsets = str(entry["dtype"]), entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list):
        raise TypeError(f"the safetensors library let pass a header entry that is not one: {entry}")
    return StoredTensor(key, _DTYPES.get(dtype, dtype), tuple(shape), base_bytes + offsets[0])
