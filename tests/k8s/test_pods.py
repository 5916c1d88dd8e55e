"""What the manifests say of tritonserver, against a real one: flags, probes, metrics, closed APIs, mutual TLS."""

import http.client
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc

from k8s.pods import ADMIN_KEY, TLS_FOLDER, flags
from repo_builder.errors import ServerError
from repo_builder.scaling.queries import Scope
from repo_builder.scaling.rules import service_rules
from repo_builder.serving.server import Server
from tests.integration.models import make_repository, make_spec, random_query, score
from tests.k8s.fleets import Made, fleet
from tests.k8s.prometheus import text_of
from tests.servers import kill_stub, serving

pytestmark = pytest.mark.server

MADE = Made(model="small")
UID = "0f5ca4d4-uid"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("k8s")
    (folder / "fleet").mkdir()
    make_repository(folder, "tiered")
    return folder


def words(folder: Path, frontend: bool, tls: Path | None = None) -> list[str]:
    """The rendered flags as Kubernetes would hand them over; only the repository is told by the test."""
    shutil.rmtree(folder / "fleet")
    (folder / "fleet").mkdir()
    made = fleet(folder / "fleet", MADE)
    service = made.frontend if frontend else made.shards[0]
    told = [word.replace("$(POD_UID)", UID) for word in flags(made, service, "unused", tls is not None)]
    return [word.replace(TLS_FOLDER, str(tls)) for word in told if not word.startswith("--model-repository")]


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving(folder / "repository", folder / "log", flags=words(folder, frontend=True)) as started:
        yield started


def status(server: Server, path: str, method: str = "GET", headers: dict[str, str] | None = None) -> int:
    connection = http.client.HTTPConnection(server.host, server.ports.http, timeout=10)
    try:
        connection.request(method, path, headers=headers or {})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("probe", ["health/ready", "models/small/ready", "models/small_tier0/ready"])
def test_probe_paths_answer(probe: str, server: Server) -> None:
    assert status(server, f"/v2/{probe}") == 200


def test_who_sees_a_process_that_died(folder: Path, tmp_path: Path) -> None:
    """The server's liveness never, whatever the version. The model's readiness, which the probes ask, from 2.65 on: of
    that only an older server's blindness is seen where 2.51 is what runs here.
    """
    spec = make_spec(tmp_path)
    with serving(folder / "repository", folder / "killed-log", flags=words(folder, frontend=False)) as server:
        connection = http.client.HTTPConnection(server.host, server.ports.http, timeout=10)
        connection.request("GET", "/v2")
        major, minor, _ = json.loads(connection.getresponse().read())["version"].split(".")
        connection.close()
        kill_stub(server.process.pid, "small_tier0")
        for _ in range(2):  # the second query finds it known as dead
            with pytest.raises(ServerError, match="Stub process 'small_tier0_0_0' is not healthy"):
                score("grpc", server.grpc, "small", *random_query(spec, 3, seed=0))
        sees = (int(major), int(minor)) >= (2, 65)
        assert (status(server, "/v2/models/small_tier0/ready") == 200) is not sees
        assert status(server, "/v2/models/small_tier1/ready") == 200
        assert status(server, "/v2/models/small/ready") == status(server, "/v2/health/live") == 200
        if not sees:
            assert status(server, "/v2/health/ready") == 200


@pytest.mark.parametrize("frontend", [True, False])
def test_every_metric_of_a_rule_is_there(frontend: bool, folder: Path, server: Server, tmp_path: Path) -> None:
    """With each model and quantile that the queries select; the namespace is Prometheus's own label."""
    series = text_of(server.metrics)
    made = fleet(tmp_path, MADE)
    queries = [
        rule.query.promql(Scope("ns")) for rule in service_rules(made, made.frontend if frontend else made.shards[0])
    ]
    selected = re.findall(r'(nv_\w+)\{namespace="ns",model=~?"([^"]+)"(,quantile="[^"]+")?\}', " ".join(queries))
    assert len(selected) == " ".join(queries).count("nv_")
    for metric, models, quantile in selected:
        for model in models.split("|"):
            found = [line for line in series.splitlines() if line.startswith(f'{metric}{{model="{model}",')]
            assert found, (metric, model)
            assert not quantile or any(quantile.lstrip(",") in line for line in found)


def test_control_apis_want_the_pods_own_key(server: Server) -> None:
    key, _, value = ADMIN_KEY.replace("$(POD_UID)", UID).partition("=")
    for path in ("/v2/models/small/config", "/v2/models/stats", "/v2/systemsharedmemory/status", "/v2/logging"):
        assert status(server, path) == 403
        assert status(server, path, headers={key: value}) == 200
    assert status(server, "/v2/repository/index", "POST") == 403
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        with pytest.raises(tritonclient.grpc.InferenceServerException, match="restricted"):
            client.get_inference_statistics()
        assert client.get_inference_statistics(headers={f"triton-grpc-protocol-{key}": value}).model_stats


def test_queries_pass(folder: Path, server: Server) -> None:
    spec, _ = make_repository(folder / "fleet", "tiered")
    assert score("grpc", server.grpc, "small", *random_query(spec, 3, seed=0)).shape == (3, 1)


def openssl(folder: Path, *command: str) -> None:
    subprocess.run(["openssl", *command], cwd=folder, check=True, capture_output=True, timeout=60)


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """As cert-manager writes them: ca.crt, tls.crt, tls.key; one certificate for both ends."""
    openssl(tmp_path, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=ca", "-keyout", "ca.key",
            "-out", "ca.crt")  # fmt: skip
    openssl(tmp_path, "req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-keyout", "tls.key", "-out", "tls.csr")
    (tmp_path / "names").write_text("subjectAltName=DNS:localhost")
    openssl(tmp_path, "x509", "-req", "-in", "tls.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
            "-extfile", "names", "-out", "tls.crt")  # fmt: skip
    return tmp_path


@pytest.mark.skipif(not shutil.which("openssl"), reason="no openssl on PATH: no certificates to try mutual TLS with")
def test_shards_refuse_who_has_no_certificate(certificates: Path, folder: Path) -> None:
    told = words(folder, frontend=False, tls=certificates)
    with serving(folder / "repository", folder / "tls-log", flags=told) as server:
        address, ca = f"localhost:{server.ports.grpc}", str(certificates / "ca.crt")
        key, chain = str(certificates / "tls.key"), str(certificates / "tls.crt")
        for mutual in (True, False):
            with tritonclient.grpc.InferenceServerClient(
                address,
                ssl=True,
                root_certificates=ca,
                private_key=key if mutual else None,
                certificate_chain=chain if mutual else None,
            ) as client:
                if mutual:
                    assert client.is_server_ready(client_timeout=10)
                else:
                    with pytest.raises(tritonclient.grpc.InferenceServerException):
                        client.is_server_ready(client_timeout=3)
