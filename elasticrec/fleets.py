"""A built fleet: all of it run on this machine, looked at, scaled and stopped; or as manifests of Kubernetes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from elasticrec.loading import StrPath
from k8s.objects import Object
from k8s.options import CLAIM, IMAGE, ManifestOptions, parse_source
from k8s.render import write
from repo_builder.local_fleet.control import ask
from repo_builder.local_fleet.fleet import LocalFleet, UpOptions, local_fleet
from repo_builder.local_fleet.run_folder import RunFolder, log_lines
from repo_builder.repository.built_fleet import BuiltFleet, load_fleet
from repo_builder.scaling.hpa import SYNC_S
from repo_builder.scaling.queries import NAMESPACE
from repo_builder.scaling.rules import LATENCY_SHARE, PROMETHEUS, ScalingOptions


def up(
    repository: StrPath,
    *,
    replicas: Mapping[str, int] = MappingProxyType({}),
    autoscale: bool = False,
    rules: StrPath | None = None,
    sync_s: float = SYNC_S,
    prometheus_port: int | None = None,
    status_port: int | None = None,
    force: bool = False,
) -> AbstractContextManager[LocalFleet]:
    """A fleet on free ports of 127.0.0.1 while the block lasts; its `serve` runs it until `down`, from anywhere.

    replicas: by service, where they differ from the plan's; rules: the folder of rendered manifests to scale by, where
    `autoscale` is asked for and they are not to be rendered now; force: start more than this machine holds.

    >>> built = elasticrec.build(elasticrec.load_spec("rm1.yaml"), "fleet/rm1", layout="fleet")
    >>> with elasticrec.up("fleet/rm1", replicas={"frontend": 2}) as fleet:
    ...     [service["name"] for service in fleet.status()["services"]]
    ['frontend', 'tier0']
    """
    return local_fleet(
        UpOptions(
            repository=Path(repository).resolve(),
            replicas=dict(replicas),
            autoscale=autoscale,
            rules=None if rules is None else Path(rules),
            write_rules=_write_rules,
            sync_s=sync_s,
            prometheus_port=prometheus_port,
            status_port=status_port,
            force=force,
        )
    )


def _write_rules(fleet: BuiltFleet, scaling: ScalingOptions, folder: Path) -> None:
    """What `k8s` writes, asking the Prometheus of this machine."""
    write(fleet, ManifestOptions(parse_source(CLAIM), prometheus=scaling.prometheus), folder)


def ps(repository: StrPath) -> Mapping[str, Any]:
    """What a running fleet's services and replicas are doing: state, addresses, traffic and memory.

    >>> elasticrec.ps("fleet/none")
    Traceback (most recent call last):
    repo_builder.errors.InputError: ...fleet/none: expected a running fleet, found none; start it: ...
    """
    found: Mapping[str, Any] = ask(RunFolder.of(Path(repository)), {"do": "status"})
    return found


def scale(repository: StrPath, replicas: Mapping[str, int], *, force: bool = False) -> None:
    """Have a running fleet start or stop replicas of services; returns at once.

    >>> elasticrec.scale("fleet/none", {"tier0": 3})
    Traceback (most recent call last):
    repo_builder.errors.InputError: ...fleet/none: expected a running fleet, found none; start it: ...
    """
    ask(RunFolder.of(Path(repository)), {"do": "scale", "replicas": dict(replicas), "force": force})


def logs(repository: StrPath, service: str | None = None, *, follow: bool = False) -> Iterator[tuple[str, str]]:
    """The lines of the logs of a fleet that runs or ran last, each behind its log's name; follow: without an end.

    >>> list(elasticrec.logs("fleet/none"))
    Traceback (most recent call last):
    repo_builder.errors.InputError: ...
    """
    return log_lines(RunFolder.of(Path(repository)), service, follow)


def down(repository: StrPath) -> None:
    """Have a running fleet stop every server, and wait until it has.

    >>> elasticrec.down("fleet/none")
    Traceback (most recent call last):
    repo_builder.errors.InputError: ...fleet/none: expected a running fleet, found none; start it: ...
    """
    ask(RunFolder.of(Path(repository)), {"do": "down"})


def k8s(
    repository: StrPath,
    target: StrPath,
    *,
    source: str = CLAIM,
    image: str = IMAGE,
    namespace: str = NAMESPACE,
    min_replicas: int = 1,
    latency_share: float = LATENCY_SHARE,
    prometheus: str = PROMETHEUS,
    tls_secret: str | None = None,
    priority_class: str | None = None,
) -> Mapping[str, Object]:
    """Write a fleet's manifests as a Kustomize base, whole or not at all; returns the objects by their files' names.

    source: where pods find the repository's content, such as `s3://BUCKET/PREFIX` or `pvc:CLAIM`; latency_share: of
    the SLA, at which front ends are added; tls_secret: for mutual TLS between the services.

    >>> built = elasticrec.build(elasticrec.load_spec("rm1.yaml"), "fleet/rm1", layout="fleet")
    >>> objects = elasticrec.k8s("fleet/rm1", "manifests", source="s3://models/rm1/v7")
    >>> [name for name in objects if name.endswith("-scaledobject.yaml")]
    ['rm1-frontend-scaledobject.yaml', 'rm1-tier0-scaledobject.yaml']
    """
    options = ManifestOptions(
        source=parse_source(source),
        namespace=namespace,
        image=image,
        min_replicas=min_replicas,
        prometheus=prometheus,
        latency_share=latency_share,
        tls_secret=tls_secret,
        priority_class=priority_class,
    )
    return write(load_fleet(Path(repository)), options, Path(target))
