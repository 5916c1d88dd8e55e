"""Workloads: drawn ids follow the model's accesses, files are what the load generators read, mistakes are told."""

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from elasticrec.cli import main
from loadtest.queries import load_queries
from repo_builder.access.load import load_hotness
from repo_builder.access.query_file import QueryFile
from repo_builder.export.dlrm.source import open_source
from repo_builder.model.row_rule import RowRule
from repo_builder.model.types import Model
from repo_builder.partition.planner import make_plan
from repo_builder.repository.build import build
from repo_builder.repository.manifest import describe
from repo_builder.spec import Access
from tests.hand_models import COMPUTED, RANKER, hand_spec
from tests.integration.models import CHEAP, document, make_repository, make_spec, pytorch_scores
from triton_backends.kernels.row_formats import decode_rows, encode_rows

Folder = tuple[Path, object]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the repository and its spec."""
    folder = tmp_path_factory.mktemp("workload")
    make_repository(folder, "tiered")
    (folder / "small.json").write_text(json.dumps(document()))
    return folder


def workload(built: Path, *words: object) -> int:
    return main([str(word) for word in ("workload", built / "repository", *words)])


def test_drawn_ids_follow_the_models_accesses(built: Path, tmp_path: Path) -> None:
    """The share of the hottest rows among the drawn ids is that of the spec's CDF."""
    from repo_builder.spec import load_spec

    assert workload(built, "-o", tmp_path / "w.npz", "--queries", 1500, "--seed", 7) == 0
    with np.load(tmp_path / "w.npz") as arrays:
        dense, indices = arrays["dense"], arrays["indices"]
    assert dense.shape == (12000, 5) and indices.shape == (12000, 23) and indices.dtype == np.int64
    spec = load_spec(built / "small.json")
    hotness, begin = load_hotness(spec), 0
    for table in spec.dlrm.tables:
        ids = indices[:, begin : begin + table.pooling].ravel()
        begin += table.pooling
        for share in (0.01, 0.1, 0.5):
            hot = max(1, int(share * table.rows))
            expected = hotness.cdf(table)[hot]
            found = np.isin(ids, hotness.order(table)[:hot]).mean()
            assert found == pytest.approx(expected, abs=5 * np.sqrt(expected * (1 - expected) / ids.size) + 1e-9)


