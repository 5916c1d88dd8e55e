"""Kubernetes names from a spec's and a plan's names, which may hold capitals and underscores."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from repo_builder.errors import PlanError

MAX_LENGTH = 54
"""The most that KEDA allows a ScaledObject: the HPA that it makes has `keda-hpa-` before it, and 63 characters."""


def dns_name(text: str) -> str:
    """`text` (a letter, then letters, digits, `_` or `-`) in lower case with hyphens, a name of DNS-1035.

    A name too long keeps its beginning and gets a hash of the whole: `..._a` and `..._b` stay apart.
    """
    plain = text.lower().replace("_", "-").strip("-")
    if len(plain) <= MAX_LENGTH:
        return plain
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{plain[: MAX_LENGTH - 9].rstrip('-')}-{digest}"


def service_names(model: str, services: Sequence[str]) -> Mapping[str, str]:
    """The Kubernetes name of each service of a model, `model-service`.

    Raises PlanError where two services would share one.
    """
    owners: dict[str, str] = {}
    problems = []
    for service in services:
        name = dns_name(f"{model}_{service}")
        owner = owners.setdefault(name, service)
        if owner != service:
            problems.append(
                f"plan: services: expected names that differ in Kubernetes, where {owner!r} and {service!r} are both "
                f"{name}; rename a table or a service"
            )
    if problems:
        raise PlanError(*problems)
    return {service: name for name, service in owners.items()}
