"""A served model of every kind of input: the client, the query command and both load tools against a real server.

The model is a few lines of numpy; its answers are worked out here as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from elasticrec.cli import main
from loadtest.clients import Protocol, SenderSettings
from loadtest.open_loop import send
from loadtest.workload import binary_words, write_workload
from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.access.queries import draw_queries
from repo_builder.access.query_file import QueryFile
from repo_builder.model.arrays import from_wire, wired
from repo_builder.model.types import Tensor
from repo_builder.profiling.perf_analyzer import LoadTestError, measure
from repo_builder.repository.manifest import describe
from repo_builder.serving.client import infer
from repo_builder.serving.server import Server
from tests.hand_models import RANKER, hand_spec
from tests.servers import serving

pytestmark = pytest.mark.server

BATCH, QUERIES = 8, 6
MODEL = replace(RANKER, outputs=(*RANKER.outputs, Tensor("is_new_user", "BOOL", ())))
PROTOCOLS: tuple[Protocol, ...] = ("grpc", "http")
CODE = """
import numpy as np
import triton_python_backend_utils as pb_utils

NAMES = ("dense", "items", "history", "tags", "tag_lengths", "tag_weights", "user", "is_new")

class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            given = {name: pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in NAMES}
            owners = np.repeat(np.arange(len(given["tag_lengths"])), given["tag_lengths"])
            bags = np.bincount(owners, given["tags"] * given["tag_weights"], len(given["tag_lengths"]))
            click = given["dense"].sum(1) + given["items"] + given["history"].sum((1, 2))
            click = click + bags.reshape(2, -1)[1] + given["is_new"][0]
            vector = np.arange(16) * 0.5 + given["user"][0, 1]
            outputs = [
                pb_utils.Tensor("click", click.astype(np.float32).reshape(-1, 1)),
                pb_utils.Tensor("user_vector", vector.astype(np.float16).reshape(1, 16)),
                pb_utils.Tensor("is_new_user", given["is_new"]),
            ]
            responses.append(pb_utils.InferenceResponse(outputs))
        return responses
"""


def answers(query: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the model gives, bag by bag."""
    lengths = query["tag_lengths"]
    ends = np.cumsum(lengths)
    tags = [
        float((query["tags"][end - length : end] * query["tag_weights"][end - length : end]).sum())
        for end, length in zip(ends[BATCH:], lengths[BATCH:], strict=True)
    ]
    click = query["dense"].sum(1) + query["items"] + query["history"].reshape(BATCH, -1).sum(1) + np.array(tags)
    return {
        "click": (click + bool(query["is_new"])).astype(np.float32)[:, None],
        "user_vector": (np.arange(16) / 2 + query["user"][0, 1]).astype(np.float16)[None],
        "is_new_user": query["is_new"],
    }


@dataclass(frozen=True)
class Ranked:
    """The served model, its repository, and its queries with their answers."""

    server: Server
    repository: Path
    queries: QueryFile

    @property
    def workload(self) -> Path:
        return self.repository.parent / "workload.npz"


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranked]:
    folder = tmp_path_factory.mktemp("ranked")
    repository = folder / "repository"
    (repository / "ranker/1").mkdir(parents=True)
    (repository / "ranker/1/model.py").write_text(CODE)
    (repository / "ranker/config.pbtxt").write_text(config())
    manifest = describe(hand_spec(MODEL, BATCH), "single", "0" * 64, "elasticrec 0", [])
    (repository / "manifest.json").write_text(manifest.to_json())
    drawn = draw_queries(MODEL, PowerLawHotness(0.9, 0), QUERIES, BATCH, seed=2)
    (repository / "queries.npz").write_bytes(drawn.to_bytes())
    right = [answers(drawn.query(number, BATCH)) for number in range(QUERIES)]
    expected = {name: np.stack([each[name] for each in right]) for name in right[0]}
    (folder / "workload.npz").write_bytes(replace(drawn, expected=expected).to_bytes())
    with serving(repository, folder / "log") as server:
        yield Ranked(server, repository, replace(drawn, expected=expected))


