"""The exported ONNX graph: scores, operators, shapes, bytes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray

from repo_builder.errors import ExportError
from repo_builder.export.dlrm import dense as dense_export
from repo_builder.export.dlrm.dense import export_dense
from repo_builder.export.dlrm.layers import DenseWeights, TablePartial
from repo_builder.export.dlrm.source import open_weights
from repo_builder.export.torch_onnx import OPSET
from repo_builder.model.dlrm import Dlrm
from repo_builder.model.interaction import Cross, Projection
from tests.export.dlrm.oracles import load_oracle, make_spec

TIERED = [TablePartial(f"tier{i}", (0, 1, 2)) for i in range(4)]
CASES = {
    "tiered": (make_spec(), TIERED),
    "one_table": (make_spec(rows=(9,)), [TablePartial("tier0", (0,))]),
    "one_layer_each": (make_spec(bottom=(), top=(1,)), TIERED[:1]),
    "uneven": (
        make_spec(),
        [TablePartial("tier0", (0, 1, 2)), TablePartial("tier1", (0, 2)), TablePartial("tier2", (0, 1))],
    ),
    "per_table": (
        make_spec(rows=(9,) * 10),
        [TablePartial(f"C{table}_s{shard}", (table,)) for table in range(10) for shard in range(4)],
    ),
    "dcn": (make_spec(interaction=Cross(layers=3, rank=2)), TIERED),
    "dcn_uneven": (make_spec(interaction=Cross(1, 7)), [TablePartial("a", (0, 1, 2)), TablePartial("b", (0, 2))]),
    "projection": (make_spec(interaction=Projection((10, 8), (12,))), TIERED),
}


@dataclass
class Exported:
    spec: Dlrm
    partials: list[TablePartial]
    weights: DenseWeights
    path: Path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Each case's model, exported once, when first asked for."""
    made: dict[str, Exported] = {}

    def get(name: str) -> Exported:
        if name not in made:
            spec, partials = CASES[name]
            path = tmp_path_factory.mktemp("dense") / "model.onnx"
            weights = open_weights(spec).dense()
            export_dense(spec, weights, partials, path)
            made[name] = Exported(spec, partials, weights, path)
        return made[name]

    return get


