"""What is wrong with a program, or with what is asked of it: a line that names the file, the node and what to do."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from repo_builder.errors import InputError, ModelFileError
from repo_builder.export.exported import open_exported
from tests.export.exported.programs import save

IDS = torch.tensor([1, 2, 3])


class Plain(nn.Module):
    def forward(self, ids: Tensor) -> Tensor:
        return ids.float() * 2


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.words(ids) @ self.words.weight.T


class Ranker(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.other = nn.Embedding(20, 4), nn.Embedding(20, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids).sum(1, keepdim=True) + self.other(ids)


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return torch.cond(ids.sum() > 3, lambda each: self.table(each), lambda each: -self.table(each), (ids,))


class NarrowEnds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 4, dtype=torch.bfloat16)

    def forward(self, ids: Tensor, scale: Tensor) -> Tensor:
        return self.table(ids) * scale


class Training(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(20, 4), nn.BatchNorm1d(4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.norm(torch.dropout(self.table(ids), 0.5, True))

    def eval(self) -> Training:
        return self


class NoGrad(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 4)

    def forward(self, ids: Tensor) -> Tensor:
        with torch.no_grad():
            scale = ids.float().cos().unsqueeze(1)
        return self.table(ids) * scale


@torch.library.custom_op("elasticrec_tests::twice", mutates_args=())
def twice(values: Tensor) -> Tensor:
    return values * 2


@twice.register_fake
def _(values: Tensor) -> Tensor:
    return torch.empty_like(values)


class Custom(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return twice(self.table(ids))


def opened(path: Path, **options: Any) -> object:
    return open_exported(
        path, "model", options.get("samples"), options.get("keep_under_bytes", 0), options.get("keep", {})
    )


class Renormalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 4, max_norm=1.0)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids)


class Returns(nn.Module):
    """Its input, and a tensor twice."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 4)

    def forward(self, ids: Tensor) -> tuple[Tensor, ...]:
        scores = self.table(ids).sum(1)
        return scores, scores, ids


class OddName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleDict({"user-id": nn.Embedding(20, 4)})

    def forward(self, ids: Tensor) -> Tensor:
        return self.tables["user-id"](ids)


@pytest.mark.parametrize(
    ("model", "shapes", "said"),
    [
        (Renormalised, None, r"parameter table\.weight: .* as max_norm does; renormalise its rows once"),
        (Returns, None, r"output sum_1: expected a tensor of its own, .* one twice; return each tensor once"),
        (Returns, None, r"output ids: expected a tensor of its own, got an input, .*\.clone\(\) of an input"),
        (OddName, None, r"got 'tables\.user-id\.weight'; rename the module"),
        (NoGrad, None, r"got a part under torch\.no_grad or autocast; inline it .*program\.run_decompositions\(\{\}\)"),
        (Plain, None, r"expected look-ups in tables .*, found none in \d+ nodes; serve such a model whole"),
        (Tied, None, r"no table is left .*words \[20, 4\] stays dense: node \w+ \(aten\.\w+\.default\) reads it too"),
        (Branch, None, r"node cond: look-ups in a branch stay in it; look the rows up before torch\.cond"),
        (
            Custom,
            None,
            r"node twice: expected PyTorch's own operators \(aten\), got torch\.ops\.elasticrec_tests\.twice",
        ),
        (Training, None, r"node (native_)?dropout: it draws random numbers .*; call model\.eval\(\) before the export"),
        (
            Ranker,
            (None,),
            r"expected inputs whose batch varies, got fixed sizes \(ids of shape \[3\]\); .*dynamic_shapes=",
        ),
    ],
)
def test_programs_that_cannot_be_cut(
    model: Callable[[], nn.Module], shapes: tuple[Any, ...] | None, said: str, tmp_path: Path
) -> None:
    path = save(model(), (IDS,), tmp_path / "model.pt2", shapes)
    with pytest.raises(ModelFileError) as raised:
        opened(path)
    assert re.search(said, str(raised.value)), raised.value
    assert all(problem.startswith(f"{path}: ") and "\n" not in problem for problem in raised.value.problems)
    assert raised.value.exit_code == 2


@pytest.fixture(scope="module")
def ranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(Ranker(), (IDS,), tmp_path_factory.mktemp("ranker") / "ranker.pt2")


def test_tables_kept_by_name_or_size(ranker: Path) -> None:
    with pytest.raises(
        ModelFileError, match=r"table other: its rows are part of table table, as both have the same ids"
    ):
        opened(ranker, keep={"other": "dense"})
    with pytest.raises(ModelFileError, match=r"table nothing: expected a table of the model \(table\), found none"):
        opened(ranker, keep={"nothing": "shard"})
    with pytest.raises(ModelFileError, match="stays dense: the spec says keep: dense"):
        opened(ranker, keep={"table": "dense"})
    with pytest.raises(ModelFileError, match="it has 400 bytes, less than keep_under_bytes, 401"):
        opened(ranker, keep_under_bytes=401)
    assert opened(ranker, keep_under_bytes=401, keep={"table": "shard"})


