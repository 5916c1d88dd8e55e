"""gRPC channels to replicas: reconnecting quickly, any message size, TLS where the environment asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from triton_backends.fanout.addresses import Endpoint

TLS_CA = "ELASTICREC_TLS_CA"
TLS_CERT = "ELASTICREC_TLS_CERT"
TLS_KEY = "ELASTICREC_TLS_KEY"
INFER = "/inference.GRPCInferenceService/ModelInfer"

_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),  # also how long one attempt to connect may take
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_retries", 0),  # ours go to another replica
    ("grpc.use_local_subchannel_pool", 1),  # a replica that comes back at an old address starts afresh
)


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM files: who is trusted to sign the servers' certificates, and our own certificate for mutual TLS."""

    ca: Path
    cert: Path | None = None
    key: Path | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Tls | None:
        """What ELASTICREC_TLS_CA, _CERT and _KEY name; None without a CA: plain text.

        Raises ValueError where a certificate stands without key or CA, or a key without certificate.
        """
        ca, cert, key = (environment.get(name) or None for name in (TLS_CA, TLS_CERT, TLS_KEY))
        if bool(cert) != bool(key):
            raise ValueError(f"expected both {TLS_CERT} and {TLS_KEY}, or neither, got only one")
        if ca is None:
            if cert:
                raise ValueError(f"expected {TLS_CA} beside {TLS_CERT}: the servers' certificates must be checked too")
            return None
        return cls(Path(ca), Path(cert) if cert else None, Path(key) if key else None)

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files, which may have been renewed since the last channel."""
        return grpc.ssl_channel_credentials(
            self.ca.read_bytes(),
            self.key.read_bytes() if self.key else None,
            self.cert.read_bytes() if self.cert else None,
        )


def open_channel(endpoint: Endpoint, name: str, tls: Tls | None) -> Any:
    """A channel (grpc.aio) to one replica, connected on its first call; it needs a running event loop.

    name: the host that the server's certificate must be for; a replica found by DNS is reached by its address.
    """
    if tls is None:
        return grpc.aio.insecure_channel(str(endpoint), _OPTIONS)
    options = (*_OPTIONS, ("grpc.ssl_target_name_override", name))
    return grpc.aio.secure_channel(str(endpoint), tls.credentials(), options)
