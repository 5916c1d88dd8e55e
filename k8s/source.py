"""Where a pod finds its service's model repository: an object store, a volume claim, or an image that carries it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from k8s.objects import mebibytes
from repo_builder.errors import InputError
from repo_builder.repository.manifest import CHECKSUMS

MODELS = "/models"
CARRIED = "/repository"
"""Where an image of `init:IMAGE` holds the fleet's folder; it needs `cp`."""

SPARE_BYTES = 64 * 1024**2  # a file system's own needs

_STORES = ("s3", "gs", "as")
_STORE_PORTS = (443, 80)  # https; and http of the clouds' credential services, at 169.254.x.x


@dataclass(frozen=True, slots=True)
class Source:
    """`place` is a store's URL, `claim[/path]`, or an image, which hold the fleet's folder, one subfolder a service."""

    kind: Literal["store", "claim", "image"]
    place: str

    def model_repository(self, folder: str) -> str:
        """What tritonserver's --model-repository is for a service."""
        return f"{self.place}/{folder}" if self.kind == "store" else MODELS

    def copied_bytes(self, files_bytes: int) -> int:
        """What the models' volume takes of the node's disk: `image` copies them there."""
        return files_bytes + SPARE_BYTES if self.kind == "image" else 0

    def volumes(self, files_bytes: int) -> Sequence[Mapping[str, Any]]:
        """The pod's volume for the models, if it has one."""
        if self.kind == "claim":
            claim = self.place.partition("/")[0]
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
            path = self.place.partition("/")[2].strip("/")
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
            "image": self.place,
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
        inner = urlsplit(self.place.removeprefix("s3://"))  # s3://https://host:port/bucket names the endpoint
        own = (inner.port,) if inner.scheme in ("http", "https") and inner.port else ()
        return tuple(dict.fromkeys([*_STORE_PORTS, *own]))

    def scratch_bytes(self, files_bytes: int) -> int:
        """What Triton writes to /tmp: it copies a store's models there before it loads them."""
        return files_bytes if self.kind == "store" else 0


def parse_source(text: str) -> Source:
    """`s3://...`, `gs://...`, `as://...`, `pvc:CLAIM[/PATH]` or `init:IMAGE`. Raises InputError for anything else."""
    place = text.rstrip("/")
    scheme, _, rest = place.partition("://")
    if scheme in _STORES and rest:
        return Source("store", place)
    kind, _, rest = place.partition(":")
    if kind == "pvc" and re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/[^/.][^/]*)*", rest):
        return Source("claim", rest)
    if kind == "init" and re.fullmatch(r"[\w.:/@-]+", rest, re.ASCII):
        return Source("image", rest)
    raise InputError(
        f"--repository: expected s3://BUCKET/PREFIX, gs://..., as://..., pvc:CLAIM[/PATH] or init:IMAGE, got {text!r}"
    )
