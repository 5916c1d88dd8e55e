"""The hotness that a spec asks for, wherever it comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from repo_builder.access.counts import load_counts
from repo_builder.access.draw import IdSampler, check_tables, draw_ids
from repo_builder.access.hotness import Hotness
from repo_builder.access.powerlaw import PowerLawHotness
from repo_builder.access.progress import Progress, Tell, nobody, silent
from repo_builder.access.trace import load_trace
from repo_builder.errors import AccessError
from repo_builder.spec import AccessSource, Spec

__all__ = ["IdSampler", "draw_ids", "load_hotness"]


def load_hotness(spec: Spec, progress: Progress = silent, tell: Tell = nobody) -> Hotness:
    """Where the accesses of the spec's tables fall; raises AccessError with every problem of a counts or trace file.

    `progress` is called while a file is read, which takes long for a long trace; `tell` with what was passed over.
    """
    check_tables(spec.model.tables)
    return _LOADERS[spec.access.source](spec, progress, tell)


def _powerlaw(spec: Spec, progress: Progress, tell: Tell) -> Hotness:
    if spec.access.locality is None:
        raise AccessError("access.locality: expected a share for source powerlaw, got none")
    return PowerLawHotness(spec.access.locality, spec.access.seed)


def _counts(spec: Spec, progress: Progress, tell: Tell) -> Hotness:
    return load_counts(_path(spec), spec.model.tables, progress)


def _trace(spec: Spec, progress: Progress, tell: Tell) -> Hotness:
    return load_trace(_path(spec), spec.model.tables, progress, tell)


def _path(spec: Spec) -> Path:
    if spec.access.path is None:
        raise AccessError(f"access.path: expected a file for source {spec.access.source}, got none")
    return spec.access.path


_LOADERS: Mapping[AccessSource, Callable[[Spec, Progress, Tell], Hotness]] = {
    "powerlaw": _powerlaw,
    "counts": _counts,
    "trace": _trace,
}
