"""The GPU kernel that sums bags, compiled for this machine from the same source, against numpy.

What it gives on a GPU, and that NVIDIA's driver takes it there, is not tested here: that needs one.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import re
import shutil
import subprocess
from ctypes import c_int64
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.triton_backends.fake_triton import compile_library
from triton_backends.embedding_shard import kernel_shard
from triton_backends.embedding_shard.kernel_shard import PTX, CudaLaunch, KernelShard, Launch, PackedQuery, PackedUnit
from triton_backends.embedding_shard.shard import (
    GPU_SUMS,
    EmbeddingShard,
    Held,
    HeldGroup,
    HeldMatrix,
    HeldUnit,
    open_shard,
)
from triton_backends.kernels.row_formats import ROW_DTYPES, decode_rows, encode_rows

SOURCE = PTX.with_suffix(".c")


@pytest.fixture(scope="module")
def launch(tmp_path_factory: pytest.TempPathFactory) -> Launch:
    library = ctypes.CDLL(str(compile_library(SOURCE, tmp_path_factory.mktemp("kernel"), "-ffp-contract=off")))
    library.elasticrec_sum_bags.argtypes = (PackedQuery, c_int64)
    library.elasticrec_sum_bags.restype = None

    def run(query: PackedQuery, units: int, most_numbers: int) -> None:
        assert most_numbers > 0
        library.elasticrec_sum_bags(query, units)

    return run


def shard_of(held: Held, seed: int) -> EmbeddingShard:
    rng = np.random.default_rng(seed)
    numbers = [rng.standard_normal((each.rows, each.dim)).astype(np.float32) for each in held.matrices]
    stored = [encode_rows(rows, each.dtype) for rows, each in zip(numbers, held.matrices, strict=True)]
    return EmbeddingShard(held, stored)


def asked_of(held: Held, rows: int, seed: int) -> dict[str, np.ndarray]:
    """Queries of so many rows, whose bags have up to six ids, some none."""
    rng, inputs = np.random.default_rng(seed), {}
    for group in held.groups:
        end = f"_{group.group}" if group.group else ""
        parts = [rng.integers(0, 7, rows * unit.bags if unit.bags else 1) for unit in group.units]
        counts = [part.sum() for part in parts]
        ids = [
            rng.integers(0, held.matrices[unit.matrix].rows, count)
            for unit, count in zip(group.units, counts, strict=True)
        ]
        weighted = sum(count for unit, count in zip(group.units, counts, strict=True) if unit.weighted)
        inputs[f"ids{end}"] = np.concatenate(ids).astype(np.int32)[None]
        inputs[f"lengths{end}"] = np.concatenate(parts).astype(np.int32)[None]
        inputs[f"weights{end}"] = rng.standard_normal((1, weighted)).astype(np.float32)
    return inputs


def numpy_sums(rows: np.ndarray, ids: np.ndarray, lengths: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Bags' sums (bags, dim) float32, one row after another."""
    sums, at = np.zeros((lengths.size, rows.shape[1]), np.float32), 0
    for bag, length in enumerate(lengths):
        for i in range(at, at + length):
            sums[bag] += rows[ids[i]] if weights is None else weights[i] * rows[ids[i]]
        at += length
    return sums


@pytest.mark.parametrize("dtype", ROW_DTYPES)
@pytest.mark.parametrize("dim", [1, 3, 32, 70])
@pytest.mark.parametrize("weighted", [0, 1])
def test_sums_of_each_format_are_numpys_to_the_bit(launch: Launch, dtype: str, dim: int, weighted: int) -> None:
    held = Held([HeldMatrix(50, dim, dtype)], [HeldGroup(0, 16, [HeldUnit(0, 2, 14, weighted)])])
    shard = shard_of(held, dim)
    asked = asked_of(held, 9, dim + weighted)
    rows = decode_rows(shard.matrices[0], dim, dtype)
    expected = numpy_sums(rows, asked["ids"][0], asked["lengths"][0], asked["weights"][0] if weighted else None)
    found = KernelShard(shard, "cpu", launch).answer(asked)["sums"]
    np.testing.assert_array_equal(found, expected.reshape(9, 2 * dim))


def test_all_units_of_a_query_are_summed_in_one_launch(launch: Launch) -> None:
    """Of several groups, formats, dims and pools, weighted and not, beside rows as they are: as on the CPU."""
    matrices = [HeldMatrix(30 + dim, dim, dtype) for dtype, dim in zip(ROW_DTYPES, (4, 7, 2, 9, 6, 5), strict=True)]
    first = [
        HeldUnit(0, 1, 6),
        HeldUnit(3, 2, 12, 1),
        HeldUnit(1, 0, -1),
        HeldUnit(5, 1, 6),
        HeldUnit(4, 1, 6),
        HeldUnit(0, 3, 18, 1),
    ]
    held = Held(matrices, [HeldGroup(0, 8, first), HeldGroup(3, 8, [HeldUnit(2, 1, 6), HeldUnit(1, 1, 6)])])
    shard, calls = shard_of(held, 0), []

    def counted(query: PackedQuery, units: int, most_numbers: int) -> None:
        calls.append((units, most_numbers))
        launch(query, units, most_numbers)

    kernel = KernelShard(shard, "cpu", counted)
    for seed in range(5):
        asked = asked_of(held, 8, seed)
        expected, found = shard.answer(asked), kernel.answer(asked)
        assert set(found) == set(expected) == {"sums", "rows", "sums_3"}
        for name, numbers in expected.items():
            np.testing.assert_array_equal(found[name], numbers)
    assert calls == [(7, 8 * 18)] * 5


