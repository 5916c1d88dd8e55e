"""Exported programs, loaded without running anything that their file holds, and without their weights in memory.

torch's own loader unpickles weights, constants and example inputs, and evaluates text of the file. So the archive is
checked (`archive`, `trusted`), and torch is given another one, in memory, that holds what passed: the graph, and for
each tensor a single zero, stretched by strides of 0. The tensors are then mapped from the file itself.
"""

from __future__ import annotations

import io
import json
import math
import struct
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from repo_builder.errors import ModelFileError
from repo_builder.export.exported.archive import EXAMPLE, EXPORT_CALL, GRAPH, Archive, Stored, read_archive
from repo_builder.export.exported.trusted import number_of_inputs
from repo_builder.export.stored import Checkpoint, StoredTensor
from repo_builder.export.torch_onnx import quiet

# the archive's numbers for dtypes (ScalarType in torch/_export/serde/schema.py): torch's, and numpy's as it lies there
_DTYPES: Mapping[int, tuple[torch.dtype, str]] = {
    1: (torch.uint8, "<u1"),
    2: (torch.int8, "<i1"),
    3: (torch.int16, "<i2"),
    4: (torch.int32, "<i4"),
    5: (torch.int64, "<i8"),
    6: (torch.float16, "<f2"),
    7: (torch.float32, "<f4"),
    8: (torch.float64, "<f8"),
    10: (torch.complex64, "<c8"),
    12: (torch.bool, "|b1"),
    13: (torch.bfloat16, "<i2"),
}


@dataclass(frozen=True, slots=True)
class Program:
    """An exported program whose tensors are mapped from its file, and where each of its weights lies there.

    guards: what the exporter found to hold of the inputs' sizes, as text, which is not to be run.
    example: its example inputs, an entry per input, where it has some.
    """

    path: Path
    exported: ExportedProgram
    weights: Checkpoint
    guards: Sequence[str]
    example: Sequence[Any] | None


