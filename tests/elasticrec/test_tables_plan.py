"""`elasticrec plan --cluster`: what it prints, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from elasticrec.cli import main
from repo_builder.partition.plan import load_plan

ROOT = Path(__file__).parent.parent.parent
SPEC = ROOT / "examples" / "rm1.yaml"


def cluster_file(folder: Path, **pool: object) -> Path:
    pools = [{"name": "p", "count": 8, "cores": 8, "memory_gb": 64, "price_per_hour": 1.25, **pool}]
    (folder / "cluster.yaml").write_text(yaml.safe_dump({"name": "mine", "pools": pools}))
    return folder / "cluster.yaml"


def run(*words: object) -> int:
    return main([str(word) for word in words])


def test_a_terminal_sees_nodes_price_and_bottleneck(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", SPEC, "--grouping", "tiered", "--cluster", cluster_file(tmp_path)) == 0
    told = capsys.readouterr().out
    assert "cluster mine: 2 nodes (2 of pool p) for 2.50 an hour, proven least" in told
    assert "bottleneck: " in told and "GPU" not in told


def test_guessed_gpu_times_are_said_loudly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", SPEC, "--cluster", cluster_file(tmp_path, gpus=1, gpu_memory_gb=16)) == 0
    assert "GPU times: NOT MEASURED" in capsys.readouterr().out


def test_json_is_the_plan_with_the_placement_beside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "plan.json"
    words = ["--grouping", "tiered", "--cluster", cluster_file(tmp_path)]
    assert run("plan", SPEC, *words, "--json", "-o", output) == 0
    printed = capsys.readouterr().out
    assert printed == output.read_text()
    document, plan = json.loads(printed), load_plan(output)
    counted: dict[str, int] = {}
    for group in document["placement"]["groups"]:
        for name, count in group["replicas"].items():
            counted[name] = counted.get(name, 0) + group["nodes"] * count
    assert counted == {service.name: service.deployed for service in plan.services}


@pytest.mark.parametrize(
    ("pool", "words", "told"),
    [
        ({"memory_gb": 0.2}, (), "one replica needs"),
        ({"count": 0}, (), "pools[0].count: expected at least 1, got 0"),
        ({}, ("--sweep", "s_max=1..2"), "--cluster: expected none with --sweep"),
    ],
)
def test_what_cannot_be_is_refused(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    pool: dict[str, object],
    words: tuple[str, ...],
    told: str,
) -> None:
    output = tmp_path / "plan.json"
    assert run("plan", SPEC, "--cluster", cluster_file(tmp_path, **pool), "-o", output, *words) == 2
    assert told in capsys.readouterr().err and not output.exists()