def test_a_query_without_sums_launches_nothing_and_a_bad_one_harms_no_other(launch: Launch) -> None:
    held = Held([HeldMatrix(5, 2)], [HeldGroup(0, 4, [HeldUnit(0, 1, 6), HeldUnit(0, 1, 6)])])
    shard = shard_of(held, 0)
    kernel = KernelShard(shard, "cpu", launch)
    bad = {"ids": np.array([[1, 5]], np.int32), "lengths": np.array([[1, 1]], np.int32)}
    with pytest.raises(ValueError, match=r"expected rows in \[0, 5\), got 5 at index 1"):
        kernel.answer(bad)
    nothing = {"ids": np.empty((1, 0), np.int32), "lengths": np.empty((1, 0), np.int32)}
    assert kernel.answer(nothing)["sums"].shape == (0, 4)
    good = asked_of(held, 3, 0)
    np.testing.assert_array_equal(kernel.answer(good)["sums"], shard.answer(good)["sums"])


def test_the_kernel_for_gpus_rounds_as_ours_and_takes_what_is_packed() -> None:
    """A fused multiplication and addition would round once where the CPU rounds twice."""
    text = PTX.read_text()
    assert re.search(rf"elasticrec_sum_bags_param_0\[{ctypes.sizeof(PackedQuery)}\]", text)
    assert re.search(rf"mul\.wide\.u32\s+%rd\d+, %r\d+, {ctypes.sizeof(PackedUnit)};", text)
    assert not re.search(r"\b(fma|mad)\.\S*f32", text) and {"mul.rn.f32", "add.rn.f32"} <= set(text.split())


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    """The fake driver in the place of CUDA's, and torch's context and stream beside it."""
    fake = Path(__file__).with_name("fake_cuda.c")
    library = ctypes.CDLL(str(compile_library(fake, tmp_path, "-ffp-contract=off", str(SOURCE))))
    monkeypatch.setattr(kernel_shard.ctypes, "CDLL", {"libcuda.so.1": library}.__getitem__)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    stream = SimpleNamespace(cuda_stream=0x7F00_0000_1000, synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    return library


def test_the_driver_gets_the_kernel_and_enough_threads(driver: ctypes.CDLL) -> None:
    """A row of blocks per unit, as many as the largest one needs, in torch's own stream."""
    held = Held(
        [HeldMatrix(9, 70), HeldMatrix(9, 2, "int8")], [HeldGroup(0, 9, [HeldUnit(0, 1, 7), HeldUnit(1, 2, 14)])]
    )
    shard = shard_of(held, 0)
    kernel = KernelShard(shard, "cpu", CudaLaunch("cuda:0"))
    asked = asked_of(held, 9, 0)
    np.testing.assert_array_equal(kernel.answer(asked)["sums"], shard.answer(asked)["sums"])
    grid = (ctypes.c_uint32 * 6).in_dll(driver, "fake_grid")
    assert list(grid) == [-(-9 * 70 // 256), 2, 1, 256, 1, 1]
    assert ctypes.c_void_p.in_dll(driver, "fake_stream").value == 0x7F00_0000_1000
    ctypes.c_int.in_dll(driver, "fake_result").value = 701
    with pytest.raises(RuntimeError, match=r"^gpu_bags.ptx: CUDA's driver says: too many resources requested$"):
        kernel.answer(asked)


@pytest.mark.skipif(shutil.which("ptxas") is None, reason="needs ptxas, of NVIDIA's CUDA toolkit")
@pytest.mark.parametrize("architecture", ["sm_75", "sm_80", "sm_90", "sm_100", "sm_120"])
def test_nvidias_assembler_takes_the_kernel(tmp_path: Path, architecture: str) -> None:
    done = subprocess.run(
        ["ptxas", "--warning-as-error", "-arch", architecture, PTX, "-o", tmp_path / "kernel"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_what_sums_on_a_gpu_is_chosen_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = Held([HeldMatrix(5, 2)], [HeldGroup(0, 4, [HeldUnit(0, 1, 6)])])
    np.concatenate(shard_of(held, 0).matrices).tofile(tmp_path / "weights.bin")
    (tmp_path / "shard.json").write_text(json.dumps(held.document()))
    monkeypatch.setenv(GPU_SUMS, "fastest")
    with pytest.raises(ValueError, match=r"^ELASTICREC_GPU_SUMS: expected embedding_bag or kernel, got 'fastest'$"):
        open_shard(tmp_path, 0)
    assert type(open_shard(tmp_path, None)) is EmbeddingShard
