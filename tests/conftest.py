"""Settings of all tests."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.servers import join_all

settings.register_profile("suite", deadline=None, print_blob=True)  # a busy machine is no failure
settings.load_profile("suite")


@pytest.fixture(scope="session", autouse=True)
def _servers_end() -> Iterator[None]:
    yield
    join_all()