def inputs_of(case: Exported, batch: int, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    widths = {"dense": case.spec.dense_features} | {p.name: len(p.tables) * case.spec.dim for p in case.partials}
    return {name: torch.randn(batch, width, generator=generator) for name, width in widths.items()}


def expected_scores(case: Exported, inputs: dict[str, torch.Tensor]) -> NDArray[np.float32]:
    pooled = []
    for table in range(len(case.spec.tables)):
        total = 0
        for partial in case.partials:
            if table in partial.tables:
                total = total + inputs[partial.name].split(case.spec.dim, dim=1)[partial.tables.index(table)]
        pooled.append(total)
    return load_oracle(case.spec, case.weights).score(inputs["dense"], pooled).detach().numpy()


@pytest.mark.parametrize("name", CASES)
def test_scores_equal_the_oracles_at_any_batch(name: str, exported: Callable[[str], Exported]) -> None:
    case = exported(name)
    session = onnxruntime.InferenceSession(case.path, providers=["CPUExecutionProvider"])
    for batch in (1, 2, 3, 7, 64):
        inputs = inputs_of(case, batch)
        (got,) = session.run(None, {key: value.numpy() for key, value in inputs.items()})
        assert got.shape == (batch, 1) and got.dtype == np.float32
        np.testing.assert_allclose(got, expected_scores(case, inputs), atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_inputs_and_output_are_named_and_shaped_as_promised(name: str, exported: Callable[[str], Exported]) -> None:
    case = exported(name)
    model = onnx.load(case.path)
    widths = [("dense", case.spec.dense_features), *((p.name, len(p.tables) * case.spec.dim) for p in case.partials)]
    assert [_signature(entry) for entry in model.graph.input] == [(key, 1, ["batch", w]) for key, w in widths]
    assert [_signature(entry) for entry in model.graph.output] == [("score", 1, ["batch", 1])]


def _signature(entry: Any) -> tuple[str, int, list[str | int]]:
    tensor = entry.type.tensor_type
    return entry.name, tensor.elem_type, [dim.dim_param or dim.dim_value for dim in tensor.shape.dim]


DENSE = "Concat Reshape Transpose MatMul Reshape Gather Concat"
OPERATORS = {
    "tiered": f"Gemm Relu Gemm Relu Add Add Add {DENSE} Gemm Relu Gemm Sigmoid",
    "one_table": f"Gemm Relu Gemm Relu {DENSE} Gemm Relu Gemm Sigmoid",
    "one_layer_each": f"Gemm Relu {DENSE} Gemm Sigmoid",
    "uneven": f"Gemm Relu Gemm Relu {'Slice ' * 7}{'Add ' * 4}{DENSE} Gemm Relu Gemm Sigmoid",
    "per_table": f"Gemm Relu Gemm Relu {'Add ' * 30}{DENSE} Gemm Relu Gemm Sigmoid",
    "dcn": f"Gemm Relu Gemm Relu Add Add Add Concat {'MatMul Gemm Mul Add ' * 3} Gemm Relu Gemm Sigmoid",
    "dcn_uneven": f"Gemm Relu Gemm Relu {'Slice ' * 5} Add Add Concat MatMul Gemm Mul Add Gemm Relu Gemm Sigmoid",
    "projection": "Gemm Relu Gemm Relu Add Add Add Concat Gemm Relu Gemm Relu Gemm Relu Reshape Reshape MatMul Reshape "
    "Concat Gemm Relu Gemm Sigmoid",
}


@pytest.mark.parametrize("name", CASES)
def test_the_graph_holds_these_operators_and_no_others(name: str, exported: Callable[[str], Exported]) -> None:
    model = onnx.load(exported(name).path)
    operators = sorted(node.op_type for node in model.graph.node)
    assert operators == sorted(OPERATORS[name].split())


def test_versions_suit_tritons_onnxruntime(exported: Callable[[str], Exported]) -> None:
    model = onnx.load(exported("tiered").path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert model.ir_version <= 10  # what onnxruntime 1.19 reads


def test_the_file_is_whole_and_names_no_path(exported: Callable[[str], Exported]) -> None:
    path = exported("tiered").path
    content = path.read_bytes()
    assert [entry.name for entry in path.parent.iterdir()] == ["model.onnx"]
    for trace in (b"site-packages", b".py", b"stack_trace", str(Path.home()).encode(), str(Path.cwd()).encode()):
        assert trace not in content
    assert not re.search(rb"/[a-z]+/[a-z]+/", content)


AGAIN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.export.dlrm.oracles import make_spec
from repo_builder.export.dlrm.dense import export_dense
from repo_builder.export.dlrm.layers import TablePartial
from repo_builder.export.dlrm.source import open_weights
spec = make_spec()
partials = [TablePartial(f"tier{i}", (0, 1, 2)) for i in range(4)]
export_dense(spec, open_weights(spec).dense(), partials, Path(sys.argv[2]))
"""


def test_another_process_writes_the_same_bytes_and_nothing_to_the_console(
    exported: Callable[[str], Exported], tmp_path: Path
) -> None:
    again = tmp_path / "again.onnx"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", AGAIN, str(Path(__file__).parents[3]), str(again)],
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert again.read_bytes() == exported("tiered").path.read_bytes()


@pytest.mark.parametrize(
    ("partials", "message"),
    [
        ([TablePartial("a", (0, 1))], "table C3: expected a partial that holds it"),
        ([TablePartial("a", (0, 2, 1))], "ascending table numbers below 3"),
        ([TablePartial("a", (0, 1, 2, 3))], "ascending table numbers below 3"),
        ([TablePartial("a", (0, 0, 1, 2))], "ascending"),
        ([TablePartial("a", (0, 1, 2)), TablePartial("b", ())], "partial 'b'"),
        ([TablePartial("a", (0, 1, 2)), TablePartial("a", (0,))], "names that differ"),
        ([TablePartial("dense", (0, 1, 2))], "not dense, divisors or score"),
        ([TablePartial("divisors", (0, 1, 2))], "not dense, divisors or score"),
    ],
)
def test_partials_that_do_not_make_up_the_model_are_refused(
    partials: list[TablePartial], message: str, tmp_path: Path
) -> None:
    spec = make_spec()
    with pytest.raises(ExportError, match=message):
        export_dense(spec, open_weights(spec).dense(), partials, tmp_path / "m.onnx")


def test_weights_past_the_limit_of_one_file_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dense_export, "MAX_FILE_BYTES", 1024**2 + 100)
    spec = make_spec()
    with pytest.raises(ExportError, match="at most 100 bytes of weights"):
        export_dense(spec, open_weights(spec).dense(), TIERED, tmp_path / "m.onnx")


def test_a_graph_whose_scores_differ_is_not_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dense_export, "score_pooled", lambda *given: torch.full((len(given[2]), 1), 2.0))
    spec = make_spec(rows=(3,), bottom=(), top=(1,))
    with pytest.raises(ExportError, match="difference of"):
        export_dense(spec, open_weights(spec).dense(), [TablePartial("a", (0,))], tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()
