"""The keys of the state dicts that are known: the open-source DLRM's, and those of TorchRec's DLRMs.

https://github.com/facebookresearch/dlrm, dlrm_s_pytorch.py
https://github.com/meta-pytorch/torchrec, torchrec/models/dlrm.py
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from repo_builder.errors import CheckpointError
from repo_builder.export.dlrm.keys import KeyFamily, KeyLayout, Variant
from repo_builder.export.stored import Checkpoint
from repo_builder.model.dlrm import Dlrm
from repo_builder.model.interaction import Cross, Dot, Interaction, Projection

_DLRM_VARIANTS = (
    Variant(
        re.compile(r"^emb_l\.\d+\.weight_[qr]$"),
        "the tables use the quotient-remainder trick (--qr-flag), two small tables for one; "
        "not supported: train with plain tables",
    ),
    Variant(
        re.compile(r"^emb_l\.\d+\.(embs|proj)\.weight$"),
        "the tables have mixed dimensions (--md-flag), a projection after each table; "
        "not supported: train with plain tables of one dim",
    ),
    Variant(
        re.compile(r"^v_W_l\."),
        "the tables use learned weighted pooling (--weighted-pooling), a weight for each id; "
        "not supported: bags are plain sums, train without it",
    ),
    Variant(
        re.compile(r"^(bot_l|top_l)\.module\.|^module\."),
        "saved from a distributed run (DistributedDataParallel), so its tables are one rank's only; "
        "not supported: gather the tables of all ranks and save them under the plain keys",
    ),
)


_DLRM_OTHER_WIDTH = (
    "a table more than the checkpoint holds, or trained with --arch-interaction-itself, which is not supported: "
    "save all tables, or train without it"
)


def _dlrm_layout(dlrm: Dlrm, checkpoint: Checkpoint) -> KeyLayout:
    """Linear layers take the even positions of `bot_l` and `top_l`, activations the odd ones."""
    return KeyLayout(
        tables=tuple(f"emb_l.{i}.weight" for i in range(len(dlrm.tables))),
        stored_tables=tuple(key for key in checkpoint.tensors if re.fullmatch(r"emb_l\.\d+\.weight", key)),
        bottom=_dlrm_stems(checkpoint, "bot_l"),
        top=_dlrm_stems(checkpoint, "top_l"),
        interaction=Dot(),
        stacks={},
        other_width=_DLRM_OTHER_WIDTH,
    )


def _dlrm_stems(checkpoint: Checkpoint, part: str) -> tuple[str, ...]:
    """The linear layers of a part, first to last."""
    positions = {int(found[1]) for key in checkpoint.tensors if (found := re.match(rf"{part}\.(\d+)\.", key))}
    return tuple(f"{part}.{position}" for position in sorted(positions))


_CROSS = r"crossnet\.(W_kernels|V_kernels|bias)\.(\d+)"
_BRANCH = r"interaction_branch[12]\.model\._mlp\.\d+\._linear\.(weight|bias)"
_TORCHREC_VARIANTS = (
    Variant(
        re.compile(rf"(^|\.)inter_arch\.(?!({_CROSS}|{_BRANCH})$)"),
        "the model's interaction has weights that neither DLRM_DCN (a LowRankCrossNet) nor DLRM_Projection has; "
        "not supported from a state_dict: export the model with torch.export, and give the .pt2",
    ),
    Variant(
        re.compile(r"^module\."),
        "saved from inside a distributed wrapper; not supported: save the wrapped model's own state_dict, "
        "with whole tables",
    ),
)


TABLES = "sparse_arch.embedding_bag_collection.embedding_bags"
_TORCHREC_OTHER_WIDTH = (
    "more features than tables: a table that several features share, which the keys do not tell; "
    "not supported from a state_dict: give each feature a table of its own"
)


def _torchrec_layout(dlrm: Dlrm, checkpoint: Checkpoint) -> KeyLayout:
    tables = tuple(f"{TABLES}.{table.name}.weight" for table in dlrm.tables)
    stored = tuple(key for key in checkpoint.tensors if re.fullmatch(rf"{re.escape(TABLES)}\..+\.weight", key))
    over = _torchrec_stems(checkpoint, "over_arch.model.0._mlp")
    last = ("over_arch.model.1",) if "over_arch.model.1.weight" in checkpoint.tensors else ()
    top = (*over, *last)
    interaction, stacks = _interaction(checkpoint)
    positions = _positions(dlrm, checkpoint, tables, stored)
    return KeyLayout(
        tables=tables,
        stored_tables=stored,
        bottom=_torchrec_stems(checkpoint, "dense_arch.model._mlp"),
        top=top,
        interaction=interaction,
        stacks=stacks,
        other_width=_TORCHREC_OTHER_WIDTH,
        orders=_orders(dlrm.dim, positions, interaction, stacks, top),
    )


_Keys = Mapping[str, tuple[tuple[str, ...], ...]]


def _interaction(checkpoint: Checkpoint) -> tuple[Interaction, _Keys]:
    """The interaction that the keys tell, and the keys of its stacks."""
    layers = {found[2] for key in checkpoint.tensors if (found := re.fullmatch(rf"inter_arch\.{_CROSS}", key))}
    if layers:
        cross = Cross(len(layers), _cross_rank(checkpoint))
        matrices = ("V_kernels", "W_kernels", "bias")
        return cross, {
            "cross": tuple(tuple(f"inter_arch.crossnet.{each}.{i}" for each in matrices) for i in range(cross.layers))
        }
    stems = {f"branch{n}": _torchrec_stems(checkpoint, f"inter_arch.interaction_branch{n}.model._mlp") for n in (1, 2)}
    if not any(stems.values()):
        return Dot(), {}
    widths = {branch: _branch_widths(checkpoint, branch, stems[branch]) for branch in stems}
    return Projection(**widths), {
        branch: tuple((f"{stem}.weight", f"{stem}.bias") for stem in stems[branch]) for branch in stems
    }


def _cross_rank(checkpoint: Checkpoint) -> int:
    key = "inter_arch.crossnet.W_kernels.0"
    shape = checkpoint.tensors[key].shape if key in checkpoint.tensors else None
    if shape is None or len(shape) != 2:
        raise CheckpointError(
            f"{checkpoint.path}: {key}: expected a matrix, as wide as the cross network's rank, got "
            f"{shape or 'no such key'}; save the whole state_dict"
        )
    return shape[1]


def _branch_widths(checkpoint: Checkpoint, branch: str, stems: Sequence[str]) -> tuple[int, ...]:
    shapes = [checkpoint.tensors[f"{stem}.weight"].shape for stem in stems if f"{stem}.weight" in checkpoint.tensors]
    if not shapes or len(shapes) < len(stems) or any(len(shape) != 2 for shape in shapes):
        raise CheckpointError(
            f"{checkpoint.path}: inter_arch.interaction_{branch}: expected a matrix as each layer's weight, got "
            f"{', '.join(map(str, shapes)) or 'none'} for {len(stems)} layers; save the whole state_dict"
        )
    return tuple(shape[0] for shape in shapes)


def _keeps_order(checkpoint: Checkpoint) -> bool:
    """Whether the tables stand as in the EmbeddingBagCollection, not where keys are sorted, or merged from ranks."""
    return checkpoint.ordered and next(iter(checkpoint.tensors)).startswith(f"{TABLES}.")


def _torchrec_stems(checkpoint: Checkpoint, part: str) -> tuple[str, ...]:
    """The linear layers of a part, first to last."""
    positions = {
        int(found[1]) for key in checkpoint.tensors if (found := re.match(rf"{re.escape(part)}\.(\d+)\.", key))
    }
    return tuple(f"{part}.{position}._linear" for position in sorted(positions))


def _positions(dlrm: Dlrm, checkpoint: Checkpoint, tables: Sequence[str], stored: Sequence[str]) -> list[int]:
    """Where each of the spec's tables stands in the EmbeddingBagCollection; raises CheckpointError if nobody says."""
    listed = list(range(len(tables)))
    if set(tables) != set(stored) or len(tables) == 1:
        return listed  # a mismatch, told elsewhere
    if not _keeps_order(checkpoint):
        if dlrm.weights.tables_in_order:
            return listed
        raise CheckpointError(
            f"{checkpoint.path}: expected a file that keeps the tables' order, which the interaction depends on, got "
            "keys that do not stand as in the model's state_dict, as in safetensors, which are sorted; list the spec's "
            "tables as the EmbeddingBagCollection does and say weights.tables_in_order: true"
        )
    positions = [stored.index(table) for table in tables]
    if dlrm.weights.tables_in_order and positions != listed:
        raise CheckpointError(
            f"{checkpoint.path}: weights.tables_in_order: expected the spec's tables in the file's order, "
            f"{', '.join(key.split('.')[-2] for key in stored)}, got another; leave it out: the file's order is known"
        )
    return positions


