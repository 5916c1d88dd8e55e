"""An embedding shard on a GPU whose sums are those of a kernel of our own, `gpu_bags.c`.

All units of a query are summed in one launch, with one copy to the GPU before it and one back; a row stays as it is
stored. It was never run on a GPU so far: `benchmarks/gpu.py` compares it with torch's embedding_bag, the default.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from ctypes import c_int64, c_void_p
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from triton_backends.embedding_shard.shard import EmbeddingShard, HeldUnit
from triton_backends.embedding_shard.torch_shard import TorchShard
from triton_backends.kernels import check_bags
from triton_backends.kernels.row_formats import ROW_DTYPES

PTX = Path(__file__).with_name("gpu_bags.ptx")
THREADS = 256  # of a block


class PackedUnit(ctypes.Structure):
    """`Unit` of gpu_bags.c."""

    _fields_ = (
        ("rows", c_void_p),
        ("row_bytes", c_int64),
        ("dim", c_int64),
        ("dtype", c_int64),
        ("first_bag", c_int64),
        ("bags", c_int64),
        ("first_number", c_int64),
        ("to_weight", c_int64),
        ("weighted", c_int64),
    )


class PackedQuery(ctypes.Structure):
    """`Query` of gpu_bags.c: addresses on the GPU."""

    _fields_ = (
        ("units", c_void_p),
        ("ids", c_void_p),
        ("ends", c_void_p),
        ("weights", c_void_p),
        ("sums", c_void_p),
    )


Launch = Callable[[PackedQuery, int, int], None]
"""Runs the kernel for a query, with its number of units and that of the numbers of the largest one."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """Bags of a unit, and where their sums go."""

    unit: HeldUnit
    ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    weights: NDArray[np.float32] | None
    out: NDArray[np.float32]


class KernelShard(TorchShard):
    """The same rows and answers as `shard`, summed on `device` by `launch`. One query at a time."""

    def __init__(self, shard: EmbeddingShard, device: str, launch: Launch) -> None:
        super().__init__(shard, device)
        self._launch = launch
        self._asked: list[_Asked] = []

    def answer(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """As `EmbeddingShard.answer`."""
        self._asked = []
        found = super().answer(inputs)
        if any(each.out.size for each in self._asked):
            self._fill()
        return found

    def sum_unit(
        self,
        unit: HeldUnit,
        ids: NDArray[np.int32],
        lengths: NDArray[np.int32],
        weights: NDArray[np.float32] | None,
        out: NDArray[np.float32],
    ) -> None:
        """Check the bags; `answer` fills all units' sums at once."""
        check_bags(self.held.matrices[unit.matrix].rows, ids, lengths)
        self._asked.append(_Asked(unit, ids, lengths, weights, out))

    def _fill(self) -> None:
        """One tensor goes to the device: the units, then ids, ends and weights; one comes back, the sums."""
        units = (PackedUnit * len(self._asked))(*self._units())
        ends = np.cumsum(np.concatenate([each.lengths for each in self._asked]), dtype=np.int32)
        weights = [each.weights.view(np.int32) for each in self._asked if each.weights is not None]
        parts = [np.frombuffer(bytes(units), np.int32), *(each.ids for each in self._asked), ends, *weights]
        sent = torch.from_numpy(np.concatenate(parts)).to(self.device)
        sums = torch.empty(sum(each.out.size for each in self._asked), device=self.device)
        at = sent.data_ptr() + ctypes.sizeof(units)
        ids_end = at + sum(each.ids.nbytes for each in self._asked)
        query = PackedQuery(sent.data_ptr(), at, ids_end, ids_end + ends.nbytes, sums.data_ptr())
        self._launch(query, len(units), max(each.out.size for each in self._asked))
        begin, found = 0, sums.cpu().numpy()
        for each in self._asked:
            each.out[:] = found[begin : begin + each.out.size].reshape(each.out.shape)
            begin += each.out.size

    def _units(self) -> list[PackedUnit]:
        found = []
        bag = number = id_at = weight_at = 0
        for each in self._asked:
            matrix, rows = self.held.matrices[each.unit.matrix], self._rows[each.unit.matrix]
            dtype, weighted = ROW_DTYPES.index(matrix.dtype), each.weights is not None
            of_bags, of_sums = (bag, each.lengths.size), (number, weight_at - id_at, weighted)
            found.append(PackedUnit(rows.data_ptr(), matrix.row_bytes, matrix.dim, dtype, *of_bags, *of_sums))
            bag += each.lengths.size
            number += each.out.size
            id_at += each.ids.size
            weight_at += each.ids.size if weighted else 0
        return found


class CudaLaunch:
    """The kernel on an NVIDIA GPU, by the driver's own API: in torch's context and stream. Source: cuda.h."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self._driver = ctypes.CDLL("libcuda.so.1")
        module, self._function = c_void_p(), c_void_p()
        with torch.cuda.device(self.device):
            torch.cuda.current_stream(self.device).synchronize()  # the context is there from here on
            self._check(self._driver.cuModuleLoadData(ctypes.byref(module), PTX.read_bytes() + b"\0"))
            name = b"elasticrec_sum_bags"
            self._check(self._driver.cuModuleGetFunction(ctypes.byref(self._function), module, name))

    def __call__(self, query: PackedQuery, units: int, most_numbers: int) -> None:
        """As `Launch`."""
        parameters = (c_void_p * 1)(ctypes.addressof(query))
        stream = c_void_p(torch.cuda.current_stream(self.device).cuda_stream)
        blocks = -(-most_numbers // THREADS)
        with torch.cuda.device(self.device):
            self._check(
                self._driver.cuLaunchKernel(
                    self._function, blocks, units, 1, THREADS, 1, 1, 0, stream, parameters, None
                )
            )

    def _check(self, result: int) -> None:
        if result == 0:
            return
        text = ctypes.c_char_p()
        self._driver.cuGetErrorString(result, ctypes.byref(text))
        raise RuntimeError(f"gpu_bags.ptx: CUDA's driver says: {(text.value or b'unknown error').decode()}")
