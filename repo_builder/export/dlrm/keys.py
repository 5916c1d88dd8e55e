"""The keys of state dicts: what a family of them says of a model, and how a checkpoint differs from its spec."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from repo_builder.export.quantized import BESIDE, QuantizedTable, expected_widths, find_quantized, fitting_dtype
from repo_builder.export.stored import Checkpoint
from repo_builder.model.dlrm import Dlrm, DlrmTable, WeightsSource
from repo_builder.model.interaction import Interaction


@dataclass(frozen=True, slots=True)
class KeyLayout:
    """The keys under which a checkpoint holds a model.

    tables         of the spec's tables, whole keys, whether they are there or not
    stored_tables  of all tables that are there
    bottom, top    of the linear layers that are there, first to last, without `.weight` and `.bias`
    interaction    the one that the checkpoint holds, by its keys
    stacks         of the arrays of that interaction's stacks, whole keys, whether they are there or not
    other_width    what it says where more vectors meet than there are stored tables
    orders         by key, of arrays that do not stand in our order: which of the stored entries stand at the places of
                   ours, along which axis
    """

    tables: tuple[str, ...]
    stored_tables: tuple[str, ...]
    bottom: tuple[str, ...]
    top: tuple[str, ...]
    interaction: Interaction
    stacks: Mapping[str, tuple[tuple[str, ...], ...]]
    other_width: str
    orders: Mapping[str, tuple[NDArray[np.intp], int]] = field(default_factory=dict)

    @property
    def stacked(self) -> list[str]:
        """The keys of the stacks, one after another."""
        return [key for stack in self.stacks.values() for layer in stack for key in layer]


@dataclass(frozen=True, slots=True)
class Variant:
    """A kind of checkpoint that holds another model than ours, known by its keys."""

    pattern: re.Pattern[str]
    reason: str


@dataclass(frozen=True, slots=True)
class KeyFamily:
    """The checkpoints of one library: a key that all have, variants that are other models, and the keys' layout.

    `layout` takes the spec and the checkpoint, whose keys stand in the file's order; it may raise CheckpointError.
    tables: each table's key and its name in a spec, in the file's order; ordered: whether that is the model's.
    """

    source: WeightsSource
    anchor: re.Pattern[str]
    variants: Sequence[Variant]
    layout: Callable[[Dlrm, Checkpoint], KeyLayout]
    tables: Callable[[Checkpoint], Sequence[tuple[str, str]]]
    ordered: Callable[[Checkpoint], bool]


def mismatches(checkpoint: Checkpoint, layout: KeyLayout, dlrm: Dlrm) -> list[str]:
    """Everything of names, shapes and dtypes in which the checkpoint is not the spec's model; tables first.

    A line per mistake, each naming the key or field and the fix.
    """
    return [
        *_table_names(checkpoint, layout, dlrm),
        *_tables(checkpoint, layout, dlrm),
        *_layers(checkpoint, "bottom_mlp", layout.bottom, dlrm.bottom_mlp),
        *_layers(checkpoint, "top_mlp", layout.top, dlrm.top_mlp),
        *_interaction(layout, dlrm),
        *_inputs(checkpoint, layout, dlrm),
        *_other_keys(checkpoint, layout),
    ]


def _table_names(checkpoint: Checkpoint, layout: KeyLayout, dlrm: Dlrm) -> Iterator[str]:
    for table, key in zip(dlrm.tables, layout.tables, strict=True):
        if key not in checkpoint.tensors:
            yield (
                f"{key}: expected {(table.rows, table.dim)} for table {table.name}, got no such key; "
                f"take table {table.name} out of the spec, or check weights.source and weights.path"
            )
    for key in layout.stored_tables:
        if key not in layout.tables:
            yield (
                f"{key}: expected only the keys of the spec's {len(dlrm.tables)} tables, got this "
                f"{checkpoint.tensors[key].shape} too; add its table to the spec"
            )


def _tables(checkpoint: Checkpoint, layout: KeyLayout, dlrm: Dlrm) -> Iterator[str]:
    for table, key in zip(dlrm.tables, layout.tables, strict=True):
        tensor = checkpoint.tensors.get(key)
        if tensor is None:
            continue
        if table.dtype != "fp32" or tensor.dtype == "uint8":
            yield from _quantized(checkpoint, key, table, dlrm.weights.source)
        elif (flaw := tensor.problem()) is not None:
            yield flaw
        elif tensor.shape != (table.rows, table.dim):
            yield (
                f"{key}: expected {(table.rows, table.dim)} for table {table.name}, got {tensor.shape}; "
                f"{_table_remedy(table, tensor.shape)}"
            )


def quantized_table(checkpoint: Checkpoint, key: str, table: DlrmTable, source: WeightsSource) -> QuantizedTable | None:
    """How the checkpoint has a table whose rows come in fewer bits; None where it has no such rows."""
    return find_quantized(checkpoint, key, table.stored.format, in_front=source == "torchrec")


def _quantized(checkpoint: Checkpoint, key: str, table: DlrmTable, source: WeightsSource) -> Iterator[str]:
    tensor = checkpoint.tensors[key]
    got = f"{tensor.dtype} {tensor.shape}"
    if tensor.flaw is not None:
        yield f"{key}: {tensor.flaw}"
        return
    fitting = fitting_dtype(checkpoint, key, table.dim, in_front=source == "torchrec")
    set_dtype = f"set dtype: {fitting} for table {table.name} in the spec"
    if table.dtype == "fp32":
        remedy = set_dtype if fitting else "save the float weights"
        yield f"{key}: expected numbers for table {table.name}, got {got}, the bytes of quantized rows; {remedy}"
    elif tensor.dtype != "uint8":
        yield (
            f"{key}: expected the bytes of quantized rows for table {table.name}, got {got}; "
            f"take dtype: {table.dtype} out of table {table.name} in the spec, and say rows: {table.dtype} beside"
        )
    elif quantized_table(checkpoint, key, table, source) is None or tensor.shape[0] != table.rows:
        expected = expected_widths(key, table.rows, table.stored.format, in_front=source == "torchrec")
        same_rows = tensor.shape[:1] == (table.rows,)
        remedy = set_dtype if fitting and same_rows else "check rows, dim and dtype of the table in the spec"
        yield (
            f"{key}: expected {expected}, for table {table.name} of {table.dtype} and dim {table.dim}, got {got}; "
            f"{remedy}, or save the float weights"
        )


def _table_remedy(table: DlrmTable, got: tuple[int, ...]) -> str:
    if len(got) == 2 and got[1] == table.dim:
        return f"set rows: {got[0]} for table {table.name} in the spec"
    return f"set the rows and dim of table {table.name} to the checkpoint's, and check the tables' order in the spec"


def _layers(checkpoint: Checkpoint, part: str, stems: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """One line for wrong widths, however many keys they show in; else a line per key that is missing or no layer."""
    stored = _weights(checkpoint, stems)
    problems = []
    for i, stem in enumerate(stems):
        weight, bias = checkpoint.tensors.get(f"{stem}.weight"), checkpoint.tensors.get(f"{stem}.bias")
        for kind, tensor in (("weight", weight), ("bias", bias)):
            if tensor is None:
                shape = weight.shape[:1] if weight is not None else f"a {kind}"
                problems.append(
                    f"{stem}.{kind}: expected {shape} for {part}[{i}], got no such key; save the whole state_dict"
                )
            elif (flaw := tensor.problem()) is not None:
                problems.append(flaw)
        inputs = stored[i - 1][0] if i and len(stored) == len(stems) else None
        if weight is not None and inputs is not None and weight.shape[1:] != (inputs,):
            problems.append(
                f"{stem}.weight: expected {(weight.shape[0], inputs)} for {part}[{i}], got {weight.shape}; "
                f"the layer before gives {inputs}: save the whole state_dict of one model"
            )
        if weight is not None and bias is not None and weight.shape[:1] != bias.shape:
            problems.append(f"{stem}.bias: expected {weight.shape[:1]} for {part}[{i}], got {bias.shape}")
    yield from problems
    if not problems and [outputs for outputs, _ in stored] != list(widths):
        found = [outputs for outputs, _ in stored]
        yield f"{part}: expected the checkpoint's widths {found}, got {list(widths)}; set {part}: {found} in the spec"


def _weights(checkpoint: Checkpoint, stems: Sequence[str]) -> list[tuple[int, int]]:
    """(out, in) of the weights that are matrices."""
    shapes = [checkpoint.tensors[f"{stem}.weight"].shape for stem in stems if f"{stem}.weight" in checkpoint.tensors]
    return [(shape[0], shape[1]) for shape in shapes if len(shape) == 2]


def _interaction(layout: KeyLayout, dlrm: Dlrm) -> Iterator[str]:
    held, named = _told(layout.interaction), _told(dlrm.interaction)
    if held != named:
        yield f"interaction: expected the checkpoint's, {held}, got {named}; set {held} in the spec"


def _told(interaction: Interaction) -> str:
    """An interaction as a spec says it."""
    keys = {key: list(value) if isinstance(value, Sequence) else value for key, value in interaction.keys().items()}
    return ", ".join(f"{key}: {value}" for key, value in {"interaction": interaction.kind, **keys}.items())


def _inputs(checkpoint: Checkpoint, layout: KeyLayout, dlrm: Dlrm) -> Iterator[str]:
    """What the first layers take: the dense features below; above, what the stored tables and the bottom MLP make."""
    bottom, top = _weights(checkpoint, layout.bottom), _weights(checkpoint, layout.top)
    if bottom and bottom[0][1] != dlrm.dense_features:
        yield (
            f"dense_features: expected {bottom[0][1]}, which {layout.bottom[0]} takes, got {dlrm.dense_features}; "
            f"set dense_features: {bottom[0][1]} in the spec"
        )
    if not bottom or not top or not bottom[-1][0]:
        return
    dim, vectors = bottom[-1][0], len(layout.stored_tables) + 1
    problems = list(_stacks(checkpoint, layout, dim, vectors))
    yield from problems
    expected = layout.interaction.width(dim, vectors)
    outputs, got = top[0]
    if problems or got == expected:
        return
    reason = _reason(layout, got, expected)
    if layout.stacks:
        reason = f"{layout.interaction.kind} gives {expected}: save the whole state_dict of one model"
    elif got == dim * vectors:
        reason = "the model was trained with --arch-interaction-op=cat, which is not supported"
    yield f"{layout.top[0]}.weight: expected {(outputs, expected)} for top_mlp[0], got {(outputs, got)}; {reason}"


def _reason(layout: KeyLayout, got: int, expected: int) -> str:
    """Of a width that follows from how many tables there are."""
    return layout.other_width if got > expected else "check that the checkpoint holds all tables of one model"


def _stacks(checkpoint: Checkpoint, layout: KeyLayout, dim: int, vectors: int) -> Iterator[str]:
    """One line where the arrays are for another number of vectors, however many keys show it; else a line per key."""
    stacks = layout.interaction.stacks(dim, vectors)
    parameters = [each for stack in layout.stacks for layer in stacks[stack] for each in layer]
    problems = []
    for key, parameter in zip(layout.stacked, parameters, strict=True):
        tensor, shape, axis = checkpoint.tensors.get(key), parameter.shape, parameter.vectors
        if tensor is None:
            problems.append(f"{key}: expected {shape}, got no such key; save the whole state_dict")
        elif (flaw := tensor.problem()) is not None:
            problems.append(flaw)
        elif axis is not None and len(tensor.shape) == len(shape) and tensor.shape[axis] != shape[axis]:
            reason = _reason(layout, tensor.shape[axis], shape[axis])
            yield f"{key}: expected {shape} for {vectors} vectors of {dim}, got {tensor.shape}; {reason}"
            return
        elif tensor.shape != shape:
            problems.append(f"{key}: expected {shape}, got {tensor.shape}; save the whole state_dict of one model")
    yield from problems


def _other_keys(checkpoint: Checkpoint, layout: KeyLayout) -> Iterator[str]:
    known = {*layout.tables, *layout.stored_tables, *layout.stacked}
    quantized = [key for key in layout.stored_tables if checkpoint.tensors[key].dtype == "uint8"]
    known |= {key + end for key in quantized for end in BESIDE}
    known |= {f"{stem}.{kind}" for stem in (*layout.bottom, *layout.top) for kind in ("weight", "bias")}
    for key, tensor in checkpoint.tensors.items():
        if key not in known:
            yield (
                f"{key}: expected only tables and linear layers, got this {tensor.shape} too; "
                "it is of another model: save the checkpoint of the model that the spec describes"
            )
