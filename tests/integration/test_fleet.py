"""The fleet layout on real servers: the same scores and the same errors as the single layout and PyTorch."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from elasticrec.cli import main
from repo_builder.access.load import load_hotness
from repo_builder.export.dlrm.source import open_source
from repo_builder.repository.build import build
from repo_builder.repository.manifest import load_manifest
from repo_builder.serving.server import Server, free_ports
from tests.integration.fleets import Running, eventually, load, metric, running_fleet, settled
from tests.integration.models import beside_candidates, pytorch_scores, random_query, score
from tests.servers import serving

pytestmark = pytest.mark.server


@dataclass
class Both:
    """A fleet and a single server of the same plan."""

    fleet: Running
    single: Server


@pytest.fixture(scope="module", params=["tiered-int64-python", "per_table-int32-native"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    grouping, index_dtype, backend = request.param.split("-")
    folder = tmp_path_factory.mktemp(request.param)
    s_max = 3 if grouping == "tiered" else 1
    with running_fleet(folder, grouping, s_max, index_dtype=index_dtype, shard_backend=backend) as fleet:
        build(fleet.spec, fleet.plan, load_hotness(fleet.spec), open_source(fleet.spec), folder / "single")
        with serving(folder / "single", folder / "single.log") as single:
            yield Both(fleet, single)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("batch", [1, 33, 1024])
def test_scores_are_those_of_the_single_layout_bit_for_bit(both: Both, protocol: str, batch: int) -> None:
    fleet = both.fleet
    query = random_query(fleet.spec, batch, seed=batch)
    scores = score(protocol, getattr(fleet.frontend, protocol), "small", *query)
    assert scores.shape == (batch, 1) and scores.dtype == np.float32
    np.testing.assert_allclose(scores, pytorch_scores(fleet.spec, *query), atol=1e-5)
    np.testing.assert_array_equal(scores, score(protocol, getattr(both.single, protocol), "small", *query))


@pytest.mark.parametrize("tables", [2, 4])
def test_bags_that_repeat_score_as_in_the_single_layout_bit_for_bit(both: Both, tables: int) -> None:
    """A user beside candidates, or the same row throughout: services are asked for such bags once."""
    fleet = both.fleet
    query = beside_candidates(fleet.spec, random_query(fleet.spec, 40, seed=3), tables)
    before = repeated_bags(fleet)
    scores = score("grpc", fleet.frontend.grpc, "small", *query)
    np.testing.assert_allclose(scores, pytorch_scores(fleet.spec, *query), atol=1e-5)
    np.testing.assert_array_equal(scores, score("grpc", both.single.grpc, "small", *query))
    several = min(tables, 3)  # the last table's bags have one id, and travel as rows
    eventually(lambda: repeated_bags(fleet) >= before + 39 * several)


def test_native_shards_are_called_past_tritons_grpc_and_others_at_it(both: Both) -> None:
    fleet = both.fleet
    shards = [(name, server) for name, servers in fleet.shards.items() for server in servers]
    for name, shard in shards:
        backend = next((fleet.folder / name).glob("*/config.pbtxt")).read_text()
        assert (shard.calls != shard.grpc) == ("elasticrec_shard" in backend)
        assert f"replica {shard.calls} serves" in fleet.frontend.log.read_text()


def repeated_bags(fleet: Running) -> float:
    return sum(
        metric(fleet.frontend, "elasticrec_remote_repeated_bags_total", service=service) for service in fleet.shards
    )


def test_padding_alone_asks_no_service(both: Both) -> None:
    """A whole query, and rows, without any id; the services' own counts prove that the former asked none."""
    fleet = both.fleet
    dense, indices = random_query(fleet.spec, 6, seed=1)
    indices[2:4] = -1
    before = settled(lambda: asked(fleet))
    for rows, calls in ((slice(2, 4), 0), (slice(0, 6), len(fleet.shards))):
        scores = score("grpc", fleet.frontend.grpc, "small", dense[rows], indices[rows])
        np.testing.assert_allclose(scores, pytorch_scores(fleet.spec, dense[rows], indices[rows]), atol=1e-5)
        eventually(lambda calls=calls: asked(fleet) >= before + calls)
        assert settled(lambda: asked(fleet)) == before + calls


def asked(fleet: Running) -> float:
    """The calls that all embedding services have answered."""
    return sum(
        metric(server, "nv_inference_request_success", model=f"small_{name}")
        for name, servers in fleet.shards.items()
        for server in servers
    )


def test_a_service_without_an_id_is_not_asked(both: Both) -> None:
    """Requests at the service itself: its own count does not move, while another's does."""
    fleet = both.fleet
    last = fleet.plan.embedding_services[-1]
    dense, indices = random_query(fleet.spec, 4, seed=2)
    held = {shard.table for shard in last.shards}
    begin = 0
    for table in fleet.spec.dlrm.tables:  # ids of tables of which the last service holds nothing
        if table.name in held:
            indices[:, begin : begin + table.pooling] = -1
        begin += table.pooling
    if (indices == -1).all():
        pytest.skip("the last tier holds every table")

    def counts() -> list[float]:
        return [_requests(fleet, service.name) for service in fleet.plan.embedding_services]

    before = settled(counts)
    scores = score("grpc", fleet.frontend.grpc, "small", dense, indices)
    np.testing.assert_allclose(scores, pytorch_scores(fleet.spec, dense, indices), atol=1e-5)
    eventually(lambda: sum(counts()) > sum(before))
    assert settled(counts)[-1] == before[-1]


