"""The served model that a load test calls, and one measurement of it with perf_analyzer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

import tritonclient.grpc
import tritonclient.http
from geventhttpclient.response import HTTPParseError
from tritonclient.utils import InferenceServerException

from loadtest.clients import Protocol
from loadtest.perf_run import Load
from loadtest.run import LoadPoint, Percentile, ServiceTimes
from loadtest.servers import ELSEWHERE, Servers, between
from repo_builder.profiling import perf_analyzer
from repo_builder.profiling.perf_analyzer import (
    HEADER_HINT,
    NO_MEASUREMENT,
    RESTRICTED,
    LoadTestError,
    read_ms,
    read_row,
)

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
class LoadTarget:
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

    def measure(self, load: Load) -> LoadPoint:
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


_STEP = re.compile(r"^  (\S+), version: \S+$", re.MULTILINE)
_REQUESTS = re.compile(r"Successful request count: (\d+)")
_EXECUTIONS = re.compile(r"Execution count: (\d+)")
_SERVER_US = re.compile(r"Avg request latency: (\d+) usec")
_QUEUE_US = re.compile(r"queue (\d+) usec")
_COMPUTE_US = re.compile(r"compute (?:input |infer |output )?(\d+) usec")
_CLIENT_QUERIES = re.compile(r"Request count: (\d+)")


def read_report(report: str, printed: str, load: Load, model: str) -> LoadPoint:
    """The point of one load, out of the text of perf_analyzer's CSV (`--verbose-csv`) and what it printed. Pure.

    Of an ensemble the CSV's server columns leave out the steps' waiting, and count it as network; so the server's time
    and that of each step come from the printed part, which covers the same measurement windows. Raises LoadTestError
    where there is no measurement in them.
    """
    row, queries = read_row(report), _CLIENT_QUERIES.search(printed)
    if queries is None:
        raise LoadTestError(NO_MEASUREMENT)
    mean_ms = read_ms(row, "request/response") + read_ms(row, "response wait")
    server_us = _SERVER_US.search(printed)
    return LoadPoint(
        load_kind=load.kind,
        load=load.value,
        throughput_qps=float(row["Inferences/Second"]),
        p50_ms=read_ms(row, "p50 latency"),
        p95_ms=read_ms(row, "p95 latency"),
        p99_ms=read_ms(row, "p99 latency"),
        mean_ms=mean_ms,
        queries=int(queries.group(1)),
        errors=0,  # one error ends perf_analyzer
        services=_services(printed, model),
        network_ms=max(0.0, mean_ms - float(server_us.group(1)) / 1000) if server_us else None,
    )


def _services(printed: str, model: str) -> Mapping[str, ServiceTimes]:
    """Each step of an ensemble, or the model itself where it has none."""
    whole, *steps = _STEP.split(printed)
    if not steps:
        return {model: _times(whole[whole.find("Server:") :])}
    return {name: _times(text) for name, text in zip(steps[::2], steps[1::2], strict=True)}


def _times(text: str) -> ServiceTimes:
    """Of one block; a step that was not called has no latencies in it."""
    requests, executions, queue_us = (_first(each, text) for each in (_REQUESTS, _EXECUTIONS, _QUEUE_US))
    compute_us = sum(int(part) for part in _COMPUTE_US.findall(text))
    return ServiceTimes(requests, executions, queue_us / 1000, compute_us / 1000)


def _first(pattern: re.Pattern[str], text: str) -> int:
    found = pattern.search(text)
    return int(found.group(1)) if found else 0
