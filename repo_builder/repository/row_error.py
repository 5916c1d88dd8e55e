"""What stored rows do to a model's scores: told on samples, before anything is built.

The samples' rows are kept while the tables are streamed, once. Then any plan can be asked: each row is written and read
again as its service stores it, look-ups are made of these rows, and the dense graph makes scores of them. They are
compared with the scores that it makes of the rows as they came: rows in float32 have no error at all.

How well scores rank is the area under the ROC curve (AUC): on the samples' own labels; else on drawn ones, 1 as likely
as the unrounded score says. Scores outside [0, 1] are taken for logits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.hotness import Hotness
from repo_builder.errors import InputError
from repo_builder.export.queries import LABELS
from repo_builder.model.arrays import DTYPES, Array, Arrays
from repo_builder.model.source import Source
from repo_builder.model.types import Model
from repo_builder.output import Progress
from repo_builder.partition.plan import Plan
from repo_builder.repository.answers import dense_inputs
from repo_builder.repository.graph_run import WrittenGraph
from repo_builder.repository.samples import SampleQueries
from repo_builder.repository.stored_rows import UnstorableError, stored_rows
from repo_builder.repository.streamed_lookups import StreamedLookups
from repo_builder.repository.wiring import joined
from triton_backends.kernels.row_formats import decode_rows

_SEED = 0


@dataclass(frozen=True, slots=True)
class OutputError:
    """How far an output's numbers are from what they are of rows in float32: at most, and on average.

    auc, auc_fp32: of stored rows, and of rows in float32; None where all labels are the same. labelled: by samples.
    """

    name: str
    max: float
    mean: float
    auc: float | None
    auc_fp32: float | None
    labelled: bool

    @property
    def auc_change(self) -> float | None:
        """How much better stored rows rank, mostly below 0; None where there is no AUC."""
        return None if self.auc is None or self.auc_fp32 is None else self.auc - self.auc_fp32


@dataclass(frozen=True, slots=True)
class RowError:
    """What stored rows do to the outputs, in the model's order; whole numbers count where there are no others."""

    outputs: tuple[OutputError, ...]

    @property
    def max(self) -> float:
        """The largest difference of a number of any output."""
        return max((output.max for output in self.outputs), default=0.0)

    @property
    def mean(self) -> float:
        """The largest mean difference of an output."""
        return max((output.mean for output in self.outputs), default=0.0)


