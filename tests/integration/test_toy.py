"""Another kind of model on real servers: the same inputs and outputs as the whole one's, in both layouts."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
import tritonclient.http as http
from numpy.typing import NDArray
from tritonclient.grpc import aio
from tritonclient.utils import InferenceServerException

from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.partition.planner import make_plan
from repo_builder.repository.build import build
from repo_builder.repository.manifest import Layout
from repo_builder.serving.server import Server
from tests.integration.models import CHEAP
from tests.servers import serving
from tests.toy_source import MODELS, ToySource, toy_spec

HOTNESS = PowerLawHotness(0.8, 0)
SOURCES: dict[str, ToySource] = {kind: toy_spec(kind, kind)[1] for kind in MODELS}


def together(folder: Path, layout: Layout) -> set[str]:
    """All models in one repository, in a fleet all services in another; the services' names."""
    services: set[str] = set()
    for i, kind in enumerate(MODELS):
        spec, source = toy_spec(kind, kind)
        plan = make_plan(spec, HOTNESS, CHEAP, "tiered", 3)
        built = folder / f"built-{kind}"
        build(spec, plan, HOTNESS, source, built, shard_backend=("native", "python")[i % 2], layout=layout)
        names = [service.name for service in plan.embedding_services]
        services |= set(names)
        parts = [".", *names] if layout == "single" else ["frontend", *names]
        for part in parts:
            place = folder / ("services" if part in names else "front")
            for model in (path for path in (built / part).glob("*") if path.is_dir()):
                shutil.copytree(model, place / model.name)
    return services


@pytest.fixture(scope="module", params=["single", "fleet"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with all the models; in a fleet a second one with all their services."""
    folder = tmp_path_factory.mktemp(request.param)
    services = together(folder, request.param)
    with ExitStack() as stack:
        environment = {}
        if request.param == "fleet":
            shards = stack.enter_context(serving(folder / "services", folder / "services.log"))
            addresses = folder / "addresses.json"
            addresses.write_text(json.dumps({name: [shards.calls] for name in sorted(services)}))
            environment["ELASTICREC_ADDRESSES"] = str(addresses)
        yield stack.enter_context(serving(folder / "front", folder / "front.log", environment=environment))


def inputs_of(library: Any, kind: str, query: Mapping[str, NDArray[Any]]) -> list[Any]:
    """As one of the SDK's libraries has them."""
    inputs = []
    for tensor in SOURCES[kind].model.inputs:
        inputs.append(library.InferInput(tensor.name, query[tensor.name].shape, tensor.datatype))
        inputs[-1].set_data_from_numpy(query[tensor.name])
    return inputs


def infer(server: Server, protocol: str, kind: str, query: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    library = grpc if protocol == "grpc" else http
    inputs = inputs_of(library, kind, query)
    with library.InferenceServerClient(server.grpc if protocol == "grpc" else server.http) as client:
        answer = client.infer(kind, inputs)
    return {tensor.name: answer.as_numpy(tensor.name) for tensor in SOURCES[kind].model.outputs}


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("kind", MODELS)
def test_it_answers_as_the_whole_model(server: Server, kind: str, protocol: str) -> None:
    source = SOURCES[kind]
    for batch in (1, 2, 33, 700):
        query = source.query(batch, seed=batch)
        found, expected = infer(server, protocol, kind, query), source.answers(query)
        for name, answer in expected.items():
            assert found[name].shape == answer.shape
            np.testing.assert_allclose(found[name], answer, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
def test_a_flood_of_queries_is_answered_rightly(server: Server, kind: str) -> None:
    """Where some models of a server had no batcher, thousands of queries in flight broke its heap."""
    source, query = SOURCES[kind], SOURCES[kind].query(8, seed=1)

    async def flood() -> list[aio.InferResult | InferenceServerException]:
        async with aio.InferenceServerClient(server.grpc) as sdk:
            asked = [sdk.infer(kind, inputs_of(grpc, kind, query)) for _ in range(5000)]
            return await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), timeout=200)

    answers = asyncio.run(flood())
    answered = [answer for answer in answers if not isinstance(answer, Exception)]
    refused = [answer for answer in answers if isinstance(answer, Exception)]
    assert all("overloaded" in str(answer) for answer in refused) and len(answered) > 1000
    for name, expected in source.answers(query).items():
        found = np.stack([answer.as_numpy(name) for answer in answered])
        np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=1e-5, atol=1e-5)


def test_an_id_of_no_row_is_refused_by_table_and_id(server: Server) -> None:
    query = SOURCES["toy"].query(3, seed=0)
    query["user"][0, 1] = 90
    with pytest.raises(InferenceServerException, match=r"users.*id 90"):
        infer(server, "grpc", "toy", query)
    query = SOURCES["rows"].query(3, seed=0)
    query["item"][2] = -501
    with pytest.raises(InferenceServerException, match=r"items.*id -501"):
        infer(server, "grpc", "rows", query)
