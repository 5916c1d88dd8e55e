"""A native shard's listener in the real server: its answers, refusals and counts are those of Triton's own gRPC."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb

from repo_builder.serving.server import Server, free_ports
from tests.integration.fleets import Running, eventually, infer, metric, running_fleet, settled
from tests.integration.models import pytorch_scores, random_query
from tests.integration.test_serve import start, wait_for_ready

pytestmark = pytest.mark.server

BAGS = 4  # of a row: the model's tables
METHOD = "/inference.GRPCInferenceService/ModelInfer"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_fleet(tmp_path_factory.mktemp("listener"), "tiered", 3, shard_backend="native") as running:
        yield running


@pytest.fixture(scope="module")
def shard(fleet: Running) -> Server:
    (server,) = fleet.shards["tier0"]
    assert server.calls != server.grpc
    return server


def request(ids: list[int], model: str) -> pb.ModelInferRequest:
    """One row: all ids in the first bag."""
    lengths = np.array([[len(ids), *[0] * (BAGS - 1)]], np.int32)
    made = pb.ModelInferRequest(model_name=model)
    for name, array in (("ids", np.array([ids], np.int32)), ("lengths", lengths)):
        made.inputs.add(name=name, datatype="INT32", shape=array.shape)
        made.raw_input_contents.append(array.tobytes())
    return made


def ask(address: str, asked: pb.ModelInferRequest) -> pb.ModelInferResponse | tuple[grpc.StatusCode, str]:
    with grpc.insecure_channel(address) as channel:
        call = channel.unary_unary(METHOD, pb.ModelInferRequest.SerializeToString, pb.ModelInferResponse.FromString)
        try:
            return call(asked, timeout=20)
        except grpc.RpcError as exc:
            return exc.code(), exc.details()


def test_a_front_ends_calls_come_to_the_listener(fleet: Running, shard: Server) -> None:
    """Triton counts them as its own; where front ends look, there is nothing but the listener's address."""
    assert shard.calls in fleet.addresses.read_text()
    assert shard.grpc not in fleet.addresses.read_text()
    query = random_query(fleet.spec, 5, seed=2)
    before = settled(lambda: metric(shard, "nv_inference_count", model="small_tier0"))
    with triton.InferenceServerClient(fleet.frontend.grpc) as sdk:
        scores = infer(sdk, fleet.spec, query).as_numpy("score")
    assert abs(scores - pytorch_scores(fleet.spec, *query)).max() < 1e-5
    eventually(lambda: metric(shard, "nv_inference_count", model="small_tier0") == before + 1)


@pytest.mark.parametrize(("ids", "model"), [([0, 1], "small_tier0"), ([-7], "small_tier0"), ([0], "nobody")])
def test_it_answers_as_tritons_own_grpc(shard: Server, ids: list[int], model: str) -> None:
    """An answer, a bad id and a model that is not there."""
    asked = request(ids, model)
    ours, tritons = ask(shard.calls, asked), ask(shard.grpc, asked)
    if isinstance(tritons, tuple):
        assert ours == tritons
        return
    assert isinstance(ours, pb.ModelInferResponse)
    assert [each.shape for each in ours.outputs] == [each.shape for each in tritons.outputs]
    assert (ours.raw_output_contents, ours.model_version) == (tritons.raw_output_contents, tritons.model_version)


@pytest.mark.parametrize("listens", [True, False])
def test_serve_takes_calls_where_it_is_told(fleet: Running, shard: Server, tmp_path: Path, listens: bool) -> None:
    """At no port but Triton's without the option."""
    ports, asked = free_ports(), request([0, 1], "small_tier0")
    process = start(
        fleet.folder / "tier0", ports, tmp_path / "log", *([f"--calls-port={ports.calls}"] if listens else [])
    )
    try:
        lines = wait_for_ready(process)
        assert (
            (f"calls    127.0.0.1:{ports.calls}" in lines) is any(line.startswith("calls") for line in lines) is listens
        )
        expected, answers = ask(shard.grpc, asked), [ask(f"127.0.0.1:{ports.grpc}", asked)]
        if listens:
            answers.append(ask(f"127.0.0.1:{ports.calls}", asked))
        assert isinstance(expected, pb.ModelInferResponse)
        assert all(answer.raw_output_contents == expected.raw_output_contents for answer in answers)
    finally:
        process.kill()
        process.communicate()
