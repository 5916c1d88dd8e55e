"""Facts of the machine and the server that were measured, for whoever reads a profile later."""

from __future__ import annotations

from collections.abc import Mapping

import tritonclient.http

from repo_builder import machine
from repo_builder.serving.server import Server


def machine_facts(server: Server) -> Mapping[str, str | int]:
    """Those of `repo_builder.machine`, with the running server's version."""
    client = tritonclient.http.InferenceServerClient(server.http)
    try:
        return machine.machine_facts(client.get_server_metadata()["version"])
    finally:
        client.close()
