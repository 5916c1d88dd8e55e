"""What the fan-out router must know of its fleet, as the build wrote it (`fanout.json`). Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

MissingShard = Literal["fail", "degrade"]
SumsDtype = Literal["fp32", "fp16"]


@dataclass(frozen=True, slots=True)
class RemoteShard:
    """An embedding service: its name in the plan, and the tables (places in the spec) whose bags it sums, ascending."""

    name: str
    tables: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """The build and how to call it.

    version: the model version that every embedding service of this build has, and that of no other build has.
    deadline_ms: how long a query may wait for its embedding services, retries included.
    hedge_quantile: a call that takes longer than this quantile of the latest ones is sent to a second replica too.
    max_in_flight: queries that one router may have under way; one more gets an error at once.
    missing_shard: what becomes of a query when an embedding service gives no answer in time.
    """

    model: str
    version: str
    tables: int
    dim: int
    services: tuple[RemoteShard, ...]
    deadline_ms: float
    missing_shard: MissingShard
    hedge_quantile: float | None
    max_in_flight: int
    sums_dtype: SumsDtype

    @classmethod
    def open(cls, path: Path) -> Settings:
        """The settings written in a `fanout.json`."""
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        services = tuple(RemoteShard(entry["name"], tuple(entry["tables"])) for entry in document["services"])
        return cls(**{**document, "services": services})

    def remote_model(self, service: RemoteShard) -> str:
        """The name of a service's model on its own server."""
        return f"{self.model}_{service.name}"
