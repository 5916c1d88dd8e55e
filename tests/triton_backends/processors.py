"""The kernels as they run on older processors, too."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from triton_backends.kernels import LIBRARY

ALL = pytest.mark.parametrize("widest", ["avx512", "avx2", None], ids=["this processor", "no AVX-512", "any processor"])


@contextmanager
def processor_up_to(widest: str | None) -> Iterator[None]:
    """As if it had none of the features behind `widest`, in the order of `Processor`."""
    features = (ctypes.c_bool * 2).in_dll(ctypes.CDLL(str(LIBRARY)), "elasticrec_processor")
    found = list(features)
    features[:] = [found[0] and widest is not None, found[1] and widest == "avx512"]
    try:
        yield
    finally:
        features[:] = found
