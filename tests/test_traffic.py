"""Traffic by words and from CSV files."""

from pathlib import Path

import numpy as np
import pytest

from repo_builder.errors import InputError
from repo_builder.traffic import Traffic, load_traffic, parse_traffic


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


EXAMPLES = Path(__file__).parent.parent / "examples" / "traffic"


def write(folder: Path, text: str) -> Path:
    path = folder / "t.csv"
    path.write_text(text)
    return path


def test_steps_hold_until_the_next(tmp_path: Path) -> None:
    traffic = load_traffic(write(tmp_path, "seconds, qps\n0,100\n60,0\n\n90.5,1e3\n120,7\n"))
    assert traffic == Traffic((0, 60, 90.5), (100, 0, 1000), 120)
    np.testing.assert_allclose(traffic.rate(np.array([0.0, 59.9, 60, 90.4, 90.5, 119])), [100, 100, 0, 0, 1000, 1000])
    np.testing.assert_allclose(traffic.arrived(np.array([0.0, 60, 90, 91.5, 120])), [0, 6000, 6000, 7000, 35_500])


@pytest.mark.parametrize("name", ["steps.csv", "day.csv"])
def test_the_examples_are_read(name: str) -> None:
    traffic = load_traffic(EXAMPLES / name)
    assert max(traffic.rates_qps) == 3000


def test_a_file_of_windows_with_a_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbfseconds,qps\r\n0,1\r\n9,1\r\n")
    assert load_traffic(tmp_path / "t.csv") == Traffic((0,), (1,), 9)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "line 1: expected the header 'seconds,qps', got an empty file; put it on the first line"),
        ("time,qps\n0,1\n", "line 1: expected the header 'seconds,qps', got 'time,qps'; put it on the first line"),
        ("seconds,qps,p95\n0,1,2\n", "line 1: expected the header 'seconds,qps', got 'seconds,qps,p95'"),
        ("seconds,qps\n", "line 1: expected at least two rows, got 0; the last row says when the traffic ends"),
        ("seconds,qps\n0,5\n", "line 2: expected at least two rows, got 1"),
        ("seconds,qps\n0,5,6\n9,1\n", "line 2: expected two values, seconds and qps, got 3; write them as 600,250"),
        ("seconds,qps\n5,5\n9,1\n", "line 2: seconds: expected 0 in the first row, got 5; let the traffic start at 0"),
        ("seconds,qps\n0,5\n9,1\n9,2\n", "line 4: seconds: expected more than 9, the row before, got 9; sort the rows"),
        ("seconds,qps\n0,5\n9,1\n3,2\n", "line 4: seconds: expected more than 9, the row before, got 3; sort the rows"),
        ("seconds,qps\n0,-5\n9,1\n", "line 2: qps: expected a number from 0 on, got '-5'; correct or remove the row"),
        ("seconds,qps\n0,nan\n9,1\n", "line 2: qps: expected a number from 0 on, got 'nan'; correct or remove the row"),
        ("seconds,qps\n0,inf\n9,1\n", "line 2: qps: expected a number from 0 on, got 'inf'"),
        ("seconds,qps\n0,ten\n9,1\n", "line 2: qps: expected a number from 0 on, got 'ten'"),
        ("seconds,qps\n0,1e10\n9,1\n", "line 2: qps: expected at most 1e+09, got 1e10; check the unit"),
        ("seconds,qps\n0,1\n\n1e9,1\n", "line 4: seconds: expected at most 2678400 (31 days), got 1e9; split the file"),
        ('seconds,qps\n0,"5\n9,1\n', "expected a CSV file in UTF-8, but unexpected end of data"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_the_fix(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(InputError) as caught:
        load_traffic(path)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{path}: ") and expected in line


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes.csv").write_bytes(b"seconds,qps\n\xff,1\n")
    for name, expected in (("no.csv", "found none"), (".", "cannot be read"), ("bytes.csv", "UTF-8")):
        with pytest.raises(InputError, match=expected):
            load_traffic(tmp_path / name)
