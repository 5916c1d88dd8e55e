"""Traffic over time: queries a second as a function of the seconds since the start. Pure."""

from __future__ import annotations

import csv
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from repo_builder.errors import InputError

FORMS = "constant:QPS, steps:QPS,QPS,...@SECONDS, diurnal:LOW-HIGH@PERIOD, spike:BASE-PEAK@START+LENGTH, or a CSV file"


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps: `qps[i]` from `starts_s[i]` on, until the next start or `end_s`."""

    starts_s: tuple[float, ...]
    qps: tuple[float, ...]
    end_s: float = math.inf

    def at(self, seconds: float) -> float | None:
        """Queries a second at a time; None after the end."""
        if seconds >= self.end_s:
            return None
        return self.qps[max(0, bisect_right(self.starts_s, seconds) - 1)]


@dataclass(frozen=True, slots=True)
class Diurnal:
    """A day: a cosine from `low_qps` up to `high_qps` and down again every `period_s`, without an end."""

    low_qps: float
    high_qps: float
    period_s: float

    def at(self, seconds: float) -> float | None:
        """Queries a second at a time."""
        return self.low_qps + (self.high_qps - self.low_qps) * (1 - math.cos(2 * math.pi * seconds / self.period_s)) / 2


Traffic = Steps | Diurnal


def parse_traffic(text: str) -> Traffic:
    """What `--traffic` says (`FORMS`). Raises InputError naming the form and the fix."""
    form, _, rest = text.partition(":")
    if form not in _FORMS:
        return read_traffic(Path(text))
    try:
        return _FORMS[form](rest)
    except ValueError as exc:
        raise InputError(f"traffic: {exc}, got {text!r}; expected {FORMS}") from exc


def read_traffic(path: Path) -> Steps:
    """Steps from a CSV file with the columns `seconds` and `qps`; its last line ends it.

    Raises InputError naming the file, the line and the fix.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(_rows(csv.reader(file), path))
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise InputError(f"{path}: expected a CSV file with the columns seconds,qps, but {exc}") from exc
    if len(rows) < 2:
        raise InputError(
            f"{path}: expected at least two lines of seconds,qps, the last ends the traffic; got {len(rows)}"
        )
    starts_s, qps = zip(*rows, strict=True)
    return Steps(starts_s[:-1], qps[:-1], starts_s[-1])


def _rows(lines: Iterator[list[str]], path: Path) -> Iterator[tuple[float, float]]:
    header = [name.strip() for name in next(lines, [])]
    if header != ["seconds", "qps"]:
        raise InputError(f"{path}: line 1: expected the columns seconds,qps, got {','.join(header) or 'nothing'}")
    before = -math.inf
    for number, line in enumerate(lines, start=2):
        if not line:
            continue
        try:
            seconds, qps = (float(word) for word in line)
        except ValueError:
            seconds = qps = math.nan
        if not (math.isfinite(seconds) and seconds >= 0 and math.isfinite(qps) and qps >= 0):
            raise InputError(f"{path}: line {number}: expected two numbers from 0 on, got {','.join(line)}")
        if seconds <= before:
            raise InputError(
                f"{path}: line {number}: expected more than the {before:g} seconds before, got {seconds:g}"
            )
        before = seconds
        yield seconds, qps


def _number(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{what} is no number from 0 on")
    return value


def _positive(text: str, what: str) -> float:
    value = _number(text, what)
    if value == 0:
        raise ValueError(f"{what} is 0")
    return value


def _constant(rest: str) -> Traffic:
    return Steps((0.0,), (_number(rest, "QPS"),))


def _steps(rest: str) -> Traffic:
    levels, _, length = rest.partition("@")
    qps = tuple(_number(level, "QPS") for level in levels.split(","))
    length_s = _positive(length, "SECONDS")
    return Steps(tuple(i * length_s for i in range(len(qps))), qps, len(qps) * length_s)


def _diurnal(rest: str) -> Traffic:
    levels, _, period = rest.partition("@")
    low, _, high = levels.partition("-")
    return Diurnal(_number(low, "LOW"), _number(high, "HIGH"), _positive(period, "PERIOD"))


def _spike(rest: str) -> Traffic:
    levels, _, times = rest.partition("@")
    (base, _, peak), (start, _, length) = levels.partition("-"), times.partition("+")
    start_s = _positive(start, "START")
    base_qps = _number(base, "BASE")
    return Steps((0.0, start_s, start_s + _positive(length, "LENGTH")), (base_qps, _number(peak, "PEAK"), base_qps))


_FORMS: dict[str, Callable[[str], Traffic]] = {
    "constant": _constant,
    "steps": _steps,
    "diurnal": _diurnal,
    "spike": _spike,
}
