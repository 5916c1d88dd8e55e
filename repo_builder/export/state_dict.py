"""What a DLRM or TorchRec state dict says of the model that it is of, for a first spec: all but how ids are pooled."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from repo_builder.errors import CheckpointError
from repo_builder.export import dlrm, torchrec
from repo_builder.export.checkpoint import open_checkpoint
from repo_builder.export.stored import Checkpoint
from repo_builder.export.trained import KeyFamily, refuse_variants, without_prefix
from repo_builder.model.dlrm import Dlrm, DlrmTable, Weights, WeightsSource


@dataclass(frozen=True, slots=True)
class _Kind:
    """A library's state dicts: its key family; a table's key and name in the spec, in the file's order; and whether
    that is the model's.
    """

    source: WeightsSource
    family: KeyFamily
    tables: Callable[[Checkpoint], Sequence[tuple[str, str]]]
    ordered: Callable[[Checkpoint], bool]


def read_dlrm_of(path: Path) -> tuple[Dlrm, bool]:
    """The shape of the model in a checkpoint, with pooling 1 for every table, since no state dict tells it; and whether
    its tables' order is the model's.

    Raises CheckpointError where it is of neither library, or of a model of theirs that no spec can name.
    """
    checkpoint = open_checkpoint(path)
    for kind in _KINDS:
        stripped, _ = without_prefix(checkpoint, kind.family.anchor)
        if any(kind.family.anchor.match(key) for key in stripped.tensors):
            return _dlrm(path, stripped, kind), kind.ordered(stripped)
    raise CheckpointError(
        f"{path}: expected a state dict of the open-source DLRM (emb_l.0.weight, bot_l.0.weight, ...) or of TorchRec's "
        f"({torchrec.TABLES}.TABLE.weight, ...), got keys such as {next(iter(checkpoint.tensors), 'none at all')}; "
        "export any other model with torch.export, and give the .pt2"
    )


def _dlrm(path: Path, checkpoint: Checkpoint, kind: _Kind) -> Dlrm:
    refuse_variants(str(path), checkpoint, kind.family)
    tables = kind.tables(checkpoint)
    if not tables:
        raise CheckpointError(f"{path}: expected embedding tables, got none; save the whole state_dict")
    weights = Weights(kind.source, path)
    shapes = {key: checkpoint.tensors[key].shape for key, _ in tables}
    flat = [
        f"{key}: expected (rows, dim), got {shape}" for key, shape in shapes.items() if len(shape) != 2 or 0 in shape
    ]
    if flat:
        raise CheckpointError(*(f"{path}: {problem}" for problem in flat))
    entries = tuple(DlrmTable(name, shapes[key][0], shapes[key][1], pooling=1) for key, name in tables)
    asked = replace(weights, tables_in_order=not kind.ordered(checkpoint))
    layout = kind.family.layout(Dlrm(1, (entries[0].dim,), (1,), entries, "int64", asked), checkpoint)
    bottom, top = (_widths(path, checkpoint, stems) for stems in (layout.bottom, layout.top))
    return Dlrm(bottom[0], tuple(bottom[1:]), tuple(top[1:]), entries, "int64", weights, layout.interaction)


def _widths(path: Path, checkpoint: Checkpoint, stems: Sequence[str]) -> list[int]:
    """What the first layer takes, and what each gives."""
    shapes = [checkpoint.tensors[f"{stem}.weight"].shape for stem in stems if f"{stem}.weight" in checkpoint.tensors]
    if not shapes or any(len(shape) != 2 for shape in shapes):
        raise CheckpointError(f"{path}: expected the weights of both MLPs, got no linear layers of one; save them all")
    return [shapes[0][1], *(shape[0] for shape in shapes)]


def _dlrm_tables(checkpoint: Checkpoint) -> Sequence[tuple[str, str]]:
    found = (re.fullmatch(r"emb_l\.(\d+)\.weight", key) for key in checkpoint.tensors)
    numbers = sorted(int(each[1]) for each in found if each)
    return [(f"emb_l.{number}.weight", f"C{number + 1}") for number in numbers]


def _torchrec_tables(checkpoint: Checkpoint) -> Sequence[tuple[str, str]]:
    found = (re.fullmatch(rf"{re.escape(torchrec.TABLES)}\.(.+)\.weight", key) for key in checkpoint.tensors)
    return [(each[0], each[1]) for each in found if each]


_KINDS = (
    _Kind("dlrm", dlrm.FAMILY, _dlrm_tables, lambda _: True),
    _Kind("torchrec", torchrec.FAMILY, _torchrec_tables, torchrec.keeps_order),
)
