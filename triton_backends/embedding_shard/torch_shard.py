"""An embedding shard whose rows live in a torch device's memory: what a GPU instance serves."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from triton_backends.embedding_shard.shard import Shard
from triton_backends.kernels import check_bags


class TorchShard(Shard):
    """The same rows and answers as `shard`, held by and summed on `device` (`cuda:0`, ...)."""

    def __init__(self, shard: Shard, device: str) -> None:
        super().__init__(shard.weights, shard.tables, shard.columns, shard.max_batch_rows)
        self.device = torch.device(device)
        self._rows = torch.tensor(shard.weights, device=self.device)

    def sums(self, ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> NDArray[np.float32]:
        """As `Shard.sums`."""
        self.check_size(ids.size, lengths.size)
        check_bags(len(self.weights), ids.reshape(-1), lengths.reshape(-1))
        ends = np.cumsum(lengths.reshape(-1), dtype=np.int64)
        offsets = np.concatenate([[0], ends]).astype(np.int32)
        out = torch.nn.functional.embedding_bag(
            torch.from_numpy(ids.reshape(-1)).to(self.device),
            self._rows,
            torch.from_numpy(offsets).to(self.device),
            mode="sum",
            include_last_offset=True,
        )
        return out.cpu().numpy().reshape(-1, self.tables * self.weights.shape[1])
