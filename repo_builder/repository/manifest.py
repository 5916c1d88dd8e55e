"""`manifest.json`: what a built repository is, and every file in it with its size and SHA-256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from numpy.typing import NDArray

from repo_builder.access.query_file import read_query_file
from repo_builder.documents import read_document, schema_problems
from repo_builder.errors import InputError, RepositoryError
from repo_builder.model.types import Group, Lookup, Table, Tensor
from repo_builder.repository.model_entries import model_problems, read_model_entries
from repo_builder.spec import Access, AccessSource, Spec

MANIFEST = "manifest.json"
CHECKSUMS = "SHA256SUMS"
PLAN = "plan.json"
QUERIES = "queries.npz"
FORMAT = 3
"""Of the manifest file; one of another number is refused by name."""

Layout = Literal["single", "fleet", "model-wise"]


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the repository; `path` is relative to its root, with forward slashes."""

    path: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class AccessEntry:
    """Where the accesses come from: for a power law all that it takes to draw them; a file's place is not kept."""

    source: AccessSource
    locality: float | None
    seed: int


@dataclass(frozen=True, slots=True)
class ScoreError:
    """How far outputs lie from those of the model with its rows as they came, as those of services are stored.

    Of all numbers of all outputs for the samples, without their sign: the largest, and the mean.
    """

    max: float
    mean: float


@dataclass(frozen=True, slots=True)
class Proof:
    """What was seen at the build: the whole model and the cut one answered the same samples.

    samples_sha256: of the samples' names, types, shapes and numbers; difference: the largest of an output's number, or
    of a look-up's where samples were drawn (`proof.py`); as a share of the number where it is above 1. score_error:
    what storing rows in fewer bits adds to that; None where all are stored as they came.
    """

    samples_sha256: str
    difference: float
    score_error: ScoreError | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a repository serves, for whoever runs, queries or deploys it without the spec.

    inputs ... lookups: of `Spec.queried`, all that queries are drawn by. batch: rows of a query. batched: whether rows
    of several queries are scored together. sampled: whether `queries.npz` has rows of samples of what is not drawn.
    """

    generator: str
    name: str
    layout: Layout
    plan_sha256: str
    batch: int
    batched: bool
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    tables: tuple[Table, ...]
    groups: tuple[Group, ...]
    lookups: tuple[Lookup, ...]
    files: tuple[FileEntry, ...]
    sla_ms: float
    access: AccessEntry
    table_access: Mapping[str, AccessEntry] = field(default_factory=dict)
    sampled: bool = False
    proof: Proof | None = None
    format: int = FORMAT

    def to_json(self) -> str:
        """The manifest file's text."""
        document = {**asdict(self), "tables": [_table(table) for table in self.tables]}
        if self.proof and self.proof.score_error is None:
            del document["proof"]["score_error"]
        return json.dumps(document, indent=1) + "\n"


def _table(table: Table) -> dict[str, Any]:
    """dtype: of the rows as they came, where that is not float32."""
    dtype = {} if table.format.dtype == "fp32" else {"dtype": table.format.dtype}
    return {"name": table.name, "rows": table.rows, "dim": table.format.dim, **dtype}


def describe(
    spec: Spec,
    layout: Layout,
    plan_sha256: str,
    generator: str,
    files: Sequence[FileEntry],
    proof: Proof | None = None,
    sampled: bool = False,
) -> Manifest:
    """The manifest of a repository built from `spec`."""
    model = spec.model
    return Manifest(
        generator=generator,
        name=model.name,
        layout=layout,
        plan_sha256=plan_sha256,
        batch=spec.serving.batch,
        batched=model.dense.batched,
        inputs=model.inputs,
        outputs=model.outputs,
        tables=spec.queried.tables,
        groups=model.groups,
        lookups=spec.queried.lookups,
        files=tuple(sorted(files, key=lambda entry: entry.path)),
        access=_entry(spec.access),
        table_access={name: _entry(access) for name, access in spec.table_access.items()},
        sla_ms=spec.serving.sla_ms,
        sampled=sampled,
        proof=proof,
    )


def _entry(access: Access) -> AccessEntry:
    return AccessEntry(access.source, access.locality, access.seed)


def load_manifest(folder: Path) -> Manifest:
    """Read a repository's manifest; raises RepositoryError where `folder` is no repository of ours."""
    path = folder / MANIFEST
    try:
        found = path.is_file()
    except OSError as exc:
        raise RepositoryError(f"{folder}: cannot be read: {exc.strerror}") from exc
    if not found:
        raise RepositoryError(
            f"{folder}: expected a built repository with a {MANIFEST}, found none; run elasticrec build"
        )
    document: Any = read_document(path, RepositoryError)
    _check_format(path, document)
    problems = schema_problems(document, "manifest.schema.json")
    if not problems:
        problems = [*model_problems(document), *_path_problems([entry["path"] for entry in document["files"]])]
    if problems:
        raise RepositoryError(*(f"{path}: {problem}" for problem in problems))
    entries = {
        **read_model_entries(document),
        "files": tuple(FileEntry(**entry) for entry in document["files"]),
        "access": AccessEntry(**document["access"]),
        "table_access": {name: AccessEntry(**entry) for name, entry in document["table_access"].items()},
        "proof": None if document["proof"] is None else _proof(document["proof"]),
    }
    return Manifest(**{**document, **entries})


