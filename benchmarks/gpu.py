"""A hot tier on a GPU: a query's time by torch's embedding_bag, by our kernel, and by FBGEMM's TBE if it is installed.

A query is timed as a server sees it, from ids in the host's memory to sums there, all in turn on the same fresh ids of
a power law. Without a GPU nothing is measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from repo_builder.access.powerlaw import powerlaw_cdf, solve_alpha
from triton_backends.embedding_shard.kernel_shard import CudaLaunch, KernelShard, Launch
from triton_backends.embedding_shard.shard import EmbeddingShard, Held, HeldGroup, HeldMatrix, HeldUnit
from triton_backends.embedding_shard.torch_shard import TorchShard
from triton_backends.kernels.row_formats import encode_rows

TABLES, ROWS, QUERY_ROWS, POOLING, REPEATS, LOCALITY = 10, 1_000_000, 32, 128, 100, 0.9
Query = Mapping[str, NDArray[np.int32]]
Contender = Callable[[Query], NDArray[np.float32]]


def fbgemm(shard: EmbeddingShard, device: str) -> Contender | None:
    """FBGEMM's table-batched embeddings, its rows random; None where it is not installed or has no such rows."""
    try:
        from fbgemm_gpu.split_embedding_configs import SparseType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
        from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen
    except ImportError:
        return None
    kinds = {"fp32": SparseType.FP32, "fp16": SparseType.FP16, "int8": SparseType.INT8, "int4": SparseType.INT4}
    place = EmbeddingLocation.HOST if device == "cpu" else EmbeddingLocation.DEVICE
    if any(matrix.dtype not in kinds for matrix in shard.held.matrices):
        return None
    specs = [
        (str(i), matrix.rows, matrix.dim, kinds[matrix.dtype], place) for i, matrix in enumerate(shard.held.matrices)
    ]
    tables = IntNBitTableBatchedEmbeddingBagsCodegen(specs, device=device, output_dtype=SparseType.FP32)
    tables.fill_random_weights()

    def answer(query: Query) -> NDArray[np.float32]:
        ends = np.cumsum(np.concatenate([np.zeros(1, np.int32), query["lengths"][0]]), dtype=np.int32)
        sums: Any = tables(*(torch.from_numpy(each).to(device) for each in (query["ids"][0], ends)))
        return np.asarray(sums.cpu().numpy())

    return answer


def contenders(shard: EmbeddingShard, device: str, launch: Launch) -> dict[str, Contender]:
    """Name -> what answers a query; the first is what the others are compared with."""
    torch_shard, kernel_shard = TorchShard(shard, device), KernelShard(shard, device, launch)
    found: dict[str, Contender] = {
        "torch embedding_bag (default)": lambda query: torch_shard.answer(query)["sums"],
        "our kernel": lambda query: kernel_shard.answer(query)["sums"],
    }
    tables = fbgemm(shard, device)
    return {**found, "FBGEMM TBE": tables} if tables else found


def held(dim: int, dtype: str, rows: int) -> EmbeddingShard:
    """One tier of all tables."""
    rng = np.random.default_rng(0)
    shape = Held(
        [HeldMatrix(rows, dim, dtype)] * TABLES,
        [HeldGroup(0, QUERY_ROWS, [HeldUnit(table, 1, POOLING) for table in range(TABLES)])],
    )
    return EmbeddingShard(shape, [encode_rows(rng.random((rows, dim), np.float32), dtype) for _ in range(TABLES)])


def times_ms(rivals: Mapping[str, Contender], rows: int, repeats: int) -> dict[str, float]:
    """Each one's median over queries, whose first is not counted but compared."""
    rng = np.random.default_rng(1)
    cdf, order = powerlaw_cdf(rows, solve_alpha(rows, LOCALITY))[1:], rng.permutation(rows)
    bags = TABLES * QUERY_ROWS
    spent: dict[str, list[float]] = {name: [] for name in rivals}
    for repeat in range(repeats + 1):
        ids = order[np.searchsorted(cdf, rng.random(bags * POOLING), "right")].astype(np.int32)
        query, answers = {"ids": ids[None], "lengths": np.full((1, bags), POOLING, np.int32)}, []
        for name, rival in rivals.items():
            start = time.perf_counter()
            answers.append(rival(query))
            spent[name].append((time.perf_counter() - start) * 1e3)
        if repeat == 0:
            np.testing.assert_allclose(answers[1], answers[0], rtol=1e-4)
    return {name: float(np.median(each[1:])) for name, each in spent.items()}


def main() -> None:
    """Print a line per format, dim and contender."""
    if not torch.cuda.is_available():
        print("gpu.py: there is no GPU, or no torch for CUDA; nothing was measured")
        return
    print(f"{torch.cuda.get_device_name(0)}; {TABLES} tables of {ROWS:,} rows, {QUERY_ROWS} rows of {POOLING} ids each")
    for dim in (32, 128):
        for dtype in ("fp32", "fp16", "bf16", "int8", "int8_half", "int4"):
            rivals = contenders(held(dim, dtype, ROWS), "cuda:0", CudaLaunch("cuda:0"))
            found = times_ms(rivals, ROWS, REPEATS)
            base = next(iter(found.values()))
            for name, ms in found.items():
                print(f"dim {dim:<4} {dtype:<5} {name:<30} {ms:8.3f} ms a query, {base / ms:5.2f} times as fast")


if __name__ == "__main__":
    main()
