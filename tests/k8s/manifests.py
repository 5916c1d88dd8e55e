"""Rendered objects, and parts of them that several tests look at."""

from collections.abc import Iterator, Mapping
from typing import Any

from repo_builder.repository.built_fleet import BuiltFleet

Objects = Mapping[str, Mapping[str, Any]]
Rendered = tuple[BuiltFleet, Objects]


def of_kind(objects: Objects, kind: str) -> dict[str, Any]:
    return {item["metadata"]["name"]: item for item in objects.values() if item["kind"] == kind}


def containers(deployment: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    pod = deployment["spec"]["template"]["spec"]
    yield from [*pod["containers"], *pod.get("initContainers", [])]
