"""A replica of a fleet by itself, on a real server."""

import socket
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from repo_builder.local_fleet.machine import FreePorts
from repo_builder.local_fleet.services import Launch, Replica
from repo_builder.serving.install import installation
from repo_builder.serving.server import Ports
from tests.integration.models import make_repository

pytestmark = pytest.mark.server


class Late(FreePorts):
    """Another program is faster than the first server."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port: int | None = port

    def take(self, again: Ports | None = None) -> Ports:
        taken, self.port = self.port, None
        return super().take() if taken is None else replace(super().take(), grpc=taken)


def test_a_port_that_was_taken_meanwhile_is_no_failure(tmp_path: Path) -> None:
    make_repository(tmp_path, "tiered", shard_backend="native")
    changed = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as taken, installation() as installed:
        port = taken.getsockname()[1]
        launch = Launch(installed, tmp_path / "repository", tmp_path, (), {}, Late(port))
        replica = Replica("tier0-1", launch, changed)
        try:
            while replica.state == "starting":
                assert changed.wait(60)
                changed.clear()
            assert replica.state == "ready", replica.error
            assert replica.server is not None and replica.server.ports.grpc != port
        finally:
            replica.stop()
            replica.join()
