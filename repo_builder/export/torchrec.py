"""The keys of TorchRec's DLRM and DLRMTrain: https://github.com/meta-pytorch/torchrec, torchrec/models/dlrm.py."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from repo_builder.export.trained import KeyLayout, TrainedWeights, Variant
from repo_builder.spec import Spec

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


def open_torchrec(spec: Spec) -> TrainedWeights:
    """Open the checkpoint of a spec with `weights.source: torchrec`; tables go by their names.

    Raises CheckpointError with all its problems at once. TorchRec's model returns logits; ours ends in a sigmoid.
    """
    if spec.weights.path is None:
        raise ValueError("weights.source torchrec comes with a path; load_spec checks it")
    return TrainedWeights(spec, spec.weights.path, _VARIANTS, _layout)


def _layout(spec: Spec, keys: Sequence[str]) -> KeyLayout:
    """`model.` stands before every key when the model was saved inside DLRMTrain."""
    head = "model." if any(key.startswith("model.") for key in keys) else ""
    tables = "sparse_arch.embedding_bag_collection.embedding_bags"
    last = len(spec.top_mlp) - 1
    return KeyLayout(
        tables=tuple(f"{head}{tables}.{table.name}.weight" for table in spec.tables),
        bottom=tuple(f"{head}dense_arch.model._mlp.{i}._linear" for i in range(len(spec.bottom_mlp))),
        top=(*(f"{head}over_arch.model.0._mlp.{i}._linear" for i in range(last)), f"{head}over_arch.model.1"),
        top_columns=_top_columns(spec.dim, len(spec.tables) + 1),
    )


def _top_columns(dim: int, vectors: int) -> NDArray[np.intp]:
    """TorchRec's column for each of ours: (dim + n(n-1)/2,) for n interacting vectors.

    Both begin with the bottom output. Then pair i < j stands in ours at D + j(j-1)/2 + i (lower triangle, row by row)
    and in TorchRec's at D + i*n - i(i+1)/2 + (j-i-1) (upper triangle, row by row).
    """
    pairs = [i * vectors - i * (i + 1) // 2 + (j - i - 1) for j in range(vectors) for i in range(j)]
    return np.array([*range(dim), *(dim + pair for pair in pairs)], dtype=np.intp)
