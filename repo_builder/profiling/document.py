"""A profile's document: the fits first, and beside them the points and the facts that they rest on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from repo_builder.partition.accesses import ModelAccesses
from repo_builder.partition.cost import FORMAT
from repo_builder.profiling.fit import FitQuality, Fits, cached_rows, dense_points, fitted_points
from repo_builder.profiling.points import DensePoint, EmbeddingPoint, FrontPoint, Measured, ProfileOptions, RowPoint
from repo_builder.spec import Spec


def profile_document(
    spec: Spec, accesses: ModelAccesses, options: ProfileOptions, measured: Measured, fits: Fits
) -> dict[str, Any]:
    """What `profile.json` holds: see `profile.schema.json`. `accesses` is the spec's."""
    machine = measured.machine
    cache, levels = cached_rows(measured, fits, accesses)
    return {
        "format": FORMAT,
        "name": f"{spec.name}, {options.backend}, measured {machine['date']} on {machine['cpu']}",
        "service_time": asdict(fits.time),
        "row_cache": asdict(cache),
        "row_levels": list(map(asdict, levels)),
        "batching": asdict(fits.batching),
        "dense_service_time": asdict(fits.dense),
        "light_load": asdict(fits.light),
        "front_time": asdict(fits.front),
        "min_memory_bytes": measured.min_memory_bytes,
        "remote_call_s": measured.remote.latency_s,
        "client_cpu_s": measured.remote.client_cpu_s,
        "fit": {
            "embedding": _quality(fits.calls.quality),
            "rows": _quality(fits.rows_quality),
            "dense": _quality(fits.dense_quality),
            "front": _quality(fits.front_quality),
        },
        "service": {
            "spec": spec.name,
            "grouping": options.grouping,
            "backend": options.backend,
            "tables": measured.tables,
            "rows": measured.held_rows,
            **_dims(spec),
            "row_bytes": measured.row_bytes,
            "batch": spec.serving.batch,
            "sla_ms": spec.serving.sla_ms,
        },
        "points": _points(measured, fits),
        "machine": dict(machine),
    }


def _dims(spec: Spec) -> dict[str, Any]:
    """The numbers of a row, or all that there are."""
    dims = sorted({table.format.dim for table in spec.model.tables})
    return {"dim": dims[0]} if len(dims) == 1 else {"dims": dims}


def _quality(quality: FitQuality) -> dict[str, float | int]:
    return {
        "points": len(quality.residuals),
        "relative_rms": quality.relative_rms,
        "relative_max": quality.relative_max,
    }


def _points(measured: Measured, fits: Fits) -> dict[str, list[dict[str, Any]]]:
    """Every point as it was measured; those of a fit with their relative error, model / measured - 1."""
    calls = dict(zip(fitted_points(measured), fits.calls.quality.residuals, strict=True))
    dense = dict(zip(dense_points(measured), fits.dense_quality.residuals, strict=True))
    errors, count = fits.rows_quality.residuals, len(measured.rows)  # (levels and memory, formats), flat
    return {
        "embedding": [_embedding(point, calls.get(point)) for point in measured.embedding],
        "rows": [_row(point, errors[i::count]) for i, point in enumerate(measured.rows)],
        "dense": [_point(point, dense.get(point)) for point in measured.dense],
        "front": [_front(*each) for each in zip(measured.front, fits.front_quality.residuals, strict=True)],
    }


def _row(point: RowPoint, errors: Sequence[float]) -> dict[str, Any]:
    stored = {"dim": point.format.dim, "dtype": point.format.dtype, "row_bytes": point.format.row_bytes}
    residuals = {"hit_residuals": list(errors[:-1]), "miss_residual": errors[-1]}
    return {**stored, "hit_s": list(point.hit_s), "miss_s": point.miss_s, **residuals}


def _front(point: FrontPoint, residual: float) -> dict[str, Any]:
    described = asdict(point)
    return {**described, **described.pop("figures"), "residual": residual}


def _embedding(point: EmbeddingPoint, residual: float | None) -> dict[str, Any]:
    load = {name: value for name, value in asdict(point.load).items() if value is not None}
    described = _point(point, residual)
    del described["load"]
    return {**load, **described}


def _point(point: EmbeddingPoint | DensePoint, residual: float | None) -> dict[str, Any]:
    described = asdict(point)
    figures = described.pop("figures")
    capacity = {"capacity_qps": point.figures.core_qps} if described.pop("capacity") else {}
    return {**described, **figures, **capacity, **({} if residual is None else {"residual": residual})}
