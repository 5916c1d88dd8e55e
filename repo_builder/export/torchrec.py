"""The keys of TorchRec's DLRM and DLRMTrain: https://github.com/meta-pytorch/torchrec, torchrec/models/dlrm.py."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from repo_builder.errors import CheckpointError
from repo_builder.export.mismatch import KeyLayout
from repo_builder.export.stored import Checkpoint
from repo_builder.export.trained import KeyFamily, TrainedWeights, Variant
from repo_builder.model.dlrm import Dlrm

_VARIANTS = (
    Variant(
        re.compile(r"(^|\.)inter_arch\.crossnet\."),
        "the model is a DLRM_DCN, whose interaction is a learned cross network; "
        "not supported: only the dot interaction of the plain DLRM is",
    ),
    Variant(
        re.compile(r"(^|\.)inter_arch\.(?!crossnet\.)"),
        "the model's interaction has weights of its own (DLRM_Projection or the like); "
        "not supported: only the dot interaction of the plain DLRM is",
    ),
    Variant(
        re.compile(r"\.weight_q(scale|bias)$"),
        "the tables are quantized; not supported: save the float model's state_dict, before quantization",
    ),
    Variant(
        re.compile(r"^module\."),
        "saved from inside a distributed wrapper; not supported: save the wrapped model's own state_dict, "
        "with whole tables",
    ),
)


TABLES = "sparse_arch.embedding_bag_collection.embedding_bags"
_OTHER_WIDTH = (
    "more features than tables: a table that several features share, which the keys do not tell; "
    "not supported from a state_dict: give each feature a table of its own"
)


def open_torchrec(dlrm: Dlrm) -> TrainedWeights:
    """Open the checkpoint of a spec with `weights.source: torchrec`; tables go by their names.

    The interaction takes the tables as the EmbeddingBagCollection lists them, which is the order of the file's keys.
    Raises CheckpointError with all its problems at once. TorchRec's model returns logits; ours ends in a sigmoid.
    """
    if dlrm.weights.path is None:
        raise ValueError("weights.source torchrec comes with a path; load_spec checks it")
    return TrainedWeights(dlrm, dlrm.weights.path, FAMILY)


def _layout(dlrm: Dlrm, checkpoint: Checkpoint) -> KeyLayout:
    tables = tuple(f"{TABLES}.{table.name}.weight" for table in dlrm.tables)
    stored = tuple(key for key in checkpoint.tensors if re.fullmatch(rf"{re.escape(TABLES)}\..+\.weight", key))
    over = _stems(checkpoint, "over_arch.model.0._mlp")
    last = ("over_arch.model.1",) if "over_arch.model.1.weight" in checkpoint.tensors else ()
    return KeyLayout(
        tables=tables,
        stored_tables=stored,
        bottom=_stems(checkpoint, "dense_arch.model._mlp"),
        top=(*over, *last),
        other_width=_OTHER_WIDTH,
        top_columns=_top_columns(dlrm.dim, _places(dlrm, checkpoint, tables, stored)),
    )


def _stems(checkpoint: Checkpoint, part: str) -> tuple[str, ...]:
    """The linear layers of a part, first to last."""
    places = {int(found[1]) for key in checkpoint.tensors if (found := re.match(rf"{re.escape(part)}\.(\d+)\.", key))}
    return tuple(f"{part}.{place}._linear" for place in sorted(places))


def _places(dlrm: Dlrm, checkpoint: Checkpoint, tables: Sequence[str], stored: Sequence[str]) -> list[int]:
    """Where each of the spec's tables stands in the EmbeddingBagCollection; raises CheckpointError if nobody says."""
    listed = list(range(len(tables)))
    if set(tables) != set(stored) or len(tables) == 1:
        return listed  # a mismatch, told elsewhere
    if not checkpoint.ordered or next(iter(checkpoint.tensors)) not in stored:  # sorted, or merged from ranks
        if dlrm.weights.tables_in_order:
            return listed
        raise CheckpointError(
            f"{checkpoint.path}: expected a file that keeps the tables' order, which the interaction depends on, got "
            "keys that do not stand as in the model's state_dict, as in safetensors, which are sorted; list the spec's "
            "tables as the EmbeddingBagCollection does and say weights.tables_in_order: true"
        )
    places = [stored.index(table) for table in tables]
    if dlrm.weights.tables_in_order and places != listed:
        raise CheckpointError(
            f"{checkpoint.path}: weights.tables_in_order: expected the spec's tables in the file's order, "
            f"{', '.join(key.split('.')[-2] for key in stored)}, got another; leave it out: the file's order is known"
        )
    return places


def _top_columns(dim: int, places: Sequence[int]) -> NDArray[np.intp]:
    """TorchRec's column for each of ours: (dim + n(n-1)/2,) for n interacting vectors; `places` of the tables in its.

    Both begin with the bottom output, vector 0. Then the pair of our vectors i < j stands in ours at D + j(j-1)/2 + i
    (lower triangle, row by row). In TorchRec the pair of its vectors a < b stands at D + a*n - a(a+1)/2 + (b-a-1)
    (upper triangle, row by row).
    """
    vectors = [0, *(1 + place for place in places)]
    n = len(vectors)
    pairs = [sorted((vectors[i], vectors[j])) for j in range(n) for i in range(j)]
    columns = [a * n - a * (a + 1) // 2 + (b - a - 1) for a, b in pairs]
    return np.array([*range(dim), *(dim + column for column in columns)], dtype=np.intp)


FAMILY = KeyFamily(re.compile(r"(sparse|dense|over)_arch\."), _VARIANTS, _layout)
"""The checkpoints of TorchRec's DLRM and DLRMTrain."""
