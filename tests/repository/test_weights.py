"""Tables and dense layers written at the same time: an error in either ends both, and comes out as it is."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import save_file

from repo_builder.access.load import load_hotness
from repo_builder.errors import CheckpointError, ExportError
from repo_builder.export.dlrm import dense as dense_export
from repo_builder.export.dlrm.layers import DenseWeights, RandomWeights
from repo_builder.export.dlrm.source import DlrmSource, open_source
from repo_builder.model.types import Table
from repo_builder.partition.planner import make_plan
from repo_builder.repository.build import build
from repo_builder.spec import Spec, parse_spec
from tests.integration.models import CHEAP, document, make_spec


class SlowTables(RandomWeights):
    """Random weights whose tables come row by row, and only once the dense layers have been asked for."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec.form)
        self.dense_wanted, self.blocks = threading.Event(), 0

    def dense(self) -> DenseWeights:
        self.dense_wanted.set()
        return super().dense()

    def table_chunks(self, table: Table) -> Iterator[NDArray[np.float32]]:
        assert self.dense_wanted.wait(60), "the dense layers come only after the tables"
        for block in super().table_chunks(table):
            for row in block:
                self.blocks += 1
                yield row[None].copy()


def slow_source(spec: Spec) -> tuple[SlowTables, DlrmSource]:
    weights = SlowTables(spec)
    return weights, DlrmSource(spec.model, spec.dlrm, weights)


def random_spec(folder: Path) -> Spec:
    return parse_spec({**document(), "weights": {"source": "random"}}, folder / "spec.yaml")


def test_tables_and_dense_layers_go_on_at_the_same_time(tmp_path: Path) -> None:
    """Tables that wait for the dense layers to begin are still written; progress counts every byte once."""
    spec = random_spec(tmp_path)
    hotness = load_hotness(spec)
    plan = make_plan(spec, hotness, CHEAP, "tiered", 4)
    told: list[tuple[int, int]] = []
    interval_s = sys.getswitchinterval()
    slow = build(spec, plan, hotness, slow_source(spec)[1], tmp_path / "a", lambda *now: told.append(now))
    total_bytes = sum(4 * table.rows * table.dim for table in spec.dlrm.tables)
    assert told == sorted(set(told)) and told[-1] == (total_bytes, total_bytes)
    assert slow == build(spec, plan, hotness, open_source(spec), tmp_path / "b")
    assert sys.getswitchinterval() == interval_s


@pytest.mark.parametrize("error", [ExportError, KeyboardInterrupt])
def test_an_error_of_the_dense_layers_stops_the_tables(
    error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = random_spec(tmp_path)
    hotness, (weights, source) = load_hotness(spec), slow_source(spec)
    threads = threading.active_count()

    def failing(*_: object) -> None:
        weights.dense_wanted.set()
        raise error("while exporting")

    monkeypatch.setattr(dense_export, "export_dense", failing)
    with pytest.raises(error, match="while exporting"):
        build(spec, make_plan(spec, hotness, CHEAP, "tiered", 4), hotness, source, tmp_path / "target")
    assert weights.blocks < sum(table.rows for table in spec.dlrm.tables)
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == threads


def test_an_error_of_the_tables_comes_out(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    state = torch.load(spec.dlrm.weights.path, weights_only=True)
    state["emb_l.0.weight"][0, 0] = float("inf")
    save_file(state, tmp_path / "small.safetensors")
    spec = Spec.of_dlrm(
        spec.name,
        replace(spec.form, weights=replace(spec.form.weights, path=tmp_path / "small.safetensors")),
        spec.access,
        spec.serving,
        spec.fleet,
    )
    hotness = load_hotness(spec)
    with pytest.raises(CheckpointError, match=r"emb_l\.0\.weight"):
        build(spec, make_plan(spec, hotness, CHEAP, "tiered", 4), hotness, open_source(spec), tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_torch_is_imported_only_for_the_dense_layers(tmp_path: Path) -> None:
    """It takes seconds, which pass while the tables are written."""
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump({**document(), "weights": {"source": "random"}}))
    program = f"""
import sys
from pathlib import Path
import repo_builder.repository.build
from repo_builder.export.dlrm.source import open_source
from repo_builder.spec import load_spec
open_source(load_spec(Path({str(path)!r})))
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
