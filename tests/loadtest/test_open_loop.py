"""The open loop on a server of known service time: arrivals, latencies, and a stall charged to what comes meanwhile."""

import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import grpc
import numpy as np
import pytest
from scipy.stats import kstest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from loadtest import sender
from loadtest.clients import SenderSettings
from loadtest.open_loop import send
from loadtest.queries import load_queries
from repo_builder.access.query_file import QueryFile
from repo_builder.model.types import Tensor
from repo_builder.profiling.perf_analyzer import LoadTestError

SERVICE_S, BATCH = 0.01, 8
INPUTS = (Tensor("dense", "FP32", ("batch", 3)), Tensor("indices", "INT64", ("batch", 4)))
OUTPUTS = (Tensor("score", "FP32", ("batch", 1)),)


class Fake(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers a query's first dense feature as every score, SERVICE_S after it came; none while `open` is not set."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.asked = threading.Event()
        self.answered = 0

    def ModelInfer(  # noqa: N802 - the service's own name
        self, request: service_pb2.ModelInferRequest, context: object
    ) -> service_pb2.ModelInferResponse:
        self.asked.set()
        self.open.wait()
        time.sleep(SERVICE_S)
        self.answered += 1
        first = np.frombuffer(request.raw_input_contents[0], np.float32)[0]
        answer = service_pb2.ModelInferResponse(model_name=request.model_name)
        answer.outputs.add(name="score", datatype="FP32", shape=[BATCH, 1])
        answer.raw_output_contents.append(np.full((BATCH, 1), first, np.float32).tobytes())
        return answer


@pytest.fixture
def fakes() -> Iterator[list[tuple[str, Fake]]]:
    """Two servers with their addresses."""
    started, found = [], []
    for _ in range(2):
        server, fake = grpc.server(ThreadPoolExecutor(300)), Fake()
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(fake, server)
        found.append((f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", fake))
        server.start()
        started.append(server)
    yield found
    for server in started:
        server.stop(0)


def load(folder: Path, *addresses: str) -> SenderSettings:
    """Ten queries, whose scores are their first dense feature but for the last query's."""
    dense = np.repeat(np.arange(10, dtype=np.float32), BATCH)[:, None] * np.ones(3, np.float32)
    scores = np.where(dense[:, :1] == 9, 0.5, dense[:, :1]).reshape(10, BATCH, 1)
    queries = QueryFile({"dense": dense, "indices": np.zeros((10 * BATCH, 4), np.int64)}, expected={"score": scores})
    (folder / "w.npz").write_bytes(queries.to_bytes())
    return SenderSettings("grpc", ",".join(addresses), "m", str(folder / "w.npz"), BATCH, 5, 0, INPUTS, OUTPUTS)


def test_arrivals_are_poisson_in_turns_and_wrong_scores_are_found(
    fakes: list[tuple[str, Fake]], tmp_path: Path
) -> None:
    answers = send(load(tmp_path, *(address for address, _ in fakes)), 200, 2)
    gaps = np.diff([answer.due_s for answer in answers])
    assert len(answers) == pytest.approx(400, abs=5 * 20)
    assert kstest(gaps, "expon", args=(0, gaps.mean())).pvalue > 0.001
    assert min(answer.latency_ms for answer in answers) >= 1000 * SERVICE_S
    wrong = [answer.problem for answer in answers if answer.problem]
    assert set(wrong) == {"wrong score: off by 8.5"} and len(wrong) == pytest.approx(len(answers) / 10, abs=35)
    (_, first), (_, second) = fakes
    assert abs(first.answered - second.answered) <= 1


def test_queries_that_come_during_a_stall_wait_for_its_end(fakes: list[tuple[str, Fake]], tmp_path: Path) -> None:
    """All of them are under way meanwhile, and each counts from its own time."""
    address, fake = fakes[0]
    fake.open.clear()

    def open_later() -> None:
        """A second after the first query, however long the sender takes to start."""
        fake.asked.wait()
        time.sleep(1.0)
        fake.open.set()

    threading.Thread(target=open_later).start()
    answers = send(load(tmp_path, address), 100, 2)
    stalled = [answer for answer in answers if answer.due_s < 0.7]
    ends_s = np.array([answer.due_s + answer.latency_ms / 1000 for answer in stalled])
    assert len(stalled) > 30 and np.ptp(ends_s) < 0.5


class Noting:
    """In place of a client: notes when it is asked, and answers at once."""

    def __init__(self) -> None:
        self.asked_s: list[float] = []

    def prepare(self, query: object) -> None:
        """Nothing to prepare."""

    def infer(self, query: object) -> None:
        self.asked_s.append(time.time())

    def outputs(self, answer: object) -> dict[str, np.ndarray]:
        return {"score": np.zeros((BATCH, 1), np.float32)}


def test_a_query_is_sent_at_its_time_and_not_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noting, out = Noting(), io.StringIO()
    monkeypatch.setattr(sender, "client", lambda _: noting)
    of = load(tmp_path, "127.0.0.1:9")
    sending = sender.Sender(of, load_queries(Path(of.workload), BATCH, INPUTS, OUTPUTS), out)
    running = threading.Thread(target=sending.run)
    running.start()
    sending.change(100)
    time.sleep(1)
    sending.change(None)
    running.join()
    due_s = sorted(float(line.split()[0]) for line in out.getvalue().splitlines())
    waited_s = np.array(sorted(noting.asked_s)) - due_s
    assert len(due_s) > 50 and waited_s.min() > -sender.AWAKE_S / 5 and np.median(waited_s) < 0.05


def test_a_sender_that_cannot_start_is_told(tmp_path: Path) -> None:
    missing = SenderSettings("grpc", "127.0.0.1:9", "m", str(tmp_path / "none.npz"), BATCH, 1, 0, INPUTS, OUTPUTS)
    with pytest.raises(LoadTestError, match="expected the process that sends the queries to start"):
        send(missing, 10, 1)


class Refusing(BaseHTTPRequestHandler):
    """Answers the first query with an error as Triton words it, and cuts the connection at the others."""

    asked = 0

    def do_POST(self) -> None:
        Refusing.asked += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        if Refusing.asked > 1:
            return
        body = b'{"error":"full"}'
        self.send_response(503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_what_http_servers_answer_wrongly_is_told(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever).start()
        asked = replace(load(tmp_path, f"127.0.0.1:{server.server_port}"), protocol="http")
        answers = send(asked, 50, 1)
        server.shutdown()
    told = [answer.problem for answer in answers]
    assert told.count('[503] {"error":"full"}') == 1
    assert set(told) == {'[503] {"error":"full"}', "Remote end closed connection without response"}