def test_what_is_no_program(tmp_path: Path) -> None:
    for name, content in {"text.pt2": b"hello", "empty.pt2": b"", "cut.pt2": b"PK\x03\x04" + b"\0" * 60}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelFileError, match=r"\.pt2: expected a program written by torch\.export\.save, got"):
            opened(tmp_path / name)
    torch.save({"a": torch.ones(3)}, tmp_path / "state.pt2")
    with pytest.raises(ModelFileError, match=r"state\.pt2: expected .* got another zip file; .*torch\.export\.save"):
        opened(tmp_path / "state.pt2")
    with pytest.raises(ModelFileError, match=r"none\.pt2: expected a file, found none; check the path"):
        opened(tmp_path / "none.pt2")
    with pytest.raises(ModelFileError, match=r"cannot be read: Is a directory"):
        opened(tmp_path)


def test_a_program_that_was_cut_short(ranker: Path, tmp_path: Path) -> None:
    content = ranker.read_bytes()
    for size in (len(content) // 4, len(content) // 2, len(content) - 30):
        (tmp_path / "short.pt2").write_bytes(content[:size])
        with pytest.raises(ModelFileError, match=r"short\.pt2: "):
            opened(tmp_path / "short.pt2")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            b'"schema_version": {"major": 8',
            b'"schema_version": {"major": 9',
            "cannot load this program, written by torch",
        ),
        (b"aten.embedding.default", b"aten.embedding_of_2030.default", r"has no operator .*; update torch"),
        (
            b'"device": {"type": "cpu"',
            b'"device": {"type": "cuda"',
            r"expected a program for the CPU, got tensors on cuda",
        ),
    ],
)
def test_programs_of_elsewhere(old: bytes, new: bytes, said: str, ranker: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.pt2"
    with zipfile.ZipFile(ranker) as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            content = source.read(info)
            assert old in content or not info.filename.endswith("model.json")
            target.writestr(info.filename, content.replace(old, new) if info.filename.endswith(".json") else content)
    with pytest.raises(ModelFileError, match=said) as raised:
        opened(path)
    assert all(problem.startswith(f"{path}: ") for problem in raised.value.problems)


def test_samples(ranker: Path, tmp_path: Path) -> None:
    def refused(**arrays: Any) -> str:
        np.savez(tmp_path / "samples.npz", **arrays)
        with pytest.raises(ModelFileError) as raised:
            opened(ranker, samples=tmp_path / "samples.npz")
        return str(raised.value)

    assert re.search(
        r"samples\.npz: ids: expected INT64 \[batch\], got int32 \[2\]", refused(ids=np.zeros(2, np.int32))
    )
    assert "ids: expected INT64 [batch], got none" in refused(other=np.zeros(2))
    assert refused(ids=np.array([0, 20])) == (
        f"{tmp_path / 'samples.npz'}: ids: expected ids of table table, from 0 to 19, got 20 in row 1"
    )
    np.savez(tmp_path / "samples.npz", ids=np.array([7, 8]))
    source: Any = opened(ranker, samples=tmp_path / "samples.npz")
    assert source.samples()["ids"].tolist() == [7, 8]


def test_queries_that_are_none_of_the_models(ranker: Path) -> None:
    source: Any = opened(ranker)
    for query, said in (
        ({"ids": np.array([0, 99])}, "the model refuses the query: index out of range"),
        ({"ids": np.array([[0]])}, r"ids: expected INT64 \[batch\], got int64 \[1, 1\]"),
        ({}, r"ids: expected INT64 \[batch\], got none"),
    ):
        with pytest.raises(InputError, match=said):
            source.answers(query)


class Renamed(nn.Module):
    """Ids are renamed by a list of theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 4)
        self.register_buffer("names", torch.arange(8))

    def forward(self, raw: Tensor) -> Tensor:
        vectors: Tensor = self.table(torch.index_select(self.names, 0, raw)).relu()
        return vectors


def test_a_query_of_which_no_ids_are_computed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    save(Renamed(), (IDS,), path, ({0: torch.export.Dim.AUTO},))
    source: Any = opened(path)
    assert source.model.ids_graph is not None
    with pytest.raises(InputError, match=r"^the model refuses the query: index out of range"):
        source.ids({"raw": np.array([3, 8])})


def test_bfloat16_at_the_ends(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    save(NarrowEnds(), (IDS, torch.ones(3, 1, dtype=torch.bfloat16)), path, ({0: torch.export.Dim.AUTO},) * 2)
    with pytest.raises(ModelFileError) as raised:
        open_exported(path, "model", None, 0, {})
    assert len(raised.value.problems) == 2
    for name, problem in zip(("scale", "mul"), raised.value.problems, strict=True):
        assert re.match(rf"{re.escape(str(path))}: {name}(_\d+)?: expected another type than bfloat16", problem)
        assert "let the model take and give float32" in problem