class RowTrial:
    """A model's samples, the rows that they read, and its dense graph: the error of any plan's stored rows."""

    def __init__(self, source: Source, hotness: Hotness, samples: SampleQueries, progress: Progress) -> None:
        """Reads the tables once; `progress` counts their bytes.

        Raises InputError where samples have ids that are none of their table's, and what reading the weights raises.
        """
        self.samples = samples
        self._model = source.model
        tensors = [{**query, **source.ids(query)} for query in samples.queries]
        self._tensors: Sequence[Arrays] = tensors
        self._lookups = [StreamedLookups(source.model, each) for each in tensors]
        self._ranks = [_ranks(hotness, source.model, self._lookups, table) for table in range(len(source.model.tables))]
        with tempfile.TemporaryDirectory(prefix="elasticrec-dense-") as folder:
            source.write_dense(joined(source.model), Path(folder))
            self._dense = WrittenGraph(Path(folder))
        self._stream(source, progress)
        seen = [self._dense_inputs(number, self._seen(lookups)) for number, lookups in enumerate(self._lookups)]
        self._unrounded = self._joined([self._dense.run(inputs) for inputs in seen])
        fractions = [tensor for tensor in source.model.outputs if DTYPES[tensor.datatype].kind == "f"]
        self._labels = {tensor.name: self._labels_of(tensor.name) for tensor in fractions or source.model.outputs}

    def answers(self, plan: Plan) -> Sequence[Arrays]:
        """Each query's outputs by name, of rows that are stored as the plan's services do.

        Raises UnstorableError where one of them holds what its format cannot.
        """
        rows = [self._stored(number, plan) for number in range(len(self._lookups))]
        return [self._dense.run(self._dense_inputs(number, each)) for number, each in enumerate(rows)]

    def error(self, plan: Plan) -> RowError | None:
        """Of rows that are stored as the plan's services do; None where one of them holds what its format cannot."""
        try:
            scores = self._joined(self.answers(plan))
        except UnstorableError:
            return None
        return RowError(tuple(self._error(name, scores[name]) for name in self._labels))

    def _stream(self, source: Source, progress: Progress) -> None:
        done = 0
        for table, each in enumerate(source.model.tables):
            begin = 0
            for block in source.table_chunks(each):
                for lookups in self._lookups:
                    lookups.see(table, begin, block)
                begin += len(block)
                done += len(block) * each.format.row_bytes
                progress(done, source.model.size_bytes)

    def _seen(self, lookups: StreamedLookups) -> list[NDArray[np.float32]]:
        return [lookups.rows(table) for table in range(len(self._model.tables))]

    def _stored(self, number: int, plan: Plan) -> list[NDArray[np.float32]]:
        """The rows of each table that a query reads, as they are read back of their services."""
        found = [rows.copy() for rows in self._seen(self._lookups[number])]
        positions = {table.name: i for i, table in enumerate(self._model.tables)}
        for service in plan.embedding_services:
            for shard in service.shards:
                table = positions[shard.table]
                came = self._model.tables[table].format
                stored, ranks = came.stored_as(service.row_dtype), self._ranks[table][number]
                held = (ranks >= shard.begin) & (ranks < shard.end)
                if stored != came and held.any():
                    rows = stored_rows(found[table][held], stored.dtype)
                    found[table][held] = decode_rows(rows, stored.dim, stored.dtype)
        return found

    def _joined(self, answers: Sequence[Arrays]) -> dict[str, NDArray[np.float64]]:
        """Each output's numbers (n,), of all queries."""
        return {
            tensor.name: np.concatenate([answer[tensor.name].reshape(-1).astype(np.float64) for answer in answers])
            for tensor in self._model.outputs
        }

    def _dense_inputs(self, number: int, rows: Sequence[NDArray[np.float32]]) -> dict[str, Array]:
        """Of one query."""
        model, lookups, tensors = self._model, self._lookups[number], self._tensors[number]
        vectors = [lookups.vectors(index, rows[lookup.table]) for index, lookup in enumerate(model.lookups)]
        inputs = {tensor.name: tensors[tensor.name] for tensor in model.dense.inputs}
        return {**inputs, **dense_inputs(model, joined(model), vectors)}

    def _labels_of(self, name: str) -> NDArray[np.bool_]:
        """An output's labels (n,): the samples', or drawn of its numbers."""
        scores, given = self._unrounded[name], self.samples.labels
        unknown = given.keys() - self._unrounded.keys()
        if unknown or (name in given and given[name].size != scores.size):
            wrong = min(unknown, default=name)
            expected = f"{scores.size} numbers" if wrong == name else f"one of {', '.join(self._unrounded)}"
            raise InputError(f"{self.samples.told}: {LABELS}{wrong}: expected {expected}, as the model's output, got "
                             f"{wrong} with {given[wrong].size}")  # fmt: skip
        if name in given:
            return given[name].reshape(-1).astype(np.bool_)
        chances = scores if ((scores >= 0) & (scores <= 1)).all() else 1 / (1 + np.exp(-np.clip(scores, -500, 500)))
        drawn: NDArray[np.bool_] = np.random.default_rng(_SEED).random(scores.size) < chances
        return drawn

    def _error(self, name: str, scores: NDArray[np.float64]) -> OutputError:
        own, labels = self._unrounded[name], self._labels[name]
        with np.errstate(invalid="ignore"):  # of infinities
            apart = np.where((scores == own) | (np.isnan(scores) & np.isnan(own)), 0, np.abs(scores - own))
        apart[np.isnan(apart)] = np.inf
        found, unrounded = auc(scores, labels), auc(own, labels)
        most, mean = float(apart.max(initial=0)), float(apart.mean()) if apart.size else 0.0
        return OutputError(name, most, mean, found, unrounded, name in self.samples.labels)


def _ranks(hotness: Hotness, model: Model, lookups: Sequence[StreamedLookups], table: int) -> list[NDArray[np.uint32]]:
    """The ranks in a table's hotness order of the ids that each query reads of it."""
    order = hotness.order(model.tables[table])
    rank_of_id = np.empty(len(order), np.uint32)
    rank_of_id[order] = np.arange(len(order), dtype=np.uint32)
    return [rank_of_id[each.ids(table)] for each in lookups]


def auc(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> float | None:
    """The share of pairs of a 1 and a 0 in which the 1 has the higher score, equal scores counting half.

    None where there is no such pair, or a score is not a number.
    """
    ones = int(labels.sum())
    pairs = ones * (labels.size - ones)
    if not pairs or np.isnan(scores).any():
        return None
    _, value, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # from 1; equal scores share the mean of theirs
    return float((ranks[value.reshape(-1)][labels].sum() - ones * (ones + 1) / 2) / pairs)
