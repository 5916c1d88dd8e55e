"""The model spec: what the user says of the model, in YAML or JSON, checked whole before anything is built.

It has one of two forms: a DLRM by its numbers (`schemas/spec.schema.json`, `spec_dlrm.py`), or a model file that is
opened (`schemas/model_spec.schema.json`). All mistakes are reported at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from repo_builder.documents import read_document, schema_problems
from repo_builder.errors import SpecError
from repo_builder.model.dlrm import Dlrm, dlrm_model, whole_dlrm_model
from repo_builder.model.row_rule import AS_THEY_COME, RowRule, read_row_rule
from repo_builder.model.source import KEEP_UNDER_BYTES, ModelFile, Source
from repo_builder.model.types import Model
from repo_builder.spec_dlrm import dlrm_problems, read_dlrm

AccessSource = Literal["powerlaw", "counts", "trace", "samples"]
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
    """The traffic to serve: queries per second, candidate rows in a query, latency bound."""

    target_qps: float
    batch: int = 32
    sla_ms: float = 400.0


@dataclass(frozen=True, slots=True)
class FleetSettings:
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
    """A recommendation model and the traffic it must serve; `form` is what the user said of it, `model` what it is.

    table_access: of the tables whose accesses are not those of the rest. opened: a model file, as it was opened. file:
    where the spec was read, which messages name.
    """

    name: str
    form: Dlrm | ModelFile
    model: Model
    access: Access
    serving: Serving
    fleet: FleetSettings = FleetSettings()
    rows: RowRule = AS_THEY_COME
    table_access: Mapping[str, Access] = field(default_factory=dict)
    opened: Source | None = field(default=None, compare=False, repr=False)
    file: Path | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of_dlrm(
        cls,
        name: str,
        form: Dlrm,
        access: Access,
        serving: Serving,
        fleet: FleetSettings = FleetSettings(),
        rows: RowRule = AS_THEY_COME,
    ) -> Spec:
        """The spec of a model that is given by its numbers."""
        return cls(name, form, dlrm_model(name, form), access, serving, fleet, rows)

    @property
    def queried(self) -> Model:
        """The model that queries are drawn for and accesses told of: a DLRM's tables that stay dense are read too."""
        return whole_dlrm_model(self.name, self.form) if self.model.kept and isinstance(self.form, Dlrm) else self.model

    @property
    def gathers(self) -> float:
        """Rows of tables that a query of `serving.batch` rows reads."""
        return self.serving.batch * sum(self.model.ids_per_row)

    @property
    def dense_flops(self) -> float:
        """Floating-point operations of the dense layers in a query of `serving.batch` rows."""
        return self.serving.batch * self.model.dense.flops_per_row

    @property
    def dlrm(self) -> Dlrm:
        """The model's numbers; ValueError for a model file, which has none."""
        if not isinstance(self.form, Dlrm):
            raise ValueError(f"{self.name}: expected a DLRM, got a model file")
        return self.form


def load_spec(path: Path) -> Spec:
    """Read and check a spec file (`.json`, else YAML); relative paths in it are taken from the file's own folder.

    Raises SpecError with one problem per line: file, field, what was expected, what came.
    """
    document = read_document(path, SpecError)
    return parse_spec(document, path)


def parse_spec(document: object, path: Path) -> Spec:
    """Check a parsed spec; `path` is the file it came from, for messages and for relative paths.

    A document with `model` names a file, which is opened: raises ModelFileError where that cannot be cut.
    """
    form = _MODEL if isinstance(document, Mapping) and "model" in document else _DLRM
    problems = schema_problems(document, form.schema)
    if isinstance(document, Mapping):
        problems += [problem for check in (form.problems, _path_problems) for problem in check(document)]
    if problems or not isinstance(document, Mapping):
        raise SpecError(*(f"{path}: {problem}" for problem in problems))
    return replace(form.read(document, path), file=path)


def _read_dlrm(document: Mapping[str, Any], path: Path) -> Spec:
    form = read_dlrm(document, path.parent)
    return Spec.of_dlrm(document["name"], form, **_traffic(document, path.parent))


def _read_model(document: Mapping[str, Any], path: Path) -> Spec:
    from repo_builder.export import open_model_file  # imports torch or onnx, for seconds: only where it is needed

    form = _model_file(document, path.parent)
    opened = open_model_file(document["name"], form)
    entries = document.get("tables", [])
    found = [*(table.name for table in opened.model.tables), *(kept.name for kept in opened.model.kept)]
    problems = [
        f"{path}: tables[{i}].name: expected a table that {form.path} has, got {entry['name']!r}; it has "
        f"{', '.join(sorted(found))}"
        for i, entry in enumerate(entries)
        if entry["name"] not in found
    ]
    if problems:
        raise SpecError(*problems)
    table_access = {entry["name"]: _access(entry["access"], path.parent) for entry in entries if "access" in entry}
    traffic = _traffic(document, path.parent)
    return Spec(document["name"], form, opened.model, **traffic, table_access=table_access, opened=opened)


def _model_file(document: Mapping[str, Any], folder: Path) -> ModelFile:
    return ModelFile(
        source=document["model"]["source"],
        path=folder / document["model"]["path"],
        samples=folder / document["samples"] if "samples" in document else None,
        keep_under_bytes=document.get("keep_under_bytes", KEEP_UNDER_BYTES),
        keep={entry["name"]: entry["keep"] for entry in document.get("tables", []) if "keep" in entry},
    )


def _traffic(document: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What both forms say alike."""
    serving = document["serving"]
    return {
        "access": _access(document["access"], folder),
        "serving": Serving(float(serving["target_qps"]), serving.get("batch", 32), float(serving.get("sla_ms", 400.0))),
        "fleet": FleetSettings(**document.get("fleet", {})),
        "rows": read_row_rule(document.get("rows", "fp32")),
    }


def _access(access: Mapping[str, Any], folder: Path) -> Access:
    path = folder / access["path"] if "path" in access else None
    return Access(access["source"], path, access.get("locality"), access.get("seed", 0))


def _path_problems(document: Mapping[str, Any]) -> Iterator[str]:
    sources = {key: document.get(key) for key in ("weights", "access", "model")}
    paths = {f"{key}.path": source.get("path") for key, source in sources.items() if isinstance(source, Mapping)}
    for place, path in {**paths, "samples": document.get("samples")}.items():
        if isinstance(path, str) and "\0" in path:
            yield f"{place}: expected a file's path, got {path!r}"


def _model_problems(document: Mapping[str, Any]) -> Iterator[str]:
    tables = document.get("tables")
    entries = [entry for entry in tables if isinstance(entry, Mapping)] if isinstance(tables, list) else []
    names = [entry.get("name") for entry in entries]
    for i, name in enumerate(names):
        if isinstance(name, str) and name in names[:i]:
            yield f"tables[{i}].name: expected each table once, got {name!r} again"
    places = {"access": document, **{f"tables[{i}].access": entry for i, entry in enumerate(entries)}}
    for place, holder in places.items():
        access = holder.get("access")
        if isinstance(access, Mapping) and access.get("source") == "samples" and "samples" not in document:
            yield f"samples: expected an .npz of requests, whose ids {place} counts, got none"


@dataclass(frozen=True, slots=True)
class _Form:
    """A form that a spec may have: its schema, what that cannot say, and how it is read."""

    schema: str
    problems: Callable[[Mapping[str, Any]], Iterator[str]]
    read: Callable[[Mapping[str, Any], Path], Spec]


_DLRM = _Form("spec.schema.json", dlrm_problems, _read_dlrm)
_MODEL = _Form("model_spec.schema.json", _model_problems, _read_model)
