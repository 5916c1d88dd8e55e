"""Tables that stay in a DLRM's dense graph: it answers as PyTorch's model, whatever stays between what is cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from repo_builder.errors import ExportError
from repo_builder.export.dlrm import dense as dense_export
from repo_builder.export.dlrm.source import DlrmSource, open_weights
from repo_builder.model.dlrm import Dlrm, IndexDtype, dlrm_model
from repo_builder.model.interaction import Cross, Dot, Interaction, Projection
from repo_builder.model.source import Partial
from repo_builder.model.types import PoolingMode
from tests.export.dlrm.oracles import OracleDlrm, bags_of, dlrm_state, make_spec, random_indices, torchrec_oracle
from tests.export.dlrm.test_quantized import PACK, fused, of_dtype, quantized

ROWS = (11, 7, 5, 9, 6)
MODES: tuple[PoolingMode, ...] = ("sum", "mean", "mean", "sum", "mean")


def keeping(spec: Dlrm, kept: str, poolings: tuple[int, ...] = (3,) * 5) -> Dlrm:
    """The spec where tables marked `k` stay, those marked `c` are cut."""
    tables = tuple(
        replace(table, keep="dense" if mark == "k" else "shard", pooling=pooling)
        for table, mark, pooling in zip(spec.tables, kept, poolings, strict=True)
    )
    return replace(spec, tables=tables)


def partials_of(spec: Dlrm, shards: int) -> list[Partial]:
    model = dlrm_model("m", spec)
    columns = {i: 4 * i for i in range(len(model.lookups))}
    return [Partial(f"tier{shard}", 0, 4 * len(columns), columns) for shard in range(shards)]


def served(spec: Dlrm, folder: Path, tables: list[torch.Tensor], dense: torch.Tensor, indices: torch.Tensor) -> object:
    """The written graph's scores, with the sums of what is cut split between two services."""
    model = dlrm_model("m", spec)
    source = DlrmSource(model, spec, open_weights(spec))
    assert list(source.write_dense(partials_of(spec, 2), folder)) == ["model.onnx"]
    bags, sums, sizes = bags_of(spec, indices), [], []
    for i in spec.cut:
        ids, offsets = bags[i]
        sums.append(torch.nn.functional.embedding_bag(ids, tables[i], offsets, mode="sum", include_last_offset=True))
        size = offsets.diff().clamp(min=1) if spec.tables[i].mode == "mean" else torch.ones(len(dense))
        sizes.append(size.float())
    given = {"dense": dense, "indices": indices.to(getattr(torch, spec.index_dtype))}
    whole = torch.cat(sums, 1)
    part = torch.rand(whole.shape, generator=torch.Generator().manual_seed(1))
    given |= {"tier0": whole * part, "tier1": whole * (1 - part)}
    if spec.has_means:
        given["divisors"] = torch.stack(sizes, 1)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == [
        *(tensor.name for tensor in model.dense.inputs), "tier0", "tier1", *(["divisors"] if spec.has_means else [])
    ]  # fmt: skip
    return session.run(None, {name: value.numpy() for name, value in given.items()})[0]


@pytest.mark.parametrize(("kept", "index_dtype"), [("kcckk", "int64"), ("ckkcc", "int32"), ("kkkkc", "int64")])
def test_scores_are_the_open_source_dlrms(kept: str, index_dtype: IndexDtype, tmp_path: Path) -> None:
    """Bags of any number, of several sizes, summed and averaged, some empty."""
    spec = make_spec(ROWS, source="dlrm", path=tmp_path / "m.pt", modes=MODES)
    spec = replace(keeping(spec, kept, (1, 3, 3, 2, 1)), index_dtype=index_dtype)
    torch.save(dlrm_state(spec), tmp_path / "m.pt")
    oracle = OracleDlrm(spec)
    oracle.load_state_dict(dlrm_state(spec))
    for batch in (1, 2, 9):
        dense, indices = torch.rand(batch, 3), random_indices(spec, batch, batch)
        scores = served(spec, tmp_path, [table.weight.detach() for table in oracle.emb_l], dense, indices)
        np.testing.assert_allclose(scores, oracle(dense, bags_of(spec, indices)).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("interaction", [Dot(), Cross(2, 3), Projection((10, 8), (12,))])
def test_scores_are_torchrecs_by_every_interaction(interaction: Interaction, tmp_path: Path) -> None:
    spec = make_spec(ROWS, source="torchrec", path=tmp_path / "m.pt", modes=MODES, interaction=interaction)
    spec = keeping(spec, "kckkc")
    torch.manual_seed(4)
    oracle = torchrec_oracle(spec)
    torch.save(oracle.saved(), tmp_path / "m.pt")
    dense, indices = torch.rand(9, 3), random_indices(spec, 9)
    scores = served(spec, tmp_path, [table.weight.detach() for table in oracle.tables.values()], dense, indices)
    expected = torch.sigmoid(oracle(dense, bags_of(spec, indices))).detach().numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", PACK)
def test_quantized_tables_stay_with_the_numbers_that_pytorch_unpacks(dtype: str, tmp_path: Path) -> None:
    spec = keeping(make_spec(ROWS, source="torchrec", path=tmp_path / "m.pt", modes=MODES), "kckkc")
    state, oracle = quantized(spec, fused, dtype)
    torch.save(state, tmp_path / "m.pt")
    spec = of_dtype(spec, dtype)
    dense, indices = torch.rand(9, 3), random_indices(spec, 9)
    scores = served(spec, tmp_path, [table.weight.detach() for table in oracle.tables.values()], dense, indices)
    expected = torch.sigmoid(oracle(dense, bags_of(spec, indices))).detach().numpy()
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_all_rows_that_stay_are_one_gather(tmp_path: Path) -> None:
    spec = keeping(make_spec(ROWS), "ckkkk", (3, 1, 1, 1, 1))
    source = DlrmSource(dlrm_model("m", spec), spec, open_weights(spec))
    source.write_dense(partials_of(spec, 1), tmp_path)
    graph = onnx.load(tmp_path / "model.onnx").graph
    operators = [node.op_type for node in graph.node]
    assert operators.count("Gather") == 3  # of columns, of rows, and of the interaction's pairs
    assert not {"Loop", "If", "ReduceSum", "Slice"} & set(operators)
    before = (tmp_path / "model.onnx").read_bytes()
    source.write_dense(partials_of(spec, 1), tmp_path)
    assert (tmp_path / "model.onnx").read_bytes() == before


def test_a_graph_that_looks_up_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check at the export reads what stays by PyTorch, not by the graph's own operators."""
    spec = keeping(make_spec(ROWS), "ckkkk")
    monkeypatch.setattr(dense_export, "pool", lambda table, rows, ids: torch.ones(len(ids), 4))
    source = DlrmSource(dlrm_model("m", spec), spec, open_weights(spec))
    with pytest.raises(ExportError, match="plain PyTorch's"):
        source.write_dense(partials_of(spec, 1), tmp_path)


def test_what_passes_a_files_limit_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_export, "MAX_FILE_BYTES", 1024**2 + 1000)
    spec = keeping(make_spec((11, 100, 5, 9, 6)), "ckkkk")
    source = DlrmSource(dlrm_model("m", spec), spec, open_weights(spec))
    with pytest.raises(ExportError, match="and the tables that stay dense: expected at most 1000 bytes of weights"):
        source.write_dense(partials_of(spec, 1), tmp_path)
