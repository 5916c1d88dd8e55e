"""The model spec: what the user says of the model, in YAML or JSON, checked whole before anything is built.

The shape of the file is checked by `schemas/spec.schema.json`; what a schema cannot say (widths that must agree,
names that must differ) is checked here. All mistakes are reported at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard

from repo_builder.documents import read_document, schema_problems
from repo_builder.errors import SpecError
from repo_builder.model.dlrm import Dlrm, DlrmTable, IndexDtype, Weights, dlrm_model
from repo_builder.model.types import Model

AccessSource = Literal["powerlaw", "counts", "trace"]
MissingShard = Literal["fail", "degrade"]
SumsDtype = Literal["fp32", "fp16"]


@dataclass(frozen=True, slots=True)
class Access:
    """Where the tables' hotness comes from; `locality` is the share that the hottest 10% of rows take (power law)."""

    source: AccessSource
    path: Path | None = None
    locality: float | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Serving:
    """The traffic to serve: queries a second, candidate rows in a query, latency bound."""

    target_qps: float
    batch: int = 32
    sla_ms: float = 400.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """How a front end of the `fleet` layout calls the embedding services.

    missing_shard: a query fails where a service gives no answer, or is scored without it and flagged `degraded`.
    hedge_quantile: a call slower than this quantile of the latest ones goes to a second replica too; None: never.
    max_in_flight: queries under way in one front end; more are refused.
    sums_dtype: partial sums on the wire.
    """

    missing_shard: MissingShard = "fail"
    hedge_quantile: float | None = None
    max_in_flight: int = 256
    sums_dtype: SumsDtype = "fp32"


@dataclass(frozen=True, slots=True)
class Spec:
    """A recommendation model and the traffic it must serve; `form` is what the user said of it, `model` what it is."""

    name: str
    form: Dlrm
    model: Model
    access: Access
    serving: Serving
    fleet: Fleet = Fleet()

    @classmethod
    def of_dlrm(cls, name: str, form: Dlrm, access: Access, serving: Serving, fleet: Fleet = Fleet()) -> Spec:
        """The spec of a model that is given by its numbers."""
        return cls(name, form, dlrm_model(name, form), access, serving, fleet)

    @property
    def gathers(self) -> float:
        """Rows of tables that a query of `serving.batch` rows reads."""
        return self.serving.batch * sum(self.model.ids_per_row)

    @property
    def dense_flops(self) -> float:
        """Floating-point operations of the dense layers in a query of `serving.batch` rows."""
        return self.serving.batch * self.model.dense.flops_per_row

    @property
    def dense_features(self) -> int:
        """Of the DLRM form."""
        return self.form.dense_features

    @property
    def tables(self) -> tuple[DlrmTable, ...]:
        """Of the DLRM form."""
        return self.form.tables

    @property
    def index_dtype(self) -> IndexDtype:
        """Of the DLRM form."""
        return self.form.index_dtype

    @property
    def weights(self) -> Weights:
        """Of the DLRM form."""
        return self.form.weights

    @property
    def dim(self) -> int:
        """Of the DLRM form."""
        return self.form.dim

    @property
    def has_means(self) -> bool:
        """Of the DLRM form."""
        return self.form.has_means

    @property
    def index_columns(self) -> int:
        """Of the DLRM form."""
        return self.form.index_columns


def load_spec(path: Path) -> Spec:
    """Read and check a spec file (`.json`, else YAML); relative paths in it are taken from the file's own folder.

    Raises SpecError with one problem a line: file, field, what was expected, what came.
    """
    document = read_document(path, SpecError)
    return parse_spec(document, path)


def parse_spec(document: object, path: Path) -> Spec:
    """Check a parsed spec; `path` is the file it came from, for messages and for relative paths."""
    problems = schema_problems(document, "spec.schema.json")
    problems += _cross_field_problems(document)
    if problems or not isinstance(document, Mapping):
        raise SpecError(*(f"{path}: {problem}" for problem in problems))
    return _spec(document, path.parent)


def _spec(document: Mapping[str, Any], folder: Path) -> Spec:
    name, access, serving = document["name"], document["access"], document["serving"]
    return Spec.of_dlrm(
        name,
        _dlrm(document, folder),
        access=Access(access["source"], _path(access, folder), access.get("locality"), access.get("seed", 0)),
        serving=Serving(float(serving["target_qps"]), serving.get("batch", 32), float(serving.get("sla_ms", 400.0))),
        fleet=Fleet(**document.get("fleet", {})),
    )