def read_program(path: Path) -> Program:
    """Read a `.pt2` file; raises ModelFileError where it is none, is damaged, or holds what is not read (above)."""
    try:
        archive = read_archive(path)
        exported = _loaded(archive)
        values = {
            name: _mapped(path, name, stored) for name, stored in {**archive.weights, **archive.constants}.items()
        }
    except ModelFileError as exc:
        raise ModelFileError(*(f"{path}: {problem}" for problem in exc.problems)) from exc
    except FileNotFoundError as exc:
        raise ModelFileError(f"{path}: expected a file, found none; check the path") from exc
    except OSError as exc:
        raise ModelFileError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (
        zipfile.BadZipFile,
        struct.error,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as exc:
        raise ModelFileError(
            f"{path}: expected a program written by torch.export.save, got a damaged or other file ({exc}); "
            f"save it again: {EXPORT_CALL}"
        ) from exc
    for name in exported.state_dict:
        is_parameter = isinstance(exported.state_dict[name], torch.nn.Parameter)
        value = values[name]
        exported.state_dict[name] = torch.nn.Parameter(value, requires_grad=False) if is_parameter else value
    for name in exported.constants:
        exported.constants[name] = values[name]
    if any(_writes(node) for node in exported.graph.nodes):
        exported = _without_writes(path, exported)
    tensors = {name: _placed(path, name, stored) for name, stored in {**archive.weights, **archive.constants}.items()}
    return Program(path, exported, Checkpoint(path, tensors, ordered=True), archive.guards, archive.example)


def _loaded(archive: Archive) -> ExportedProgram:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as made:
        for name, data in archive.files.items():
            made.writestr(f"program/{name}", data)
        made.writestr(f"program/{GRAPH}", json.dumps(archive.document))
        for folder, prefix, tensors in (
            ("weights", "weight_", archive.weights),
            ("constants", "tensor_", archive.constants),
        ):
            entries = {name: _zeros(stored, f"{prefix}{i}") for i, (name, stored) in enumerate(tensors.items())}
            made.writestr(f"program/data/{folder}/model_{folder}_config.json", json.dumps({"config": entries}))
            for entry in entries.values():
                made.writestr(f"program/data/{folder}/{entry['path_name']}", b"\0" * 16)
        nothing = io.BytesIO()
        specs = archive.document["graph_module"]["signature"]["input_specs"]
        torch.save(((None,) * number_of_inputs(specs), {}), nothing)
        made.writestr(f"program/{EXAMPLE}", nothing.getvalue())
    content.seek(0)
    try:
        with quiet():
            return torch.export.load(content)
    except Exception as exc:  # torch.export.load names no errors of its own, and raises whatever its parts do
        line = next(iter(str(exc).splitlines()), type(exc).__name__)
        written_by = archive.document.get("torch_version", "another version")
        raise ModelFileError(
            f"torch {torch.__version__} cannot load this program, written by torch {written_by}: {line[:200]}; "
            "export it again with this torch, or install that one"
        ) from exc


def _writes(node: torch.fx.Node) -> bool:
    """Whether an operator changes what it takes."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    return any(each.alias_info is not None and each.alias_info.is_write for each in node.target._schema.arguments)


def _without_writes(path: Path, exported: ExportedProgram) -> ExportedProgram:
    """The same program of operators that make what they give anew, which nodes can be taken out of one by one."""
    try:
        with quiet():
            functional: ExportedProgram = exported.run_decompositions({})
            return functional
    except Exception as exc:  # torch names none for it: an operator's decomposition may raise anything
        line = next(iter(str(exc).splitlines()), type(exc).__name__)
        raise ModelFileError(
            f"{path}: torch {torch.__version__} cannot write this program without operators that work in place "
            f"({line[:200]}); export it so: program = program.run_decompositions()"
        ) from exc


def _zeros(stored: Stored, member: str) -> dict[str, Any]:
    """The entry of a tensor that is one zero, in the place of the real one."""
    zero = {"as_int": 0}
    meta = {
        "dtype": stored.dtype,
        "sizes": [{"as_int": size} for size in stored.sizes],
        "requires_grad": False,
        "device": {"type": "cpu", "index": None},
        "strides": [zero] * len(stored.sizes),
        "storage_offset": zero,
        "layout": 7,  # strided
    }
    return {"path_name": member, "is_param": stored.is_parameter, "use_pickle": False, "tensor_meta": meta}


def _mapped(path: Path, name: str, stored: Stored) -> torch.Tensor:
    """The values of a tensor as they lie in the file: pages are read when touched."""
    if stored.dtype not in _DTYPES:
        raise ModelFileError(f"{name}: dtype {stored.dtype} of the archive is not read; convert it before the export")
    dtype, laid_out = _DTYPES[stored.dtype]
    items, item_bytes = stored.storage.size_bytes // dtype.itemsize, dtype.itemsize
    last = stored.offset + sum((size - 1) * stride for size, stride in zip(stored.sizes, stored.strides, strict=True))
    if min((0, stored.offset, *stored.sizes, *stored.strides)) < 0 or (
        torch.Size(stored.sizes).numel() and items <= last
    ):
        raise ModelFileError(
            f"{name}: expected {last + 1} values of {item_bytes} bytes, got {items}; the file is damaged: save it again"
        )
    if not torch.Size(stored.sizes).numel():
        return torch.empty(stored.sizes, dtype=dtype)
    raw = np.memmap(path, laid_out, "r", stored.storage.begin_bytes, (items,))
    with warnings.catch_warnings():  # nothing writes to it, and a map that could be written may not pass the memory
        warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)
        values = torch.from_numpy(raw)
    return values.view(dtype).as_strided(stored.sizes, stored.strides, stored.offset)


def _placed(path: Path, name: str, stored: Stored) -> StoredTensor:
    """Where a tensor lies, for reading it in blocks."""
    dtype, _ = _DTYPES[stored.dtype]
    begin_bytes = stored.storage.begin_bytes + stored.offset * dtype.itemsize
    dense = [math.prod(stored.sizes[i + 1 :]) for i in range(len(stored.sizes))]
    flaw = None
    if any(got != want for got, want, size in zip(stored.strides, dense, stored.sizes, strict=True) if size > 1):
        flaw = (
            f"expected a contiguous tensor, got strides {stored.strides}; export the model with .contiguous() weights"
        )
    return StoredTensor(name, str(dtype).removeprefix("torch."), stored.sizes, path, begin_bytes, flaw)
