"""The stand-in for Triton's API, compiled once."""

import ctypes

import pytest

from tests.triton_backends.fake_triton import compile_fake


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return ctypes.CDLL(str(compile_fake(tmp_path_factory.mktemp("fake"))), mode=ctypes.RTLD_GLOBAL)
