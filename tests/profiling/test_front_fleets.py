"""The fleets whose front ends are measured: alike but for ids and services, and served from two repositories."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from repo_builder.profiling.front_fleets import FRONT_LOADS, ROWS, FrontFleets, build_fleets


@pytest.fixture(scope="module")
def fleets(tmp_path_factory: pytest.TempPathFactory) -> FrontFleets:
    return build_fleets(tmp_path_factory.mktemp("fleets") / "built")


def config(repository: Path, model: str) -> pb.ModelConfig:
    return text_format.Parse((repository / model / "config.pbtxt").read_text(), pb.ModelConfig())


def sent_ids(path: Path) -> list[np.ndarray]:
    """Of each query that perf_analyzer is given."""
    asked = [query["indices"] for query in json.loads(path.read_text())["data"]]
    return [np.frombuffer(base64.b64decode(each["content"]["b64"]), np.int64).reshape(each["shape"]) for each in asked]


def test_few_and_many_services_each_with_few_and_many_ids(fleets: FrontFleets) -> None:
    loads = [(len(fleet.services), fleet.ids) for fleet in fleets.fleets]
    assert loads == [(services, ids) for services in (2, 8) for ids in (2048, 20480)]
    assert len(FRONT_LOADS) == len(loads)


def test_two_servers_hold_all_models(fleets: FrontFleets) -> None:
    """The shards' folders are of one version: the one that their routers ask for."""
    front = {f"{fleet.model}{part}" for fleet in fleets.fleets for part in ("", "_router", "_dense")}
    shards = {f"{fleet.model}_{service}" for fleet in fleets.fleets for service in fleet.services}
    assert {path.name for path in fleets.frontends.iterdir()} == front
    assert {path.name for path in fleets.shards.iterdir()} == shards and len(shards) == 20
    assert all(config(fleets.shards, name).backend == "elasticrec_shard" for name in shards)
    assert all((fleets.shards / name / "1" / "weights.bin").is_file() for name in shards)


def test_the_dense_layers_are_the_same_and_take_one_query_at_a_time(fleets: FrontFleets) -> None:
    graphs = {(fleets.frontends / f"{each.model}_dense/1/model.onnx").read_bytes() for each in fleets.fleets}
    assert len(graphs) == 1
    assert {config(fleets.frontends, f"{each.model}_dense").max_batch_size for each in fleets.fleets} == {ROWS}


def test_no_bag_is_that_of_the_row_before(fleets: FrontFleets) -> None:
    """Neither in a query, nor where two are joined: a router would ask for it once."""
    for fleet in fleets.fleets:
        queries = sent_ids(fleet.queries)
        assert [query.shape for query in queries] == [(ROWS, fleet.ids // ROWS)] * len(queries)
        bags = np.concatenate([*queries, queries[0][:1]]).reshape(-1, 8, fleet.ids // ROWS // 8)
        assert (bags[1:] != bags[:-1]).any(axis=2).all()
