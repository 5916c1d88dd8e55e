"""The archive of an exported program (`torch.export.save`, `.pt2`): what is in it, read without running any of it.

https://docs.pytorch.org/docs/stable/export/pt2_archive.html
"""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from repo_builder.errors import ModelFileError
from repo_builder.export.exported.trusted import checked_graph, is_name, number_of_inputs, wrong_device

GRAPH = "models/model.json"
EXAMPLE = "data/sample_inputs/model.pt"
EXPORT_CALL = (
    "torch.export.save(torch.export.export(model.eval(), example, "
    "dynamic_shapes=tuple({0: torch.export.Dim.AUTO} for _ in example), strict=False), path)"
)


@dataclass(frozen=True, slots=True)
class Storage:
    """The bytes of a member of the archive, where they lie in the file."""

    begin_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of the archive: a strided view of a storage. dtype: the archive's number for it."""

    storage: Storage
    dtype: int
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    is_parameter: bool


@dataclass(frozen=True, slots=True)
class Archive:
    """What passed: small files to copy, the graph, the weights and constants by name, and the example inputs, flat.

    guards: what the exporter found to hold of the inputs' sizes, as text.
    example: None where the file holds none, or more than plain values.
    """

    files: Mapping[str, bytes]
    document: Mapping[str, Any]
    weights: Mapping[str, Stored]
    constants: Mapping[str, Stored]
    guards: Sequence[str]
    example: Sequence[Any] | None


def read_archive(path: Path) -> Archive:
    """Read and check a `.pt2` file; raises ModelFileError, whose lines do not yet name the file."""
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        members = _members(archive)
        if members["archive_format"] and archive.read(members["archive_format"]).strip() != b"pt2":
            raise ModelFileError(f"expected an archive of format pt2, got another; save the program: {EXPORT_CALL}")
        copied = ("archive_format", "archive_version", "byteorder", ".data/version", ".data/serialization_id")
        files = {name: archive.read(members[name]) for name in copied if name in members}
        if files.get("byteorder", b"little") != b"little":
            raise ModelFileError("expected little-endian values; save it again on a little-endian machine")
        document = json.loads(archive.read(members[GRAPH]))
        guards = [str(guard) for guard in document.get("guards_code", [])]
        document = checked_graph(document)
        weights, constants = (_tensors(archive, file, members, folder) for folder in ("weights", "constants"))
        example = _example(archive.read(members[EXAMPLE])) if EXAMPLE in members else None
    inputs = document["graph_module"]["signature"]["input_specs"]
    if example is not None and len(example) != number_of_inputs(inputs):
        example = None
    return Archive(files, document, weights, constants, guards, example)


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The archive's members, without the folder that all are in."""
    names = archive.namelist()
    roots = [name.removesuffix("archive_format") for name in names if name.endswith("/archive_format")]
    if len(roots) != 1:
        raise ModelFileError(
            f"expected a program written by torch.export.save of torch 2.9 or later, got another zip file; "
            f"save the program again: {EXPORT_CALL}"
        )
    members = {name.removeprefix(roots[0]): archive.getinfo(name) for name in names}
    if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
        raise ModelFileError("expected an archive without compression; save the program with torch.export.save")
    if GRAPH not in members:
        raise ModelFileError(f"expected an exported program ({GRAPH} in it), got none; save it: {EXPORT_CALL}")
    return members


def _tensors(
    archive: zipfile.ZipFile, file: io.BufferedReader, members: Mapping[str, zipfile.ZipInfo], folder: str
) -> dict[str, Stored]:
    config = json.loads(archive.read(members[f"data/{folder}/model_{folder}_config.json"]))["config"]
    stored = {}
    for name, entry in config.items():
        if not is_name(name):
            raise ModelFileError(
                f"{folder}: expected names of letters, digits, _ and dots, got {name!r:.80}; export again"
            )
        meta, member = entry.get("tensor_meta"), str(entry["path_name"])
        if entry.get("use_pickle") or meta is None or not member.startswith(("weight_", "tensor_")):
            raise ModelFileError(
                f"{name}: expected a plain tensor, got a pickled object, which cannot be read without running code; "
                "export the model with plain tensors"
            )
        if meta["device"]["type"] not in ("cpu", "meta"):
            raise ModelFileError(wrong_device(name, meta["device"]["type"]))
        info = members[f"data/{folder}/{member}"]
        sizes, strides = (tuple(int(each["as_int"]) for each in meta[key]) for key in ("sizes", "strides"))
        offset = int(meta["storage_offset"]["as_int"])
        storage = Storage(_begin_bytes(file, info), info.file_size)
        stored[name] = Stored(storage, int(meta["dtype"]), sizes, strides, offset, bool(entry["is_param"]))
    return stored


def _begin_bytes(file: io.BufferedReader, info: zipfile.ZipInfo) -> int:
    file.seek(info.header_offset)
    name_bytes, extra_bytes = struct.unpack("<26xHH", file.read(30))
    return int(info.header_offset + 30 + name_bytes + extra_bytes)


def _example(content: bytes) -> Sequence[Any] | None:
    """The example inputs, flat, where they are plain tensors and numbers; nothing of another pickle is run."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "TypedStorage is deprecated", UserWarning)
            loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - torch.load names no errors of its own, and a model without examples is read all the same
        return None
    return pytree.tree_leaves(loaded)
