"""An embedding service's rows: memory-mapped matrices whose bags are summed. Needs numpy alone, not Triton."""

from __future__ import annotations

import importlib
import json
import mmap
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triton_backends.kernels import BadIdError, sum_bags, take_rows
from triton_backends.kernels.row_formats import row_bytes

ALIGNMENT = 64  # bytes: where a matrix may begin in `weights.bin`
GPU_SUMS = "ELASTICREC_GPU_SUMS"  # what sums on a GPU
MOST_VARYING_IDS = 1 << 24  # of a unit whose bags have any number of ids, in one call


@dataclass(frozen=True, slots=True)
class HeldMatrix:
    """Rows of one format: `dim` numbers each, stored as `dtype` (`kernels/row_formats.py`)."""

    rows: int
    dim: int
    dtype: str = "fp32"

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return row_bytes(self.dim, self.dtype)


@dataclass(frozen=True, slots=True)
class HeldUnit:
    """Bags of rows of one matrix, all weighted (1) or none (0); or such rows as they are.

    bags: of a query's row; 0 where rows are answered as they are. columns: the most ids that a query's row can have
    here; -1 where there is no such number.
    """

    matrix: int
    bags: int
    columns: int
    weighted: int = 0


@dataclass(frozen=True, slots=True)
class HeldGroup:
    """The units of a group, by its number in the model. max_rows: of a query."""

    group: int
    max_rows: int
    units: Sequence[HeldUnit]

    @property
    def bags(self) -> int:
        """Bags of a query's row."""
        return sum(unit.bags for unit in self.units)

    @property
    def unpooled(self) -> int:
        """Units whose rows are answered as they are."""
        return sum(unit.bags == 0 for unit in self.units)


@dataclass(frozen=True, slots=True)
class Held:
    """What a service holds: `shard.json` is this, its fields in this order, as `native/shard.c` takes them."""

    matrices: Sequence[HeldMatrix]
    groups: Sequence[HeldGroup]

    def document(self) -> dict[str, Any]:
        """The content of `shard.json`."""
        return asdict(self)

    @classmethod
    def open(cls, document: Mapping[str, Any]) -> Held:
        """What `document` gave."""
        groups = [HeldGroup(**{**g, "units": [HeldUnit(**u) for u in g["units"]]}) for g in document["groups"]]
        return cls([HeldMatrix(**matrix) for matrix in document["matrices"]], groups)


