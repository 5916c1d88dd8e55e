"""Manifests of four fleets, which together have all that manifests may say."""

from pathlib import Path

import pytest
import yaml

from k8s.render import write
from repo_builder.repository.built_fleet import BuiltFleet
from tests.k8s.fleets import TLS_SECRET, Made, fleet, options
from tests.k8s.manifests import Rendered

VARIANTS = {
    "store": (Made(), options()),
    "claim": (Made(), options("pvc:models/rm1/v7", min_replicas=2, priority_class="high", namespace="other")),
    "image": (Made(device="gpu", instances=2), options("init:registry/rm1@sha256:0123", tls_secret=TLS_SECRET)),
    "long": (Made(model="R" * 60, services=("C_1_s0", "C_1_s1")), options()),
}


@pytest.fixture(scope="module", params=VARIANTS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[BuiltFleet, Path]:
    """A fleet and the folder of its manifests, once a variant."""
    made, chosen = VARIANTS[request.param]
    built, out = fleet(tmp_path_factory.mktemp("fleet"), made), tmp_path_factory.mktemp("k8s") / "out"
    write(built, chosen, out)
    return built, out


@pytest.fixture(scope="module")
def rendered(written: tuple[BuiltFleet, Path]) -> Rendered:
    """The objects parsed again, as kubectl would read them."""
    built, out = written
    files = {path.name: yaml.safe_load(path.read_text()) for path in out.glob("*.yaml")}
    listed = files.pop("kustomization.yaml")["resources"]
    assert sorted(files) == sorted(listed)
    return built, files
