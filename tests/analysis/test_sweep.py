"""Sweeps: what they accept, what they plan, and what they load again."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.image import imread

from repo_builder.access.hotness import Hotness
from repo_builder.access.load import load_hotness
from repo_builder.analysis.fleets import model_wise
from repo_builder.analysis.plan_plots import plot_sweep
from repo_builder.analysis.sweep import Setting, Sweep, parse_sweep, run_sweep, sweep_csv, sweep_json
from repo_builder.errors import InputError, PlanError
from repo_builder.partition.accesses import model_accesses
from repo_builder.partition.cost import ServiceTime
from repo_builder.partition.planner import make_plan
from repo_builder.spec import Access, Spec
from tests.analysis.helpers import PROFILE, SPEC, with_sla

SETTING = Setting(SPEC, PROFILE, "tiered", 4)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("locality=0.5..0.9:3", (0.5, 0.7, 0.9)),
        ("target_qps=10..1000:3", (10, 100, 1000)),
        ("s_max=2..5", (2, 3, 4, 5)),
        ("s_max=1..16:4", (1, 6, 11, 16)),
        ("fixed_s=1e-5..1e-3:2", (1e-5, 1e-3)),
        ("min_memory=1e6..1e6", (1e6,)),
    ],
)
def test_values(text: str, values: tuple[float, ...]) -> None:
    assert parse_sweep(text) == Sweep(text.split("=")[0], pytest.approx(values))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("locality", "expected FIELD=FIRST..LAST"),
        ("locality=0.5", "expected FIELD=FIRST..LAST"),
        ("dim=1..2", "expected one of locality, target_qps, s_max, fixed_s, min_memory, got 'dim'"),
        ("locality=0.5..1", "expected a number from 0.1 to 0.9999, got '1'"),
        ("locality=a..0.9", "got 'a'"),
        ("locality=nan..0.9", "got 'nan'"),
        ("target_qps=0..9", "got '0'"),
        ("s_max=1..17", "expected a whole number from 1 to 16, got '17'"),
        ("s_max=1.5..3", "expected a whole number"),
        ("fixed_s=1..0.5", "expected the smaller value first"),
        ("fixed_s=0.1..0.5:0", "expected 1 to 1000 points"),
        ("fixed_s=0.1..0.5:x", "expected 1 to 1000 points"),
    ],
)
def test_bad_sweeps_are_one_line(text: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_sweep(text)
    assert len(caught.value.problems) == 1 and told in caught.value.problems[0]


@pytest.mark.parametrize(
    ("field", "value", "setting"),
    [
        ("target_qps", 5000.0, replace(SETTING, spec=replace(SPEC, serving=replace(SPEC.serving, target_qps=5000.0)))),
        ("locality", 0.5, replace(SETTING, spec=replace(SPEC, access=replace(SPEC.access, locality=0.5)))),
        ("s_max", 2, replace(SETTING, s_max=2)),
        ("fixed_s", 3e-4, replace(SETTING, profile=replace(PROFILE, service_time=ServiceTime(3e-4, 5e-8)))),
        ("min_memory", 77.0, replace(SETTING, profile=replace(PROFILE, min_memory_bytes=77))),
    ],
)
def test_a_point_is_the_plan_with_that_value(field: str, value: float, setting: Setting) -> None:
    (point,) = run_sweep(Sweep(field, (value,)), SETTING, load_hotness)
    spec = setting.spec
    plan = make_plan(spec, load_hotness(spec), setting.profile, "tiered", setting.s_max)
    assert point.memory_bytes == sum(service.deployed * service.memory_bytes for service in plan.services)
    assert point.services == len(plan.services)
    whole = model_wise(spec, model_accesses(spec, load_hotness(spec)), setting.profile).replicas(
        spec.serving.target_qps
    )
    assert point.model_wise_memory_bytes == whole.replicas * whole.memory_bytes
    assert point.gain == point.model_wise_memory_bytes / point.memory_bytes


@pytest.mark.parametrize(
    ("text", "loads"), [("target_qps=100..9000:5", 1), ("s_max=1..4", 1), ("locality=0.5..0.9:3", 3)]
)
def test_accesses_are_loaded_again_only_where_they_change(text: str, loads: int) -> None:
    loaded: list[Spec] = []

    def load(spec: Spec) -> Hotness:
        loaded.append(spec)
        return load_hotness(spec)

    sweep = parse_sweep(text)
    assert len(run_sweep(sweep, SETTING, load)) == len(sweep.values)
    assert len(loaded) == loads


def test_measured_accesses_have_their_own_locality() -> None:
    counted = replace(SETTING, spec=replace(SPEC, access=Access("counts", Path("counts.npz"))))
    with pytest.raises(InputError, match=r"expected access\.source: powerlaw in the spec, got counts"):
        run_sweep(parse_sweep("locality=0.5..0.9"), counted, load_hotness)


def test_a_value_without_a_plan_is_named() -> None:
    late = replace(SETTING, spec=with_sla(SPEC, 5.0))
    with pytest.raises(PlanError, match=r"--sweep fixed_s=0\.1: serving\.sla_ms: expected"):
        run_sweep(parse_sweep("fixed_s=1e-4..0.1:2"), late, load_hotness)


def test_reports_can_be_read_back(tmp_path: Path) -> None:
    sweep = parse_sweep("s_max=1..3")
    points = run_sweep(sweep, SETTING, load_hotness)
    rows = list(csv.DictReader(sweep_csv(sweep, points).splitlines()))
    assert [int(row["s_max"]) for row in rows] == [1, 2, 3]
    assert [int(row["memory_bytes"]) for row in rows] == [point.memory_bytes for point in points]
    document = json.loads(sweep_json(sweep, SETTING, points))
    assert [point["gain"] for point in document["points"]] == [point.gain for point in points]
    plot_sweep(sweep, SETTING, points, tmp_path / "sweep.png")
    assert imread(tmp_path / "sweep.png").shape[1] > 1000
