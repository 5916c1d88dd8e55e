"""The keys of the open-source DLRM's checkpoints: https://github.com/facebookresearch/dlrm, dlrm_s_pytorch.py."""

from __future__ import annotations

import re

from repo_builder.export.mismatch import KeyLayout
from repo_builder.export.stored import Checkpoint
from repo_builder.export.trained import KeyFamily, TrainedWeights, Variant
from repo_builder.model.dlrm import Dlrm
from repo_builder.model.interaction import Dot

_VARIANTS = (
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


_OTHER_WIDTH = (
    "a table more than the checkpoint holds, or trained with --arch-interaction-itself, which is not supported: "
    "save all tables, or train without it"
)


def open_dlrm(dlrm: Dlrm) -> TrainedWeights:
    """Open the checkpoint of a spec with `weights.source: dlrm`; table i of the spec is `emb_l.{i}.weight`.

    Raises CheckpointError with all its problems at once.
    """
    if dlrm.weights.path is None:
        raise ValueError("weights.source dlrm comes with a path; load_spec checks it")
    return TrainedWeights(dlrm, dlrm.weights.path, FAMILY)


def _layout(dlrm: Dlrm, checkpoint: Checkpoint) -> KeyLayout:
    """Linear layers take the even places of `bot_l` and `top_l`, activations the odd ones."""
    return KeyLayout(
        tables=tuple(f"emb_l.{i}.weight" for i in range(len(dlrm.tables))),
        stored_tables=tuple(key for key in checkpoint.tensors if re.fullmatch(r"emb_l\.\d+\.weight", key)),
        bottom=_stems(checkpoint, "bot_l"),
        top=_stems(checkpoint, "top_l"),
        interaction=Dot(),
        stacks={},
        other_width=_OTHER_WIDTH,
    )


def _stems(checkpoint: Checkpoint, part: str) -> tuple[str, ...]:
    """The linear layers of a part, first to last."""
    places = {int(found[1]) for key in checkpoint.tensors if (found := re.match(rf"{part}\.(\d+)\.", key))}
    return tuple(f"{part}.{place}" for place in sorted(places))


FAMILY = KeyFamily(re.compile(r"(emb|bot|top)_l\."), _VARIANTS, _layout)
"""The open-source DLRM's checkpoints."""
