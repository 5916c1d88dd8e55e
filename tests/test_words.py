"""Numbers in words: nothing reads "1 nodes" or "0.52x times less"."""

import json
from pathlib import Path

import pytest
import yaml

from elasticrec.cli import main
from repo_builder.words import count, plural, times_less
from tests.test_figures import DOCUMENT


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [
        (0, "node", "0 nodes"),
        (1, "node", "1 node"),
        (2, "node", "2 nodes"),
        (1234, "row", "1,234 rows"),
        (1, "query", "1 query"),
        (2, "query", "2 queries"),
        (1, "model-wise replica", "1 model-wise replica"),
    ],
)
def test_a_count_and_its_noun(number: int, noun: str, expected: str) -> None:
    assert count(number, noun) == expected
    assert plural(number, noun) == expected.split(" ", 1)[1]


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(2.5, "2.50x less"), (0.52, "1.92x more"), (1.0, "as much"), (1.004, "as much"), (0.5, "2.00x more")],
)
def test_a_ratio_names_its_direction(ratio: float, expected: str) -> None:
    assert times_less(ratio) == expected


def test_commands_name_the_direction_of_a_ratio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each row of a sweep, against the gain that its JSON has; here some are above 1 and some below."""
    (tmp_path / "m.yaml").write_text(yaml.safe_dump({**DOCUMENT, "serving": {"target_qps": 30_000, "batch": 32}}))
    words = ["plan", str(tmp_path / "m.yaml"), "--sweep", "min_memory=1e4..1e9:4", "--grouping", "per_table"]
    assert main([*words, "--json"]) == 0
    gains = [point["gain"] for point in json.loads(capsys.readouterr().out)["points"]]
    assert main(words) == 0
    rows = capsys.readouterr().out.splitlines()[1 : 1 + len(gains)]
    assert min(gains) < 0.99 and max(gains) > 1.01
    for gain, row in zip(gains, rows, strict=True):
        assert (f"{gain:.2f}x less" if gain > 1 else f"{1 / gain:.2f}x more") in row


def test_one_of_each_is_singular(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    serving = {"target_qps": 50, "batch": 1}
    (tmp_path / "m.yaml").write_text(yaml.safe_dump({**DOCUMENT, "serving": serving}))
    pool = {"name": "p", "count": 1, "cores": 64, "memory_gb": 256, "price_per_hour": 1.0}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"name": "mine", "pools": [pool], "spread": 1.0}))
    assert main(["plan", str(tmp_path / "m.yaml"), "--cluster", str(tmp_path / "c.yaml")]) == 0
    told = capsys.readouterr().out
    assert "cluster mine: 1 node (1 of pool p)" in told and "50 queries/s of 1 row:" in told
    compared = ["compare", str(tmp_path / "m.yaml"), "--cluster", str(tmp_path / "c.yaml"), "--replicas", "1"]
    assert main(compared) == 0
    assert "traffic of 1 model-wise replica:" in capsys.readouterr().out
