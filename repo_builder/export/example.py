"""A DLRM checkpoint as the open-source DLRM saves it, for the demo and the tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from repo_builder.export.random_weights import RandomWeights
from repo_builder.model.dlrm import Dlrm


def write_example_checkpoint(dlrm: Dlrm, path: Path) -> None:
    """Save seeded random weights of the spec's shapes under the open-source DLRM's keys, with `torch.save`."""
    source = RandomWeights(dlrm)
    dense = source.dense()
    state: dict[str, torch.Tensor] = {}
    for i, table in enumerate(dlrm.tables):
        state[f"emb_l.{i}.weight"] = torch.from_numpy(np.concatenate(list(source.table_chunks(table.stored))))
    for part, layers in (("bot_l", dense.bottom), ("top_l", dense.top)):
        for k, (weight, bias) in enumerate(layers):
            state[f"{part}.{2 * k}.weight"] = torch.from_numpy(weight)
            state[f"{part}.{2 * k}.bias"] = torch.from_numpy(bias)
    torch.save(state, path)