def _dlrm(document: Mapping[str, Any], folder: Path) -> Dlrm:
    weights = document["weights"]
    return Dlrm(
        dense_features=document["dense_features"],
        bottom_mlp=tuple(document["bottom_mlp"]),
        top_mlp=tuple(document["top_mlp"]),
        tables=tuple(table for entry in document["tables"] for table in _expand(entry)),
        index_dtype=document.get("index_dtype", "int64"),
        weights=Weights(
            weights["source"],
            _path(weights, folder),
            weights.get("seed", 0),
            weights.get("tables_in_order", False),
        ),
    )


def _path(source: Mapping[str, Any], folder: Path) -> Path | None:
    return folder / source["path"] if "path" in source else None


def _expand(entry: Mapping[str, Any]) -> Iterator[DlrmTable]:
    names = [entry["name"]] if "count" not in entry else [f"{entry['name']}_{i}" for i in range(entry["count"])]
    mode = entry.get("mode", "sum")
    return (DlrmTable(name, entry["rows"], entry["dim"], entry["pooling"], mode) for name in names)


def _cross_field_problems(document: object) -> list[str]:
    """What the schema cannot say; fields that already break the schema are passed over."""
    if not isinstance(document, Mapping):
        return []
    checks = (_width_problems, _table_problems, _mode_problems, _path_problems)
    return [problem for check in checks for problem in check(document)]


def _path_problems(document: Mapping[str, Any]) -> Iterator[str]:
    for key in ("weights", "access"):
        source = document.get(key)
        path = source.get("path") if isinstance(source, Mapping) else None
        if isinstance(path, str) and "\0" in path:
            yield f"{key}.path: expected a file's path, got {path!r}"


def _width_problems(document: Mapping[str, Any]) -> Iterator[str]:
    bottom, top = _widths(document.get("bottom_mlp")), _widths(document.get("top_mlp"))
    if top and top[-1] != 1:
        yield f"top_mlp: expected the last width to be 1 (the score), got {top[-1]}"
    for i, entry in enumerate(_entries(document)):
        dim = entry.get("dim")
        if bottom and _is_int(dim) and 1 <= dim <= 65_536 and dim != bottom[-1]:
            yield f"tables[{i}].dim: expected {bottom[-1]}, the last width of bottom_mlp (dot interaction), got {dim}"


def _mode_problems(document: Mapping[str, Any]) -> Iterator[str]:
    """A TorchRec checkpoint has the same keys whether bags are summed or averaged: the spec must say it."""
    weights = document.get("weights")
    if not isinstance(weights, Mapping) or weights.get("source") != "torchrec":
        return
    for i, entry in enumerate(_entries(document)):
        pooling = entry.get("pooling")
        if _is_int(pooling) and pooling > 1 and "mode" not in entry:
            yield (
                f"tables[{i}].mode: expected sum or mean, the pooling of its EmbeddingBagConfig, got none; a TorchRec "
                "checkpoint does not hold it, and the scores differ"
            )


def _table_problems(document: Mapping[str, Any]) -> Iterator[str]:
    """One line for each pair of entries whose expanded names clash."""
    owners: dict[str, int] = {}
    clashes: dict[tuple[int, int], list[str]] = {}
    for i, entry in enumerate(_entries(document)):
        name, count = entry.get("name"), entry.get("count")
        if isinstance(name, str) and (count is None or (_is_int(count) and 1 <= count <= 100_000)):
            for expanded in [name] if count is None else [f"{name}_{k}" for k in range(count)]:
                owner = owners.setdefault(expanded, i)
                if owner != i:
                    clashes.setdefault((owner, i), []).append(expanded)
    for (owner, i), names in clashes.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        where = f"tables[{owner}] and tables[{i}]"
        yield f"tables[{i}].name: expected unique table names, got {names[0]!r}{more} from {where}"


def _entries(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    tables = document.get("tables")
    return [entry if isinstance(entry, Mapping) else {} for entry in tables] if isinstance(tables, list) else []


def _widths(value: object) -> list[int]:
    return value if isinstance(value, list) and value and all(_is_int(width) for width in value) else []


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
