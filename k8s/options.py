"""What the user chooses of the manifests, beyond what the repository says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from k8s.source import Source
from repo_builder.errors import InputError
from repo_builder.scaling.rules import LATENCY_SHARE

NAMESPACE = "elasticrec"
IMAGE = "elasticrec-triton:latest"
CLAIM = "pvc:elasticrec-models"
"""A volume claim of this name holds the folder, where nothing else is said."""

PROMETHEUS = "http://prometheus-operated.monitoring.svc:9090"
"""Where the Prometheus operator puts it."""

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"


@dataclass(frozen=True, slots=True)
class Options:
    """The choices; `tls_secret` holds ca.crt, tls.crt and tls.key, as cert-manager writes them.

    Raises InputError where a name is none in Kubernetes, or the address no URL.
    """

    source: Source
    namespace: str = NAMESPACE
    image: str = IMAGE
    min_replicas: int = 1
    prometheus: str = PROMETHEUS
    latency_share: float = LATENCY_SHARE
    tls_secret: str | None = None
    priority_class: str | None = None

    def __post_init__(self) -> None:
        checks = (
            ("--namespace", self.namespace, _LABEL, "a namespace's name"),
            ("--tls", self.tls_secret, _SUBDOMAIN, "a secret's name"),
            ("--priority-class", self.priority_class, _SUBDOMAIN, "a priority class's name"),
            ("--image", self.image, r"[\w.:/@-]+", "an image such as registry/elasticrec-triton@sha256:..."),
        )
        problems = [
            f"{option}: expected {what}, got {value!r}"
            for option, value, pattern, what in checks
            if value is not None and not re.fullmatch(pattern, value, re.ASCII)
        ]
        if not _is_url(self.prometheus):
            problems.append(f"--prometheus: expected a URL such as {PROMETHEUS}, got {self.prometheus!r}")
        if problems:
            raise InputError(*problems)

    @property
    def prometheus_namespace(self) -> str:
        """Where Prometheus runs: what its address in the cluster says, else `monitoring`."""
        parts = (urlsplit(self.prometheus).hostname or "").split(".")
        return parts[1] if len(parts) > 2 and parts[2] == "svc" else "monitoring"


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:  # brackets without an address, a port that is none
        return False
