"""What the user chooses of the manifests, beyond what the repository says.

Among it where a pod finds its service's model repository: an object store, a volume claim, or an image that carries it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from k8s.objects import mebibytes
from repo_builder.errors import InputError
from repo_builder.repository.manifest import CHECKSUMS
from repo_builder.scaling.queries import NAMESPACE
from repo_builder.scaling.rules import LATENCY_SHARE, PROMETHEUS, ScalingOptions

IMAGE = "elasticrec-triton:latest"
CLAIM = "pvc:elasticrec-models"
"""A volume claim of this name holds the folder, where nothing else is said."""

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"


@dataclass(frozen=True, slots=True)
class ManifestOptions:
    """The choices; `tls_secret` holds ca.crt, tls.crt and tls.key, as cert-manager writes them.

    Raises InputError where a name is none in Kubernetes, the address no URL, or a number out of its bounds.
    """

    source: RepositorySource
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
        if self.min_replicas < 1:
            problems.append(f"--min-replicas: expected at least 1, got {self.min_replicas}")
        if not 0 < self.latency_share <= 1:
            problems.append(f"--latency-share: expected a share above 0, at most 1, got {self.latency_share}")
        if problems:
            raise InputError(*problems)

    @property
    def scaling(self) -> ScalingOptions:
        """Those of the scaling rules."""
        return ScalingOptions(self.namespace, self.prometheus, self.min_replicas, self.latency_share)

    @property
    def prometheus_namespace(self) -> str:
        """Where Prometheus runs: what its address in the cluster says, SERVICE.NAMESPACE[.svc], else `monitoring`."""
        parts = (urlsplit(self.prometheus).hostname or "").split(".")
        in_cluster = len(parts) == 2 or parts[2:3] == ["svc"]
        return parts[1] if in_cluster else "monitoring"


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and (url.port or 1) > 0
    except ValueError:  # brackets without an address, a port that is none
        return False


MODELS = "/models"
CARRIED = "/repository"
"""Where an image of `init:IMAGE` holds the fleet's folder; it needs `cp`."""

SPARE_BYTES = 64 * 1024**2  # a file system's own needs

_STORES = ("s3", "gs", "as")
_STORE_PORTS = (443, 80)  # https; and http of the clouds' credential services, at 169.254.x.x
_GKE_CREDENTIALS_PORT = 988  # where GKE's stand in, with Workload Identity and Calico's policies


@dataclass(frozen=True, slots=True)
class RepositorySource:
    """`address` is a store's URL, `claim[/path]`, or an image; each holds the fleet, a folder per service."""

    kind: Literal["store", "claim", "image"]
    address: str

    def model_repository(self, folder: str) -> str:
        """What tritonserver's --model-repository is for a service."""
        return f"{self.address}/{folder}" if self.kind == "store" else MODELS

    def copied_bytes(self, files_bytes: int) -> int:
        """What the models' volume takes of the node's disk: `image` copies them there."""
        return files_bytes + SPARE_BYTES if self.kind == "image" else 0

    def volumes(self, files_bytes: int) -> Sequence[Mapping[str, Any]]:
        """The pod's volume for the models, if it has one."""
        if self.kind == "claim":
            claim = self.address.partition("/")[0]
            return [{"name": "models", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}]
        if self.kind == "image":
            return [{"name": "models", "emptyDir": {"sizeLimit": mebibytes(self.copied_bytes(files_bytes))}}]
        return []

    def mounts(self, folder: str) -> Sequence[Mapping[str, Any]]:
        """Where the server sees it, read-only."""
        if self.kind == "store":
            return []
        mount: dict[str, Any] = {"name": "models", "mountPath": MODELS, "readOnly": True}
        if self.kind == "claim":
            path = self.address.partition("/")[2].strip("/")
            mount["subPath"] = f"{path}/{folder}" if path else folder
        return [mount]

    def init_containers(
        self, folder: str, image: str, resources: Mapping[str, Any], security: Mapping[str, Any]
    ) -> Sequence[Mapping[str, Any]]:
        """What runs before the server starts: `image` is copied, and every file's SHA-256 is checked.

        `image`: the server's, for its `sha256sum`. A store's files never lie in the pod before Triton copies them.
        """
        common = {"resources": dict(resources), "securityContext": dict(security)}
        copy = {
            "name": "models",
            "image": self.address,
            "command": ["cp", "-R", f"{CARRIED}/{folder}/.", f"{MODELS}/"],
            "volumeMounts": [{"name": "models", "mountPath": MODELS}],
            **common,
        }
        check = {
            "name": "check",
            "image": image,
            "command": ["sha256sum", "--quiet", "--check", CHECKSUMS],
            "workingDir": MODELS,
            "volumeMounts": list(self.mounts(folder)),
            **common,
        }
        return {"store": [], "claim": [check], "image": [copy, check]}[self.kind]

    @property
    def egress_ports(self) -> tuple[int, ...]:
        """TCP ports that the server must reach to load its models."""
        if self.kind != "store":
            return ()
        # s3://https://host:port/bucket and s3://host:port/bucket name the endpoint
        named = re.match(r"s3://(https?://)?[^/]+:(\d+)/", self.address)
        own = (int(named.group(2)),) if named else ()
        google = (_GKE_CREDENTIALS_PORT,) if self.address.startswith("gs:") else ()
        return tuple(dict.fromkeys([*_STORE_PORTS, *google, *own]))

    def scratch_bytes(self, files_bytes: int) -> int:
        """What Triton writes to /tmp: it copies a store's models there before it loads them."""
        return files_bytes if self.kind == "store" else 0


def parse_source(text: str) -> RepositorySource:
    """`s3://...`, `gs://...`, `as://...`, `pvc:CLAIM[/PATH]` or `init:IMAGE`. Raises InputError for anything else."""
    address = text.rstrip("/")
    scheme, _, rest = address.partition("://")
    if scheme in _STORES and rest:
        return RepositorySource("store", address)
    kind, _, rest = address.partition(":")
    if kind == "pvc" and re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[^/.][^/]*)*", rest):
        return RepositorySource("claim", rest)
    if kind == "init" and re.fullmatch(r"[\w.:/@-]+", rest, re.ASCII):
        return RepositorySource("image", rest)
    raise InputError(
        f"--repository: expected s3://BUCKET/PREFIX, gs://..., as://..., pvc:CLAIM[/PATH] or init:IMAGE, got {text!r}"
    )
