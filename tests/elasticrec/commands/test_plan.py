"""`elasticrec plan --sweep` and `--explain`: what they print, write and refuse."""

import json
from pathlib import Path

import pytest
import yaml

from elasticrec.cli import main

DOCUMENT = {
    "name": "m",
    "dense_features": 3,
    "bottom_mlp": [8, 4],
    "top_mlp": [5, 1],
    "tables": [{"name": "A", "rows": 50_000, "dim": 4, "pooling": 100, "count": 3}],
    "weights": {"source": "random"},
    "access": {"source": "powerlaw", "locality": 0.9},
    "serving": {"target_qps": 4000, "batch": 32},
}


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump(DOCUMENT))
    return path


def run(*words: object) -> int:
    return main(["plan", *map(str, words)])


def test_what_stays_dense_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Eight tables by name, and how many more; none where none does."""
    small = {"name": "S", "rows": 100, "dim": 4, "pooling": 1, "count": 10}
    large = {**DOCUMENT["tables"][0], "rows": 100_000}
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump({**DOCUMENT, "tables": [large, small]}))
    assert run(path) == 0
    names = ", ".join(f"S_{i}" for i in range(8))
    assert f"kept dense: {names} and 2 more (10 tables, 15.6 KiB as float32)" in capsys.readouterr().out
    path.write_text(yaml.safe_dump({**DOCUMENT, "tables": [large, small], "keep_under_bytes": 0}))
    assert run(path) == 0
    assert "kept dense" not in capsys.readouterr().out


def test_explain_says_why_and_draws(spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture, profile = tmp_path / "explain.png", tmp_path / "profile.json"
    times = {"fixed_s": 1e-4, "per_row_s": 5e-8}
    profile.write_text(json.dumps({"service_time": times, "min_memory_bytes": 10_000}))
    assert run(spec, "--profile", profile, "--explain", "--plot", picture) == 0
    told = capsys.readouterr().out
    assert "tier0 | tier1: cut after" in told and "without this cut" in told
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_explain_counts_replicas_both_ways(spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """4,000 queries/s of 9,600 gathers: 0.1 + 0.96 ms by capacity are 5 replicas, 0.9 + 0.96 alone are 8."""
    profile = tmp_path / "profile.json"
    dense = {"fixed_s": 1e-4, "per_flop_s": 0}
    times = {"service_time": {"fixed_s": 1e-4, "per_row_s": 1e-7}, "dense_service_time": dense}
    light = {"fixed_s": 9e-4, "dense_service_time": {**dense, "fixed_s": 3e-4}}
    free = {"per_id_s": 0, "per_call_s": 0}  # a front end takes its dense layers' time alone
    profile.write_text(json.dumps({**times, "front_time": free, "light_load": light, "min_memory_bytes": 10_000}))
    assert run(spec, "--profile", profile, "--explain", "--s-max", "1") == 0
    told = capsys.readouterr().out
    rows = [line.split() for line in told.splitlines()[-5:-2]]
    assert rows[1:] == [["dense", "10,000", "1", "3,333", "2"], ["tier0", "943", "5", "538", "8"]]
    assert "by capacity 11.5 MiB: " in told and "by CPU at light load 18.4 MiB: " in told
    assert run(spec, "--profile", profile, "--size-by", "cpu", "--s-max", "1") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "538 8 x 1" in told and "profile: profile, by CPU at light load" in told


def test_no_cpu_to_size_by_is_one_line_and_two(spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"service_time": {"fixed_s": 1, "per_row_s": 0}, "min_memory_bytes": 1}))
    assert run(spec, "--profile", profile, "--size-by", "cpu") == 2
    assert "--size-by cpu: expected a profile with light_load" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_a_sweep_is_a_table_a_file_and_a_picture(
    suffix: str, spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, picture = tmp_path / f"sweep{suffix}", tmp_path / "sweep.png"
    assert run(spec, "--sweep", "target_qps=100..10000:3", "-o", output, "--plot", picture) == 0
    told = capsys.readouterr().out
    assert all(value in told for value in ("100 ", "1,000 ", "10,000 ", "of another machine"))
    assert picture.read_bytes().startswith(b"\x89PNG")
    if suffix == ".json":
        assert [point["value"] for point in json.loads(output.read_text())["points"]] == [100, 1000, 10_000]
        assert run(spec, "--sweep", "target_qps=100..10000:3", "--json") == 0
        assert capsys.readouterr().out == output.read_text()
    else:
        assert output.read_text().startswith("target_qps,memory_bytes,")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--sweep", "dim=1..2"], "--sweep: expected one of locality, target_qps"),
        (["--sweep", "s_max=0..3"], "--sweep s_max: expected a whole number from 1 to 16"),
        (["--sweep", "s_max=1..3", "--cluster", "c.yaml"], "--cluster: expected none with --sweep"),
        (["--sweep", "s_max=1..3", "-o", "out.txt"], "out.txt: expected a name ending in .json or .csv"),
    ],
)
def test_a_bad_sweep_is_one_line_and_two(
    words: list[str], told: str, spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(spec, *words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and told in lines[0]


def test_sweep_and_explain_exclude_each_other(spec: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        run(spec, "--sweep", "s_max=1..3", "--explain")
    assert caught.value.code == 2
