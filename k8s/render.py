"""A fleet's Kubernetes objects, one per file, as a Kustomize base."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import yaml

from k8s.alerts import prometheus_rule
from k8s.dashboard import dashboard_config_map
from k8s.network import addresses_json, network_policy, pod_monitor, service
from k8s.objects import Object, metadata, selector
from k8s.options import ManifestOptions
from k8s.pods import ADDRESSES_FILE, addresses_name, deployment
from k8s.scaling import WRITTEN_BY, disruption_budget, scaled_object, scaling_document
from repo_builder.errors import PlanError
from repo_builder.repository.built_fleet import BuiltFleet
from repo_builder.repository.manifest import CHECKSUMS
from repo_builder.writing import new_folder

KUSTOMIZATION = "kustomization.yaml"
DOCUMENT = "SCALING.md"


def render(fleet: BuiltFleet, options: ManifestOptions) -> Mapping[str, Object]:
    """Every object by its file's name, the kustomization among them; the same input gives the same answer.

    Raises PlanError where a service's GPUs are not those that its pod will have.
    """
    _check_gpus(fleet)
    objects = dict(_objects(fleet, options))
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(objects),
    }
    return {**objects, KUSTOMIZATION: kustomization}


def write(fleet: BuiltFleet, options: ManifestOptions, target: Path) -> Mapping[str, Object]:
    """Write `render`'s objects and SCALING.md into a folder that appears whole or not at all; returns the objects.

    SHA256SUMS beside them says what was written, so that the next run replaces that and nothing else. Raises
    RepositoryError where the folder holds another file, or one that was edited.
    """
    objects = render(fleet, options)
    texts = {
        **{name: to_yaml(content) for name, content in objects.items()},
        DOCUMENT: scaling_document(fleet, options),
    }
    texts[CHECKSUMS] = "".join(f"{_sha256(text.encode())}  {name}\n" for name, text in texts.items())
    with new_folder(target, _foreign) as folder:
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    return objects


def to_yaml(content: Object) -> str:
    """YAML in the order of the keys, without anchors."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=1000)


class _Dumper(yaml.SafeDumper):
    """PyYAML writes what stands in two places as an anchor and an alias, which nobody wants to read or patch."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """A text of several lines as such; quoted where only YAML 1.2, which kubectl reads, takes it for a number."""
        style = "|" if "\n" in text else "'" if _is_number(text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def _is_number(text: str) -> bool:
    """As 1e3 and 0o17 are in YAML 1.2, and no numbers in PyYAML's 1.1."""
    for read in (float, lambda number: int(number, 0)):
        with suppress(ValueError):
            read(text)
            return True
    return False


def _objects(fleet: BuiltFleet, options: ManifestOptions) -> Iterator[tuple[str, Object]]:
    for each in fleet.services:
        yield f"{each.name}-deployment.yaml", deployment(fleet, each, options, addresses_json(fleet, options.namespace))
        yield f"{each.name}-service.yaml", service(fleet, each, options)
        yield f"{each.name}-scaledobject.yaml", scaled_object(fleet, each, options)
        yield f"{each.name}-poddisruptionbudget.yaml", disruption_budget(fleet, each, options)
        yield f"{each.name}-networkpolicy.yaml", network_policy(fleet, each, options)
        yield f"{each.name}-serviceaccount.yaml", _account(each.name, options, selector(fleet, each))
    yield f"{fleet.frontend.name}-configmap.yaml", _addresses(fleet, options)
    yield "podmonitor.yaml", pod_monitor(fleet, options)
    yield "prometheusrule.yaml", prometheus_rule(fleet, options)
    yield "dashboard-configmap.yaml", dashboard_config_map(fleet, options)


def _check_gpus(fleet: BuiltFleet) -> None:
    """A pod sees the GPUs that Kubernetes lends it and no others, and CUDA numbers them from 0."""
    problems = []
    for each in fleet.services:
        wanted, lent = list(each.planned.gpus), list(range(len(each.planned.gpus)))
        if sorted(wanted) != lent:
            problems.append(
                f"{each.planned.name}: gpus: expected {lent}, as a pod numbers the GPUs that it is lent, got {wanted}; "
                "change it in the plan and build the fleet again"
            )
    if problems:
        raise PlanError(*problems)


def _account(name: str, options: ManifestOptions, labels: Mapping[str, str]) -> Object:
    """An identity to grant access to an object store; it has no token for Kubernetes itself."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(name, options.namespace, labels),
        "automountServiceAccountToken": False,
    }


def _addresses(fleet: BuiltFleet, options: ManifestOptions) -> Object:
    labels = selector(fleet, fleet.frontend)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(addresses_name(fleet), options.namespace, labels),
        "data": {ADDRESSES_FILE: addresses_json(fleet, options.namespace)},
    }


def _foreign(folder: Path) -> str | None:
    """Why a folder may not be replaced: it is not what a former run wrote, to the byte; None where it is."""
    try:
        lines = (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
        told = (folder / DOCUMENT).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        told = ""
    if WRITTEN_BY not in told:  # whoever releases files has a list of their sums beside them
        return f"expected what elasticrec k8s wrote before, with its {DOCUMENT}, or nothing, got other files"
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for path in sorted(folder.iterdir()):
        if path.name != CHECKSUMS and (path.name not in sums or path.is_symlink() or not path.is_file()):
            return f"expected elasticrec k8s's own files alone, got {path.name} too; keep overlays in their own folder"
        if path.name != CHECKSUMS and _sha256(path.read_bytes()) != sums[path.name]:
            return f"{path.name} was edited since elasticrec k8s wrote it; keep changes in an overlay of their own"
    return None


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
