"""The proof of a build: the whole model and what was written of it answer the same samples.

While the tables are streamed the rows that the samples need are kept. Then each look-up is made twice: of these rows,
and through the written id maps and shards. Where they agree, the written dense graph makes its answers of the latter,
and they are compared with the model's own. So what is wrong is told by the place where it begins.

Nothing else proves a cut, whichever door it comes from. Where a source names no query that it was tried on, the model
is a DLRM by its numbers. To run it whole is to read all tables once more, measured to take 15 to 30% of a build. So its
queries are drawn, and the proof is put together: all look-ups agree, and the dense graph was compared with PyTorch's on
any vectors when it was written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.query_file import QueryFile
from repo_builder.errors import ExportError, InputError
from repo_builder.model.arrays import Arrays, difference, has_rows
from repo_builder.model.lookups import LookupBags, read_bags
from repo_builder.model.source import TOLERANCE, Source, divisors_name
from repo_builder.model.types import BATCH, Lookup, Model, Table
from repo_builder.repository.design import FIRST_VERSION, Design
from repo_builder.repository.graph_run import WrittenGraph
from repo_builder.repository.manifest import Proof
from repo_builder.repository.wiring import ROWS, SUMS, at_shard, on_wire, pieces
from repo_builder.repository.written_answer import written_answer
from triton_backends.router.idmap import Integers
from triton_backends.router.router import Routed, Router

SAMPLE_ROWS = 32  # of the samples, where they are cut
_REPORT = "please report it with the spec"


class Trial:
    """A query to a model that is being built: what is kept of its tables, and what its parts answer."""

    def __init__(self, design: Design, source: Source, queries: QueryFile, folder: Path) -> None:
        """The ids graph is written already. queries: taken where the source has none that it was tried on.

        Raises InputError where samples have ids that are none of their table's, ExportError where the written ids
        graph makes other ids than the model.
        """
        self._design, self._source, self._folder = design, source, folder
        tried = source.tried()
        self._compares_outputs = tried is not None
        self._inputs = queries.first(SAMPLE_ROWS) if tried is None else first_rows(design.model, tried, SAMPLE_ROWS)
        ids = source.ids(self._inputs)
        self._tensors = {**self._inputs, **self._computed(ids)}
        self._looked_up = StreamedLookups(design.model, {**self._inputs, **ids})
        self.see = self._looked_up.see

    def proof(self) -> Proof:
        """Compare; raises ExportError where it is not the same model, by look-up or output."""
        router = Router.open(self._folder / self._design.front_folder("router"))
        try:
            routed = router.route(self._tensors)
        except ValueError as exc:
            raise InputError(f"samples: {exc}") from exc
        answers = _Answers(self._design, self._folder, routed)
        lookups = range(len(self._design.model.lookups))
        differences = [self._check_lookup(index, answers) for index in lookups]
        if self._compares_outputs:
            differences = self._check_outputs(answers)
        return Proof(_sha256(self._inputs), max(differences))

    def _computed(self, ids: Arrays) -> Arrays:
        """What the written ids graph makes of the query: the same as the model's own."""
        graph = self._design.model.ids_graph
        if graph is None:
            return {}
        given = {tensor.name: self._inputs[tensor.name] for tensor in graph.inputs}
        found = WrittenGraph(self._folder / self._design.front_folder("ids")).run(given)
        for tensor in graph.outputs:
            own, expected = found[tensor.name], ids.get(tensor.name)
            if expected is not None and (own.shape != expected.shape or not _agree(own, expected)):
                raise ExportError(
                    f"ids {tensor.name}: the written ids graph makes others of samples than the model does; {_REPORT}"
                )
        return found

    def _check_lookup(self, index: int, answers: _Answers) -> float:
        """How far a look-up is from one of the model's rows, at most."""
        model = self._design.model
        lookup = model.lookups[index]
        expected, size = self._looked_up.sums(index)
        apart = difference(answers.vectors(index).astype(np.float64).reshape(expected.shape), expected, size)
        if not apart <= TOLERANCE:
            raise ExportError(
                f"look-up {lookup.name} of table {model.tables[lookup.table].name}: what was written of it differs by "
                f"{apart:.1e} from the model's rows on samples; {_REPORT}"
            )
        return apart

    def _check_outputs(self, answers: _Answers) -> list[float]:
        """How far each output is from the model's own, at most."""
        design, model = self._design, self._design.model
        inputs = {tensor.name: self._tensors[tensor.name] for tensor in model.dense.inputs}
        given = {**inputs, **answers.partials(), **{name: answers.routed.tensors[name] for name in design.divisors}}
        found = WrittenGraph(self._folder / design.folder(design.dense)).run(given)
        wanted = self._source.answers(self._inputs)
        differences = {}
        for tensor in model.outputs:
            answer, own = wanted[tensor.name], found[tensor.name]
            if answer.shape != own.shape and not (answer.shape == () and own.shape == (1,)):
                raise ExportError(
                    f"output {tensor.name}: expected shape {answer.shape} on samples, as the whole model has it, got "
                    f"{own.shape} of what was written; {_REPORT}"
                )
            differences[tensor.name] = difference(own.reshape(answer.shape), answer)
        _refuse_outputs(differences, self._source.tolerance)
        return list(differences.values())


