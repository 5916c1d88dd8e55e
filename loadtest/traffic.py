"""Traffic over time: queries a second as a function of the seconds since the start. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from repo_builder.errors import InputError
from repo_builder.traffic import Traffic, load_traffic

FORMS = "constant:QPS, steps:QPS,QPS,...@SECONDS, diurnal:LOW-HIGH@PERIOD, spike:BASE-PEAK@START+LENGTH, or a CSV file"


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
