"""A real Prometheus on the loopback address, and a load that counts its own queries."""

import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc

from repo_builder.spec import Spec
from tests.integration.models import random_query

needs_prometheus = pytest.mark.skipif(
    not shutil.which("prometheus"), reason="no prometheus on PATH: run apt-get install prometheus"
)


def text_of(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - loopback
        return answer.read().decode()


class Prometheus:
    """Its HTTP interface."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, query: str, time_s: float | None = None) -> list[float]:
        """An instant query's values, one an element."""
        return [float(element["value"][1]) for element in self._result(query, time_s)]

    def labels(self, query: str, time_s: float | None = None) -> list[dict[str, str]]:
        """The labels of each element of an instant query."""
        return [element["metric"] for element in self._result(query, time_s)]

    def _result(self, query: str, time_s: float | None) -> list[Any]:
        asked = {"query": query, **({} if time_s is None else {"time": f"{time_s:.3f}"})}
        answer = json.loads(text_of(f"{self.url}/api/v1/query?{urllib.parse.urlencode(asked)}"))
        result: list[Any] = answer["data"]["result"]
        return result

    def one(self, query: str, time_s: float | None = None) -> float:
        """The one value that KEDA would take."""
        values = self.ask(query, time_s)
        assert len(values) == 1, (query, values)
        return values[0]

    def wait_until_up(self, pods: int) -> None:
        """Until so many targets answer its scrapes."""
        deadline = time.monotonic() + 30
        while (found := self.ask("sum(up)")) != [pods]:
            assert time.monotonic() < deadline, found
            time.sleep(0.1)


@contextmanager
def scraping(
    folder: Path, targets: Sequence[str], namespace: str, exporters: Sequence[str] = ()
) -> Iterator[Prometheus]:
    """Scrapes the targets twice a second, with the label that a PodMonitor's targets have.

    exporters: such as kube-state-metrics, whose own labels hold.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    static = [{"targets": list(targets), "labels": {"namespace": namespace}}]
    times = {"scrape_interval": "500ms", "scrape_timeout": "500ms"}
    jobs = [
        {"job_name": "triton", "static_configs": static},
        {"job_name": "exporters", "static_configs": [{"targets": list(exporters)}], "honor_labels": True},
    ]
    config = {"global": times, "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(json.dumps(config))
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--web.listen-address={address}"]
    command.append(f"--storage.tsdb.path={folder / 'tsdb'}")
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_until_ready(f"http://{address}/-/ready", process)
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert process.poll() is None
        try:
            text_of(url)
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError("prometheus is not ready")


class Load:
    """Queries at a steady rate, each to one of `addresses` in turn; what succeeded, when, and how long it took.

    Late queries are sent as soon as can be, so that the rate holds on a busy machine.
    """

    def __init__(self, spec: Spec, addresses: Sequence[str], qps: float, threads: int = 4) -> None:
        self.addresses = list(addresses)
        self.done: list[tuple[float, float]] = []  # when, and the latency, in seconds
        self._qps, self._threads = qps, threads
        dense, indices = random_query(spec, 4, seed=1)
        self._inputs = [
            tritonclient.grpc.InferInput(name, array.shape, kind).set_data_from_numpy(array)
            for name, array, kind in (("dense", dense, "FP32"), ("indices", indices, "INT64"))
        ]
        self._stopped = threading.Event()
        self._running: list[threading.Thread] = []

    def __enter__(self) -> "Load":
        begin = time.monotonic()
        self._running = [threading.Thread(target=self._send, args=(begin, k)) for k in range(self._threads)]
        for thread in self._running:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._running:
            thread.join()

    def rate(self, end_s: float, window_s: float) -> float:
        """Successes a second in the window that ends then."""
        return sum(end_s - window_s < when <= end_s for when, _ in self.done) / window_s

    def _send(self, begin: float, first: int) -> None:
        clients: dict[str, tritonclient.grpc.InferenceServerClient] = {}
        number = first
        while not self._stopped.wait(max(0.0, begin + number / self._qps - time.monotonic())):
            address = self.addresses[number % len(self.addresses)]
            if address not in clients:
                clients[address] = tritonclient.grpc.InferenceServerClient(address)
            started = time.monotonic()
            try:
                clients[address].infer("small", self._inputs, client_timeout=5)
            except tritonclient.grpc.InferenceServerException:
                pass  # the replica was killed: only successes count
            else:
                self.done.append((time.time(), time.monotonic() - started))
            number += self._threads
        for client in clients.values():
            client.close()
