"""The rendered ScaledObjects that the local autoscaler follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k8s.options import CLAIM, Options
from k8s.render import write
from k8s.source import parse_source
from repo_builder.documents import read_document
from repo_builder.errors import InputError
from repo_builder.repository.built_fleet import Fleet
from repo_builder.scaling.keda import ScaledObject, from_scaled_object

PATTERN = "*-scaledobject.yaml"


@dataclass(frozen=True, slots=True)
class Rules:
    """A ScaledObject for each service, by the service's name in the plan; `namespace` is what their queries select."""

    folder: Path
    namespace: str
    by_service: Mapping[str, ScaledObject]


def render_rules(fleet: Fleet, prometheus: str, target: Path) -> Path:
    """Write the manifests that `elasticrec k8s` writes, asking the Prometheus at this URL; returns `target`."""
    write(fleet, Options(source=parse_source(CLAIM), prometheus=prometheus), target)
    return target


def load_rules(fleet: Fleet, folder: Path) -> Rules:
    """Read what `elasticrec k8s` wrote into `folder`, edited or not.

    Raises InputError where a file is wrong, a service has no ScaledObject or one too many, or namespaces differ.
    """
    services = {service.name: service.folder for service in fleet.services}
    found: dict[str, ScaledObject] = {}
    namespaces: set[str] = set()
    problems = []
    for path in sorted(folder.glob(PATTERN)):
        document: Any = read_document(path, InputError)
        rule = from_scaled_object(document, str(path))
        namespaces.add(document["metadata"].get("namespace", "default"))
        service = services.get(rule.workload)
        if service is None or service in found:
            expected = ", ".join(sorted(services.keys()))
            problems.append(
                f"{path}: spec.scaleTargetRef.name: expected one of {expected}, each once, got {rule.workload!r}; "
                "render it of this fleet: elasticrec k8s"
            )
        else:
            found[service] = rule
    missing = sorted(set(services.values()) - found.keys())
    if missing and not problems:
        problems.append(f"{folder}: expected {PATTERN} for {', '.join(missing)}, found none; run elasticrec k8s")
    if len(namespaces) > 1:
        problems.append(f"{folder}: metadata.namespace: expected one in all files, got {', '.join(sorted(namespaces))}")
    if problems:
        raise InputError(*problems)
    return Rules(folder, namespaces.pop(), found)
