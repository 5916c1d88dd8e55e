"""TLS and mutual TLS between a front end and its shards, with certificates made here."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import trustme
from tritonclient.utils import InferenceServerException

from repo_builder.errors import ServerError
from tests.integration.fleets import Running, make_fleet, plan_for
from tests.integration.models import make_spec, pytorch_scores, random_query, score

pytestmark = pytest.mark.server


class Certificates:
    """A certificate authority's PEM files: the CA, and one for 127.0.0.1 and localhost that servers and clients use."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1", "localhost")
        self.ca, self.cert, self.key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
        authority.cert_pem.write_to_path(str(self.ca))
        self.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(str(self.key))

    @property
    def client(self) -> dict[str, str]:
        return {
            "ELASTICREC_TLS_CA": str(self.ca),
            "ELASTICREC_TLS_CERT": str(self.cert),
            "ELASTICREC_TLS_KEY": str(self.key),
        }

    @property
    def server(self) -> list[str]:
        return [
            "--grpc-use-ssl=true",
            "--grpc-use-ssl-mutual=true",
            f"--grpc-server-cert={self.cert}",
            f"--grpc-server-key={self.key}",
            f"--grpc-root-cert={self.ca}",
        ]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("ours") / "pki")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, ours: Certificates) -> Iterator[Running]:
    """Native shards that want mutual TLS, which Triton's gRPC speaks, not their listener; no front end yet."""
    folder = tmp_path_factory.mktemp("tls")
    spec = make_spec(folder)
    plan = plan_for(spec, "tiered", 1)
    make_fleet(folder / "fleet", plan, spec, "native")
    with ExitStack() as stack:
        fleet = Running(spec, plan, folder / "fleet", folder / "addresses.json", stack)
        for service in plan.embedding_services:
            fleet.start_shard(service.name, flags=ours.server)
        (shard,) = fleet.shards["tier0"]
        assert shard.calls == shard.grpc
        fleet.write_addresses(tier0=f"dns:///localhost:{shard.ports.grpc}")
        yield fleet


def test_scores_over_mutual_tls(fleet: Running, ours: Certificates) -> None:
    """By a name that DNS resolves: the certificate is checked against the name."""
    frontend = fleet.start_frontend(environment=ours.client)
    query = random_query(fleet.spec, 9, seed=1)
    scores = score("grpc", frontend.grpc, "small", *query)
    np.testing.assert_allclose(scores, pytorch_scores(fleet.spec, *query), atol=1e-5)


@pytest.mark.parametrize("who", ["plain text", "no certificate", "another authority's certificate"])
def test_an_unauthenticated_peer_is_refused(fleet: Running, ours: Certificates, tmp_path: Path, who: str) -> None:
    """The shard itself refuses it; the right certificate on the same port is answered."""
    shard = fleet.shards["tier0"][0]
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
    client = grpcclient.InferenceServerClient(shard.grpc, **options)
    with pytest.raises(InferenceServerException, match="UNAVAILABLE"):
        client.is_server_live(client_timeout=5)
    client.close()
    right = grpcclient.InferenceServerClient(
        shard.grpc,
        ssl=True,
        root_certificates=str(ours.ca),
        private_key=str(ours.key),
        certificate_chain=str(ours.cert),
    )
    assert right.is_server_live(client_timeout=5)
    right.close()


def test_a_front_end_trusts_no_other_authoritys_shard(fleet: Running, ours: Certificates, tmp_path: Path) -> None:
    """Nor do its queries wait: they fail at once, saying which replica."""
    strangers = Certificates(tmp_path / "strangers")
    frontend = fleet.start_frontend(environment={**ours.client, "ELASTICREC_TLS_CA": str(strangers.ca)})
    with pytest.raises(ServerError, match=r"service tier0: replica .*UNAVAILABLE"):
        score("grpc", frontend.grpc, "small", *random_query(fleet.spec, 2, seed=1))
