"""Our schema of KEDA's ScaledObjects, with which the tests check everywhere, against KEDA's own where it is at hand."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from k8s.render import render
from tests.k8s.fleets import fleet, options
from tests.scaling.test_edited import FULL

KEDA = json.loads((Path(__file__).parent / "schemas" / "keda.json").read_text())
SHARED = Path(__file__).parents[3] / "shared/schemas/keda.sh_scaledobjects.yaml"
CRD = Path(os.environ.get("ELASTICREC_KEDA_CRD", SHARED))
KEYWORDS = ("type", "minimum", "minLength", "minItems", "enum")


def fields(schema: Any, root: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field with what the schema says of its values."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    said = {word: schema[word] for word in KEYWORDS if word in schema}
    if "anyOf" in schema:  # an integer or a string
        said["type"] = [each["type"] for each in schema["anyOf"]]
    yield path, {**said, "required": sorted(schema.get("required", []))}
    for name, inner in schema.get("properties", {}).items():
        yield from fields(inner, root, f"{path}.{name}")
    if "items" in schema:
        yield from fields(schema["items"], root, f"{path}[]")


@pytest.mark.skipif(not CRD.is_file(), reason=f"no KEDA CRD at {CRD}: our own schema alone checks; ELASTICREC_KEDA_CRD")
def test_our_schema_says_what_kedas_own_says() -> None:
    crd = yaml.safe_load(CRD.read_text())
    (version,) = (each for each in crd["spec"]["versions"] if each["name"] == "v1alpha1")
    theirs = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    assert dict(fields(KEDA["properties"]["spec"], KEDA)) == dict(fields(theirs, theirs))


@pytest.mark.parametrize("place", ["", ".fallback", ".advanced", ".triggers.0", ".scaleTargetRef"])
def test_a_field_that_keda_does_not_know_is_found(place: str, tmp_path: Path) -> None:
    document = json.loads(json.dumps(render(fleet(tmp_path), options())["rm1-tier0-scaledobject.yaml"]))
    jsonschema.validate(document, KEDA)
    inner = document["spec"]
    for key in place.split(".")[1:]:
        inner = inner[int(key) if key.isdigit() else key]
    inner["misspelt"] = 1
    with pytest.raises(jsonschema.ValidationError, match="misspelt"):
        jsonschema.validate(document, KEDA)


def test_what_the_local_controller_reads_is_what_keda_takes() -> None:
    jsonschema.validate(FULL, KEDA)
