"""The tensors of a file that `torch.save` wrote: their names, shapes and places, without their values.

The pickle inside is read by torch's weights-only unpickler under its fake tensor mode: no code runs, and no value is
read; torch notes each tensor's offset instead. https://docs.pytorch.org/docs/stable/notes/serialization.html
"""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from repo_builder.errors import CheckpointError
from repo_builder.export.stored import Checkpoint, StoredTensor

_ZIP_MAGIC = b"PK\x03\x04"
# torch.save's old format starts with this number as a pickled LONG1
_LEGACY_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")

# What torch's unpickler may raise on a file that is not what it should be, beside UnpicklingError for a refused global
_LOAD_ERRORS = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
)


class _Ignored:
    """Stands in for a numpy value beside the weights: takes anything, does nothing."""

    def __new__(cls, *_args: object) -> _Ignored:
        return object.__new__(cls)

    def __init__(self, *_args: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


# The open-source DLRM saves its losses beside the weights as numpy scalars, which the weights-only unpickler refuses.
_NUMPY_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Ignored, name)
    for name in (
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray.scalar",
        "numpy.core.multiarray._reconstruct",
        "numpy._core.multiarray._reconstruct",
        "numpy.ndarray",
        "numpy.dtype",
    )
]


def read_torch(path: Path) -> Checkpoint:
    """List the tensors of a `.pt` file: a bare state_dict, or a dict that holds one under `state_dict`.

    Raises CheckpointError for a file that is damaged, of the old format, no checkpoint, or a pickle that runs code.
    """
    _check_format(path)
    records = _record_sizes(path)
    state = _state_dict(path, _load_without_values(path))
    return Checkpoint(path, {key: _stored(path, key, tensor, records) for key, tensor in state.items()}, ordered=True)


def _check_format(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(32)
    if start.startswith(_ZIP_MAGIC):
        return
    if _LEGACY_MAGIC in start:
        raise CheckpointError(
            f"{path}: expected torch.save's zip format, got its format from before PyTorch 1.6, which cannot be "
            "read in blocks; re-save it: torch.save(torch.load(path, map_location='cpu'), new_path)"
        )
    raise CheckpointError(
        f"{path}: expected a checkpoint written by torch.save, got a file that starts with {start[:8]!r}; "
        "save model.state_dict() with torch.save"
    )


def _record_sizes(path: Path) -> dict[int, int]:
    """Bytes of each record of the zip file that is stored as it is, by the offset of its data."""
    sizes = {}
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            for info in archive.infolist():
                file.seek(info.header_offset)
                name_bytes, extra_bytes = struct.unpack("<26xHH", file.read(30))
                if info.compress_type == zipfile.ZIP_STORED:
                    sizes[info.header_offset + 30 + name_bytes + extra_bytes] = info.file_size
            order = [archive.read(name) for name in archive.namelist() if name.endswith("/byteorder")]
    except (zipfile.BadZipFile, struct.error, EOFError, OSError) as exc:
        raise CheckpointError(
            f"{path}: expected a whole checkpoint, got a truncated or damaged one ({exc}); copy it again"
        ) from exc
    if order and order != [b"little"]:
        raise CheckpointError(
            f"{path}: expected little-endian values, got {order[0]!r}; re-save it on a little-endian machine"
        )
    return sizes


def _load_without_values(path: Path) -> object:
    with torch.serialization.safe_globals(_NUMPY_STAND_INS), warnings.catch_warnings():
        # torch warns of its own use of TypedStorage when it rebuilds a Parameter
        warnings.filterwarnings("ignore", "TypedStorage is deprecated", UserWarning)
        try:
            with FakeTensorMode():
                return torch.load(path, map_location="cpu", weights_only=True)
        except _LOAD_ERRORS as exc:
            raise CheckpointError(f"{path}: {_why_not_loaded(path, exc)}") from exc


AS_BYTES = (
    "s, z = value.q_per_channel_scales(), value.q_per_channel_zero_points(); torch.cat([value.int_repr(), "
    "torch.stack([s, -s * z], 1).float().view(torch.uint8)], 1)"
)


def _why_not_loaded(path: Path, exc: Exception) -> str:
    try:
        refused = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except _LOAD_ERRORS:
        refused = []
    if any(name.endswith((".UInt4Tensor", ".UInt2Tensor")) for name in refused):
        return (
            f"expected plain tensors, got {', '.join(refused)} of TorchRec; nothing of it was run; save int4 tables as "
            "the bytes that they are: {key: getattr(value, 'elem', value) for key, value in model.state_dict().items()}"
        )
    if refused:
        return (
            f"expected tensors only, got a pickle that calls {', '.join(refused)}; nothing of it was run; "
            "save model.state_dict() (plain tensors, gathered from all ranks), not the model"
        )
    if "quantized" in str(exc):
        return (
            "expected plain tensors, got quantized ones of torch (quantize_per_channel), which are not read by blocks; "
            f"save each as rows of bytes ({AS_BYTES}) and say dtype: int8 in the spec, or save value.dequantize()"
        )
    lines = str(exc).splitlines() or [type(exc).__name__]
    return f"expected a state_dict of plain tensors, got a file that torch cannot load so: {lines[0][:200]}"


def _state_dict(path: Path, loaded: object) -> dict[str, torch.Tensor]:
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(state, Mapping) or not any(isinstance(value, torch.Tensor) for value in state.values()):
        got = (
            f"a dict with {', '.join(map(str, list(state)[:8])) or 'nothing'}"
            if isinstance(state, Mapping)
            else type(state).__name__
        )
        raise CheckpointError(
            f"{path}: expected a state_dict of tensors, or a dict with one under 'state_dict', got {got}; "
            "save model.state_dict()"
        )
    return {str(key): value for key, value in state.items() if isinstance(value, torch.Tensor)}


def _stored(path: Path, key: str, tensor: torch.Tensor, records: Mapping[int, int]) -> StoredTensor:
    dtype, shape = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
    if tensor.layout != torch.strided:
        return StoredTensor(
            key, dtype, shape, path, 0, f"expected a dense tensor, got {tensor.layout}; save it with .to_dense()"
        )
    if not tensor.is_contiguous():
        flaw = (
            f"expected a contiguous tensor, got strides {tensor.stride()} for shape {shape}; save it with .contiguous()"
        )
        return StoredTensor(key, dtype, shape, path, 0, flaw)
    storage: Any = tensor.untyped_storage()
    record_offset = storage._checkpoint_offset
    begin_bytes = tensor.storage_offset() * tensor.element_size()
    end_bytes = begin_bytes + tensor.numel() * tensor.element_size()
    record_flaw = None
    if end_bytes > records.get(record_offset, -1):
        got = records.get(record_offset, "a compressed record")
        record_flaw = f"expected a stored record of at least {end_bytes} bytes, got {got}; re-save it with torch.save"
    return StoredTensor(key, dtype, shape, path, record_offset + begin_bytes, record_flaw)
