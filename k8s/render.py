"""A fleet's Kubernetes objects, one a file, as a Kustomize base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from k8s.alerts import prometheus_rule
from k8s.dashboard import dashboard_config_map
from k8s.deployment import addresses_name, deployment
from k8s.document import scaling_document
from k8s.fleet import Fleet
from k8s.network import addresses_json, network_policy, pod_monitor, service
from k8s.objects import Object, metadata, selector
from k8s.options import Options
from k8s.scaling import disruption_budget, scaled_object
from k8s.server import ADDRESSES_FILE
from repo_builder.documents import read_document
from repo_builder.errors import InputError
from repo_builder.repository.files import new_folder

KUSTOMIZATION = "kustomization.yaml"
DOCUMENT = "SCALING.md"


def render(fleet: Fleet, options: Options) -> Mapping[str, Object]:
    """Every object by its file's name, the kustomization among them; the same input gives the same answer."""
    objects = dict(_objects(fleet, options))
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(objects),
    }
    return {**objects, KUSTOMIZATION: kustomization}


def write(fleet: Fleet, options: Options, target: Path) -> Mapping[str, Object]:
    """Write `render`'s objects and SCALING.md into a folder that appears whole or not at all; returns the objects.

    What a former run wrote there is replaced. Raises RepositoryError where the folder holds anything else.
    """
    objects = render(fleet, options)
    former = f"what elasticrec k8s wrote before (with {KUSTOMIZATION}, and nothing beside what it lists)"
    with new_folder(target, _is_former, former) as folder:
        for name, content in objects.items():
            (folder / name).write_text(to_yaml(content), encoding="utf-8")
        (folder / DOCUMENT).write_text(scaling_document(fleet, options), encoding="utf-8")
    return objects


def to_yaml(content: Object) -> str:
    """YAML in the order of the keys, without anchors."""
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, width=1000)


class _Dumper(yaml.SafeDumper):
    """PyYAML writes what stands in two places as an anchor and an alias, which nobody wants to read or patch."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """A text of several lines as such."""
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _Dumper.represent_text)


def _objects(fleet: Fleet, options: Options) -> Iterator[tuple[str, Object]]:
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


def _account(name: str, options: Options, labels: Mapping[str, str]) -> Object:
    """An identity to grant access to an object store; it has no token for Kubernetes itself."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": metadata(name, options.namespace, labels),
        "automountServiceAccountToken": False,
    }


def _addresses(fleet: Fleet, options: Options) -> Object:
    labels = selector(fleet, fleet.frontend)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(addresses_name(fleet), options.namespace, labels),
        "data": {ADDRESSES_FILE: addresses_json(fleet, options.namespace)},
    }


def _is_former(folder: Path) -> bool:
    """Whether everything there is what a former run wrote: an overlay put beside it must not be lost."""
    try:
        document = read_document(folder / KUSTOMIZATION, InputError)
    except InputError:
        return False
    resources = document.get("resources") if isinstance(document, Mapping) else None
    if not isinstance(resources, list):
        return False
    return {path.name for path in folder.iterdir()} <= {KUSTOMIZATION, DOCUMENT, *map(str, resources)}