def _requests(fleet: Running, service: str) -> float:
    server = fleet.shards[service][0]
    return metric(server, "nv_inference_request_success", model=f"small_{service}")


def test_the_same_id_in_every_slot(both: Both) -> None:
    dense, indices = random_query(both.fleet.spec, 3, seed=2)
    indices[:] = 0
    scores = score("grpc", both.fleet.frontend.grpc, "small", dense, indices)
    np.testing.assert_allclose(scores, pytorch_scores(both.fleet.spec, dense, indices), atol=1e-5)


def test_queries_of_many_clients_are_joined_and_told_apart(both: Both) -> None:
    """Clients with queries of different sizes: every answer is the asker's own, and a call serves several queries."""
    fleet = both.fleet
    served = _requests(fleet, fleet.plan.embedding_services[-1].name)
    with load(fleet.spec, fleet.frontend, clients=8) as seen:
        time.sleep(3)
    assert not seen.wrong and not seen.errors
    assert seen.answers > 100
    assert _requests(fleet, fleet.plan.embedding_services[-1].name) - served < seen.answers


BAD = {
    "id = rows": (1, 0, 3000, "table users: id 3000 in row 1, column 0 of indices is out of range; expected 0 to 2999"),
    "id < -1": (2, 4, -2, "table items_0: id -2 in row 2, column 4"),
    "id far out": (2, 22, 2**31 - 1, "table flag: id 2147483647 in row 2, column 22"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_id_gets_the_single_layouts_error(both: Both, case: str) -> None:
    row, column, value, message = BAD[case]
    dense, indices = random_query(both.fleet.spec, 4, seed=9)
    bad = indices.copy()
    bad[row, column] = value
    for server in (both.fleet.frontend, both.single):
        with pytest.raises(Exception, match="table") as caught:
            score("grpc", server.grpc, "small", dense, bad)
        assert message in str(caught.value)
    scores = score("grpc", both.fleet.frontend.grpc, "small", dense, indices)
    np.testing.assert_allclose(scores, pytorch_scores(both.fleet.spec, dense, indices), atol=1e-5)


def test_dense_features_that_are_no_numbers(both: Both) -> None:
    dense, indices = random_query(both.fleet.spec, 4, seed=9)
    dense[3, 2] = np.nan
    with pytest.raises(Exception, match="dense: expected finite numbers, got nan in row 3, column 2"):
        score("grpc", both.fleet.frontend.grpc, "small", dense, indices)


def test_another_builds_shard_is_refused(both: Both) -> None:
    """The version is the build's: a request for another one is not answered."""
    service = both.fleet.plan.embedding_services[0]
    client = grpcclient.InferenceServerClient(both.fleet.shards[service.name][0].grpc)
    inputs = [grpcclient.InferInput("ids", [1, 1], "INT32"), grpcclient.InferInput("lengths", [1, 1], "INT32")]
    for tensor in inputs:
        tensor.set_data_from_numpy(np.ones((1, 1), np.int32))
    with pytest.raises(InferenceServerException, match="version 1"):
        client.infer(f"small_{service.name}", inputs, model_version="1")
    client.close()


def test_sums_in_half_precision(tmp_path: Path) -> None:
    """Half the bytes of an answer, and scores that differ in the fourth digit; two shards per table are added up."""
    with running_fleet(tmp_path, "tiered", 2, sums_dtype="fp16") as fleet:
        query = random_query(fleet.spec, 40, seed=1)
        difference = score("grpc", fleet.frontend.grpc, "small", *query) - pytorch_scores(fleet.spec, *query)
        assert 1e-6 < np.abs(difference).max() < 2e-3


def test_the_command_line_on_a_fleet(both: Both, capsys: pytest.CaptureFixture[str]) -> None:
    folder = both.fleet.folder
    assert load_manifest(folder).layout == "fleet"
    assert main(["query", str(folder), "--url", both.fleet.frontend.grpc, "--rows", "2"]) == 0
    assert "row 1    score" in capsys.readouterr().out
    assert main(["serve", str(folder)]) == 2
    assert f"elasticrec up {folder}" in capsys.readouterr().err


def test_one_service_of_a_fleet_is_served_by_itself(both: Both) -> None:
    """Its log lies beside the fleet, not in it, where `verify` would not know the file."""
    fleet, ports = both.fleet, free_ports()
    service = fleet.plan.embedding_services[0].name
    words = [sys.executable, "-m", "elasticrec.cli", "serve", str(fleet.folder / service)]
    words += [f"--http-port={ports.http}", f"--grpc-port={ports.grpc}", f"--metrics-port={ports.metrics}"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    lines = list(iter(lambda: process.stdout.readline().rstrip(), "ready"))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 0 and f"grpc     127.0.0.1:{ports.grpc}" in lines
    assert fleet.folder.with_name(f"fleet-{service}-{ports.http}.log").is_file()
    assert not list(fleet.folder.glob("*.log"))
