"""Reading a program's file: nothing of it runs, and nothing of its weights is in memory."""

from __future__ import annotations

import io
import json
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from repo_builder.errors import ModelFileError
from repo_builder.export.exported.program import read_program
from repo_builder.export.torch_onnx import quiet
from tests.export.exported.programs import save

Change = Callable[[bytes], bytes]
GRAPH, WEIGHTS, CONSTANTS = "models/model.json", "data/weights/model_weights_config.json", "data/constants/"
EXAMPLE = "data/sample_inputs/model.pt"


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.top = nn.Embedding(20, 4), nn.Linear(4, 1)
        self.register_buffer("shift", torch.tensor([0.5]), persistent=False)

    def forward(self, ids: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        hidden = self.table(ids).reshape(-1, 4) + dense
        return self.top(hidden) + self.get_buffer("shift")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "small.pt2"
    torch.manual_seed(0)
    return save(Small(), (torch.tensor([1, 2, 3]), torch.rand(3, 4)), path)


def changed(path: Path, target: Path, changes: dict[str, Change | None], more: dict[str, bytes] | None = None) -> Path:
    """The archive with some members changed, left out or added."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for info in old.infolist():
            name = info.filename.partition("/")[2]
            change = changes.get(name, lambda content: content)
            if change is not None:
                new.writestr(f"small/{name}", change(old.read(info)))
        for name, content in (more or {}).items():
            new.writestr(f"small/{name}", content)
    return target


def edited(edit: Callable[[Any], None]) -> Change:
    def change(content: bytes) -> bytes:
        document = json.loads(content)
        edit(document)
        return json.dumps(document).encode()

    return change


class Touch:
    """A pickle that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def nodes(document: Any) -> list[Any]:
    found: list[Any] = document["graph_module"]["graph"]["nodes"]
    return found


def renamed(old: str, new: str) -> Change:
    return lambda content: content.replace(json.dumps(old).encode(), json.dumps(new).encode())


def pickled(marker: Path) -> bytes:
    saved = io.BytesIO()
    torch.save(Touch(marker), saved)
    return saved.getvalue()


def attacks(marker: Path) -> dict[str, tuple[dict[str, Change | None], dict[str, bytes]]]:
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"

    def weight(document: Any) -> None:
        document["config"]["table.weight"] |= {"use_pickle": True}

    def constant(prefix: str) -> Callable[[Any], None]:
        def edit(document: Any) -> None:
            document["config"]["shift"] |= {"path_name": f"{prefix}0", "use_pickle": True}

        return edit

    def expression(document: Any) -> None:
        for size in document["graph_module"]["graph"]["tensor_values"]["ids"]["sizes"]:
            size["as_expr"]["expr_str"] = code

    def hint(document: Any) -> None:
        for size in document["graph_module"]["graph"]["tensor_values"]["ids"]["sizes"]:
            size["as_expr"]["hint"] = {"as_int": code}

    def tree(document: Any) -> None:
        document["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = json.dumps(
            [
                1,
                {
                    "type": "builtins.dict",
                    "context": '{"__enum__": true, "fqn": "this:x", "name": "y"}',
                    "children_spec": [],
                },
            ]
        )

    tensor = {"data/weights/weight_0": lambda _: pickled(marker)}
    return {
        "pickled weight": ({WEIGHTS: edited(weight), **tensor}, {}),
        "opaque constant": (
            {f"{CONSTANTS}model_constants_config.json": edited(constant("opaque_obj_"))},
            {f"{CONSTANTS}opaque_obj_0": pickle.dumps(Touch(marker))},
        ),
        "script constant": (
            {f"{CONSTANTS}model_constants_config.json": edited(constant("custom_obj_"))},
            {f"{CONSTANTS}custom_obj_0": pickle.dumps(Touch(marker))},
        ),
        "legacy weights": ({}, {"data/weights/model.pt": pickled(marker)}),
        "example inputs": ({EXAMPLE: lambda _: pickled(marker)}, {}),
        "shape expression": ({GRAPH: edited(expression)}, {}),
        "hint": ({GRAPH: edited(hint)}, {}),
        "guard": ({GRAPH: edited(lambda document: document.update(guards_code=[f"{code} is None"]))}, {}),
        "tree": ({GRAPH: edited(tree)}, {}),
        "name of a node": ({GRAPH: renamed("reshape", f"ids[{code}]")}, {}),
        "name of an input": ({GRAPH: renamed("dense", f"dense={code}")}, {}),
        "name of a parameter": (
            {
                GRAPH: renamed("top.weight", f'a b") or {code} or ("'),
                WEIGHTS: renamed("top.weight", f'a b") or {code} or ("'),
            },
            {},
        ),
        "torch.load": ({GRAPH: renamed("torch.ops.aten.reshape.default", "torch.load")}, {}),
        "aten.from_file": ({GRAPH: renamed("torch.ops.aten.reshape.default", "torch.ops.aten.from_file.default")}, {}),
        "aten.save": ({GRAPH: renamed("torch.ops.aten.reshape.default", "torch.ops.aten.save.default")}, {}),
        "methodcaller": ({GRAPH: renamed("torch.ops.aten.reshape.default", "_operator.methodcaller")}, {}),
        "another namespace": ({GRAPH: renamed("torch.ops.aten.reshape.default", "torch.ops.evil.reshape.default")}, {}),
        "extension": ({GRAPH: renamed("torch.ops.aten.reshape.default", "#evil:reshape")}, {}),
        "compiled code": ({}, {"data/aotinductor/model/model.so": b"\x7fELF"}),
    }


HARMLESS = {"legacy weights", "example inputs", "guard", "tree", "compiled code"}
"""What is left out of what torch is given: the program is read without it."""

RUN_BY_TORCH = ("opaque constant", "shape expression", "name of an input")


@pytest.mark.parametrize("name", sorted(set(attacks(Path("marker"))) - HARMLESS))
def test_a_file_that_holds_code_is_refused(name: str, small: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    path = changed(small, tmp_path / "evil.pt2", *attacks(marker)[name])
    with pytest.raises(ModelFileError, match=re.escape(f"{path}: ")):
        read_program(path)
    assert not marker.exists()


@pytest.mark.parametrize("name", sorted(HARMLESS))
def test_code_that_is_not_needed_is_left_out(name: str, small: Path, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    program = read_program(changed(small, tmp_path / "evil.pt2", *attacks(marker)[name]))
    inputs = torch.tensor([1, 2, 3]), torch.rand(3, 4)
    want = torch.export.load(small).module()(*inputs)
    with quiet(), torch.no_grad():
        (got,) = program.exported.module(check_guards=True)(*inputs)
    assert torch.equal(got, want)
    assert not marker.exists()
    assert (program.example is None) == (name == "example inputs")


@pytest.mark.parametrize("name", RUN_BY_TORCH)
def test_torch_itself_would_run_it(name: str, small: Path, tmp_path: Path) -> None:
    """That these files do hold what runs: else the test above could not fail."""
    marker = tmp_path / "ran"
    path = changed(small, tmp_path / "evil.pt2", *attacks(marker)[name])
    code = f"import torch; torch.export.load({str(path)!r}).module()(torch.tensor([1]), torch.rand(1, 4))"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, check=False)
    assert marker.exists()


def test_weights_are_as_torch_reads_them(small: Path) -> None:
    ours, whole = read_program(small).exported, torch.export.load(small)
    assert list(ours.state_dict) == list(whole.state_dict)
    for name, values in whole.state_dict.items():
        assert torch.equal(ours.state_dict[name], values), name
    assert torch.equal(ours.constants["shift"], whole.constants["shift"])


class Views(nn.Module):
    """Weights that are views of one storage, and one that is not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        base = torch.rand(40, 4)
        self.low, self.high = nn.Parameter(base[:20]), nn.Parameter(base[20:])
        self.turned = nn.Parameter(torch.rand(4, 30).T)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.low[ids] + self.high[ids] + nn.functional.embedding(ids, self.turned)


@pytest.mark.filterwarnings("ignore:No complete tensor found")  # torch's own, where all weights are views
def test_views_and_strides(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Views()
    program = read_program(save(model, (torch.tensor([1, 2]),), tmp_path / "views.pt2"))
    for name, values in model.state_dict().items():
        assert torch.equal(program.exported.state_dict[name], values), name
    assert np.array_equal(program.weights.whole("high"), model.high.detach().numpy())
    assert "strides (1, 30)" in (program.weights.tensors["turned"].problem() or "")


MEMORY = """
import resource, sys
from pathlib import Path
import torch, torch.onnx
from repo_builder.export.exported import open_exported
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
begin = peak()
source = open_exported(Path(sys.argv[1]), "model", None, 0, {})
print(sum(block.nbytes for block in source.table_chunks(source.model.tables[0])), peak() - begin)
"""


class Large(nn.Module):
    def __init__(self, rows: int) -> None:
        super().__init__()
        self.vectors, self.linear = nn.Embedding(rows, 48, _weight=torch.rand(rows, 48)), nn.Embedding(rows, 16)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.vectors(ids), self.linear(ids)], 1)


@pytest.mark.slow
def test_tables_are_never_in_memory(tmp_path: Path) -> None:
    path = save(Large(2_200_000), (torch.tensor([1, 2_199_999]),), tmp_path / "large.pt2")
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEMORY, path], capture_output=True, text=True, check=True
    )
    streamed_bytes, grown_bytes = map(int, run.stdout.split())
    assert streamed_bytes == 2_200_000 * 64 * 4
    assert grown_bytes < 512 * 1024**2 < streamed_bytes


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 4).requires_grad_(False)

    def forward(self, ids: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
        return torch.cond(dense.sum() > 0, torch.relu, torch.tanh, (self.table(ids) + dense,))


def branches(document: Any) -> list[Any]:
    found = [
        given["arg"]["as_graph"] for node in nodes(document) for given in node["inputs"] if "as_graph" in given["arg"]
    ]
    assert len(found) == 2
    return found


@pytest.mark.parametrize("place", ["operator", "custom", "node", "value", "expression"])
def test_what_is_in_a_branch_is_checked_as_all_else(place: str, tmp_path: Path) -> None:
    path, marker = tmp_path / "small.pt2", tmp_path / "marker"
    shapes = ({0: torch.export.Dim.AUTO},) * 2
    save(Branching(), (torch.tensor([1, 2, 3]), torch.rand(3, 4)), path, shapes)
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    assert read_program(path).exported.graph_module is not None

    def edit(document: Any) -> None:
        graph = branches(document)[1]["graph"]
        if place == "operator":
            graph["nodes"][0]["target"] = "torch.os.system"
        elif place == "custom":
            graph["nodes"][0]["target"] = "torch.ops.aten.from_file.default"
        elif place == "node":
            graph["nodes"][0]["name"] = code
        elif place == "value":
            graph["tensor_values"][code] = next(iter(graph["tensor_values"].values()))
        else:
            for size in next(iter(graph["tensor_values"].values()))["sizes"]:
                size |= {"as_expr": {"expr_str": code, "hint": {"as_int": 3}}}

    with pytest.raises(ModelFileError, match="expected"):
        read_program(changed(path, tmp_path / "changed.pt2", {"models/model.json": edited(edit)}))
    assert not marker.exists()
