"""How tritonserver runs in a pod: its flags, and the times that go with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from repo_builder.repository.built_fleet import Fleet, FleetService
from repo_builder.scaling.rules import QUANTILE

PRE_STOP_S = 15
"""A pod that ends goes on serving so long, while clients and kube-proxy learn that it left."""

CONNECTION_AGE_MS = 30_000
"""After which a channel is closed gracefully, so that its client asks the DNS again and finds new pods."""

LOAD_BYTES_PER_S = 50_000_000
START_S = 60
"""To start Triton and its Python processes, and to warm up."""

TLS_FOLDER = "/etc/elasticrec/tls"

_QUANTILES = f"0.5:0.05,{QUANTILE:g}:0.005,0.99:0.001"
"""Of latencies, each with its error: the rules' own, and what people look at beside it."""

RESTRICTED = "shared-memory,model-config,model-repository,statistics,trace,logging"
ADMIN_KEY = "elasticrec-admin=$(POD_UID)"
"""The header that opens the restricted APIs, with the pod's uid: nobody knows it who may not read pods."""


def drain_s(fleet: Fleet) -> int:
    """How long Triton may finish what is in flight: half a minute, and more where the SLA is of that order."""
    return 30 + math.ceil(fleet.sla_ms / 1000)


def grace_s(fleet: Fleet) -> int:
    """The pod's terminationGracePeriodSeconds."""
    return PRE_STOP_S + drain_s(fleet) + 10


def load_s(service: FleetService) -> int:
    """How long a pod may take until it is ready, from the size of what it loads."""
    return START_S + math.ceil(service.files_bytes / LOAD_BYTES_PER_S)


def flags(fleet: Fleet, service: FleetService, model_repository: str, tls: bool) -> Sequence[str]:
    """The command line of tritonserver 2.51 and later; `$(POD_UID)` is filled in by Kubernetes."""
    words = [
        f"--model-repository={model_repository}",
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={drain_s(fleet)}",
        f"--grpc-max-connection-age={CONNECTION_AGE_MS}",
        f"--grpc-max-connection-age-grace={1000 * drain_s(fleet)}",
        f"--http-restricted-api={RESTRICTED}:{ADMIN_KEY}",
        f"--grpc-restricted-protocol={RESTRICTED}:{ADMIN_KEY}",
    ]
    if service.is_frontend:
        words += ["--metrics-config=summary_latencies=true", f"--metrics-config=summary_quantiles={_QUANTILES}"]
    elif tls:
        words += [
            "--grpc-use-ssl=true",
            "--grpc-use-ssl-mutual=true",
            f"--grpc-server-cert={TLS_FOLDER}/tls.crt",
            f"--grpc-server-key={TLS_FOLDER}/tls.key",
            f"--grpc-root-cert={TLS_FOLDER}/ca.crt",
        ]
    return words


def environment(service: FleetService, tls: bool) -> Mapping[str, str]:
    """Environment variables, besides POD_UID; the router of the front end finds the embedding services by its own."""
    words = {"HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"}  # noqa: S108 - a path in the pod: its own emptyDir, seen by no other
    if service.is_frontend:
        words["ELASTICREC_ADDRESSES"] = ADDRESSES
        if tls:
            words["ELASTICREC_TLS_CA"] = f"{TLS_FOLDER}/ca.crt"
            words["ELASTICREC_TLS_CERT"] = f"{TLS_FOLDER}/tls.crt"
            words["ELASTICREC_TLS_KEY"] = f"{TLS_FOLDER}/tls.key"
    return words


ADDRESSES_FOLDER = "/etc/elasticrec/addresses"
ADDRESSES_FILE = "addresses.json"
ADDRESSES = f"{ADDRESSES_FOLDER}/{ADDRESSES_FILE}"
