"""Running NVIDIA's `perf_analyzer` on a served model, with queries of the model's own accesses."""

from __future__ import annotations

import base64
import csv
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from repo_builder.access.query_file import QueryFile
from repo_builder.errors import ElasticRecError
from repo_builder.model.arrays import wired
from repo_builder.model.types import Tensor
from repo_builder.words import count
from repo_builder.writing import write_whole

INSTALL_HINT = (
    "perf_analyzer: not on PATH and not in this environment; run: make setup "
    "(or: pip install --no-deps --target perf tritonclient==2.51.0, and put perf/bin on PATH)"
)

NO_MEASUREMENT = "perf_analyzer: expected a measurement in its report, got none; measure for longer"
RESTRICTED = "is restricted"
"""In what Triton answers where a header is wanted; it names the header."""
HEADER_HINT = "; give it with --header"


class LoadTestError(ElasticRecError):
    """A load generator could not be found or run."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What perf_analyzer measured at one load: queries per second, latencies in ms as the client saw them."""

    concurrency: int
    throughput_qps: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


def find() -> tuple[Path, dict[str, str]]:
    """The binary and the environment to run it in. Raises LoadTestError where there is none, with the remedy."""
    own = Path(sys.prefix) / "perf_analyzer" / "bin"
    binary = shutil.which("perf_analyzer") or shutil.which("perf_analyzer", path=str(own))
    if binary is None:
        raise LoadTestError(INSTALL_HINT)
    return Path(binary), {**os.environ, "LD_LIBRARY_PATH": _cuda_runtime()}


def _cuda_runtime() -> str:
    """The library path with libcudart, which the binary links, from PyPI's nvidia-cuda-runtime-cu12."""
    paths = [os.environ.get("LD_LIBRARY_PATH", "")]
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        paths += [str(path) for path in Path(folder).glob("cuda_runtime/lib")]
    return ":".join(filter(None, paths))


def write_input_data(path: Path, queries: QueryFile, inputs: tuple[Tensor, ...], batch: int) -> int:
    """Write queries of `batch` rows as perf_analyzer's `--input-data` JSON; returns their number.

    A last incomplete query is left out. Raises LoadTestError where there is no whole one: perf_analyzer would find no
    data.
    """
    found = queries.queries(batch)
    if not found:
        raise LoadTestError(
            f"load: expected at least {count(batch, 'row')}, those of one query, got {queries.rows or 0}"
        )
    return write_queries(path, (wired(queries.query(number, batch), inputs) for number in range(found)))


def write_queries(path: Path, queries: Iterable[Mapping[str, NDArray[Any]]]) -> int:
    """Write a model's inputs by name as they go over the wire, a mapping a query, as perf_analyzer's `--input-data`
    JSON; returns their number.

    A model with a `max_batch_size` is given its arrays without the batch's axis.
    """
    data = [{name: _content(array) for name, array in query.items()} for query in queries]
    write_whole(path, json.dumps({"data": data}))
    return len(data)


def _content(array: NDArray[Any]) -> dict[str, Any]:
    """Base64 of the array's bytes (little-endian), written in less than half the time of numbers."""
    data = base64.b64encode(array.tobytes()).decode("ascii")
    return {"content": {"b64": data}, "shape": list(array.shape)}


def run(
    model: str,
    grpc_address: str,
    input_data: Path | Literal["random"],
    concurrency: int,
    seconds: float,
    rows: int = 1,
) -> Measurement:
    """Measure `model` for about `seconds`, with `concurrency` queries always in flight over gRPC.

    A model with a `max_batch_size` is sent `rows` rows per query. Raises LoadTestError where it cannot be measured.
    """
    words = ("-m", model, "-i", "grpc", "-u", grpc_address, "--input-data", str(input_data), "-b", str(rows))
    report, _ = measure((*words, f"--concurrency-range={concurrency}", "--percentile=95"), seconds)
    row = read_row(report)
    return Measurement(
        concurrency=int(row["Concurrency"]),
        throughput_qps=float(row["Inferences/Second"]) / rows,
        p50_ms=read_ms(row, "p50 latency"),
        p95_ms=read_ms(row, "p95 latency"),
        p99_ms=read_ms(row, "p99 latency"),
    )


def measure(words: Sequence[str], seconds: float) -> tuple[str, str]:
    """Run it with these options for about `seconds`; returns the text of its CSV file and what it printed.

    Raises LoadTestError where it fails, or does not end.
    """
    binary, environment = find()
    windows, most_windows = 3, 9  # the fewest whose figures it compares; more where the machine stalls in one
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.csv"
        command = [
            str(binary), *words, "-f", str(report), f"--measurement-interval={int(1000 * seconds / windows)}",
            f"--max-trials={most_windows}", "--stability-percentage=999",
        ]  # fmt: skip
        try:
            done = subprocess.run(  # noqa: S603 - the binary of find(), its words one by one: no shell reads them
                command, env=environment, capture_output=True, text=True, check=False, timeout=3 * seconds + 60
            )
        except subprocess.TimeoutExpired as exc:
            raise LoadTestError(
                f"perf_analyzer: expected an end after {seconds:g} s, got none in {exc.timeout:g} s"
            ) from exc
        if done.returncode or not report.is_file():
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            told = " ".join(said[-3:])
            hint = HEADER_HINT if RESTRICTED in told else ""
            raise LoadTestError(f"perf_analyzer ended with status {done.returncode}: {told}{hint}")
        return report.read_text(encoding="utf-8"), done.stdout


def read_row(report: str) -> Mapping[str, str]:
    """A report's one row by column; raises LoadTestError where there is none. Its inferences are rows."""
    row = next(csv.DictReader(report.splitlines()), None)
    if row is None:
        raise LoadTestError(NO_MEASUREMENT)
    return row


def read_ms(row: Mapping[str, str], column: str) -> float:
    """A latency, which the report has in microseconds."""
    return float(row[column]) / 1000
