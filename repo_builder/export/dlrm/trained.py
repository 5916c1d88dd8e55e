"""Trained weights from a checkpoint, checked whole against the spec before anything is built from them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.errors import CheckpointError
from repo_builder.export.dlrm.checkpoint import open_checkpoint
from repo_builder.export.dlrm.families import FAMILIES, TABLES
from repo_builder.export.dlrm.keys import KeyFamily, KeyLayout, mismatches, quantized_table
from repo_builder.export.dlrm.layers import DenseWeights, Layer
from repo_builder.export.quantized import QUANTIZED, fitting_dtype
from repo_builder.export.stored import Checkpoint
from repo_builder.model.dlrm import Dlrm, DlrmTable, Weights
from repo_builder.model.types import Table


def open_trained(dlrm: Dlrm) -> TrainedWeights:
    """Open the checkpoint that `dlrm.weights` names; raises CheckpointError with all its problems at once.

    Of the open-source DLRM table i of the spec is `emb_l.{i}.weight`; TorchRec's go by their names, and its interaction
    takes them as the EmbeddingBagCollection lists them, which is the order of the file's keys. TorchRec's model returns
    logits; ours ends in a sigmoid.
    """
    if dlrm.weights.path is None:
        raise ValueError(f"weights.source {dlrm.weights.source} comes with a path; load_spec checks it")
    family = next(each for each in FAMILIES if each.source == dlrm.weights.source)
    return TrainedWeights(dlrm, dlrm.weights.path, family)


class TrainedWeights:
    """A checkpoint's weights; tables are streamed from the file, which must stay as it is meanwhile.

    notes: what was done to read it that its owner may want to know, a line each.
    """

    def __init__(self, dlrm: Dlrm, path: Path, family: KeyFamily) -> None:
        """Open and check; raises CheckpointError with all problems of keys, shapes, dtypes and dense values."""
        self._checkpoint, prefix = without_prefix(open_checkpoint(path), family.anchor)
        self.notes: Sequence[str] = (f"{path}: every key begins with {prefix}: read without it",) if prefix else ()
        where = f"{path} (keys without {prefix})" if prefix else str(path)
        refuse_variants(where, self._checkpoint, family)
        layout = family.layout(dlrm, self._checkpoint)
        _raise_if_any(where, mismatches(self._checkpoint, layout, dlrm))
        self._table_keys = {table.name: key for table, key in zip(dlrm.tables, layout.tables, strict=True)}
        self._quantized = {
            table.name: quantized_table(self._checkpoint, key, table, dlrm.weights.source)
            for table, key in zip(dlrm.tables, layout.tables, strict=True)
            if table.dtype != "fp32"
        }
        self._dense = _read_dense(self._checkpoint, layout)

    def dense(self) -> DenseWeights:
        """The layers, in our order."""
        return self._dense

    def table_chunks(self, table: Table) -> Iterator[NDArray[Any]]:
        """The table's rows in id order, read from the file block by block."""
        quantized = self._quantized.get(table.name)
        return (
            quantized.blocks(self._checkpoint) if quantized else self._checkpoint.blocks(self._table_keys[table.name])
        )


def without_prefix(checkpoint: Checkpoint, anchor: re.Pattern[str]) -> tuple[Checkpoint, str]:
    """The checkpoint without what wrappers put before every key: `module.`, `_orig_mod.`, `model.` or the like.

    Nor what torch.compile puts into the keys of a part of the model: `dense_arch._orig_mod.model`.
    """
    first, last = min(checkpoint.tensors, default=""), max(checkpoint.tensors, default="")
    common = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    while common and not any(anchor.match(key[len(common) :]) for key in checkpoint.tensors):
        common = common[: common.rstrip(".").rfind(".") + 1]
    common = common if common.endswith(".") else ""
    named = {key[len(common) :].replace("._orig_mod.", "."): tensor for key, tensor in checkpoint.tensors.items()}
    tensors = {key: replace(tensor, key=key) for key, tensor in named.items()}
    return replace(checkpoint, tensors=tensors), common


def _raise_if_any(where: str, problems: Sequence[str]) -> None:
    if problems:
        raise CheckpointError(*(f"{where}: {problem}" for problem in problems))


def refuse_variants(where: str, checkpoint: Checkpoint, family: KeyFamily) -> None:
    """Raise CheckpointError, a line per variant, with the first of its keys: others would only repeat the reason."""
    keys = list(checkpoint.tensors)
    first = ((next((key for key in keys if each.pattern.search(key)), None), each) for each in family.variants)
    _raise_if_any(where, [f"{key}: {variant.reason}" for key, variant in first if key is not None])


