"""The keys of the open-source DLRM's checkpoints: https://github.com/facebookresearch/dlrm, dlrm_s_pytorch.py."""

from __future__ import annotations

import re
from collections.abc import Sequence

from repo_builder.export.trained import KeyLayout, TrainedWeights, Variant
from repo_builder.spec import Spec

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


def open_dlrm(spec: Spec) -> TrainedWeights:
    """Open the checkpoint of a spec with `weights.source: dlrm`; table i of the spec is `emb_l.{i}.weight`.

    Raises CheckpointError with all its problems at once.
    """
    if spec.weights.path is None:
        raise ValueError("weights.source dlrm comes with a path; load_spec checks it")
    return TrainedWeights(spec, spec.weights.path, _VARIANTS, _layout)


def _layout(spec: Spec, _keys: Sequence[str]) -> KeyLayout:
    """Linear layers take the even places of `bot_l` and `top_l`, activations the odd ones."""
    return KeyLayout(
        tables=tuple(f"emb_l.{i}.weight" for i in range(len(spec.tables))),
        bottom=tuple(f"bot_l.{2 * i}" for i in range(len(spec.bottom_mlp))),
        top=tuple(f"top_l.{2 * i}" for i in range(len(spec.top_mlp))),
    )