def _proof(document: Mapping[str, Any]) -> Proof:
    error = document.get("score_error")
    return Proof(document["samples_sha256"], document["difference"], ScoreError(**error) if error else None)


def _check_format(path: Path, document: Any) -> None:
    """Other programs have files of that name too, and other versions of this one may have other keys."""
    generator = document.get("generator") if isinstance(document, Mapping) else None
    if not isinstance(generator, str) or not generator.startswith("elasticrec "):
        raise RepositoryError(f"{path}: expected the manifest of a built repository, got another program's file")
    if document.get("format") != FORMAT:
        raise RepositoryError(
            f"{path}: format: expected {FORMAT}, got {document.get('format')}; it was built by {generator}: "
            "build it again, into another folder"
        )


def _path_problems(paths: Sequence[str]) -> Iterator[str]:
    """A manifest may come from elsewhere: none of its paths may lead out of the repository, or stand there twice."""
    seen: set[str] = set()
    for i, path in enumerate(paths):
        pure = PurePosixPath(path)
        if not pure.parts or pure.is_absolute() or ".." in pure.parts or str(pure) != path or "\0" in path:
            yield f"files[{i}].path: expected a path below the repository, such as a/b, got {path!r}"
        elif path in seen:
            yield f"files[{i}].path: expected each file once, got {path!r} twice"
        seen.add(path)


def verify(folder: Path, service: str = "") -> Manifest:
    """Check that a repository, or only the folder of one service, holds exactly its manifest's files, unchanged.

    Raises RepositoryError with one problem per line: missing, changed and unexpected files.
    """
    manifest = load_manifest(folder)
    try:
        problems = _differences(folder, manifest, f"{service}/" if service else "")
    except OSError as exc:
        raise RepositoryError(f"{exc.filename}: cannot be read: {exc.strerror}") from exc
    if problems:
        raise RepositoryError(*problems)
    return manifest


def _differences(folder: Path, manifest: Manifest, prefix: str) -> list[str]:
    listed = {entry.path: entry for entry in manifest.files if entry.path.startswith(prefix)}
    folders = {parent.as_posix() for path in listed for parent in PurePosixPath(path).parents}
    emptied = {path for path in folders if not (folder / path).is_symlink()}  # told by the files that they lack
    found = {f"{prefix}{path}" for path in files_in(folder / prefix)} - {MANIFEST} - emptied
    problems = [f"{folder / path}: expected this file, found none" for path in sorted(listed.keys() - found)]
    problems += [
        f"{folder / path}: not in the manifest; remove it or build again" for path in sorted(found - listed.keys())
    ]
    for path in sorted(listed.keys() & found):
        problems += _changes(folder / path, listed[path])
    return problems


def files_in(folder: Path) -> Iterator[str]:
    """What is below a folder, relative to it: files, links, and folders with nothing in them."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_dir() or not any(path.iterdir()):
            yield path.relative_to(folder).as_posix()


def unlisted(folder: Path, manifest: Manifest) -> list[str]:
    """What lies in a repository without being in its manifest, but for the bytecode that Python writes beside code."""
    listed = {entry.path for entry in manifest.files}
    known = listed | {parent.as_posix() for path in listed for parent in PurePosixPath(path).parents} | {MANIFEST}
    code = {PurePosixPath(path).parent.as_posix() for path in listed if path.endswith(".py")}
    return sorted(path for path in files_in(folder) if path not in known and not _is_bytecode(path, code))


def _is_bytecode(path: str, code_folders: Set[str]) -> bool:
    pure = PurePosixPath(path)
    return pure.suffix == ".pyc" and pure.parent.name == "__pycache__" and str(pure.parent.parent) in code_folders


def foreign_to_repository(folder: Path) -> str | None:
    """Why a folder is no former repository of ours that may be replaced; None where it is one."""
    try:
        manifest = load_manifest(folder)
    except RepositoryError as exc:
        return f"expected a former repository or nothing, got other files ({exc.problems[0]})"
    strangers = unlisted(folder, manifest)
    if strangers:
        more = f" and {len(strangers) - 3} more" if len(strangers) > 3 else ""
        return f"expected nothing beside a former repository's own files, got {', '.join(strangers[:3])}{more}"
    return None


def entry_of(folder: Path, path: str) -> FileEntry:
    """Measure a file."""
    with (folder / path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(path, (folder / path).stat().st_size, digest)


def _changes(path: Path, listed: FileEntry) -> list[str]:
    if path.is_symlink() or not path.is_file():
        return [f"{path}: expected a file, got {'a symbolic link' if path.is_symlink() else 'something else'}"]
    size_bytes = path.stat().st_size
    if size_bytes != listed.size_bytes:
        return [f"{path}: expected {listed.size_bytes} bytes, got {size_bytes}"]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return [] if digest == listed.sha256 else [f"{path}: expected SHA-256 {listed.sha256}, got {digest}"]


def read_queries(folder: Path, rows: int) -> dict[str, NDArray[Any]]:
    """A query of a repository's samples by the inputs' names: the first `rows` rows of them.

    Of a model with inputs that have no rows of their own it is the first query, as it is.
    """
    path, manifest = folder / QUERIES, load_manifest(folder)
    try:
        found = read_query_file(path, manifest.inputs, "sample queries")
    except InputError as exc:
        raise RepositoryError(*(f"{problem}; build the repository again" for problem in exc.problems)) from exc
    return found.first(rows)