def _read_dense(checkpoint: Checkpoint, layout: KeyLayout) -> DenseWeights:
    """Read every layer; raises CheckpointError with all the non-finite ones at once."""
    stems = (*layout.bottom, *layout.top)
    arrays: dict[str, NDArray[np.float32]] = {}
    problems: list[str] = []
    for key in (*(f"{stem}.{kind}" for stem in stems for kind in ("weight", "bias")), *layout.stacked):
        try:
            array = checkpoint.whole(key)
            arrays[key] = array.take(*layout.orders[key]) if key in layout.orders else array
        except CheckpointError as exc:
            problems += exc.problems
    if problems:
        raise CheckpointError(*problems)
    return DenseWeights(
        bottom=tuple(_layer(arrays, stem) for stem in layout.bottom),
        interaction={
            name: tuple(tuple(arrays[key] for key in keys) for keys in stack) for name, stack in layout.stacks.items()
        },
        top=tuple(_layer(arrays, stem) for stem in layout.top),
    )


def _layer(arrays: Mapping[str, NDArray[np.float32]], stem: str) -> Layer:
    return arrays[f"{stem}.weight"], arrays[f"{stem}.bias"]


def read_dlrm_of(path: Path) -> tuple[Dlrm, bool]:
    """The shape of the model in a checkpoint, with pooling 1 for every table, since no state dict tells it; and whether
    its tables' order is the model's.

    Raises CheckpointError where it is of neither library, or of a model of theirs that no spec can name.
    """
    checkpoint = open_checkpoint(path)
    for family in FAMILIES:
        stripped, _ = without_prefix(checkpoint, family.anchor)
        if any(family.anchor.match(key) for key in stripped.tensors):
            return _dlrm(path, stripped, family), family.ordered(stripped)
    raise CheckpointError(
        f"{path}: expected a state dict of the open-source DLRM (emb_l.0.weight, bot_l.0.weight, ...) or of TorchRec's "
        f"({TABLES}.TABLE.weight, ...), got keys such as {next(iter(checkpoint.tensors), 'none at all')}; "
        "export any other model with torch.export, and give the .pt2"
    )


def _dlrm(path: Path, checkpoint: Checkpoint, family: KeyFamily) -> Dlrm:
    refuse_variants(str(path), checkpoint, family)
    tables = family.tables(checkpoint)
    if not tables:
        raise CheckpointError(f"{path}: expected embedding tables, got none; save the whole state_dict")
    weights = Weights(family.source, path)
    shapes = {key: checkpoint.tensors[key].shape for key, _ in tables}
    flat = [
        f"{key}: expected (rows, dim), got {shape}" for key, shape in shapes.items() if len(shape) != 2 or 0 in shape
    ]
    if flat:
        raise CheckpointError(*(f"{path}: {problem}" for problem in flat))
    entries = tuple(DlrmTable(name, shapes[key][0], shapes[key][1], pooling=1) for key, name in tables)
    asked = replace(weights, tables_in_order=not family.ordered(checkpoint))
    layout = family.layout(Dlrm(1, (entries[0].dim,), (1,), entries, "int64", asked), checkpoint)
    bottom, top = (_widths(path, checkpoint, stems) for stems in (layout.bottom, layout.top))
    entries = tuple(
        _quantized(checkpoint, key, entry, bottom[-1], weights) if checkpoint.tensors[key].dtype == "uint8" else entry
        for (key, _), entry in zip(tables, entries, strict=True)
    )
    return Dlrm(bottom[0], tuple(bottom[1:]), tuple(top[1:]), entries, "int64", weights, layout.interaction)


def _quantized(checkpoint: Checkpoint, key: str, entry: DlrmTable, dim: int, weights: Weights) -> DlrmTable:
    """The entry of a table of bytes, whose rows have as many numbers as the bottom MLP gives."""
    dtype = fitting_dtype(checkpoint, key, dim, in_front=weights.source == "torchrec")
    if dtype is None:
        raise CheckpointError(
            f"{weights.path}: {key}: expected numbers, or {' or '.join(QUANTIZED)} rows of {dim} of them with scale "
            f"and bias, got uint8 {checkpoint.tensors[key].shape}; save the float weights"
        )
    return replace(entry, dim=dim, dtype=dtype)


def _widths(path: Path, checkpoint: Checkpoint, stems: Sequence[str]) -> list[int]:
    """What the first layer takes, and what each gives."""
    shapes = [checkpoint.tensors[f"{stem}.weight"].shape for stem in stems if f"{stem}.weight" in checkpoint.tensors]
    if not shapes or any(len(shape) != 2 for shape in shapes):
        raise CheckpointError(f"{path}: expected the weights of both MLPs, got no linear layers of one; save them all")
    return [shapes[0][1], *(shape[0] for shape in shapes)]
