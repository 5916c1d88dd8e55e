"""Mutual TLS between a front end and its shards, with certificates made here.

Native shards' listener speaks it; Python ones are called at Triton's gRPC.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from repo_builder.errors import ServerError
from tests.certificates import Certificates
from tests.integration.fleets import Running, eventually, make_fleet, metric, plan_for, settled
from tests.integration.models import make_spec, pytorch_scores, random_query, score

pytestmark = pytest.mark.server

BAGS = 4  # of a row: the model's tables


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("ours") / "pki")


@pytest.fixture(scope="module", params=["native", "python"])
def fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, ours: Certificates
) -> Iterator[Running]:
    """Shards alone, of which one is called by a name that DNS resolves; no front end yet."""
    folder = tmp_path_factory.mktemp("tls")
    spec = make_spec(folder)
    plan = plan_for(spec, "tiered", 2)
    make_fleet(folder / "fleet", plan, spec, request.param)
    with ExitStack() as stack:
        fleet = Running(spec, plan, folder / "fleet", folder / "addresses.json", stack)
        for service in plan.embedding_services:
            fleet.start_shard(service.name, flags=ours.server)
        (shard,) = fleet.shards["tier0"]
        assert (shard.calls != shard.grpc) is (request.param == "native")
        fleet.write_addresses(tier0=f"dns:///localhost:{shard.calls.rpartition(':')[2]}")
        yield fleet


def test_scores_over_mutual_tls(fleet: Running, ours: Certificates) -> None:
    """The certificate is checked against the name by which a shard is called; Triton counts what the listener takes."""
    frontend = fleet.start_frontend(environment=ours.client)
    shard, labels = fleet.shards["tier0"][0], {"model": "small_tier0"}
    before = settled(lambda: metric(shard, "nv_inference_count", **labels))
    query = random_query(fleet.spec, 9, seed=1)
    scores = score("grpc", frontend.grpc, "small", *query)
    np.testing.assert_allclose(scores, pytorch_scores(fleet.spec, *query), atol=1e-5)
    eventually(lambda: metric(shard, "nv_inference_count", **labels) == before + 1)


def bags() -> list[triton.InferInput]:
    """One row, with one id in its first bag."""
    made = []
    for name, numbers in (("ids", [0]), ("lengths", [1, *[0] * (BAGS - 1)])):
        array = np.array([numbers], np.int32)
        made.append(triton.InferInput(name, array.shape, "INT32"))
        made[-1].set_data_from_numpy(array)
    return made


@pytest.mark.parametrize("port", ["calls", "grpc"])
@pytest.mark.parametrize("who", ["plain text", "no certificate", "another authority's certificate"])
def test_an_unauthenticated_peer_is_refused(
    fleet: Running, ours: Certificates, tmp_path: Path, who: str, port: str
) -> None:
    """The shard itself refuses it, at each of its ports for calls; the right certificate there is answered."""
    address = getattr(fleet.shards["tier0"][0], port)
    strangers = Certificates(tmp_path / "strangers")
    options = {
        "plain text": {},
        "no certificate": {"ssl": True, "root_certificates": str(ours.ca)},
        "another authority's certificate": {
            "ssl": True,
            "root_certificates": str(ours.ca),
            "private_key": str(strangers.key),
            "certificate_chain": str(strangers.cert),
        },
    }[who]
    with (
        triton.InferenceServerClient(address, **options) as client,
        pytest.raises(InferenceServerException, match="UNAVAILABLE"),
    ):
        client.infer("small_tier0", bags(), client_timeout=20)
    with triton.InferenceServerClient(
        address,
        ssl=True,
        root_certificates=str(ours.ca),
        private_key=str(ours.key),
        certificate_chain=str(ours.cert),
    ) as right:
        assert right.infer("small_tier0", bags(), client_timeout=20).as_numpy("sums").shape[0] == 1


def test_a_front_end_trusts_no_other_authoritys_shard(fleet: Running, ours: Certificates, tmp_path: Path) -> None:
    """Nor do its queries wait: they fail at once, saying which replica."""
    strangers = Certificates(tmp_path / "strangers")
    frontend = fleet.start_frontend(environment={**ours.client, "ELASTICREC_TLS_CA": str(strangers.ca)})
    with pytest.raises(ServerError, match=r"service tier\d: replica .*UNAVAILABLE"):
        score("grpc", frontend.grpc, "small", *random_query(fleet.spec, 2, seed=1))
