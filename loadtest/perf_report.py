"""What perf_analyzer reports of one load, as a point of a run: its CSV (`--verbose-csv`) and what it prints. Pure.

Of an ensemble the CSV's server columns leave out the steps' waiting, and count it as network; so the server's time and
that of each step come from the printed part, which covers the same measurement windows.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping

from loadtest.loads import Load
from loadtest.run import Point, ServiceTimes
from repo_builder.profiling.perf_analyzer import LoadTestError

_STEP = re.compile(r"^  (\S+), version: \S+$", re.MULTILINE)
_REQUESTS = re.compile(r"Successful request count: (\d+)")
_EXECUTIONS = re.compile(r"Execution count: (\d+)")
_SERVER_US = re.compile(r"Avg request latency: (\d+) usec")
_QUEUE_US = re.compile(r"queue (\d+) usec")
_COMPUTE_US = re.compile(r"compute (?:input |infer |output )?(\d+) usec")
_CLIENT_QUERIES = re.compile(r"Request count: (\d+)")


def read_report(report: str, printed: str, load: Load, model: str) -> Point:
    """The point of one load; `report` is the CSV's text. Raises LoadTestError where there is none in it."""
    row = next(csv.DictReader(report.splitlines()), None)
    queries = _CLIENT_QUERIES.search(printed)
    if row is None or queries is None:
        raise LoadTestError("perf_analyzer: expected a measurement in its report, got none; measure for longer")
    mean_ms = _ms(row, "request/response") + _ms(row, "response wait")
    server_us = _SERVER_US.search(printed)
    return Point(
        load_kind=load.kind,
        load=load.value,
        throughput_qps=float(row["Inferences/Second"]),
        p50_ms=_ms(row, "p50 latency"),
        p95_ms=_ms(row, "p95 latency"),
        p99_ms=_ms(row, "p99 latency"),
        mean_ms=mean_ms,
        queries=int(queries.group(1)),
        errors=0,  # one error ends perf_analyzer
        services=_services(printed, model),
        network_ms=max(0.0, mean_ms - float(server_us.group(1)) / 1000) if server_us else None,
    )


def _ms(row: Mapping[str, str], column: str) -> float:
    return float(row[column]) / 1000


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
