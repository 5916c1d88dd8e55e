"""Rows of bytes with scale and bias in float16: FBGEMM's own encoder, which PyTorch does not bring, and its decoder."""

import numpy as np
import pytest
import torch

from triton_backends.kernels.row_formats import decode_rows, encode_rows

pytestmark = pytest.mark.zoo


@pytest.mark.parametrize("dim", [2, 4, 8, 32, 64, 128, 130])  # it takes even ones alone
@pytest.mark.parametrize("magnitude", [1e-30, 1e-12, 1e-8, 1e-6, 1e-2, 1, 300])
@pytest.mark.parametrize("offset", [0, 1, 100])
def test_int8_half_is_stored_as_fbgemm_stores_it(dim: int, magnitude: float, offset: float) -> None:
    import fbgemm_gpu  # noqa: F401 - it brings the operators, and comes with TorchRec

    rows = (magnitude * (np.random.default_rng(dim).standard_normal((100, dim)) + offset)).astype(np.float32)
    packed = torch.ops.fbgemm.FloatOrHalfToFusedNBitRowwiseQuantizedSBHalf(torch.from_numpy(rows), 8)
    np.testing.assert_array_equal(encode_rows(rows, "int8_half"), packed.numpy())
    read = torch.ops.fbgemm.FusedNBitRowwiseQuantizedSBHalfToFloat(packed, 8).numpy()
    np.testing.assert_allclose(
        decode_rows(packed.numpy(), dim, "int8_half"), read, rtol=1e-6, atol=1e-6 * np.abs(rows).max()
    )