class _Answers:
    """What the services answer to a routed query, as their files have it, and what is made of that."""

    def __init__(self, design: Design, folder: Path, routed: Routed) -> None:
        self.routed = routed
        self._design = design
        self._numbers: dict[tuple[int, str, int], NDArray[np.float32]] = {}
        for k, held in enumerate(design.wiring):
            asked = [(kind, share.group) for share in held.shares for kind in share.asks]
            inputs = {at_shard(kind, group): routed.tensors[on_wire(held.name, kind, group)] for kind, group in asked}
            answer = written_answer(folder / design.folder(held.service), held, inputs)
            for share in held.shares:
                for kind in share.answers:
                    self._numbers[k, kind, share.group] = answer[at_shard(kind, share.group)]
        self._rows = list(self._rows_of_units())

    def vectors(self, index: int) -> NDArray[np.float32]:
        """A look-up's vectors (rows of its group, count * dim), of what all services answer."""
        model = self._design.model
        lookup, dim = model.lookups[index], model.tables[model.lookups[index].table].format.dim
        if index in self.routed.positions:
            return self._put_together(self.routed.positions[index], dim)
        parts = [
            self._numbers[k, SUMS, share.group][:, share.columns[index] :][:, : model.width(lookup)]
            for k, held in enumerate(self._design.wiring)
            for share in held.shares
            if index in share.columns
        ]
        total = np.sum(parts, axis=0, dtype=np.float32)
        if lookup.mode == "mean":
            before = sum(model.lookups[i].count for i in model.in_group(lookup.group) if i < index)
            divisors = self.routed.tensors[divisors_name(lookup.group)][:, before : before + lookup.count]
            total = total / np.repeat(divisors, dim, axis=1)
        return np.asarray(total, np.float32)

    def partials(self) -> dict[str, NDArray[np.float32]]:
        """The dense graph's inputs, made of the answers as the ensemble or a fleet's router does."""
        design, found = self._design, dict[str, NDArray[np.float32]]()
        if design.arrangement.router == "router":
            numbers = self._numbers.items()
            return {on_wire(design.wiring[k].name, kind, group): each for (k, kind, group), each in numbers}
        for k, held in enumerate(design.wiring):
            for share in (each for each in held.shares if each.bags):
                own, whole = self._numbers[k, SUMS, share.group], design.sums[share.group]
                joined = found.setdefault(whole.name, np.zeros((len(own), whole.width), np.float32))
                for begin, end, columns in pieces(design.model, share, whole):
                    joined[:, end : end + columns] += own[:, begin : begin + columns]
        for index in self.routed.positions:
            own, whole = self.vectors(index), design.sums[design.model.lookups[index].group]
            joined = found.setdefault(whole.name, np.zeros((len(own), whole.width), np.float32))
            joined[:, whole.columns[index] :][:, : own.shape[1]] = own
        return found

    def _put_together(self, positions: Integers, dim: int) -> NDArray[np.float32]:
        """Rows as they are, where positions (rows, count, 2) have them; zeros for padding."""
        found = np.zeros((*positions.shape[:2], dim), np.float32)
        for unit, rows in enumerate(self._rows):
            mine = positions[:, :, 0] == unit
            if mine.any():
                found[mine] = rows[positions[mine][:, 1]]
        return found.reshape(len(positions), -1)

    def _rows_of_units(self) -> Iterator[NDArray[np.float32]]:
        """The rows (n, dim) that each unit answers as they are, in the order of `router.json`; n is 0 where it sums."""
        for k, held in enumerate(self._design.wiring):
            for share in held.shares:
                lengths = self.routed.tensors[on_wire(held.name, "lengths", share.group)][0]
                numbers = self._numbers.get((k, ROWS, share.group), np.empty((1, 0), np.float32))[0]
                query_rows = (lengths.size - len(share.unpooled)) // (share.bags or 1)
                for unit in share.units:
                    mine, lengths = np.split(lengths, [query_rows * unit.bags if unit.bags else 1])
                    dim = held.matrices[unit.matrix].format.dim
                    rows, numbers = np.split(numbers, [0 if unit.bags else int(mine[0]) * dim])
                    yield rows.reshape(-1, dim)


