"""Trained weights from a checkpoint, checked whole against the spec before anything is built from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repo_builder.errors import CheckpointError
from repo_builder.export.checkpoint import open_checkpoint
from repo_builder.export.layers import DenseWeights, Layer, bottom_shapes, top_shapes
from repo_builder.export.stored import Checkpoint
from repo_builder.spec import Spec, Table
from repo_builder.words import count


@dataclass(frozen=True, slots=True)
class Variant:
    """A kind of checkpoint that holds another model than ours, known by its keys."""

    pattern: re.Pattern[str]
    reason: str


@dataclass(frozen=True, slots=True)
class KeyLayout:
    """The keys under which a checkpoint holds a spec's model.

    `tables` are whole keys; `bottom` and `top` lack `.weight` and `.bias`. `top_columns` says which column of the
    stored first top layer stands at each place of ours; None when they agree.
    """

    tables: tuple[str, ...]
    bottom: tuple[str, ...]
    top: tuple[str, ...]
    top_columns: NDArray[np.intp] | None = None


@dataclass(frozen=True, slots=True)
class _Expected:
    """What the spec wants under one key, and what to do when the checkpoint holds something else."""

    shape: tuple[int, ...]
    part: str
    remedy: Callable[[tuple[int, ...]], str]


class TrainedWeights:
    """A checkpoint's weights; tables are streamed from the file, which must stay as it is meanwhile."""

    def __init__(
        self,
        spec: Spec,
        path: Path,
        variants: Sequence[Variant],
        layout_of: Callable[[Spec, Sequence[str]], KeyLayout],
    ) -> None:
        """Open and check; raises CheckpointError with all problems of keys, shapes, dtypes and dense values."""
        self._checkpoint = open_checkpoint(path)
        keys = list(self._checkpoint.tensors)
        _raise_if_any(path, _variant_problems(keys, variants))
        layout = layout_of(spec, keys)
        _raise_if_any(path, _key_problems(self._checkpoint, _expected(spec, layout), spec))
        self._table_keys = {table.name: key for table, key in zip(spec.tables, layout.tables, strict=True)}
        self._dense = _read_dense(self._checkpoint, layout)

    def dense(self) -> DenseWeights:
        """The linear layers, top columns in our order."""
        return self._dense

    def table_chunks(self, table: Table) -> Iterator[NDArray[np.float32]]:
        """The table's rows in id order, read from the file block by block."""
        return self._checkpoint.blocks(self._table_keys[table.name])


def _raise_if_any(path: Path, problems: Sequence[str]) -> None:
    if problems:
        raise CheckpointError(*(f"{path}: {problem}" for problem in problems))


def _variant_problems(keys: Sequence[str], variants: Sequence[Variant]) -> list[str]:
    """One line a variant, with the first of its keys: its other keys would only repeat the same reason."""
    first = ((next((key for key in keys if variant.pattern.search(key)), None), variant) for variant in variants)
    return [f"{key}: {variant.reason}" for key, variant in first if key is not None]


def _expected(spec: Spec, layout: KeyLayout) -> dict[str, _Expected]:
    expected = {
        key: _Expected((table.rows, table.dim), f"table {table.name}", partial(_table_remedy, table))
        for table, key in zip(spec.tables, layout.tables, strict=True)
    }
    for part, stems, shapes in (
        ("bottom_mlp", layout.bottom, bottom_shapes(spec)),
        ("top_mlp", layout.top, top_shapes(spec)),
    ):
        for i, (stem, shape) in enumerate(zip(stems, shapes, strict=True)):
            remedy = _layer_remedy(spec, part, i)
            expected[f"{stem}.weight"] = _Expected(shape, f"{part}[{i}]", remedy)
            expected[f"{stem}.bias"] = _Expected(shape[:1], f"{part}[{i}]", remedy)
    return expected


def _table_remedy(table: Table, got: tuple[int, ...]) -> str:
    if len(got) == 2 and got[1] == table.dim:
        return f"set rows: {got[0]} for table {table.name} in the spec"
    return f"set the rows and dim of table {table.name} to the checkpoint's, and check the tables' order in the spec"


def _layer_remedy(spec: Spec, part: str, index: int) -> Callable[[tuple[int, ...]], str]:
    """The remedy for a layer; a first top layer of a telling width gets the reason named."""
    vectors, dim = len(spec.tables) + 1, spec.dim
    reasons = {
        dim + vectors * (vectors + 1) // 2: "was trained with --arch-interaction-itself, which is not supported",
        dim * vectors: "was trained with --arch-interaction-op=cat; only the dot interaction is supported",
    }

    def remedy(got: tuple[int, ...]) -> str:
        if part == "top_mlp" and index == 0 and len(got) == 2 and got[1] in reasons:
            return f"the model {reasons[got[1]]}"
        inputs = "dense_features" if part == "bottom_mlp" else "the tables (their number and dim set the input width)"
        return f"set {part} in the spec to the checkpoint's widths, and check {inputs}"

    return remedy


def _key_problems(checkpoint: Checkpoint, expected: Mapping[str, _Expected], spec: Spec) -> list[str]:
    problems = []
    for key, want in expected.items():
        tensor = checkpoint.tensors.get(key)
        if tensor is None:
            problems.append(
                f"{key}: expected {want.shape} for {want.part}, got no such key; "
                f"take {want.part} out of the spec, or check weights.source and weights.path"
            )
        elif tensor.shape != want.shape:
            problems.append(
                f"{key}: expected {want.shape} for {want.part}, got {tensor.shape}; {want.remedy(tensor.shape)}"
            )
        elif (flaw := tensor.problem()) is not None:
            problems.append(flaw)
    have = (
        f"{count(len(spec.tables), 'table')}, {len(spec.bottom_mlp)} bottom and {count(len(spec.top_mlp), 'top layer')}"
    )
    problems += [
        f"{key}: expected only the keys of the spec's {have}, got this {tensor.shape} too; "
        "add its table or layer to the spec, or save the checkpoint without it"
        for key, tensor in checkpoint.tensors.items()
        if key not in expected
    ]
    return problems


def _read_dense(checkpoint: Checkpoint, layout: KeyLayout) -> DenseWeights:
    """Read every layer; raises CheckpointError with all the non-finite ones at once."""
    arrays: dict[str, NDArray[np.float32]] = {}
    problems: list[str] = []
    for stem in (*layout.bottom, *layout.top):
        for key in (f"{stem}.weight", f"{stem}.bias"):
            try:
                arrays[key] = checkpoint.whole(key)
            except CheckpointError as exc:
                problems += exc.problems
    if problems:
        raise CheckpointError(*problems)
    bottom = tuple(_layer(arrays, stem) for stem in layout.bottom)
    top = tuple(_layer(arrays, stem) for stem in layout.top)
    if layout.top_columns is not None:
        weight, bias = top[0]
        top = ((np.ascontiguousarray(weight[:, layout.top_columns]), bias), *top[1:])
    return DenseWeights(bottom, top)


def _layer(arrays: Mapping[str, NDArray[np.float32]], stem: str) -> Layer:
    return arrays[f"{stem}.weight"], arrays[f"{stem}.bias"]
