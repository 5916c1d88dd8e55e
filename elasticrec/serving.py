"""A built repository: checked, served, and asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from elasticrec.loading import StrPath
from repo_builder.errors import InputError
from repo_builder.model.arrays import Array, Arrays, from_wire, wired
from repo_builder.repository.manifest import MANIFEST, Manifest, load_manifest, read_queries
from repo_builder.repository.manifest import verify as verify_files

if TYPE_CHECKING:
    from repo_builder.serving.client import Protocol
    from repo_builder.serving.server import Ports, Server


def verify(repository: StrPath) -> Manifest:
    """Check that every file is there with the size and SHA-256 that the manifest lists, and that there is no other.

    >>> built = elasticrec.build(elasticrec.load_spec("rm1.yaml"), "model_repository/rm1")
    >>> elasticrec.verify("model_repository/rm1") == built.manifest
    True
    """
    return verify_files(Path(repository))


@contextmanager
def serve(
    repository: StrPath,
    *,
    ports: Ports | None = None,
    host: str = "127.0.0.1",
    log: StrPath | None = None,
) -> Iterator[Server]:
    """Run tritonserver on a verified repository while the block lasts; leaves neither process nor memory behind.

    Yields the ready server: its addresses are `http`, `grpc` and `metrics`, its log is `log`, by default beside the
    repository. ports: free ones where none are given. A service of a fleet is served by its own folder; its `calls` is
    what a front end's file of addresses takes.

    >>> with elasticrec.serve("model_repository/rm1") as server:
    ...     scores = elasticrec.query("model_repository/rm1", server.grpc, rows=4)["score"]
    >>> scores.shape
    (4, 1)
    """
    from repo_builder.serving.install import check_gpus, installation  # imports gRPC's Python
    from repo_builder.serving.server import free_ports, remove_caches, running

    folder, ports = Path(repository), ports or free_ports()
    if len(set(ports.numbers)) < len(ports.numbers):
        raise InputError(f"ports: expected different ones, got {', '.join(map(str, ports.numbers))}")
    whole = servable(folder.resolve())
    service = folder.resolve().relative_to(whole).as_posix().removeprefix(".")
    check_gpus(folder)
    remove_caches(folder)  # of a server that was killed
    verify_files(whole, service)  # a flipped bit in a weight would make no error but wrong scores
    served = f"{whole.name}-{service}" if service else whole.name
    kept = Path(log) if log else whole.with_name(f"{served}-{ports.http}.log")  # several may serve it
    with installation() as installed, running(installed, folder, ports, kept, host=host) as server:
        yield server


def query(
    repository: StrPath,
    address: str = "127.0.0.1:8001",
    *,
    protocol: Protocol = "grpc",
    inputs: Arrays | None = None,
    rows: int = 8,
) -> Mapping[str, Array]:
    """Ask a served model one query; returns its outputs by name.

    address: HOST:PORT of the protocol, `grpc` or `http`; inputs: an array per input, by its name; where none are given,
    so many of the repository's sample rows.

    Of a server that `serve` yielded:

    >>> inputs = {"dense": numpy.zeros((2, 13), "f4"), "indices": numpy.full((2, 40), -1)}
    >>> score = elasticrec.query("model_repository/rm1", server.http, protocol="http", inputs=inputs)["score"]
    >>> bool(score[0] == score[1])
    True
    """
    from repo_builder.serving.client import infer  # imports gRPC's Python

    manifest = load_manifest(Path(repository))
    sent = read_queries(Path(repository), rows) if inputs is None else inputs
    answer = infer(protocol, address, manifest.name, wired(sent, manifest.inputs))
    return {tensor.name: from_wire(answer[tensor.name], tensor) for tensor in manifest.outputs}


def servable(repository: Path) -> Path:
    """The folder with the manifest of what one server can serve: for a service of a fleet that is the fleet's."""
    if not (repository / MANIFEST).is_file() and (repository.parent / MANIFEST).is_file():
        manifest = load_manifest(repository.parent)
        if manifest.layout == "fleet" and any(repository.glob("*/config.pbtxt")):
            return repository.parent
    manifest = load_manifest(repository)
    if manifest.layout == "fleet":
        raise InputError(
            f"{repository}: expected the repository of one server, got a fleet; run all of it with "
            f"elasticrec up {repository}, or one of its services, such as {repository / 'frontend'}"
        )
    return repository