def proof_of_whole(design: Design, source: Source, queries: QueryFile, folder: Path) -> Proof:
    """That a whole model which was copied answers as its owner's; raises ExportError where it does not."""
    tried = source.tried()
    inputs = queries.first(SAMPLE_ROWS) if tried is None else first_rows(design.model, tried, SAMPLE_ROWS)
    found = WrittenGraph(folder / design.spec.name / FIRST_VERSION).run(inputs)
    answers = source.answers(inputs)
    differences = {name: difference(found[name].reshape(own.shape), own) for name, own in answers.items()}
    _refuse_outputs(differences, source.tolerance)
    return Proof(_sha256(inputs), max(differences.values()))


def _refuse_outputs(differences: Mapping[str, float], tolerance: float) -> None:
    for name, apart in differences.items():
        if not apart <= tolerance:
            raise ExportError(
                f"output {name}: what was written differs by {apart:.1e} from the whole model's answers on "
                f"samples, though all look-ups agree; {_REPORT}"
            )


def first_rows(model: Model, samples: Arrays, rows: int) -> Arrays:
    """The first rows of samples; all of them where their rows do not stand for themselves."""
    if rows_stand_alone(model):
        return {name: array[:rows] for name, array in samples.items()}
    return samples


def rows_stand_alone(model: Model) -> bool:
    """Whether each row of a query is scored for itself, and every input has it."""
    by_row = model.dense.batched and [group.rows for group in model.groups] == [BATCH]
    return by_row and all(has_rows(tensor) for tensor in model.inputs)


def _agree(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Whether ids are the same, and weights of them are alike."""
    whole = expected.dtype.kind in "iub"
    return difference(found, expected) <= (0 if whole else TOLERANCE)


def _sha256(arrays: Arrays) -> str:
    """Of names, types, shapes and numbers."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {arrays[name].shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


class StreamedLookups:
    """Every look-up of a query, of the rows that it is shown while their tables are streamed."""

    def __init__(self, model: Model, tensors: Arrays) -> None:
        self._model = model
        self._bags = [_checked_bags(lookup, model.tables[lookup.table], tensors) for lookup in model.lookups]
        self._wanted = wanted = [self._read(table) for table in range(len(model.tables))]
        self._rows = [
            np.full((len(ids), table.format.dim), np.nan, np.float32)
            for ids, table in zip(wanted, model.tables, strict=True)
        ]

    def _read(self, table: int) -> NDArray[np.int64]:
        pairs = zip(self._model.lookups, self._bags, strict=True)
        found = [bags.ids for lookup, bags in pairs if lookup.table == table]
        ids: NDArray[np.int64] = np.unique(np.concatenate([np.empty(0, np.int64), *found]))
        return ids

    def see(self, table: int, begin: int, rows: NDArray[np.float32]) -> None:
        """Keep what is needed of a block of rows (n, dim) of a table, the first of which is that of id `begin`."""
        first, end = np.searchsorted(self._wanted[table], [begin, begin + len(rows)])
        self._rows[table][first:end] = rows[self._wanted[table][first:end] - begin]

    def sums(self, position: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """A look-up's vectors, (rows of its group, count * dim); and the sums of what was added up without its sign.

        The latter tell how exact the former can be.
        """
        lookup = self._model.lookups[position]
        bags, rows = self._bags[position], self._rows[lookup.table].astype(np.float64)
        unsigned = replace(bags, weights=None if bags.weights is None else np.abs(bags.weights))
        return self._vectors(position, bags, rows), self._vectors(position, unsigned, np.abs(rows))

    def ids(self, table: int) -> NDArray[np.int64]:
        """The ids that look-ups read of a table (n,), ascending, each once."""
        return self._wanted[table]

    def rows(self, table: int) -> NDArray[np.float32]:
        """The rows (n, dim) of these ids, as they were seen."""
        return self._rows[table]

    def vectors(self, position: int, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """A look-up's vectors, (rows of its group, count * dim), of rows (n, dim) like those of `rows`."""
        return self._vectors(position, self._bags[position], rows.astype(np.float64)).astype(np.float32)

    def _vectors(self, position: int, bags: LookupBags, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        lookup = self._model.lookups[position]
        sums = bags.sums(rows[np.searchsorted(self._wanted[lookup.table], bags.ids)])
        divisors = bags.divisors()[:, np.newaxis] if lookup.mode == "mean" else 1
        vectors: NDArray[np.float64] = (sums / divisors).reshape(-1, self._model.width(lookup))
        return vectors


def _checked_bags(lookup: Lookup, table: Table, tensors: Arrays) -> LookupBags:
    """A look-up's bags in samples; raises InputError where an id is none of the table's."""
    bags = read_bags(lookup, table, tensors)
    bad = (bags.ids < 0) | (bags.ids >= table.rows)
    if bad.any():
        told = bags.ids[bad][0] - (table.rows if lookup.ids.from_end and bags.ids[bad][0] < 0 else 0)
        raise InputError(f"samples: {lookup.name}: id {told} is none of the {table.rows} rows of {table.name}")
    return bags
