"""Rows of bytes that end with scale and bias, and their numbers, by PyTorch's operators."""

from collections.abc import Callable

import torch

from repo_builder.model.types import RowDtype

_PACK, _UNPACK = torch.ops.quantized.embedding_bag_byte_prepack, torch.ops.quantized.embedding_bag_byte_unpack


def _to_halves(packed: torch.Tensor) -> torch.Tensor:
    """As FBGEMM's SBHalf rows of a byte a number: PyTorch has no operator for these."""
    return torch.cat([packed[:, :-8], packed[:, -8:].contiguous().view(torch.float32).half().view(torch.uint8)], 1)


def _from_halves(packed: torch.Tensor) -> torch.Tensor:
    return torch.cat([packed[:, :-4], packed[:, -4:].contiguous().view(torch.float16).float().view(torch.uint8)], 1)


PACK: dict[RowDtype, tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]] = {
    "int8": (_PACK, _UNPACK),
    "int8_half": (lambda weight: _to_halves(_PACK(weight)), lambda packed: _UNPACK(_from_halves(packed))),
    "int4": (torch.ops.quantized.embedding_bag_4bit_prepack, torch.ops.quantized.embedding_bag_4bit_unpack),
}
"""The rows of numbers (n, dim) float32, and the numbers of such rows; of int4 with an odd `dim` one more."""
