"""Models of other libraries, exported as their owners do: cut, built, served, and asked for their modules' answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from numpy.typing import NDArray
from tritonclient.utils import np_to_triton_dtype

from repo_builder.access.load import load_hotness
from repo_builder.export.dlrm.source import open_source
from repo_builder.partition.plan import Plan
from repo_builder.partition.planner import make_plan
from repo_builder.repository.build import build
from repo_builder.serving.server import Server
from repo_builder.spec import Spec, parse_spec
from tests.integration.models import CHEAP
from tests.zoo.__main__ import ROWS
from tests.zoo.catalogue import MODELS
from tests.zoo.hosts import Hosts

FILES = [pytest.param(name, kind, id=f"{name}-{kind}") for name, (_, kinds) in MODELS.items() for kind in kinds]
SOURCES = {"exported": "exported", "dynamo": "onnx", "torchscript": "onnx"}
SDK = {"grpc": tritonclient.grpc, "http": tritonclient.http}

pytestmark = [pytest.mark.zoo, pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(900)]

every_file = pytest.mark.parametrize(("name", "kind"), FILES)
File = Callable[[str, str], Path]


@dataclass(frozen=True)
class Query:
    """What is sent, and what the model's own module answers, in the order of its outputs."""

    inputs: Mapping[str, NDArray]
    outputs: list[NDArray]


@every_file
def test_the_single_layout_answers_as_the_model(
    name: str, kind: str, zoo_file: File, zoo_hosts: Hosts, tmp_path: Path
) -> None:
    file = zoo_file(name, kind)
    spec, plan = planned(name, kind, file)
    build(spec, plan, load_hotness(spec), open_source(spec), tmp_path / "built", shard_backend="native")
    with zoo_hosts.single.serving(tmp_path / "built"):
        check(spec, zoo_hosts.single.server, file)


@every_file
def test_the_fleet_answers_as_the_model(name: str, kind: str, zoo_file: File, zoo_hosts: Hosts, tmp_path: Path) -> None:
    file = zoo_file(name, kind)
    spec, plan = planned(name, kind, file)
    hotness, source = load_hotness(spec), open_source(spec)
    build(spec, plan, hotness, source, tmp_path / "built", shard_backend="native", layout="fleet")
    with ExitStack() as stack:
        for service in plan.embedding_services:
            stack.enter_context(zoo_hosts.shards.serving(tmp_path / "built" / service.name))
        stack.enter_context(zoo_hosts.front.serving(tmp_path / "built" / "frontend"))
        check(spec, zoo_hosts.front.server, file)


@pytest.mark.parametrize("name", ["din", "own_collection", "hstu", "bags"])
def test_shards_in_python_answer_as_the_model(name: str, zoo_file: File, zoo_hosts: Hosts, tmp_path: Path) -> None:
    """Un-pooled rows, several dims, weights, a group of histories' steps."""
    file = zoo_file(name, "exported")
    spec, plan = planned(name, "exported", file)
    build(spec, plan, load_hotness(spec), open_source(spec), tmp_path / "built", shard_backend="python")
    with zoo_hosts.single.serving(tmp_path / "built"):
        check(spec, zoo_hosts.single.server, file)


def planned(name: str, kind: str, file: Path) -> tuple[Spec, Plan]:
    """A plan of several services of one replica each; something is sharded at all."""
    document = {
        "name": name,
        "model": {"source": SOURCES[kind], "path": str(file)},
        "access": {"source": "powerlaw", "locality": 0.8},
        "serving": {"target_qps": 4000, "batch": 8},
    }
    if SOURCES[kind] == "onnx":  # it knows no query, and jagged inputs, and those of computed ids, cannot be drawn
        document["samples"] = str(write_samples(file))
    spec = parse_spec(document, file.with_suffix(".yaml"))
    found = make_plan(spec, load_hotness(spec), CHEAP, "tiered", 3)
    plan = replace(found, services=tuple(replace(service, replicas=1, added=0) for service in found.services))
    assert len(plan.embedding_services) > 1
    return spec, plan


def write_samples(file: Path) -> Path:
    """A query of 33 rows, as its owner may have recorded it."""
    path = file.with_name(f"{file.name}.samples.npz")
    np.savez(path, **read_query(file, 33).inputs)
    return path


def check(spec: Spec, server: Server, file: Path) -> None:
    """Queries of all sizes over both protocols."""
    for rows in ROWS:
        query = read_query(file, rows)
        for protocol, sdk in SDK.items():
            with sdk.InferenceServerClient(getattr(server, protocol)) as client:
                answer = client.infer(spec.name, [tensor(sdk, *item) for item in query.inputs.items()])
            for output, expected in zip(spec.model.outputs, query.outputs, strict=True):
                found = answer.as_numpy(output.name)
                assert found.dtype == expected.dtype
                np.testing.assert_allclose(
                    found, expected, rtol=1e-5, atol=1e-5, err_msg=f"{output.name}, {rows} rows, {protocol}"
                )


def read_query(file: Path, rows: int) -> Query:
    with np.load(file.with_name(f"{file.name}.{rows}.npz")) as arrays:
        inputs = {name.removeprefix("in."): arrays[name] for name in arrays if name.startswith("in.")}
        return Query(inputs, [arrays[name] for name in arrays if name.startswith("out.")])


def tensor(sdk: object, name: str, array: NDArray) -> object:
    made = sdk.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    made.set_data_from_numpy(array)
    return made
