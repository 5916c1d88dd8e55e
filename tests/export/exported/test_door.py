"""Models of every kind of look-up, whole against cut: the program's answers, and those of its described parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from repo_builder.export import torch_onnx
from repo_builder.export.exported import open_exported
from repo_builder.export.torch_onnx import quiet
from repo_builder.model.source import HALF_TOLERANCE, Source
from repo_builder.model.types import BATCH, Columns, Group, Ids, Ragged
from tests.export.exported.oracle import Cut, assert_same, partials_of
from tests.export.exported.programs import CASES, DeepFm, export

KEEP_UNDER = {"kept": 100, "keyed": 10_000}
LOOSE = {"halves": 1e-4, "bfloat16": HALF_TOLERANCE}


@dataclass(frozen=True)
class Opened:
    source: Source
    cut: Cut


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Opened]:
    """Each case's program, exported, opened and written once, when first asked for."""
    made: dict[str, Opened] = {}

    def get(name: str) -> Opened:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            source = open_exported(export(CASES[name], folder / "model.pt2"), name, None, KEEP_UNDER.get(name, 0), {})
            made[name] = Opened(source, Cut(source, folder))
        return made[name]

    return get


@pytest.mark.parametrize("name", CASES)
def test_the_cut_model_answers_as_the_whole_one(name: str, opened: Callable[[str], Opened]) -> None:
    source, cut = opened(name).source, opened(name).cut
    torch.manual_seed(0)
    module = CASES[name].model().eval()
    for rows in (1, 2, 7):
        query = CASES[name].query(rows, np.random.default_rng(rows))
        with torch.no_grad():
            outputs = tree_leaves(module(*(torch.from_numpy(values) for values in query.values())))
        want = {tensor.name: each.numpy() for tensor, each in zip(source.model.outputs, outputs, strict=True)}
        assert_same(want, source.answers(query))
        assert_same(want, cut.answers(query), LOOSE.get(name, 1e-5))


def ids_of(source: Source) -> dict[str, tuple[Ids, str, int]]:
    return {each.name: (each.ids, each.mode, each.count) for each in source.model.lookups}


def test_parameters_read_by_the_same_ids_are_one_table(opened: Callable[[str], Opened]) -> None:
    model = opened("deepfm").source.model
    assert [(table.name, table.rows, table.format.dim) for table in model.tables] == [
        ("vectors.user", 60, 9),
        ("vectors.item", 70, 9),
    ]
    assert [lookup.ids for lookup in model.lookups] == [Ids("user", Columns(0, 1, 1)), Ids("item", Columns(0, 1, 1))]
    assert model.groups == (Group(BATCH),)
    assert model.ids_graph is None
    assert model.dense.batched
    assert [tensor.name for tensor in model.dense.inputs] == ["dense"]
    assert model.dense.flops_per_row == 2 * (20 * 12 + 12)


def test_bags(opened: Callable[[str], Opened]) -> None:
    for name in ("bags", "bags_decomposed"):
        found = ids_of(opened(name).source)
        assert found["mean"] == (Ids("fixed", Columns(0, 5, 5), padding=0), "mean", 1)
        assert found["wide"][0].layout == Columns(0, 0, None)
        assert found["starts"] == (Ids("ids", Ragged("starts", "offsets")), "mean", 1)
        assert found["ends"] == (Ids("ids", Ragged("ends", "ends"), weights="ragged_weights"), "sum", 1)
        model = opened(name).source.model
        assert not model.dense.inputs
        assert model.groups == (Group(BATCH),)


def test_ids_straight_from_the_columns_of_an_input(opened: Callable[[str], Opened]) -> None:
    source = opened("fields").source
    assert source.model.ids_graph is None
    assert {(each.ids.layout, each.mode, each.count, each.ids.from_end) for each in source.model.lookups} == {
        (Columns(1, 1, 10), "none", 1, False),
        (Columns(3, 1, 10), "none", 3, False),
        (Columns(6, 4, 10), "sum", 1, False),
        (Columns(2, 1, 10), "none", 1, False),
        (Columns(0, 1, 10), "none", 1, True),
        (Columns(0, 5, 10), "sum", 2, False),
        (Columns(2, 4, 10), "mean", 2, False),
        (Columns(4, 3, 10), "sum", 1, False),
    }


def test_ids_that_are_worked_out(opened: Callable[[str], Opened]) -> None:
    model = opened("computed").source.model
    assert model.ids_graph is not None
    assert [tensor.name for tensor in model.ids_graph.inputs] == ["matrix", "numbers", "small"]
    assert {tensor.datatype for tensor in model.ids_graph.outputs} == {"INT64"}
    assert [tensor.name for tensor in model.dense.inputs] == ["numbers"]
    assert not model.dense.batched  # an output sums over the batch


