"""The model spec: what is accepted, every field's bounds, and all mistakes of a file told at once."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from repo_builder.errors import SpecError
from repo_builder.model.dlrm import Dlrm, DlrmTable, Weights
from repo_builder.model.row_rule import RowRule
from repo_builder.spec import Access, FleetSettings, Serving, Spec, load_spec, parse_spec
from tests.spec_documents import DESIGN, REMOVED, VALID, changed, problems_of


def write(folder: Path, document: object, name: str = "m.json") -> Path:
    (folder / name).write_text(json.dumps(document))
    return folder / name


def test_spec_of_the_design(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(DESIGN)
    spec = load_spec(tmp_path / "m.yaml")
    names = ["C1", *(f"C2_{i}" for i in range(9))]
    form = Dlrm(
        dense_features=13,
        bottom_mlp=(256, 128, 32),
        top_mlp=(256, 64, 1),
        tables=tuple(DlrmTable(name, 2_000_000, 32, 128) for name in names),
        index_dtype="int64",
        weights=Weights("random", None, 0),
    )
    assert spec == Spec.of_dlrm(
        "rm1",
        form,
        access=Access("powerlaw", None, 0.9, 0),
        serving=Serving(100.0, 32, 400.0),
    )
    assert (form.dim, form.index_columns, spec.model.tables[0].format.row_bytes) == (32, 1280, 128)


def test_json_reads_like_yaml(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text(DESIGN)
    assert load_spec(write(tmp_path, VALID)) == load_spec(tmp_path / "m.yaml")


def test_spec_cannot_be_changed() -> None:
    spec = parse_spec(VALID, Path("m.yaml"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.name = "other"  # type: ignore[misc] # what the test is about


@pytest.mark.parametrize(
    ("field", "attribute", "default"),
    [
        ("index_dtype", "index_dtype", "int64"),
        ("weights.seed", "weights", Weights("random", None, 0)),
        ("serving.batch", "serving", Serving(100.0, 32, 400.0)),
        ("serving.sla_ms", "serving", Serving(100.0, 32, 400.0)),
    ],
)
def test_defaults(field: str, attribute: str, default: object) -> None:
    spec = parse_spec(changed(field, REMOVED), Path("m.yaml"))
    assert getattr(spec.dlrm if hasattr(spec.dlrm, attribute) else spec, attribute) == default


def test_fleet_options(tmp_path: Path) -> None:
    options = {"missing_shard": "degrade", "hedge_quantile": 0.95, "max_in_flight": 8, "sums_dtype": "fp16"}
    assert parse_spec({**VALID, "fleet": options}, tmp_path / "m.yaml").fleet == FleetSettings(
        "degrade", 0.95, 8, "fp16"
    )
    assert parse_spec(VALID, tmp_path / "m.yaml").fleet == FleetSettings("fail", None, 256, "fp32")


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("missing_shard", "ignore", 'expected one of fail, degrade, got "ignore"'),
        ("hedge_quantile", 0.4, "expected at least 0.5, got 0.4"),
        ("hedge_quantile", 1, "expected less than 1, got 1"),
        ("hedge_quantile", "p95", 'expected a number, got "p95"'),
        ("max_in_flight", 0, "expected at least 1, got 0"),
        ("max_in_flight", 65537, "expected at most 65536, got 65537"),
        ("sums_dtype", "bf16", 'expected one of fp32, fp16, got "bf16"'),
        ("deadline", 5, "unknown field"),
    ],
)
def test_wrong_fleet_options(field: str, value: object, problem: str) -> None:
    (got,) = problems_of({**VALID, "fleet": {field: value}})
    assert got.startswith("fleet") and problem in got


@pytest.mark.parametrize(
    ("rows", "rule"),
    [
        ("int8", RowRule("int8", "int8", None)),
        ("int8_half", RowRule("int8_half", "int8_half", None)),
        ({"hot": "fp32", "cold": "int4"}, RowRule("fp32", "int4", None)),
        ({"budget": 1e-3}, RowRule("fp32", "fp32", 1e-3)),
    ],
)
def test_how_rows_are_stored(rows: object, rule: RowRule) -> None:
    assert parse_spec({**VALID, "rows": rows}, Path("m.yaml")).rows == rule


def test_the_readmes_words_for_rows_are_read(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    found = []
    for line in re.findall(r"^(?:# )?(rows: .*)$", readme, re.MULTILINE):
        (tmp_path / "m.yaml").write_text(f"{DESIGN}{line}\n")
        found.append(load_spec(tmp_path / "m.yaml").rows)
    assert found == [RowRule("int8", "int8"), RowRule("fp32", "int8"), RowRule(budget=1e-3)]


def test_rows_are_stored_as_float32_where_nothing_is_said() -> None:
    assert parse_spec(VALID, Path("m.yaml")).rows == RowRule("fp32", "fp32", None)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ("fp8", 'rows: expected one of fp32, fp16, bf16, int8, int8_half, int4, got "fp8"'),
        (8, "rows: expected a string or a mapping, got 8"),
        (["int8"], 'rows: expected a string or a mapping, got ["int8"]'),
        ({"hot": "fp32"}, "rows.cold: expected this field, got none"),
        ({"hot": "fp32", "cold": 8}, "rows.cold: expected one of fp32, fp16, bf16, int8, int8_half, int4, got 8"),
        ({"hot": "fp32", "cold": "int8", "warm": "fp16"}, "rows.warm: unknown field; expected one of hot, cold"),
        ({"hot": "fp32", "budget": 1}, "rows.hot: unknown field; expected one of budget"),
        ({"budget": 0}, "rows.budget: expected more than 0, got 0"),
        ({"budget": "1e-3"}, 'rows.budget: expected a number, got "1e-3"'),
    ],
)
def test_wrong_rows(rows: object, problem: str) -> None:
    assert problems_of({**VALID, "rows": rows}) == [problem]


@pytest.mark.parametrize("field", ["weights", "access"])
def test_paths_are_taken_from_the_files_folder(tmp_path: Path, field: str) -> None:
    source = {"weights": "dlrm", "access": "trace"}[field]
    for given, expected in (("data/f.npz", tmp_path / "data/f.npz"), ("/abs/f.npz", Path("/abs/f.npz"))):
        path = write(tmp_path, changed(field, {"source": source, "path": given}))
        spec = load_spec(path)
        assert {"weights": spec.dlrm.weights, "access": spec.access}[field].path == expected


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "a"),
        ("name", "A" + "b_9" * 21),
        ("dense_features", 1),
        ("tables.0.rows", 1),
        ("tables.0.rows", 2**31 - 1),
        ("tables.0.pooling", 2**16),
        ("tables.1.count", 1),
        ("tables.1.count", 100_000),
        ("index_dtype", "int32"),
        ("tables.0.mode", "mean"),
        ("weights.seed", 2**40),
        ("access.locality", 0.1),
        ("access.locality", 0.999999),
        ("access", {"source": "counts", "path": "c.npz"}),
        ("access.seed", 12),
        ("serving.target_qps", 0.001),
        ("serving.batch", 1),
        ("serving.sla_ms", 0.5),
    ],
)
def test_bounds_are_inside(field: str, value: object) -> None:
    parse_spec(changed(field, value), Path("m.yaml"))


REQUIRED = [
    *("name", "dense_features", "bottom_mlp", "top_mlp", "tables", "weights", "access", "serving"),
    *("tables.0.name", "tables.0.rows", "tables.0.dim", "tables.0.pooling"),
    *("weights.source", "access.source", "access.locality", "serving.target_qps"),
]


@pytest.mark.parametrize("field", REQUIRED)
def test_required_fields(field: str) -> None:
    expected = f"{field.replace('.0', '[0]')}: expected this field, got none"
    assert expected in problems_of(changed(field, REMOVED))


@pytest.mark.parametrize(
    "field",
    ["extra", "tables.0.extra", "weights.extra", "weights.path", "access.extra", "access.path", "serving.extra"],
)
def test_unknown_fields(field: str) -> None:
    (problem,) = problems_of(changed(field, "x"))
    assert problem.startswith(f"{field.replace('.0', '[0]')}: unknown field; expected one of ")


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("name", 5, "expected a string, got 5"),
        (
            "name",
            "1a",
            "expected a name like ^[A-Za-z][A-Za-z0-9_]{0,63}$ (a letter, then letters, digits or underscores)",
        ),
        ("name", "a-b", "expected a name like"),
        ("name", "a\n", "expected a name like"),
        ("name", "a" * 65, "expected a name like"),
        ("dense_features", 0, "expected at least 1, got 0"),
        ("dense_features", "13", 'expected an integer, got "13"'),
        ("dense_features", True, "expected an integer, got true"),
        ("dense_features", 13.0, "expected an integer, got 13.0"),
        ("bottom_mlp", [], "expected at least 1 item, got []"),
        ("bottom_mlp", 32, "expected a list, got 32"),
        ("bottom_mlp.0", 0, "expected at least 1, got 0"),
        ("bottom_mlp.0", 1.5, "expected an integer, got 1.5"),
        ("top_mlp", [], "expected at least 1 item, got []"),
        ("top_mlp.0", -3, "expected at least 1, got -3"),
        ("interaction", "cat", 'expected one of dot, dcn, projection, got "cat"'),
        ("interaction", ["dcn"], 'expected one of dot, dcn, projection, got ["dcn"]'),
        ("tables", [], "expected at least 1 item, got []"),
        ("tables", {}, "expected a list, got {}"),
        ("tables.0", "C1", 'expected a mapping, got "C1"'),
        ("tables.0.name", "", "expected a name like"),
        ("tables.0.rows", 0, "expected at least 1, got 0"),
        ("tables.0.rows", 2**31, "expected at most 2147483647, got 2147483648"),
        ("tables.0.rows", 2e6, "expected an integer, got 2000000.0"),
        ("tables.0.rows", None, "expected an integer, got null"),
        ("tables.0.dim", 0, "expected at least 1, got 0"),
        ("tables.0.dim", 65537, "expected at most 65536, got 65537"),
        ("tables.0.pooling", 0, "expected at least 1, got 0"),
        ("tables.0.pooling", 2**16 + 1, "expected at most 65536, got 65537"),
        ("tables.1.count", 0, "expected at least 1, got 0"),
        ("tables.1.count", 100_001, "expected at most 100000, got 100001"),
        ("tables.1.count", "9", 'expected an integer, got "9"'),
        ("index_dtype", "int16", 'expected one of int64, int32, got "int16"'),
        ("weights", [], "expected a mapping, got []"),
        ("weights.source", "zeros", 'expected one of random, dlrm, torchrec, got "zeros"'),
        ("weights.seed", -1, "expected at least 0, got -1"),
        ("weights.seed", 0.5, "expected an integer, got 0.5"),
        ("access", "trace", 'expected a mapping, got "trace"'),
        ("access.source", "log", 'expected one of powerlaw, counts, trace, got "log"'),
        ("access.locality", 0.09, "expected at least 0.1, got 0.09"),
        ("access.locality", 1, "expected less than 1, got 1"),
        ("access.locality", "0.9", 'expected a number, got "0.9"'),
        ("access.locality", float("nan"), "expected a finite number, got nan"),
        ("access.seed", -1, "expected at least 0, got -1"),
        ("serving", None, "expected a mapping, got null"),
        ("serving.target_qps", 0, "expected more than 0, got 0"),
        ("serving.target_qps", float("nan"), "expected a finite number, got nan"),
        ("serving.target_qps", float("inf"), "expected a finite number, got inf"),
        ("serving.batch", 0, "expected at least 1, got 0"),
        ("serving.batch", 8.5, "expected an integer, got 8.5"),
        ("serving.sla_ms", 0, "expected more than 0, got 0"),
        ("serving.sla_ms", float("inf"), "expected a finite number, got inf"),
    ],
)
def test_values_out_of_bounds(field: str, value: object, problem: str) -> None:
    where = field.replace(".0", "[0]").replace(".1", "[1]")
    (got,) = problems_of(changed(field, value))
    assert got.startswith(f"{where}: {problem}")


@pytest.mark.parametrize("source", ["counts", "trace"])
def test_measured_access_needs_a_path_and_no_locality(source: str) -> None:
    assert problems_of(changed("access", {"source": source})) == ["access.path: expected this field, got none"]
    with_locality = changed("access", {"source": source, "path": "f.npz", "locality": 0.9})
    assert problems_of(with_locality) == ["access.locality: unknown field; expected one of source, path"]


def test_ten_mistakes_are_told_at_once_in_file_order() -> None:
    document = {
        "name": "9lives",
        "dense_features": 0,
        "bottom_mlp": [64, 16],
        "top_mlp": [8, 3],
        "tables": [
            {"name": "a", "rows": "many", "dim": 16, "pooling": 1},
            {"name": "a", "rows": 5, "dim": 8, "pooling": 0},
        ],
        "weights": {"source": "random", "path": "w.pt"},
        "access": {"source": "powerlaw", "locality": 1.5},
        "serving": {"target_qps": float("nan")},
        "extra": 1,
    }
    assert [problem.split(": ")[0] for problem in problems_of(document)] == [
        "extra",
        "name",
        "dense_features",
        "tables[0].rows",
        "tables[1].pooling",
        "weights.path",
        "access.locality",
        "serving.target_qps",
        "top_mlp",
        "tables[1].dim",
        "tables[1].name",
    ]


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("")
    with pytest.raises(SpecError, match=r"m\.yaml: \(top level\): expected a mapping, got null"):
        load_spec(tmp_path / "m.yaml")


def test_broken_file_is_a_spec_error_with_exit_code_2(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("name: [")
    with pytest.raises(SpecError, match="expected YAML") as caught:
        load_spec(tmp_path / "m.yaml")
    assert caught.value.exit_code == 2
