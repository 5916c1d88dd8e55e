"""Real load on a real server: perf_analyzer's figures against the server's own counts, and a flood."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc.aio as aio

from loadtest.workload import binary_words, write_workload
from repo_builder.access.query_file import QueryFile
from repo_builder.profiling.perf_analyzer import LoadTestError, measure, run, write_input_data
from repo_builder.serving.client import times_by_model
from repo_builder.spec import Spec
from tests.integration.conftest import Served, serve
from tests.integration.fleets import infer_inputs
from tests.integration.models import pytorch_scores, random_query

pytestmark = pytest.mark.server


def joined(spec: Spec, rows: int) -> QueryFile:
    dense, indices = random_query(spec, rows, seed=0)
    return QueryFile({"dense": dense, "indices": indices})


@pytest.fixture
def data(served: Served, tmp_path: Path) -> Path:
    """Five queries of eight rows, and two rows too many."""
    assert write_input_data(tmp_path / "data.json", joined(served.spec, 42), served.spec.model.inputs, 8) == 5
    return tmp_path / "data.json"


def test_figures_agree_with_the_servers_counts(served: Served, data: Path) -> None:
    """Queries are counted by Triton too; and by Little's law throughput times latency is what was in flight."""
    concurrency, before, began = 2, times_by_model(served.server.http), time.monotonic()
    measured = run("small", served.server.grpc, data, concurrency, 1.5)
    took_s = time.monotonic() - began
    after = times_by_model(served.server.http)
    queries = after["small"].requests - before["small"].requests
    assert measured.concurrency == concurrency
    assert 1.5 <= took_s < 30
    assert 0.5 * queries / took_s < measured.throughput_qps < 2 * queries / 1.5
    assert 0 < measured.p50_ms <= measured.p95_ms <= measured.p99_ms
    in_flight = measured.throughput_qps * measured.p50_ms / 1000
    assert 0.3 * concurrency < in_flight < 1.5 * concurrency


def test_a_folder_of_binary_files_is_taken(served: Served, tmp_path: Path) -> None:
    """The form for large inputs: `elasticrec workload -o FOLDER` writes it, and says these words."""
    queries, of = joined(served.spec, 8), (served.spec.model.inputs, 8)
    write_workload(tmp_path / "w", queries, *of)
    words = ["-m", "small", "-i", "grpc", "-u", served.server.grpc, *binary_words(tmp_path / "w", queries, *of)]
    report, _ = measure(words, 0.9)
    assert len(report.splitlines()) == 2
    queries.inputs["indices"][5, 2] = 123456
    write_workload(tmp_path / "wrong", queries, *of)
    with pytest.raises(LoadTestError, match="id 123456 in row 5, column 2"):
        measure([*words[:6], *binary_words(tmp_path / "wrong", queries, *of)], 0.9)


def test_an_unknown_model_is_named(served: Served, data: Path) -> None:
    with pytest.raises(LoadTestError, match="unknown model: 'nobody'") as caught:
        run("nobody", served.server.grpc, data, 1, 1)
    assert "\n" not in str(caught.value)


def test_an_unreachable_server_is_told(served: Served, data: Path) -> None:
    with pytest.raises(LoadTestError, match=r"127\.0\.0\.1:9: Failed to connect") as caught:
        run("small", "127.0.0.1:9", data, 1, 1)
    assert "\n" not in str(caught.value)


@pytest.fixture
def native_server(tmp_path: Path) -> Iterator[Served]:
    """A server that the test may break, with native shards."""
    yield from serve(tmp_path, "tiered", "int64", "native")


def test_a_flood_of_queries_is_answered_rightly(native_server: Served) -> None:
    """Thousands of queries in flight once broke the server's heap, where the router had no dynamic batching."""
    spec, address = native_server.spec, native_server.server.grpc
    query = random_query(spec, 8, seed=1)

    async def flood() -> list[np.ndarray]:
        async with aio.InferenceServerClient(address) as sdk:
            asked = [sdk.infer(spec.name, infer_inputs(spec, query)) for _ in range(4000)]
            answers = await asyncio.wait_for(asyncio.gather(*asked), timeout=200)
            return [answer.as_numpy("score") for answer in answers]

    scores = np.stack(asyncio.run(flood()))
    assert abs(scores - pytorch_scores(spec, *query)).max() < 1e-5
