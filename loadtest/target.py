"""The served model that a load test calls, and one measurement of it with perf_analyzer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

import tritonclient.grpc
import tritonclient.http
from geventhttpclient.response import HTTPParseError
from tritonclient.utils import InferenceServerException

from loadtest.clients import Protocol
from loadtest.loads import Load
from loadtest.perf_report import read_report
from loadtest.run import Percentile, Point
from loadtest.servers import ELSEWHERE, Servers, between
from repo_builder.profiling import perf_analyzer
from repo_builder.profiling.perf_analyzer import HEADER_HINT, RESTRICTED, LoadTestError

_SDK: dict[Protocol, ModuleType] = {"grpc": tritonclient.grpc, "http": tritonclient.http}


def check_server(protocol: Protocol, address: str, model: str, headers: Mapping[str, str] | None = None) -> str:
    """The server's version; raises LoadTestError where none answers or it refuses, or it does not serve the model."""
    try:
        with _SDK[protocol].InferenceServerClient(address) as client:
            ready = client.is_model_ready(model, headers=headers)
            metadata = client.get_server_metadata(headers=headers)
    except (InferenceServerException, HTTPParseError, OSError, ValueError) as exc:
        if RESTRICTED in str(exc):
            raise LoadTestError(f"{address}: {exc}{HEADER_HINT}") from exc
        raise LoadTestError(
            f"{address}: expected a server's {protocol} endpoint, none answers there; "
            "start one with elasticrec serve DIR, or give its address"
        ) from exc
    if not ready:
        raise LoadTestError(
            f"{address}: expected the model {model}, which this server does not serve; "
            "give the repository that it serves"
        )
    return str(metadata["version"] if protocol == "http" else metadata.version)


@dataclass(frozen=True, slots=True)
class Target:
    """A model on a server, `address` is host:port; `input_data`: perf_analyzer's JSON; seconds: of a measurement;
    servers: those behind, whose statistics perf_analyzer does not read; headers: sent with every call.
    """

    model: str
    protocol: Protocol
    address: str
    input_data: Path
    seconds: float
    percentile: Percentile
    shared_memory: bool = False
    servers: Servers = ELSEWHERE
    headers: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> str:
        """As `check_server`."""
        return check_server(self.protocol, self.address, self.model, self.headers)

    def measure(self, load: Load) -> Point:
        """Measure one load, in the servers behind too (there all of it, with perf_analyzer's first queries).

        Raises LoadTestError where perf_analyzer fails.
        """
        words = [
            "-m", self.model, "-i", self.protocol, "-u", self.address, "--input-data", str(self.input_data),
            f"--percentile={self.percentile}", "--verbose-csv", *_LOAD_WORDS[load.kind],
            f"--{load.kind.replace('_', '-')}-range={load.value:g}",
        ]  # fmt: skip
        words += [word for name, value in self.headers.items() for word in ("-H", f"{name}:{value}")]
        shared = ["--shared-memory=system"] if self.shared_memory else []
        before = self.servers.times()
        report, printed = perf_analyzer.measure([*words, *shared], self.seconds)
        point = read_report(report, printed, load, self.model)
        return replace(point, services={**point.services, **between(before, self.servers.times())})


_LOAD_WORDS = {
    "concurrency": (),
    "request_rate": ("--request-distribution=poisson", "--async"),  # as many in flight as it takes
}
