"""The kernels as they run on older processors, too."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from triton_backends.kernels import LIBRARY

BOTH = pytest.mark.parametrize("vectors", [True, False], ids=["this processor", "any processor"])


@contextmanager
def processor(vectors: bool) -> Iterator[None]:
    """As it is, or as if it had no vectors wider than the 16 bytes that all have."""
    features = (ctypes.c_bool * 2).in_dll(ctypes.CDLL(str(LIBRARY)), "elasticrec_processor")
    found = list(features)
    features[:] = [vectors and feature for feature in found]
    try:
        yield
    finally:
        features[:] = found
