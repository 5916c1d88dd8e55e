"""The native backends of a built repository: their names, and where one takes front ends' calls by itself."""

from __future__ import annotations

from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from repo_builder.errors import RepositoryError

LISTEN = "ELASTICREC_LISTEN"
"""In a server's environment: the HOST:PORT at which a native embedding service takes front ends' calls past Triton's
gRPC; empty: nowhere.
"""

LISTEN_CERT, LISTEN_KEY, LISTEN_CA = f"{LISTEN}_CERT", f"{LISTEN}_KEY", f"{LISTEN}_CA"
"""Beside it: PEM files by which it takes them over TLS, and of whom each client must have a certificate; empty: plain
text, and anybody.
"""


def native_backend(kind: str) -> str:
    """The name of one of `triton_backends/native`; its library is `libtriton_<name>.so`."""
    return f"elasticrec_{kind}"


def native_library(backend: str) -> str:
    """The file of a native backend, beside the config of a model that it serves."""
    return f"libtriton_{backend}.so"


def read_config(path: Path) -> pb.ModelConfig:
    """A model's config. Raises RepositoryError where it is broken."""
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
    except (OSError, UnicodeDecodeError, text_format.ParseError) as exc:
        raise RepositoryError(f"{path}: expected a model's config, but {exc}; build again") from exc


def listens(folder: Path) -> bool:
    """Whether the server of a model repository listens where LISTEN says.

    That is a native embedding service alone in its server, as a fleet has them: two would want the same port. The
    library is its build's own, and says itself whether it knows the variables: one of an earlier build would leave the
    port closed, or speak plain text where TLS is asked for.
    """
    paths = list(folder.glob("*/config.pbtxt"))
    if len(paths) != 1:
        return False
    backend = read_config(paths[0]).backend
    library = paths[0].with_name(native_library(backend))
    try:
        return backend == native_backend("shard") and library.is_file() and LISTEN_CERT.encode() in library.read_bytes()
    except OSError as exc:
        raise RepositoryError(f"{library}: cannot be read: {exc.strerror}") from exc