def config() -> str:
    """Of a model that takes a query at a time, of any number of rows."""

    def tensors(key: str, described: tuple[Tensor, ...]) -> str:
        lines = []
        for tensor in described:
            dims = ", ".join(str(size if isinstance(size, int) else -1) for size in tensor.shape or (1,))
            lines.append(f'{{ name: "{tensor.name}" data_type: TYPE_{tensor.datatype} dims: [ {dims} ] }}')
        return f"{key} [ {', '.join(lines)} ]\n"

    return 'backend: "python"\nmax_batch_size: 0\n' + tensors("input", MODEL.inputs) + tensors("output", MODEL.outputs)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_client_sends_all_inputs_and_reads_all_outputs(protocol: Protocol, ranked: Ranked) -> None:
    """Triton refuses a tensor of another datatype or size: BF16 too, which the model itself cannot read."""
    for number in range(QUERIES):
        query = ranked.queries.query(number, BATCH)
        found = infer(protocol, getattr(ranked.server, protocol), "ranker", wired(query, MODEL.inputs))
        right = answers(query)
        assert found.keys() == right.keys()
        for tensor in MODEL.outputs:
            output = from_wire(found[tensor.name], tensor)
            assert output.shape == right[tensor.name].shape and output.dtype == right[tensor.name].dtype
            np.testing.assert_allclose(output, right[tensor.name], rtol=1e-5)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_query_command_prints_the_outputs_by_name(
    protocol: Protocol, ranked: Ranked, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of rows in a line each. Its tags are of all eight rows: so many are sent."""
    words = ["query", str(ranked.repository), "--protocol", protocol, "--url", getattr(ranked.server, protocol)]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    right = answers(ranked.queries.query(0, BATCH))
    first, second, *rows = lines
    vector = right["user_vector"][0].astype(float)
    shown = [*(f"{number:.6f}" for number in vector[:7]), "...", f"{vector[-1]:.6f}"]
    assert (first, second) == (f"user_vector {' '.join(shown)}", "is_new_user False")
    assert [line.split()[:3] for line in rows] == [["row", str(row), "click"] for row in range(BATCH)]
    np.testing.assert_allclose([float(line.split()[3]) for line in rows], right["click"][:, 0], rtol=1e-5)
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["model"] == "ranker" and document["outputs"]["is_new_user"] is False
    np.testing.assert_allclose(document["outputs"]["click"], right["click"], rtol=1e-5)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_answers_of_an_open_loop_are_all_right(protocol: Protocol, ranked: Ranked) -> None:
    assert problems(protocol, ranked, ranked.workload) == set()


@pytest.mark.parametrize("output", ["click", "user_vector", "is_new_user"])
def test_a_wrong_number_in_any_output_is_seen(output: str, ranked: Ranked, tmp_path: Path) -> None:
    expected = {name: array.copy() for name, array in ranked.queries.expected.items()}
    last = expected[output].reshape(QUERIES, -1)[:, -1]  # a view: the last number of each answer
    last[:] = ~last if output == "is_new_user" else last + 3
    (tmp_path / "w.npz").write_bytes(replace(ranked.queries, expected=expected).to_bytes())
    found = problems("grpc", ranked, tmp_path / "w.npz")
    assert found == {f"wrong {output}: off by {1 if output == 'is_new_user' else 3}"}


def problems(protocol: Protocol, ranked: Ranked, workload: Path) -> set[str]:
    address = getattr(ranked.server, protocol)
    load = SenderSettings(protocol, address, "ranker", str(workload), BATCH, 30, 0, MODEL.inputs, MODEL.outputs)
    found = send(load, 40, 1)
    assert len(found) > 10
    return {answer.problem for answer in found} - {""}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_perf_analyzer_sends_any_inputs(protocol: Protocol, ranked: Ranked, tmp_path: Path) -> None:
    """The real one takes all shapes from its JSON: one error of the server's would end it."""
    address, record = getattr(ranked.server, protocol), tmp_path / "run.json"
    words = ["loadtest", "perf", str(ranked.repository), "--protocol", protocol, "--url", address, "-o", str(record)]
    assert main([*words, "--concurrency", "1", "--seconds", "1", "--workload", str(ranked.workload)]) == 0
    (point,) = json.loads(record.read_text())["points"]
    assert point["queries"] > 0 and point["throughput_qps"] > 0


def test_perf_analyzer_takes_a_folder_of_binary_files(ranked: Ranked, tmp_path: Path) -> None:
    of = (ranked.queries, MODEL.inputs, BATCH)
    write_workload(tmp_path / "w", *of)
    words = ["-m", "ranker", "-i", "grpc", "-u", ranked.server.grpc, *binary_words(tmp_path / "w", *of)]
    report, _ = measure(words, 0.9)
    assert len(report.splitlines()) == 2
    (tmp_path / "w" / "tags").write_bytes(b"\0" * 8)
    with pytest.raises(LoadTestError):
        measure(words, 0.9)
