"""An embedding shard whose rows live in a torch device's memory: what a GPU instance serves."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from triton_backends.embedding_shard.shard import EmbeddingShard, HeldUnit
from triton_backends.kernels import check_bags


class TorchShard(EmbeddingShard):
    """The same rows and answers as `shard`, held by and summed on `device` (`cuda:0`, ...)."""

    def __init__(self, shard: EmbeddingShard, device: str) -> None:
        super().__init__(shard.held, shard.matrices)
        self.device = torch.device(device)
        self._rows = [torch.tensor(matrix, device=self.device) for matrix in shard.matrices]

    def sum_unit(
        self,
        unit: HeldUnit,
        ids: NDArray[np.int32],
        lengths: NDArray[np.int32],
        weights: NDArray[np.float32] | None,
        out: NDArray[np.float32],
    ) -> None:
        """As `EmbeddingShard.sum_unit`."""
        check_bags(self.held.matrices[unit.matrix].rows, ids, lengths)
        ends = np.cumsum(lengths, dtype=np.int64)
        offsets = np.concatenate([[0], ends]).astype(np.int32)
        sums = torch.nn.functional.embedding_bag(
            self._on_device(ids),
            self._rows[unit.matrix],
            self._on_device(offsets),
            mode="sum",
            per_sample_weights=None if weights is None else self._on_device(weights),
            include_last_offset=True,
        )
        out[:] = sums.cpu().numpy().reshape(out.shape)

    def take_unit(self, unit: HeldUnit, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """As `EmbeddingShard.take_unit`."""
        check_bags(self.held.matrices[unit.matrix].rows, ids, np.array([ids.size], np.int32))
        rows = self._rows[unit.matrix].index_select(0, self._on_device(ids))
        return np.asarray(rows.cpu().numpy())

    def _on_device(self, numbers: NDArray[np.int32] | NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy(numbers).to(self.device)
