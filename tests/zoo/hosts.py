"""Servers that take one model after another: starting a server for each would be most of the time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tritonclient.grpc as triton

from repo_builder.serving.server import Server
from tests.servers import serving

FLAGS = ("--model-control-mode=explicit",)
SERVICES = ("tier0", "tier1", "tier2")  # as plans of three tiers call them


@dataclass(frozen=True)
class Host:
    """A server, and the folder that it loads models from when it is told to."""

    server: Server
    models: Path

    @contextmanager
    def serving(self, repository: Path) -> Iterator[None]:
        """Serve what is in a repository, the ensemble last, while the block runs; it is moved away from there."""
        names = sorted((path.name for path in repository.iterdir() if path.is_dir()), key=len, reverse=True)
        for name in names:
            shutil.move(repository / name, self.models / name)
        with triton.InferenceServerClient(self.server.grpc) as client:
            try:
                for name in names:
                    client.load_model(name)
                yield
            finally:
                for name in reversed(names):
                    client.unload_model(name)
                    shutil.rmtree(self.models / name)


@dataclass(frozen=True)
class Hosts:
    """Of the single layout; of a fleet's embedding services, all on one server, and of its front ends."""

    single: Host
    shards: Host
    front: Host


@contextmanager
def hosts(folder: Path) -> Iterator[Hosts]:
    """Three servers without models."""
    addresses = folder / "addresses.json"
    with host(folder / "single") as single, host(folder / "shards") as shards:
        addresses.write_text(json.dumps({service: [shards.server.calls] for service in SERVICES}))
        with host(folder / "front", ELASTICREC_ADDRESSES=str(addresses)) as front:
            yield Hosts(single, shards, front)


@contextmanager
def host(models: Path, **environment: str) -> Iterator[Host]:
    """A server without models."""
    models.mkdir()
    with serving(models, models.with_suffix(".log"), flags=FLAGS, environment=environment) as server:
        yield Host(server, models)
