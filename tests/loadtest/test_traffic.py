"""Traffic over time: shapes by name and from CSV files, and every mistake named."""

from pathlib import Path

import pytest

from loadtest.traffic import parse_traffic
from repo_builder.errors import InputError


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("constant:200", {0: 200, 1e6: 200}),
        ("steps:50,100,25@60", {0: 50, 59.9: 50, 60: 100, 120: 25, 179.9: 25, 180: None}),
        ("diurnal:50-400@600", {0: 50, 150: 225, 300: 400, 600: 50, 900: 400}),
        ("spike:100-800@30+10", {0: 100, 29.9: 100, 30: 800, 39.9: 800, 40: 100, 1e6: 100}),
    ],
)
def test_shapes(text: str, at: dict[float, float | None]) -> None:
    traffic = parse_traffic(text)
    assert {seconds: traffic.at(seconds) for seconds in at} == pytest.approx(at)


def test_csv_ends_with_its_last_line(tmp_path: Path) -> None:
    path = tmp_path / "day.csv"
    path.write_text("seconds,qps\n0,10\n60,40.5\n\n120,0\n")
    traffic = parse_traffic(str(path))
    assert [traffic.at(seconds) for seconds in (0, 59, 60, 119, 120)] == [10, 10, 40.5, 40.5, None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("constant:fast", "QPS is no number from 0 on, got 'constant:fast'; expected constant:QPS"),
        ("constant:-1", "QPS is no number from 0 on"),
        ("constant:nan", "QPS is no number from 0 on"),
        ("steps:1,2", "SECONDS is no number from 0 on"),
        ("steps:1,2@0", "SECONDS is 0"),
        ("steps:1,,2@5", "QPS is no number from 0 on"),
        ("diurnal:1@60", "HIGH is no number from 0 on"),
        ("spike:1-2@3", "LENGTH is no number from 0 on"),
        ("zigzag:1", "zigzag:1: expected a traffic file, found none"),
    ],
)
def test_mistakes_in_a_shape(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_traffic(text)
    assert message in str(caught.value)
