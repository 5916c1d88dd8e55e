"""The stand-in for Triton's API, compiled once, and the native backends in it."""

import ctypes

import pytest

from tests.triton_backends.fake_triton import Backend, compile_fake


@pytest.fixture(scope="session")
def fake(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return ctypes.CDLL(str(compile_fake(tmp_path_factory.mktemp("fake"))), mode=ctypes.RTLD_GLOBAL)


@pytest.fixture(scope="module")
def backend(fake: ctypes.CDLL) -> Backend:
    """The fan-out router."""
    loaded = Backend(fake, "elasticrec_fanout")
    loaded.initialize()
    return loaded


@pytest.fixture(scope="module")
def router(fake: ctypes.CDLL) -> Backend:
    loaded = Backend(fake, "elasticrec_router")
    loaded.initialize()
    return loaded


@pytest.fixture(scope="module")
def shard(fake: ctypes.CDLL) -> Backend:
    loaded = Backend(fake, "elasticrec_shard")
    loaded.initialize()
    return loaded
