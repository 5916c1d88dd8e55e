"""`elasticrec simulate` on the examples, as a user calls it."""

import csv
import json
from pathlib import Path

import pytest

from elasticrec.cli import main

EXAMPLES = Path(__file__).parent.parent.parent.parent / "examples"
SPEC, STEPS, CLUSTER = EXAMPLES / "rm1.yaml", EXAMPLES / "traffic" / "steps.csv", EXAMPLES / "clusters" / "cpu.yaml"


def simulate(*words: object) -> int:
    return main(["simulate", str(SPEC), "--traffic", *map(str, words)])


def test_it_prints_both_fleets_and_writes_what_happened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / name for name in ("out.json", "out.csv", "out.png")]
    assert simulate(STEPS, "--cluster", CLUSTER, "-o", files[0], "--plot", files[2]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["fleet", "model-wise", "tiered"]
    assert "of another machine" in lines[-1]
    found = json.loads(files[0].read_text())
    model_wise, ours = found["fleets"]
    assert len(found["seconds"]) == 5400 / 15
    assert found["qps"][0] == 600
    assert set(model_wise["series"]["replicas"]) == {"model"}
    assert {"dense", "tier0"} < set(ours["series"]["replicas"])
    assert sum(max(counts) for counts in ours["series"]["replicas"].values()) >= ours["peak_replicas"]
    assert model_wise["price"] > 0 and ours["price"] > 0
    assert files[2].read_bytes().startswith(b"\x89PNG")
    assert simulate(STEPS, "-o", files[1]) == 0
    rows = list(csv.DictReader(files[1].read_text().splitlines()))
    assert len(rows) == 2 * 360 and rows[0]["price_per_hour"] == ""
    peak = max(int(row["replicas"]) for row in rows if row["fleet"] == "tiered")
    assert peak == ours["peak_replicas"]


def test_json_is_the_summary_alone_and_the_same_twice(capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for _ in range(2):
        assert simulate(STEPS, "--grouping", "per_table", "--s-max", "2", "--json") == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    found = json.loads(texts[0])
    assert [fleet["fleet"] for fleet in found["fleets"]] == ["model-wise", "per_table"]
    assert found["fleets"][0]["price"] is None and "seconds" not in found


def test_slower_starts_miss_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    traffic = tmp_path / "burst.csv"
    traffic.write_text("seconds,qps\n0,1000\n120,12000\n1200,0\n")
    missed = []
    for start_s in (0, 300):
        assert simulate(traffic, "--pod-start-s", start_s, "--json") == 0
        missed.append([fleet["missed_share"] for fleet in json.loads(capsys.readouterr().out)["fleets"]])
    assert missed[0][0] < missed[1][0] and missed[0][1] < missed[1][1]


def test_traffic_beyond_the_rules_bounds_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    traffic = tmp_path / "flood.csv"
    traffic.write_text("seconds,qps\n0,90000\n60,0\n")
    assert simulate(traffic) == 0
    assert "tiered: at its maximum: tier0, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seconds,qps\n0,5\n30,-1\n", "line 3: qps: expected a number from 0 on, got '-1'; correct or remove the row"),
        ("time,qps\n", "line 1: expected the header 'seconds,qps', got 'time,qps'; put it on the first line"),
    ],
)
def test_bad_traffic_is_one_line_and_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, expected: str
) -> None:
    traffic, output = tmp_path / "t.csv", tmp_path / "out.json"
    traffic.write_text(text)
    assert simulate(traffic, "-o", output) == 2
    (line,) = capsys.readouterr().err.replace("\n", " ").strip().splitlines()
    assert line == f"elasticrec: {traffic}: {expected}"
    assert not output.exists()
