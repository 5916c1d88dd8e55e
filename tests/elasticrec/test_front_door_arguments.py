"""What the command line's own parser refuses, the functions refuse by themselves, in one line that names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import elasticrec
from k8s.options import ManifestOptions, parse_source
from tests.elasticrec.test_rows import CLUSTER, DOCUMENT


@pytest.fixture
def spec(tmp_path: Path) -> elasticrec.Spec:
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(DOCUMENT))
    return elasticrec.load_spec(tmp_path / "spec.yaml")


def build(**words: Any) -> Callable[[elasticrec.Spec, Path], object]:
    return lambda spec, folder: elasticrec.build(spec, folder / "out", **words)


def profile(**words: Any) -> Callable[[elasticrec.Spec, Path], object]:
    return lambda spec, _: elasticrec.profile(spec, **words)


def sweep(field: str, *values: float) -> Callable[[elasticrec.Spec, Path], object]:
    return lambda spec, _: elasticrec.sweep(spec, elasticrec.Sweep(field, values))


def manifests(**words: Any) -> Callable[[elasticrec.Spec, Path], object]:
    return lambda _, __: ManifestOptions(parse_source("pvc:models"), **words)


def workload(name: str, **words: Any) -> Callable[[elasticrec.Spec, Path], object]:
    return lambda _, folder: elasticrec.workload(folder / "none", folder / name, **words)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (build(layout="flat"), "layout: expected one of single, fleet, model-wise, got 'flat'"),
        (build(shard_backend="rust"), "shard_backend: expected one of python, native, got 'rust'"),
        (profile(grouping="tired"), "grouping: expected one of tiered, per_table, got 'tired'"),
        (profile(shard_backend="rust"), "shard_backend: expected one of python, native, got 'rust'"),
        (lambda spec, _: elasticrec.compare([spec], CLUSTER, replicas=0), "replicas: expected at least 1"),
        (sweep("fixed"), "sweep: field: expected one of locality, target_qps, s_max, fixed_s, min_memory, got 'fixed'"),
        (sweep("s_max"), r"sweep: values: expected s_max from 1 to 16, got \(\)"),
        (sweep("target_qps", 5.0, -5.0), "sweep: values: expected target_qps from 1e-09 to 1e\\+12, got"),
        (sweep("locality", float("nan")), "sweep: values: expected locality from 0.1 to 0.9999, got"),
        (manifests(min_replicas=0), "--min-replicas: expected at least 1, got 0"),
        (manifests(latency_share=5), "--latency-share: expected a share above 0, at most 1, got 5"),
        (workload("w.npz", queries=0), "queries: expected at least 1, got 0"),
        (workload("w.npz", expected=2), "--expected: expected --spec with it"),
        (workload("w.json", expected=2, spec="s.yaml"), "--expected: expected --spec with it"),
        (lambda _, folder: elasticrec.report([], folder / "r.html"), "runs: expected at least one to report, got none"),
    ],
)
def test_mistakes_are_told(
    asked: Callable[[elasticrec.Spec, Path], object], told: str, spec: elasticrec.Spec, tmp_path: Path
) -> None:
    with pytest.raises(elasticrec.errors.InputError, match=told):
        asked(spec, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["spec.yaml"]
