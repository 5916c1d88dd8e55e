"""Traffic over time: queries per second by the seconds since the start, from words or a CSV file. Pure but
for the reading.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repo_builder.errors import InputError

FORMS = "constant:QPS, steps:QPS,QPS,...@SECONDS, diurnal:LOW-HIGH@PERIOD, spike:BASE-PEAK@START+LENGTH, or a CSV file"
COLUMNS = ["seconds", "qps"]
LONGEST_S = 31 * 86_400.0
LARGEST_QPS = 1e9
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Traffic:
    """From `starts_s[i]` until the next start, the last until `end_s`, come `rates_qps[i]` queries per second."""

    starts_s: tuple[float, ...]
    rates_qps: tuple[float, ...]
    end_s: float

    def at(self, seconds: float) -> float | None:
        """Queries a second at one time; None after the end."""
        return None if seconds >= self.end_s else float(self.rate(np.asarray([max(0.0, seconds)]))[0])

    def rate(self, times_s: Floats) -> Floats:
        """Queries a second at each time from 0 on; shape and type as `times_s`."""
        rates: Floats = np.asarray(self.rates_qps)[np.searchsorted(self.starts_s, times_s, side="right") - 1]
        return rates

    def arrived(self, times_s: Floats) -> Floats:
        """Queries that came until each time from 0 to the end; shape and type as `times_s`."""
        starts, rates = np.asarray(self.starts_s), np.asarray(self.rates_qps)
        before = np.concatenate([[0.0], np.cumsum(np.diff(starts) * rates[:-1])])
        step = np.searchsorted(starts, times_s, side="right") - 1
        return np.asarray(before[step] + (times_s - starts[step]) * rates[step])


def load_traffic(path: Path) -> Traffic:
    """Read a CSV file of `seconds,qps`: each row's rate holds until the next; the last row only says when it ends.

    Raises InputError with one line that names the file, the line and the fix.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except FileNotFoundError as exc:
        raise InputError(f"{path}: expected a traffic file, found none; check the path") from exc
    except OSError as exc:
        raise InputError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (UnicodeDecodeError, csv.Error) as exc:
        raise InputError(f"{path}: expected a CSV file in UTF-8, but {exc}") from exc
    try:
        return _parse(rows)
    except ValueError as exc:
        raise InputError(f"{path}: {exc}") from exc


def _parse(rows: list[tuple[int, list[str]]]) -> Traffic:
    if not rows or rows[0][1] != COLUMNS:
        got = f"{','.join(rows[0][1])!r}" if rows else "an empty file"
        raise ValueError(f"line 1: expected the header 'seconds,qps', got {got}; put it on the first line")
    steps: list[tuple[float, float]] = []
    for line, row in rows[1:]:
        steps.append(_step(line, row, steps[-1][0] if steps else None))
    if len(steps) < 2:
        last = rows[-1][0]
        raise ValueError(
            f"line {last}: expected at least two rows, got {len(steps)}; the last row says when the traffic ends"
        )
    starts, rates = zip(*steps, strict=True)
    return Traffic(starts[:-1], rates[:-1], starts[-1])


def _step(line: int, row: list[str], before_s: float | None) -> tuple[float, float]:
    if len(row) != len(COLUMNS):
        raise ValueError(f"line {line}: expected two values, seconds and qps, got {len(row)}; write them as 600,250")
    seconds, qps = (_cell(line, column, text) for column, text in zip(COLUMNS, row, strict=True))
    if before_s is None and seconds != 0:
        raise ValueError(f"line {line}: seconds: expected 0 in the first row, got {row[0]}; let the traffic start at 0")
    if before_s is not None and seconds <= before_s:
        raise ValueError(
            f"line {line}: seconds: expected more than {before_s:g}, the row before, got {row[0]}; sort the rows"
        )
    if seconds > LONGEST_S:
        raise ValueError(
            f"line {line}: seconds: expected at most {LONGEST_S:.0f} (31 days), got {row[0]}; split the file"
        )
    if qps > LARGEST_QPS:
        raise ValueError(f"line {line}: qps: expected at most {LARGEST_QPS:g}, got {row[1]}; check the unit")
    return seconds, qps


def _cell(line: int, column: str, text: str) -> float:
    value = _from_0(text)
    if math.isnan(value):
        raise ValueError(f"line {line}: {column}: expected a number from 0 on, got {text!r}; correct or remove the row")
    return value


def _from_0(text: str) -> float:
    """A number from 0 on, or NaN where the text is none."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) and value >= 0 else math.nan


@dataclass(frozen=True, slots=True)
class Diurnal:
    """A day: a cosine from `low_qps` up to `high_qps` and down again every `period_s`, without an end."""

    low_qps: float
    high_qps: float
    period_s: float

    def at(self, seconds: float) -> float | None:
        """Queries a second at a time."""
        return self.low_qps + (self.high_qps - self.low_qps) * (1 - math.cos(2 * math.pi * seconds / self.period_s)) / 2


def parse_traffic(text: str) -> Traffic | Diurnal:
    """What `--traffic` says (`FORMS`). Raises InputError naming the form and the fix."""
    form, _, rest = text.partition(":")
    if form not in _FORMS:
        return load_traffic(Path(text))
    try:
        return _FORMS[form](rest)
    except ValueError as exc:
        raise InputError(f"traffic: {exc}, got {text!r}; expected {FORMS}") from exc


def _number(text: str, what: str) -> float:
    value = _from_0(text)
    if math.isnan(value):
        raise ValueError(f"{what} is no number from 0 on")
    return value


def _positive(text: str, what: str) -> float:
    value = _number(text, what)
    if value == 0:
        raise ValueError(f"{what} is 0")
    return value


def _constant(rest: str) -> Traffic | Diurnal:
    return Traffic((0.0,), (_number(rest, "QPS"),), math.inf)


def _steps(rest: str) -> Traffic | Diurnal:
    levels, _, length = rest.partition("@")
    qps = tuple(_number(level, "QPS") for level in levels.split(","))
    length_s = _positive(length, "SECONDS")
    return Traffic(tuple(i * length_s for i in range(len(qps))), qps, len(qps) * length_s)


def _diurnal(rest: str) -> Traffic | Diurnal:
    levels, _, period = rest.partition("@")
    low, _, high = levels.partition("-")
    return Diurnal(_number(low, "LOW"), _number(high, "HIGH"), _positive(period, "PERIOD"))


def _spike(rest: str) -> Traffic | Diurnal:
    levels, _, times = rest.partition("@")
    (base, _, peak), (start, _, length) = levels.partition("-"), times.partition("+")
    start_s = _positive(start, "START")
    base_qps = _number(base, "BASE")
    return Traffic(
        (0.0, start_s, start_s + _positive(length, "LENGTH")), (base_qps, _number(peak, "PEAK"), base_qps), math.inf
    )


_FORMS: dict[str, Callable[[str], Traffic | Diurnal]] = {
    "constant": _constant,
    "steps": _steps,
    "diurnal": _diurnal,
    "spike": _spike,
}
