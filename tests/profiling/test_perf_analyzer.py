"""perf_analyzer's input, its report and its errors; tests/integration/test_load.py runs the real one on a server."""

import base64
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repo_builder.access.query_file import QueryFile
from repo_builder.model.types import BATCH, Tensor
from repo_builder.profiling.perf_analyzer import (
    INSTALL_HINT,
    LoadTestError,
    Measurement,
    find,
    run,
    write_input_data,
    write_queries,
)

# as written by perf_analyzer 2.51 at concurrency 2
REPORT = """\
Concurrency,Inferences/Second,Client Send,Network+Server Send/Recv,Server Queue,Server Compute Input,\
Server Compute Infer,Server Compute Output,Client Recv,p50 latency,p90 latency,p95 latency,p99 latency
2,519.498,4,0,1,157,6257,836,1,3537,5258,6321,7606
"""


def tensors(dtype: str) -> tuple[Tensor, ...]:
    return Tensor("dense", "FP32", (BATCH, 3)), Tensor("indices", "INT64" if dtype == "int64" else "INT32", (BATCH, 4))


def rows(count: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """No two numbers alike; ids that only 64 bits hold, where they may."""
    dense = np.arange(count * 3, dtype=np.float32).reshape(count, 3) / 7
    indices = np.arange(count * 4).reshape(count, 4) - 1
    if dtype == "int64":
        indices += 2**40
    return dense, indices.astype(dtype)


def decoded(tensor: dict[str, Any], dtype: str) -> np.ndarray:
    """What perf_analyzer sends: the bytes of its base64."""
    return np.frombuffer(base64.b64decode(tensor["content"]["b64"]), dtype).reshape(tensor["shape"])


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize(("count", "batch", "queries"), [(6, 2, 3), (7, 2, 3), (5, 5, 1), (9, 5, 1), (3, 1, 3)])
def test_input_data_is_the_rows_in_whole_queries(
    dtype: str, count: int, batch: int, queries: int, tmp_path: Path
) -> None:
    """Row by row and in order; a last incomplete query is left out."""
    dense, indices = rows(count, dtype)
    file = QueryFile({"dense": dense, "indices": indices})
    assert write_input_data(tmp_path / "data.json", file, tensors(dtype), batch) == queries
    document = json.loads((tmp_path / "data.json").read_text())
    assert list(document) == ["data"] and len(document["data"]) == queries
    for i, query in enumerate(document["data"]):
        assert query["dense"]["shape"] == [batch, 3] and query["indices"]["shape"] == [batch, 4]
        ours = slice(i * batch, (i + 1) * batch)
        assert np.array_equal(decoded(query["indices"], dtype), indices[ours])
        assert np.array_equal(decoded(query["dense"], "float32"), dense[ours])


def test_less_than_a_query_is_an_error(tmp_path: Path) -> None:
    """perf_analyzer would start, and then find no data."""
    dense, indices = rows(7, "int64")
    file = QueryFile({"dense": dense, "indices": indices})
    with pytest.raises(LoadTestError, match="expected at least 8 rows, those of one query, got 7"):
        write_input_data(tmp_path / "data.json", file, tensors("int64"), 8)
    assert not (tmp_path / "data.json").exists()


def pretend(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a perf_analyzer that runs `script` (shell) on PATH."""
    binary = folder / "bin" / "perf_analyzer"
    binary.parent.mkdir()
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", f"{binary.parent}{os.pathsep}{os.environ['PATH']}")
    return binary


# finds the file after -f, and keeps the words it was called with
WRITES_REPORT = 'printf "%s\\n" "$@" >words; while [ "$1" != -f ]; do shift; done; cp report.csv "$2"'


def test_the_report_is_read_in_milliseconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pretend(tmp_path, WRITES_REPORT, monkeypatch)
    (tmp_path / "report.csv").write_text(REPORT)
    measured = run("small", "127.0.0.1:8001", tmp_path / "my data.json", 2, 6)
    assert measured == Measurement(2, throughput_qps=519.498, p50_ms=3.537, p95_ms=6.321, p99_ms=7.606)
    words = (tmp_path / "words").read_text().splitlines()
    for option, value in (("-m", "small"), ("-u", "127.0.0.1:8001"), ("--input-data", f"{tmp_path}/my data.json")):
        assert words[words.index(option) + 1] == value
    assert {"--concurrency-range=2", "--measurement-interval=2000", "--max-trials=9"} <= set(words)


def test_queries_of_several_rows_are_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """perf_analyzer counts rows."""
    monkeypatch.chdir(tmp_path)
    pretend(tmp_path, WRITES_REPORT, monkeypatch)
    (tmp_path / "report.csv").write_text(REPORT)
    assert run("small", "127.0.0.1:8001", "random", 2, 6, rows=10).throughput_qps == pytest.approx(51.9498)
    words = (tmp_path / "words").read_text().splitlines()
    assert (words[words.index("-b") + 1], words[words.index("--input-data") + 1]) == ("10", "random")


def test_any_inputs_are_written_by_name(tmp_path: Path) -> None:
    queries = [{"ids": np.arange(n, dtype=np.int32), "lengths": np.array([n, 0], np.int32)} for n in (3, 0)]
    assert write_queries(tmp_path / "data.json", iter(queries)) == 2
    first, second = json.loads((tmp_path / "data.json").read_text())["data"]
    assert decoded(first["ids"], "int32").tolist() == [0, 1, 2] and decoded(first["lengths"], "int32").tolist() == [
        3,
        0,
    ]
    assert second["ids"] == {"content": {"b64": ""}, "shape": [0]}


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo chatter; echo 'error: no such' >&2; echo model >&2; exit 99", "status 99: error: no such model"),
        ("echo only on stdout; exit 1", "status 1: only on stdout"),
        ("echo went well but wrote nothing", "status 0: went well but wrote nothing"),
        ("exec no-such-program-here", "status 127"),
        ("kill -9 $$", "status -9"),
    ],
)
def test_a_failure_is_one_line(script: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, script, monkeypatch)
    with pytest.raises(LoadTestError) as caught:
        run("small", "127.0.0.1:8001", tmp_path / "data.json", 1, 1)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_a_report_without_figures_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pretend(tmp_path, WRITES_REPORT, monkeypatch)
    (tmp_path / "report.csv").write_text(REPORT.splitlines()[0] + "\n")
    with pytest.raises(LoadTestError, match="expected a measurement in its report, got none"):
        run("small", "127.0.0.1:8001", tmp_path / "data.json", 1, 1)


def test_the_one_on_path_comes_before_the_environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prefix").mkdir()
    own = pretend(tmp_path / "prefix", "true", monkeypatch)
    (tmp_path / "prefix/perf_analyzer").mkdir()
    own = own.parent.rename(tmp_path / "prefix/perf_analyzer/bin") / own.name
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "prefix"))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert find()[0] == own
    on_path = pretend(tmp_path, "true", monkeypatch)
    assert find()[0] == on_path


def test_a_missing_binary_is_told_with_the_commands_that_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    for call in (find, lambda: run("small", "127.0.0.1:8001", tmp_path / "data.json", 1, 1)):
        with pytest.raises(LoadTestError) as caught:
            call()
        assert str(caught.value) == INSTALL_HINT
    assert "make setup" in INSTALL_HINT and "pip install" in INSTALL_HINT
