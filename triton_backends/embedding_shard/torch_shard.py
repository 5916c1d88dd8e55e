"""An embedding shard whose rows live in a torch device's memory: what a GPU instance serves."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from triton_backends.embedding_shard.shard import EmbeddingShard, HeldMatrix, HeldUnit
from triton_backends.kernels import check_bags


class TorchShard(EmbeddingShard):
    """The same rows and answers as `shard`, held by and summed on `device` (`cuda:0`, ...)."""

    def __init__(self, shard: EmbeddingShard, device: str) -> None:
        super().__init__(shard.held, shard.matrices)
        self.device = torch.device(device)
        self._rows = [
            torch.tensor(matrix.view(np.float32) if held.dtype == "fp32" else matrix, device=self.device)
            for held, matrix in zip(shard.held.matrices, shard.matrices, strict=True)
        ]

    def sum_unit(
        self,
        unit: HeldUnit,
        ids: NDArray[np.int32],
        lengths: NDArray[np.int32],
        weights: NDArray[np.float32] | None,
        out: NDArray[np.float32],
    ) -> None:
        """As `EmbeddingShard.sum_unit`."""
        held, rows = self.held.matrices[unit.matrix], self._rows[unit.matrix]
        check_bags(held.rows, ids, lengths)
        ends = np.cumsum(lengths, dtype=np.int64)
        offsets = np.concatenate([[0], ends]).astype(np.int32)
        if held.dtype != "fp32":
            rows, ids = self._numbers(unit, ids), np.arange(ids.size, dtype=np.int32)
        sums = torch.nn.functional.embedding_bag(
            self._on_device(ids),
            rows,
            self._on_device(offsets),
            mode="sum",
            per_sample_weights=None if weights is None else self._on_device(weights),
            include_last_offset=True,
        )
        out[:] = sums.cpu().numpy().reshape(out.shape)

    def take_unit(self, unit: HeldUnit, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """As `EmbeddingShard.take_unit`."""
        check_bags(self.held.matrices[unit.matrix].rows, ids, np.array([ids.size], np.int32))
        return np.asarray(self._numbers(unit, ids).cpu().numpy())

    def _numbers(self, unit: HeldUnit, ids: NDArray[np.int32]) -> torch.Tensor:
        """The ids' rows (nnz, dim) float32, on the device."""
        return _decoded(self._rows[unit.matrix].index_select(0, self._on_device(ids)), self.held.matrices[unit.matrix])

    def _on_device(self, numbers: NDArray[np.int32] | NDArray[np.float32]) -> torch.Tensor:
        return torch.from_numpy(numbers).to(self.device)


def _decoded(stored: torch.Tensor, held: HeldMatrix) -> torch.Tensor:
    """What `decode_rows` gives, of rows on a device: (n, row_bytes) uint8, or of fp32 its numbers."""
    match held.dtype:
        case "fp32":
            return stored
        case "fp16":
            return stored.view(torch.float16).float()
        case "bf16":
            return stored.view(torch.bfloat16).float()
        case "int8":
            steps, sides = stored[:, : held.dim], stored[:, held.dim :].contiguous().view(torch.float32)
        case "int8_half":
            steps, sides = stored[:, : held.dim], stored[:, held.dim :].contiguous().view(torch.float16).float()
        case _:
            pairs, sides = stored[:, :-4], stored[:, -4:].contiguous().view(torch.float16).float()
            steps = torch.stack([pairs & 15, pairs >> 4], dim=2).flatten(1)[:, : held.dim]
    return steps.float() * sides[:, :1] + sides[:, 1:]
