"""Opening a checkpoint file, whichever of the known formats it has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from repo_builder.errors import CheckpointError
from repo_builder.export.safetensors_file import read_safetensors, read_sharded_safetensors
from repo_builder.export.stored import Checkpoint


def _read_torch(path: Path) -> Checkpoint:
    from repo_builder.export.torch_file import read_torch  # imports torch, for seconds: only where it is needed

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
