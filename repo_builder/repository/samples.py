"""Samples of a model: queries that it is known to take, recorded or drawn by its hotness, and their labels."""

from __future__ import annotations

from dataclasses import dataclass

from repo_builder.access.hotness import Hotness
from repo_builder.access.queries import check_queries, draw_queries
from repo_builder.access.query_file import QueryFile
from repo_builder.errors import InputError
from repo_builder.export.queries import read_labels
from repo_builder.model.arrays import Arrays, has_rows
from repo_builder.model.source import ModelFile, Source
from repo_builder.model.types import BATCH, Model
from repo_builder.spec import Spec

KEPT_ROWS = 256
"""In a repository."""

_PROOF_ROWS = 32
_MOST_ROWS = 2048
_MOST_IDS = 1_000_000
_MOST_QUERIES = 64  # where each must be run by itself


def kept_queries(spec: Spec, source: Source, hotness: Hotness) -> QueryFile:
    """What a build keeps in its repository: drawn queries, the same each time. Raises what `check_samples` does."""
    check_samples(spec, source)
    batch = spec.serving.batch
    return draw_queries(spec.queried, hotness, max(1, KEPT_ROWS // batch), batch, seed=0, samples=source.samples())


def check_samples(spec: Spec, source: Source) -> None:
    """Raise InputError, naming the spec's file, where no queries can be drawn without samples and there are none."""
    try:
        check_queries(spec.queried, spec.serving.batch, source.samples())
    except InputError as exc:
        where = f"{spec.file}: " if spec.file is not None else ""
        raise InputError(*(f"{where}{problem}" for problem in exc.problems)) from exc


def proof_query(source: Source, kept: QueryFile) -> Arrays:
    """What a build is proven with: the first rows that the model was tried on, else of the queries that are kept."""
    tried = source.tried()
    return kept.first(_PROOF_ROWS) if tried is None else first_rows(source.model, tried, _PROOF_ROWS)


def first_rows(model: Model, samples: Arrays, rows: int) -> Arrays:
    """The first rows of samples; all of them where their rows do not stand for themselves."""
    if rows_stand_alone(model):
        return {name: array[:rows] for name, array in samples.items()}
    return samples


def rows_stand_alone(model: Model) -> bool:
    """Whether each row of a query is scored for itself, and every input has it."""
    by_row = model.dense.batched and [group.rows for group in model.groups] == [BATCH]
    return by_row and all(has_rows(tensor) for tensor in model.inputs)


@dataclass(frozen=True, slots=True)
class SampleQueries:
    """Queries to tell a score error on, what they are in words, and labels by output, of one query after the other."""

    queries: tuple[Arrays, ...]
    labels: Arrays
    told: str


def sample_queries(spec: Spec, source: Source, hotness: Hotness) -> SampleQueries:
    """The spec's samples, their first rows; without samples more queries drawn like those that a build keeps.

    All that a build is proven with is among them. Raises ModelFileError where the samples' labels are none.
    """
    model, recorded = spec.model, source.samples()
    named = spec.form.samples if isinstance(spec.form, ModelFile) else None
    if named is None or recorded is None:
        return _drawn(spec, source, hotness)
    query, labels, rows = first_rows(model, recorded, _MOST_ROWS), read_labels(named), ""
    if rows_stand_alone(model):
        all_rows = len(next(iter(recorded.values())))
        labels = {name: each[:_MOST_ROWS] if len(each) == all_rows else each for name, each in labels.items()}
        rows = f" ({min(all_rows, _MOST_ROWS):,} rows)"
    return SampleQueries((query,), labels, f"the samples of {named.name}{rows}")


def _drawn(spec: Spec, source: Source, hotness: Hotness) -> SampleQueries:
    model, batch, alone = spec.model, spec.serving.batch, rows_stand_alone(spec.model)
    kept, tried = kept_queries(spec, source, hotness), source.tried()
    rows = min(_MOST_ROWS, _MOST_IDS // max(1, round(sum(model.ids_per_row))))
    count = max(1, min(rows // batch, rows if alone else _MOST_QUERIES))
    samples = tried if tried is not None else source.samples()
    drawn = draw_queries(spec.queried, hotness, count, batch, seed=1, samples=samples)
    queries = [proof_query(source, kept), *([] if alone else (drawn.query(i, batch) for i in range(count)))]
    if alone:
        queries.append(drawn.inputs)
    return SampleQueries(tuple(queries), {}, f"{count * batch:,} drawn rows")
