"""`elasticrec report` on run files, as a user calls it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from elasticrec.cli import main
from loadtest.report.summary import report_csv, report_json
from loadtest.run import write_run
from tests.loadtest.runs import runs


def files(folder: Path) -> list[str]:
    paths = [folder / f"{i}.json" for i in range(3)]
    for path, run in zip(paths, runs(), strict=True):
        write_run(path, run)
    return [str(path) for path in paths]


def test_it_writes_the_page_and_the_same_as_json_and_csv(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    html, as_json, as_csv = (tmp_path / f"report.{kind}" for kind in ("html", "json", "csv"))
    words = ["report", *files(tmp_path), "-o", str(html), "--json", str(as_json), "--csv", str(as_csv)]
    assert main(words) == 0
    assert capsys.readouterr().out == f"{html}: 3 runs\n"
    assert html.read_text().startswith("<!doctype html>")
    assert as_json.read_text() == report_json(runs())
    assert as_csv.read_text() == report_csv(runs())


def empty(document: dict[str, Any]) -> str:
    return json.dumps({**document, "points": [], "timeline": []})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a file, found none; check the path"),
        (lambda _: "{", "expected JSON, but line 1"),
        (lambda _: "[]", "(top level): expected a mapping, got []"),
        (lambda document: json.dumps({**document, "version": 9}), "version: unknown field"),
        (lambda document: json.dumps({**document, "batch": 0}), "batch: expected at least 1, got 0"),
        (empty, "points: expected at least one, or a timeline, got neither; measure again"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Callable[[dict[str, Any]], str] | None, message: str
) -> None:
    good, *_ = files(tmp_path)
    bad = tmp_path / "bad.json"
    if content:
        bad.write_text(content(json.loads(Path(good).read_text())))
    assert main(["report", good, str(bad), "-o", str(tmp_path / "report.html")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"elasticrec: {bad}: {message}")
    assert not (tmp_path / "report.html").exists()


def test_all_bad_files_are_told_at_once_and_why_a_run_is_empty(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "a.json", replace(runs()[0], points=(), complete=False, why="no server answered"))
    words = [str(tmp_path / name) for name in ("a.json", "b.json")]
    assert main(["report", *words, "-o", str(tmp_path / "r.html")]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "got neither (no server answered)" in first and "b.json: expected a file" in second


def test_a_place_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", *files(tmp_path), "-o", str(tmp_path / "none" / "report.html")]) == 2
    assert "cannot be written: No such file or directory" in capsys.readouterr().err
