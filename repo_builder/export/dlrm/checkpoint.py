"""Opening a checkpoint file, whichever of the known formats it has; those of safetensors are read here."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from repo_builder.errors import CheckpointError
from repo_builder.export.stored import Checkpoint, StoredTensor

_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64", "U8": "uint8"}


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
    tensors = {key: _stored(path, key, entry, 8 + header_bytes) for key, entry in header.items()}
    return Checkpoint(path, tensors, ordered=False)


def read_sharded_safetensors(path: Path) -> Checkpoint:
    """The tensors of a `.safetensors.index.json`: a `weight_map` from each key to one of the files beside it.

    Raises CheckpointError for an index that is none, names a file elsewhere, or a key that its file has not.
    """
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        places = {str(key): str(name) for key, name in weight_map.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as exc:
        raise CheckpointError(
            f"{path}: expected a safetensors index with a weight_map from keys to files, got another ({exc})"
        ) from exc
    files: dict[str, Checkpoint] = {}
    tensors = {}
    for key, name in places.items():
        if Path(name).name != name or Path(name).suffix != ".safetensors":
            raise CheckpointError(
                f"{path}: weight_map: expected the name of a .safetensors file beside it, got {name!r}"
            )
        if name not in files:
            files[name] = _beside(path, name)
        if key not in files[name].tensors:
            raise CheckpointError(f"{path}: weight_map: expected {key} in {name}, found none; copy all files again")
        tensors[key] = files[name].tensors[key]
    return Checkpoint(path, tensors, ordered=False)


def _beside(index: Path, name: str) -> Checkpoint:
    try:
        return read_safetensors(index.with_name(name))
    except FileNotFoundError as exc:
        raise CheckpointError(f"{index.with_name(name)}: expected this file of {index.name}, found none") from exc


def _stored(path: Path, key: str, entry: dict[str, object], base_bytes: int) -> StoredTensor:
    dtype, shape, offsets = str(entry["dtype"]), entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or not isinstance(offsets, list):
        raise TypeError(f"the safetensors library let pass a header entry that is not one: {entry}")
    return StoredTensor(key, _DTYPES.get(dtype, dtype), tuple(shape), path, base_bytes + offsets[0])


def _read_torch(path: Path) -> Checkpoint:
    from repo_builder.export.dlrm.torch_file import read_torch  # imports torch, for seconds: only where it is needed

    return read_torch(path)


_FORMATS: Mapping[str, Callable[[Path], Checkpoint]] = {
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".safetensors": read_safetensors,
    ".safetensors.index.json": read_sharded_safetensors,
}


def _what_of_folder(path: Path) -> str:
    """What to name in place of a folder."""
    if (path / ".metadata").is_file():
        return (
            "expected a checkpoint file, got the folder of a distributed checkpoint (torch.distributed.checkpoint), "
            "whose index is a pickle; merge it where it was trained: "
            f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} model.pt"
        )
    found = sorted(each.name for each in path.iterdir() if each.name.endswith(tuple(_FORMATS)))
    index = [name for name in found if name.endswith(".index.json")]
    named = f"{path / (index or found)[0]}" if found else "the file in it"
    return f"expected a checkpoint file, got a folder; name {named}"


def open_checkpoint(path: Path) -> Checkpoint:
    """List a checkpoint's tensors; the format is told by the file's suffix.

    Raises CheckpointError when there is no such file, or it is not a checkpoint of that format.
    """
    try:
        if path.is_dir():
            raise CheckpointError(f"{path}: {_what_of_folder(path)}")
        reader = next((read for suffix, read in _FORMATS.items() if path.name.endswith(suffix)), None)
        if reader is None:
            raise CheckpointError(f"{path}: expected a name ending in {', '.join(_FORMATS)}, got {path.name!r}")
        return reader(path)
    except FileNotFoundError as exc:
        raise CheckpointError(f"{path}: expected a file, found none; check weights.path in the spec") from exc
    except OSError as exc:
        raise CheckpointError(f"{path}: cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise CheckpointError(f"{str(path)!r}: expected a path: {exc}") from exc
