"""What if: the plan at every value of one setting, beside replicating the whole model; as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal

import numpy as np

from repo_builder.access.hotness import Hotness
from repo_builder.analysis.fleets import model_wise
from repo_builder.errors import InputError, PlanError
from repo_builder.partition.accesses import ModelAccesses, model_accesses
from repo_builder.partition.cost import Profile
from repo_builder.partition.plan import S_MAX, Grouping
from repo_builder.partition.planner import plan_accesses
from repo_builder.spec import Spec

DEFAULT_POINTS = 11
MOST_POINTS = 1000


@dataclass(frozen=True, slots=True)
class Setting:
    """All that a plan is made of, the accesses aside."""

    spec: Spec
    profile: Profile
    grouping: Grouping
    s_max: int
    utilisation: float = 1.0
    least_saving: float = 0.0
    profile_error: float = 0.0


@dataclass(frozen=True, slots=True)
class Field:
    """A setting that can be swept: its name in words, its range, how its values are spread, how one of them is set."""

    words: str
    low: float
    high: float
    spread: Literal["even", "ratio", "whole"]  # equal steps, equal ratios, or whole numbers
    unit: str
    put: Callable[[Setting, float], Setting]


def _locality(setting: Setting, value: float) -> Setting:
    return replace(setting, spec=replace(setting.spec, access=replace(setting.spec.access, locality=value)))


def _target_qps(setting: Setting, value: float) -> Setting:
    return replace(setting, spec=replace(setting.spec, serving=replace(setting.spec.serving, target_qps=value)))


def _s_max(setting: Setting, value: float) -> Setting:
    return replace(setting, s_max=int(value))


def _fixed_s(setting: Setting, value: float) -> Setting:
    """Calls of that fixed time, each by itself: how a measured profile batches them no longer applies."""
    time = replace(setting.profile.service_time, fixed_s=value)
    return replace(setting, profile=replace(setting.profile, service_time=time, batching=None))


def _min_memory(setting: Setting, value: float) -> Setting:
    return replace(setting, profile=replace(setting.profile, min_memory_bytes=round(value)))


FIELDS: Mapping[str, Field] = {
    "locality": Field("accesses of the hottest 10% of the rows", 0.1, 0.9999, "even", "share", _locality),
    "target_qps": Field("target traffic", 1e-9, 1e12, "ratio", "queries/s", _target_qps),
    "s_max": Field("upper bound on a table", 1, S_MAX, "whole", "shards", _s_max),
    "fixed_s": Field("fixed time of a call", 1e-9, 3600, "ratio", "s", _fixed_s),
    "min_memory": Field("least memory of a container", 1, 1e15, "ratio", "bytes", _min_memory),
}


@dataclass(frozen=True, slots=True)
class Sweep:
    """The values of one setting, by its name in FIELDS, ascending."""

    field: str
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class SweepPoint:
    """What the plan takes at one value, and what as many replicas of the whole model take as the traffic needs.

    `services` and `replicas` count the dense service too; a query makes a remote call to all services but that.
    """

    value: float
    memory_bytes: int
    model_wise_memory_bytes: int
    services: int
    replicas: int
    model_wise_replicas: int
    p95_ms: float | None

    @property
    def gain(self) -> float:
        """How many times less memory than model-wise."""
        return self.model_wise_memory_bytes / self.memory_bytes


def parse_sweep(text: str) -> Sweep:
    """Read FIELD=FIRST..LAST or FIELD=FIRST..LAST:POINTS; InputError says what was expected.

    Points are evenly spread for locality, at equal ratios for the rest; s_max takes whole numbers, all by default.
    """
    name, equals, values = text.partition("=")
    span, colon, points = values.partition(":")
    first, dots, last = span.partition("..")
    if not equals or not dots:
        raise InputError(f"--sweep: expected FIELD=FIRST..LAST[:POINTS], such as locality=0.5..0.99:11, got {text!r}")
    if name not in FIELDS:
        raise InputError(f"--sweep: expected one of {', '.join(FIELDS)}, got {name!r}")
    field = FIELDS[name]
    low, high = _number(name, first, field), _number(name, last, field)
    if low > high:
        raise InputError(f"--sweep {name}: expected the smaller value first, got {first}..{last}; turn them round")
    count = _points(name, points) if colon else int(high - low) + 1 if field.spread == "whole" else DEFAULT_POINTS
    return Sweep(name, _spread(field, low, high, count))


def _number(name: str, text: str, field: Field) -> float:
    try:
        value = int(text) if field.spread == "whole" else float(text)
    except ValueError:
        value = float("nan")
    if not field.low <= value <= field.high:
        kind = "a whole number" if field.spread == "whole" else "a number"
        raise InputError(f"--sweep {name}: expected {kind} from {field.low:g} to {field.high:g}, got {text!r}")
    return value


def _points(name: str, text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_POINTS:
        raise InputError(f"--sweep {name}: expected 1 to {MOST_POINTS} points after the colon, got {text!r}")
    return int(text)


def _spread(field: Field, low: float, high: float, count: int) -> tuple[float, ...]:
    values = np.geomspace(low, high, count) if field.spread == "ratio" else np.linspace(low, high, count)
    if field.spread == "whole":
        return tuple(int(value) for value in np.unique(values.round()))
    return tuple(float(f"{value:.9g}") for value in dict.fromkeys(values.tolist()))


def run_sweep(sweep: Sweep, setting: Setting, load: Callable[[Spec], Hotness]) -> tuple[SweepPoint, ...]:
    """Plan at every value; `load` brings a spec's hotness, again only where the sweep changes it.

    Raises InputError where the setting cannot be swept, or naming the first value that gives no plan.
    """
    if sweep.field == "locality" and setting.spec.access.source != "powerlaw":
        raise InputError(
            f"--sweep locality: expected access.source: powerlaw in the spec, got {setting.spec.access.source}; "
            "measured accesses have the locality that they have"
        )
    points, accesses, loaded = [], None, None
    for value in sweep.values:
        varied = FIELDS[sweep.field].put(setting, value)
        if accesses is None or varied.spec.access != loaded:
            accesses = None  # let go of the last one first
            accesses, loaded = model_accesses(varied.spec, load(varied.spec), keep=True), varied.spec.access
        try:
            points.append(_point(value, varied, accesses))
        except PlanError as exc:
            raise PlanError(*(f"--sweep {sweep.field}={value:g}: {problem}" for problem in exc.problems)) from exc
    return tuple(points)


def _point(value: float, setting: Setting, accesses: ModelAccesses) -> SweepPoint:
    spec, profile = setting.spec, setting.profile
    plan = plan_accesses(
        spec,
        accesses,
        profile,
        setting.grouping,
        setting.s_max,
        setting.utilisation,
        setting.least_saving,
        setting.profile_error,
    )
    whole = model_wise(spec, accesses, profile, setting.utilisation).replicas(spec.serving.target_qps)
    return SweepPoint(
        value=value,
        memory_bytes=sum(service.deployed * service.memory_bytes for service in plan.services),
        model_wise_memory_bytes=whole.replicas * whole.memory_bytes,
        services=len(plan.services),
        replicas=sum(service.deployed for service in plan.services),
        model_wise_replicas=whole.replicas,
        p95_ms=plan.latency.p95_ms if plan.latency else None,
    )


def sweep_json(sweep: Sweep, setting: Setting, points: Sequence[SweepPoint]) -> str:
    """The points as the text of a JSON file."""
    document = {
        "spec": setting.spec.name,
        "grouping": setting.grouping,
        "profile": setting.profile.name,
        "field": sweep.field,
        "points": [{**asdict(point), "gain": point.gain} for point in points],
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def sweep_csv(sweep: Sweep, points: Sequence[SweepPoint]) -> str:
    """The points as the text of a CSV file, a line each; the first column bears the field's name."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([sweep.field, *(field.name for field in fields(SweepPoint) if field.name != "value"), "gain"])
    for point in points:
        writer.writerow(["" if cell is None else cell for cell in (*asdict(point).values(), point.gain)])
    return text.getvalue()
