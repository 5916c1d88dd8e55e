"""Real servers, one a grouping, index type and shard backend, shared by the tests of this folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from repo_builder.partition.plan import Plan
from repo_builder.repository.configs import ShardBackend
from repo_builder.serving.server import Server
from repo_builder.spec import Spec
from tests.integration.models import make_repository
from tests.servers import serving


@dataclass(frozen=True)
class Served:
    """A model and the server that serves it."""

    spec: Spec
    plan: Plan
    server: Server
    repository: Path


def serve(folder: Path, grouping: str, index_dtype: str, shard_backend: ShardBackend) -> Iterator[Served]:
    spec, plan = make_repository(folder, grouping, index_dtype, shard_backend)
    repository = folder / "repository"
    with serving(repository, folder / "server.log") as server:
        yield Served(spec, plan, server, repository)


@pytest.fixture(scope="session", params=["tiered-int64-python", "per_table-int32-python", "tiered-int32-native"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Both groupings, both index types and both shard backends."""
    grouping, index_dtype, shard_backend = request.param.split("-")
    yield from serve(tmp_path_factory.mktemp(request.param), grouping, index_dtype, shard_backend)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Served]:
    """A server that the test may break."""
    yield from serve(tmp_path, "tiered", "int64", "python")
