"""Trained weights from a checkpoint, checked whole against the spec before anything is built from them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repo_builder.errors import CheckpointError
from repo_builder.export.checkpoint import open_checkpoint
from repo_builder.export.layers import DenseWeights, Layer
from repo_builder.export.mismatch import KeyLayout, mismatches
from repo_builder.export.stored import Checkpoint
from repo_builder.model.dlrm import Dlrm
from repo_builder.model.types import Table


@dataclass(frozen=True, slots=True)
class Variant:
    """A kind of checkpoint that holds another model than ours, known by its keys."""

    pattern: re.Pattern[str]
    reason: str


@dataclass(frozen=True, slots=True)
class KeyFamily:
    """The checkpoints of one library: a key that all have, variants that are other models, and the keys' layout.

    `layout` takes the spec and the checkpoint, whose keys stand in the file's order; it may raise CheckpointError.
    """

    anchor: re.Pattern[str]
    variants: Sequence[Variant]
    layout: Callable[[Dlrm, Checkpoint], KeyLayout]


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
        self._dense = _read_dense(self._checkpoint, layout)

    def dense(self) -> DenseWeights:
        """The layers, in our order."""
        return self._dense

    def table_chunks(self, table: Table) -> Iterator[NDArray[np.float32]]:
        """The table's rows in id order, read from the file block by block."""
        return self._checkpoint.blocks(self._table_keys[table.name])


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
    """Raise CheckpointError, a line a variant, with the first of its keys: the others would only repeat the reason."""
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