def _orders(
    dim: int, positions: Sequence[int], interaction: Interaction, stacks: _Keys, top: Sequence[str]
) -> Mapping[str, tuple[NDArray[np.intp], int]]:
    """Of all that runs over the tables, with the `positions` of the spec's in the EmbeddingBagCollection."""
    numbers = _numbers(dim, positions)
    parameters = interaction.stacks(dim, len(positions) + 1)
    orders = {
        key: (numbers, parameter.vectors)
        for stack, layers in stacks.items()
        for keys, layer in zip(layers, parameters[stack], strict=True)
        for key, parameter in zip(keys, layer, strict=True)
        if parameter.vectors is not None
    }
    tops = {"dot": _pair_columns(dim, positions), "dcn": numbers}
    if interaction.kind in tops:
        orders |= {f"{stem}.weight": (tops[interaction.kind], 1) for stem in top[:1]}
    return orders


def _numbers(dim: int, positions: Sequence[int]) -> NDArray[np.intp]:
    """TorchRec's position of each number of ours, (n * dim,): the bottom output's, then the tables' by `positions`."""
    vectors = np.array([0, *(1 + position for position in positions)], dtype=np.intp)
    return (vectors[:, np.newaxis] * dim + np.arange(dim)).reshape(-1)


def _pair_columns(dim: int, positions: Sequence[int]) -> NDArray[np.intp]:
    """TorchRec's column for each of ours: (dim + n(n-1)/2,) for n vectors; `positions` of the tables in its.

    Both begin with the bottom output, vector 0. Then the pair of our vectors i < j stands in ours at D + j(j-1)/2 + i
    (lower triangle, row by row). In TorchRec the pair of its vectors a < b stands at D + a*n - a(a+1)/2 + (b-a-1)
    (upper triangle, row by row).
    """
    vectors = [0, *(1 + position for position in positions)]
    n = len(vectors)
    pairs = [sorted((vectors[i], vectors[j])) for j in range(n) for i in range(j)]
    columns = [a * n - a * (a + 1) // 2 + (b - a - 1) for a, b in pairs]
    return np.array([*range(dim), *(dim + column for column in columns)], dtype=np.intp)


def _dlrm_tables(checkpoint: Checkpoint) -> Sequence[tuple[str, str]]:
    found = (re.fullmatch(r"emb_l\.(\d+)\.weight", key) for key in checkpoint.tensors)
    numbers = sorted(int(each[1]) for each in found if each)
    return [(f"emb_l.{number}.weight", f"C{number + 1}") for number in numbers]


def _torchrec_tables(checkpoint: Checkpoint) -> Sequence[tuple[str, str]]:
    found = (re.fullmatch(rf"{re.escape(TABLES)}\.(.+)\.weight", key) for key in checkpoint.tensors)
    return [(each[0], each[1]) for each in found if each]


FAMILIES = (
    KeyFamily(
        "dlrm", re.compile(r"(emb|bot|top)_l\."), _DLRM_VARIANTS, _dlrm_layout, _dlrm_tables, ordered=lambda _: True
    ),
    KeyFamily(
        "torchrec",
        re.compile(r"(sparse|dense|over)_arch\."),
        _TORCHREC_VARIANTS,
        _torchrec_layout,
        _torchrec_tables,
        _keeps_order,
    ),
)
"""The open-source DLRM; TorchRec's DLRM, DLRM_DCN and DLRM_Projection, plain or in a DLRMTrain."""