def test_a_seed_gives_the_same_workload_again(built: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert workload(built, "-o", tmp_path / f"{name}.npz", "--queries", 5, "--seed", seed) == 0
    a, b, c = (np.load(tmp_path / f"{name}.npz")["indices"] for name in "abc")
    assert (a == b).all() and (a != c).any()


def test_expected_scores_are_pytorchs(built: Path, tmp_path: Path) -> None:
    from repo_builder.spec import load_spec

    words = ("--spec", built / "small.json", "--queries", 6, "--expected", 4)
    assert workload(built, "-o", tmp_path / "w.npz", *words) == 0
    with np.load(tmp_path / "w.npz") as arrays:
        dense, indices, scores = arrays["dense"], arrays["indices"], arrays["expected/score"]
    assert scores.shape == (4, 8, 1)
    expected = pytorch_scores(load_spec(built / "small.json"), dense[:32], indices[:32])
    np.testing.assert_allclose(scores.reshape(-1, 1), expected, atol=1e-6)


def test_expected_scores_are_those_of_the_rows_as_they_are_stored(tmp_path: Path) -> None:
    """Or a load test would call every answer of smaller rows wrong: the oracle is the tables that lie in the files."""
    spec = make_spec(tmp_path)
    (tmp_path / "small.json").write_text(json.dumps(document()))
    hotness, state = load_hotness(spec), torch.load(spec.dlrm.weights.path, weights_only=True)
    plan = make_plan(replace(spec, rows=RowRule("fp16", "int8")), hotness, CHEAP, "tiered", 3)
    assert [service.row_dtype for service in plan.embedding_services] == ["fp16", "int8", "int8"]
    build(spec, plan, hotness, open_source(spec), tmp_path / "repository")
    words = ("--spec", tmp_path / "small.json", "--queries", 6, "--expected", 4)
    assert workload(tmp_path, "-o", tmp_path / "w.npz", *words) == 0
    queries = load_queries(tmp_path / "w.npz", 8, spec.model.inputs, spec.model.outputs)
    for i, table in enumerate(spec.model.tables):
        for service in plan.embedding_services:
            for shard in (each for each in service.shards if each.table == table.name):
                ids = hotness.order(table)[shard.begin : shard.end].astype(np.int64)
                rows = state[f"emb_l.{i}.weight"].numpy()[ids]
                stored = decode_rows(encode_rows(rows, service.row_dtype), 8, service.row_dtype)
                state[f"emb_l.{i}.weight"][torch.from_numpy(ids)] = torch.from_numpy(stored)
    for as_they_are in (False, True):
        wrong = [queries.wrong(n, {"score": pytorch_scores(spec, *queries.query(n).values())}) for n in range(4)]
        assert [bool(each) for each in wrong] == [not as_they_are] * 4
        torch.save(state, spec.dlrm.weights.path)


def test_a_trace_is_replayed(built: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = {"users": (3000, 4), "items_0": (517, 9), "items_1": (517, 9), "flag": (1, 1)}
    trace = {name: rng.integers(0, count, (16, pooling)) for name, (count, pooling) in rows.items()}
    np.savez(tmp_path / "trace.npz", **trace)
    assert workload(built, "-o", tmp_path / "w.npz", "--queries", 2, "--trace", tmp_path / "trace.npz") == 0
    assert (np.load(tmp_path / "w.npz")["indices"] == np.hstack(list(trace.values()))).all()


def test_the_same_queries_as_json_and_as_binary_files(built: Path, tmp_path: Path) -> None:
    for name in ("w.npz", "w.json", "w"):
        assert workload(built, "-o", tmp_path / name, "--queries", 3) == 0
    with np.load(tmp_path / "w.npz") as arrays:
        first = {name: arrays[name][:8] for name in ("dense", "indices")}
    data = json.loads((tmp_path / "w.json").read_text())["data"]
    assert len(data) == 3
    for name, array in first.items():
        content = data[0][name]["content"]
        raw = base64.b64decode(content["b64"]) if isinstance(content, dict) else array.dtype.type(content).tobytes()
        assert raw == array.tobytes() == (tmp_path / "w" / name).read_bytes()
        assert data[0][name]["shape"] == list(array.shape)
    assert workload(built, "-o", tmp_path / "w", "--queries", 1) == 0  # again, in place
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w", "w.json", "w.npz"]


def test_a_workload_of_any_inputs_is_cut_into_whole_queries(tmp_path: Path) -> None:
    """Drawn without the spec, from nothing but the manifest: what is written for each tool is the same query."""
    repository = any_repository(tmp_path / "repository")
    for name in ("w.npz", "w.json", "w"):
        assert main(["workload", str(repository), "-o", str(tmp_path / name), "--queries", "3", "--seed", "5"]) == 0
    queries = load_queries(tmp_path / "w.npz", 8, RANKER.inputs, RANKER.outputs)
    assert len(queries) == 3
    data = json.loads((tmp_path / "w.json").read_text())["data"]
    for number, written in enumerate(data):
        query = queries.query(number)
        assert written.keys() == query.keys() == {tensor.name for tensor in RANKER.inputs}
        for tensor in RANKER.inputs:
            sent = base64.b64decode(written[tensor.name]["content"]["b64"])
            array = query[tensor.name]
            assert written[tensor.name]["shape"] == ([*array.shape] or [1])  # a scalar is one number
            if tensor.datatype == "BF16":  # the upper halves of float32, which drawn numbers fit
                assert np.frombuffer(sent, np.uint16).tolist() == (array.view(np.uint32) >> 16).reshape(-1).tolist()
            else:
                assert sent == array.tobytes()
            if number == 0:
                assert (tmp_path / "w" / tensor.name).read_bytes() == sent


def test_samples_of_the_repository_fill_what_is_not_drawn(tmp_path: Path) -> None:
    """A model that computes its ids gets rows of its samples; without any it is told what is missing."""
    repository = any_repository(tmp_path / "repository", COMPUTED, sampled=True)
    features = np.arange(12, dtype=np.float32).reshape(3, 4)
    (repository / "queries.npz").write_bytes(QueryFile({"features": features}).to_bytes())
    assert main(["workload", str(repository), "-o", str(tmp_path / "w.npz"), "--queries", "2"]) == 0
    drawn = np.load(tmp_path / "w.npz")["features"]
    assert drawn.shape == (16, 4) and {row[0] for row in drawn.tolist()} == {0.0, 4.0, 8.0}
    assert all(row in features.tolist() for row in drawn.tolist())


def test_ids_that_are_computed_need_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = any_repository(tmp_path / "repository", COMPUTED)
    assert main(["workload", str(repository), "-o", str(tmp_path / "w.npz")]) == 2
    assert "samples: expected recorded requests, got none: the ids of item are computed" in capsys.readouterr().err
    assert not (tmp_path / "w.npz").exists()


def any_repository(
    folder: Path,
    model: Model = RANKER,
    *,
    sampled: bool = False,
    table_access: Mapping[str, Access] | None = None,
) -> Path:
    """A repository as far as its manifest goes."""
    folder.mkdir()
    spec = hand_spec(model, batch=8, table_access=table_access or {})
    manifest = describe(spec, "single", "0" * 64, "elasticrec 0", [], sampled=sampled)
    (folder / "manifest.json").write_text(manifest.to_json())
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-o", "w.txt"), "w.txt: expected a name ending in .npz or .json"),
        (("-o", "w.npz", "--expected", 1), "--expected: expected --spec with it"),
        (("-o", "missing/w.npz"), "cannot be written: No such file or directory"),
        (("-o", "alike"), "alike: expected a former workload's folder, or none"),
        (("-o", "other"), "other: expected a former workload's folder, or none"),
        (("-o", "w.npz", "--trace", "none.npz"), "none.npz: expected a .npz file, found none"),
    ],
)
def test_mistakes(
    built: Path, words: tuple[object, ...], message: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").touch()
    (tmp_path / "alike" / "dense").mkdir(parents=True)  # of the names that a workload has
    (tmp_path / "alike" / "dense" / "precious").touch()
    assert workload(built, *words) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alike", "other"]
    assert (tmp_path / "other" / "precious").exists() and (tmp_path / "alike" / "dense" / "precious").exists()


def test_accesses_from_a_file_need_the_spec(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    manifest = json.loads((built / "repository" / "manifest.json").read_text())
    manifest["access"] = {"source": "counts", "locality": None, "seed": 0}
    (repository / "manifest.json").write_text(json.dumps(manifest))
    assert main(["workload", str(repository), "-o", str(tmp_path / "w.npz")]) == 2
    assert "give its spec with --spec SPEC" in capsys.readouterr().err


def test_a_table_has_accesses_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Even ones of the items, where those of the others are as hot as the model's; a file's cannot be drawn."""
    own = {"items": Access("powerlaw", locality=0.0)}
    repository = any_repository(tmp_path / "repository", table_access=own)
    assert main(["workload", str(repository), "-o", str(tmp_path / "w.npz"), "--queries", "500"]) == 0
    with np.load(tmp_path / "w.npz") as arrays:
        shares = [np.sort(np.bincount(arrays[name]))[-4:].sum() / arrays[name].size for name in ("items", "tags")]
    assert shares[0] < 0.05 and shares[1] > 0.8
    repository = any_repository(tmp_path / "other", table_access={"tags": Access("counts", Path("counts.npz"))})
    assert main(["workload", str(repository), "-o", str(tmp_path / "x.npz")]) == 2
    assert "has access.source counts of tags, which is not in the repository" in " ".join(
        capsys.readouterr().err.split()
    )