def test_a_model_in_bfloat16_is_served_in_float32_but_for_ids_that_it_rounds(opened: Callable[[str], Opened]) -> None:
    source = opened("bfloat16").source
    assert {table.name for table in source.model.tables} == {"table", "bag", "mean"}
    assert source.tolerance == HALF_TOLERANCE
    (kept,) = source.model.kept
    assert kept.name == "rounded" and "are computed in bfloat16, by node" in kept.reason


def test_branches_stay_in_the_dense_graph_and_are_never_joined(opened: Callable[[str], Opened]) -> None:
    model = opened("branches").source.model
    assert [table.name for table in model.tables] == ["table"]
    assert not model.dense.batched  # one query's values would choose for another's


def test_groups(opened: Callable[[str], Opened]) -> None:
    model = opened("candidates").source.model
    assert [group.rows for group in model.groups] == [BATCH, 1]
    assert {each.name: each.shape for each in model.lookups} == {
        "users": (1, 6),
        "items.history": (1, 6),
        "items.candidates": (BATCH, 6),
    }
    assert [tensor.shape for tensor in model.inputs] == [(1,), (1, "history_1"), (BATCH,), ()]
    model = opened("din").source.model
    assert [group.rows for group in model.groups] == [BATCH, "batch*items_1"]
    assert model.groups[1].mean_rows == 4
    assert {each.shape for each in model.lookups} == {(BATCH, 4), (BATCH, "items_1", 4)}


def test_features_of_one_tensor_told_apart_by_lengths(opened: Callable[[str], Opened]) -> None:
    model = opened("keyed").source.model
    assert [(each.table, each.mode, each.ids) for each in model.lookups] == [
        (0, "sum", Ids("values", Ragged("lengths", "lengths", 0, 3), weights="weights")),
        (1, "mean", Ids("values", Ragged("lengths", "lengths", 1, 3))),
        (0, "sum", Ids("values", Ragged("lengths", "lengths", 2, 3), weights="weights")),
    ]
    assert model.ids_graph is None
    assert model.outputs[0].shape == (BATCH, 1)


def test_what_stays_dense_is_said(opened: Callable[[str], Opened]) -> None:
    model = opened("kept").source.model
    assert [table.name for table in model.tables] == ["cut"]
    reasons = {kept.name: kept.reason for kept in model.kept}
    assert set(reasons) == {"tied", "small", "largest", "chosen"}
    assert "reads it too" in reasons["tied"]
    assert "less than keep_under_bytes" in reasons["small"]
    assert "mode max" in reasons["largest"]
    assert "depend on looked-up values" in reasons["chosen"]
    assert "the same in every query" in opened("sasrec").source.model.kept[0].reason


def test_outputs_are_called_as_torch_calls_them(opened: Callable[[str], Opened], tmp_path: Path) -> None:
    for name in ("deepfm", "candidates"):
        path = export(CASES[name], tmp_path / f"{name}.pt2")
        with quiet():
            whole = torch.onnx.export(torch.export.load(path), dynamo=True, verbose=False)
        assert whole is not None
        model = opened(name).source.model
        assert [entry.name for entry in whole.model.graph.inputs] == [tensor.name for tensor in model.inputs]
        assert [entry.name for entry in whole.model.graph.outputs] == [tensor.name for tensor in model.outputs]


def test_the_same_program_gives_the_same_bytes_and_no_path(tmp_path: Path) -> None:
    contents = []
    for i in range(2):
        source = open_exported(export(CASES["computed"], tmp_path / f"{i}.pt2"), "model", None, 0, {})
        for part in ("dense", "ids"):
            (tmp_path / f"{part}{i}").mkdir()
        source.write_dense(partials_of(source.model), tmp_path / f"dense{i}")
        source.write_ids(tmp_path / f"ids{i}")
        contents.append([(tmp_path / f"{part}{i}" / "model.onnx").read_bytes() for part in ("dense", "ids")])
    assert contents[0] == contents[1]
    for content in contents[0]:
        assert b"site-packages" not in content and b".py" not in content and str(tmp_path).encode() not in content


def test_rows_of_joined_tables_stand_side_by_side(opened: Callable[[str], Opened]) -> None:
    torch.manual_seed(0)
    whole = DeepFm()
    rows = np.concatenate(list(opened("deepfm").source.table_chunks(opened("deepfm").source.model.tables[1])))
    want = torch.cat([whole.vectors["item"].weight, whole.linear["item"].weight], dim=1)
    assert np.array_equal(rows, want.detach().numpy())


def test_weights_beyond_one_file(opened: Callable[[str], Opened], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch_onnx, "MOST_BYTES", 100)
    monkeypatch.setattr(torch_onnx, "SMALL_BYTES", 100)
    source = opened("deepfm").source
    assert source.write_dense(partials_of(source.model), tmp_path) == ["model.onnx", "model.onnx.data"]
    assert (tmp_path / "model.onnx.data").stat().st_size >= 12 * 20 * 4