class EmbeddingShard:
    """The rows of a service, and what a query of it may be.

    matrices: as `held` says, (rows, dim) float32 each, or of another dtype (rows, row_bytes) uint8.
    """

    def __init__(self, held: Held, matrices: Sequence[NDArray[Any]]) -> None:
        self.held = held
        self.matrices = matrices

    @classmethod
    def open(cls, folder: Path) -> EmbeddingShard:
        """The shard written in `folder`: `shard.json` and `weights.bin`.

        The file is mapped, so that all instances on a machine share its pages, and every page is touched, so that
        ready means resident. Raises ValueError where the file's size is not that of its rows.
        """
        held = Held.open(json.loads((folder / "shard.json").read_text(encoding="utf-8")))
        with (folder / "weights.bin").open("rb") as file:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        begins, end = [], 0
        for matrix in held.matrices:
            begins.append(-(-end // ALIGNMENT) * ALIGNMENT)
            end = begins[-1] + matrix.rows * matrix.row_bytes
        if len(pages) != end:
            rows, count = sum(matrix.rows for matrix in held.matrices), len(held.matrices)
            what = f"in {count} matrices" if count > 1 else f"of {held.matrices[0].dim}"
            raise ValueError(f"weights.bin: expected {end} bytes ({rows} rows {what}), got {len(pages)}")
        np.frombuffer(pages, np.uint8)[:: mmap.PAGESIZE].max()
        matrices = [
            np.frombuffer(pages, np.uint8, matrix.rows * matrix.row_bytes, begin).reshape(matrix.rows, -1)
            for matrix, begin in zip(held.matrices, begins, strict=True)
        ]
        return cls(held, matrices)

    def answer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """What a query gets: partial sums, and rows as they are.

        inputs: for each group, its suffix behind the names: `ids` (1, nnz) int32, rows of the units' matrices, a unit's
        after the other's; `lengths` (1, rows * bags) int32 likewise, how many of them each bag takes, and of a unit
        without bags how many there are; and `weights` (1, nnz of weighted units) float32, where there are such.
        Returns for each group `sums` (rows, width) float32: a row's units side by side; and of the units without bags
        `rows` (1, numbers) float32: each id's row, a unit's after the other's. Raises ValueError for ids that are no
        rows and numbers that do not fit each other.
        """
        found = {}
        for group in self.held.groups:
            end = f"_{group.group}" if group.group else ""
            ids, lengths = inputs[f"ids{end}"].reshape(-1), inputs[f"lengths{end}"].reshape(-1)
            weights = np.empty(0, np.float32)
            if any(unit.weighted for unit in group.units):
                weights = inputs[f"weights{end}"].reshape(-1)
            self._check_size(group, ids.size, lengths.size)
            sums, rows = self._answer(group, ids, lengths, weights)
            if group.bags:
                found[f"sums{end}"] = sums
            if group.unpooled:
                found[f"rows{end}"] = rows
        return found

    def sum_unit(
        self,
        unit: HeldUnit,
        ids: NDArray[np.int32],
        lengths: NDArray[np.int32],
        weights: NDArray[np.float32] | None,
        out: NDArray[np.float32],
    ) -> None:
        """Fill out (rows, bags * dim) with the sums of a unit's bags."""
        held = self.held.matrices[unit.matrix]
        sum_bags(self.matrices[unit.matrix], ids, lengths, weights, out, (held.dim, held.dtype))

    def take_unit(self, unit: HeldUnit, ids: NDArray[np.int32]) -> NDArray[np.float32]:
        """A unit's rows as they are: (nnz, dim)."""
        held = self.held.matrices[unit.matrix]
        return take_rows(self.matrices[unit.matrix], ids, (held.dim, held.dtype))

    def _answer(
        self, group: HeldGroup, ids: NDArray[np.int32], lengths: NDArray[np.int32], weights: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The sums (rows, width) and the rows as they are (1, numbers) of a group."""
        rows = (lengths.size - group.unpooled) // (group.bags or 1)
        widths = [unit.bags * self.held.matrices[unit.matrix].dim for unit in group.units]
        out = np.empty((rows, sum(widths)), np.float32)
        ends = np.cumsum([rows * unit.bags if unit.bags else 1 for unit in group.units])
        bags = np.split(lengths, ends[:-1])
        counts = [int(part.sum(dtype=np.int64)) for part in bags]
        if (lengths < 0).any() or sum(counts) != ids.size:
            total = lengths.sum(dtype=np.int64)
            raise ValueError(
                f"lengths: expected {lengths.size} counts that add up to {ids.size} ids, got a sum of {total}"
            )
        wanted = sum(count for count, unit in zip(counts, group.units, strict=True) if unit.weighted)
        if wanted != weights.size:
            raise ValueError(f"weights: expected {wanted}, one for each id of weighted units, got {weights.size}")
        columns = np.split(out, np.cumsum(widths)[:-1], axis=1)
        unpooled = [np.empty(0, np.float32)]
        id_at = weight_at = 0
        for unit, part, count, columns_of in zip(group.units, bags, counts, columns, strict=True):
            mine, own = ids[id_at : id_at + count], weights[weight_at : weight_at + count] if unit.weighted else None
            try:
                if unit.bags:
                    self.sum_unit(unit, mine, part, own, columns_of)
                else:
                    unpooled.append(self.take_unit(unit, mine).reshape(-1))
            except BadIdError as exc:
                raise BadIdError(exc.rows, exc.row, id_at + exc.index) from None
            id_at += count
            weight_at += count if unit.weighted else 0
        return out, np.concatenate(unpooled)[None]

    def _check_size(self, group: HeldGroup, count: int, lengths: int) -> None:
        """Raise ValueError where so many ids and lengths cannot be a query's, before room is made for its sums."""
        rows, side, unpooled = group.max_rows, group.bags, group.unpooled
        bags = lengths - unpooled
        if bags < 0 or (bags % side if side else bags):
            more = f", and {unpooled} more" if unpooled else ""
            raise ValueError(f"lengths: expected a multiple of {side}, the bags of a row{more}, got {lengths}")
        if bags > rows * side:
            most = rows * side + unpooled
            raise ValueError(f"lengths: expected at most {most} ({rows} rows of {side} bags), got {lengths}")
        most = sum(MOST_VARYING_IDS if unit.columns < 0 else rows * unit.columns for unit in group.units)
        if count > most:
            raise ValueError(f"ids: expected at most {most} in {rows} rows, got {count}")


def open_shard(folder: Path, gpu: int | None) -> EmbeddingShard:
    """The shard in `folder`, served by the CPU, or with its rows in the memory of GPU number `gpu`.

    There the environment says what sums: `ELASTICREC_GPU_SUMS=kernel`, ours, instead of torch's `embedding_bag`. Raises
    RuntimeError where torch is missing or sees no GPU: rows are never served by the CPU instead.
    """
    shard = EmbeddingShard.open(folder)
    if gpu is None:
        return shard
    sums, device = os.environ.get(GPU_SUMS, "embedding_bag"), f"cuda:{gpu}"
    if sums not in ("embedding_bag", "kernel"):
        raise ValueError(f"{GPU_SUMS}: expected embedding_bag or kernel, got {sums!r}")
    _check_torch(gpu)
    # torch is heavy, and only a GPU needs it
    if sums == "embedding_bag":
        from triton_backends.embedding_shard.torch_shard import TorchShard

        return TorchShard(shard, device)
    from triton_backends.embedding_shard.kernel_shard import CudaLaunch, KernelShard

    return KernelShard(shard, device, CudaLaunch(device))


def _check_torch(gpu: int) -> None:
    try:
        torch = importlib.import_module("torch")
        seen = torch.cuda.device_count()
        problem = "" if seen > gpu else f"torch {torch.__version__} sees {seen} GPUs"
    except ImportError as exc:
        problem = str(exc)
    if problem:
        raise RuntimeError(
            f"GPU {gpu}: rows are held there by torch for CUDA, but {problem}; install it where the server runs (the "
            "Dockerfile: --build-arg EMBEDDINGS_ON_GPU=1), or build with --cpu-only"
        )
