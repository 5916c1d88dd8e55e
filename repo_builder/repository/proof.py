"""The proof of a build: the whole model and what was written of it answer the same samples.

While the tables are streamed the rows that the samples need are kept. Then each look-up is made twice: of these rows,
as services are to store them, and through the written id maps and shards; and the written rows are compared with those,
bit for bit. Where they agree, the written dense graph makes its answers, and they are compared with the model's own. So
what is wrong is told by the place where it begins.

Where services store rows in fewer bits than they came in, the answers that are compared are those of the rows as they
came: the cut changes nothing. What the smaller rows change is told beside: the score error.

Nothing else proves a cut, whichever door it comes from. Where a source names no query that it was tried on, the model
is a DLRM by its numbers. To run it whole is to read all tables once more, measured to take 15 to 30% of a build. So its
queries are drawn, and the proof is put together: all look-ups agree, and the dense graph was compared with PyTorch's on
any vectors when it was written. Its score error is against that graph's answers of the rows as they came.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.query_file import QueryFile
from repo_builder.errors import ExportError, InputError
from repo_builder.model.arrays import Arrays, difference
from repo_builder.model.source import TOLERANCE, Source
from repo_builder.repository.answers import Answers, dense_inputs
from repo_builder.repository.descriptions import shards_of
from repo_builder.repository.design import FIRST_VERSION, Design
from repo_builder.repository.graph_run import WrittenGraph
from repo_builder.repository.manifest import Proof, ScoreError
from repo_builder.repository.samples import proof_query
from repo_builder.repository.stored_rows import stored_rows
from repo_builder.repository.streamed_lookups import StreamedLookups
from repo_builder.repository.wiring import Holding
from repo_builder.repository.written_answer import written_rows
from triton_backends.kernels.row_formats import decode_rows
from triton_backends.router.router import Router

_REPORT = "please report it with the spec"


class Trial:
    """A query to a model that is being built: what is kept of its tables, and what its parts answer."""

    def __init__(self, design: Design, source: Source, queries: QueryFile, folder: Path) -> None:
        """The ids graph is written already. queries: taken where the source has none that it was tried on.

        Raises InputError where samples have ids that are none of their table's, ExportError where the written ids
        graph makes other ids than the model.
        """
        self._design, self._source, self._folder = design, source, folder
        self._compares_outputs = source.tried() is not None
        self._inputs = proof_query(source, queries)
        ids = source.ids(self._inputs)
        self._tensors = {**self._inputs, **self._computed(ids)}
        self._looked_up = StreamedLookups(design.model, {**self._inputs, **ids})
        self.see = self._looked_up.see

    def proof(self) -> Proof:
        """Compare; raises ExportError where it is not the same model, by look-up, table or output."""
        design, model = self._design, self._design.model
        router = Router.open(self._folder / design.front_folder("router"))
        try:
            routed = router.route(self._tensors)
        except ValueError as exc:
            raise InputError(f"samples: {exc}") from exc
        answers = Answers(design, self._folder, routed)
        held = [self._held(router, table) for table in range(len(model.tables))]
        numbers = [self._stored_numbers(table, held[table]) for table in range(len(model.tables))]
        differences = [self._check_lookup(i, answers, numbers[each.table]) for i, each in enumerate(model.lookups)]
        for table, shards in enumerate(held):
            self._check_rows(table, shards)
        return self._proof_of_outputs(answers, max(differences))

    def _proof_of_outputs(self, answers: Answers, difference_of_lookups: float) -> Proof:
        """Run the dense graph: with the vectors that services give, and with those of the rows as they came."""
        design, model = self._design, self._design.model
        if not self._compares_outputs and not design.recodes:
            return Proof(_sha256(self._inputs), difference_of_lookups)
        graph = WrittenGraph(self._folder / design.folder(design.dense))
        inputs = {tensor.name: self._tensors[tensor.name] for tensor in model.dense.inputs}
        divisors = {name: answers.routed.tensors[name] for name in design.divisors}
        stored = graph.run({**inputs, **divisors, **answers.partials()})
        if not design.recodes:
            return Proof(_sha256(self._inputs), max(self._check_outputs(stored, self._source.answers(self._inputs))))
        looked_up = self._looked_up
        vectors = [looked_up.vectors(i, looked_up.rows(each.table)) for i, each in enumerate(model.lookups)]
        came = graph.run({**inputs, **dense_inputs(model, design.sums, vectors)})
        if self._compares_outputs:
            difference_of_lookups = max(self._check_outputs(came, self._source.answers(self._inputs)))
        return Proof(_sha256(self._inputs), difference_of_lookups, score_error(stored, came))

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

    def _held(self, router: Router, table: int) -> list[_HeldRows]:
        """The samples' rows of a table, service by service, by the written id map."""
        model, looked_up = self._design.model, self._looked_up
        shard, local = router.find(table, looked_up.ids(table))
        found = []
        for number, (service, _) in enumerate(shards_of(self._design.wiring, model.tables[table].name)):
            holding, mine = self._design.wiring[service], shard == number
            rows = stored_rows(looked_up.came(table)[mine], holding.stored(table).dtype)
            found.append(_HeldRows(holding, mine, holding.bases[table] + local[mine], rows))
        return found

    def _stored_numbers(self, table: int, held: Sequence[_HeldRows]) -> NDArray[np.float32]:
        """The numbers of these rows, (n, dim), as services store them."""
        found = np.full(self._looked_up.rows(table).shape, np.nan, np.float32)
        for each in held:
            stored = each.holding.stored(table)
            found[each.mine] = decode_rows(each.rows, stored.dim, stored.dtype)
        return found

    def _check_rows(self, table: int, held: Sequence[_HeldRows]) -> None:
        """That they were written so, to the bit."""
        name = self._design.model.tables[table].name
        for each in held:
            folder = self._folder / self._design.folder(each.holding.service)
            written = written_rows(folder, each.holding, each.holding.matrix_of[table], each.places)
            wrong = (written != each.rows).any(axis=1)
            if wrong.any():
                row = self._looked_up.ids(table)[each.mine][wrong][0]
                raise ExportError(
                    f"table {name}: row {row} is written otherwise in service {each.holding.name} than it was read; "
                    f"{_REPORT}"
                )

    def _check_lookup(self, index: int, answers: Answers, numbers: NDArray[np.float32]) -> float:
        """How far a look-up is from one of the rows that services should have, at most."""
        model = self._design.model
        lookup = model.lookups[index]
        expected, size = self._looked_up.sums(index, numbers)
        apart = difference(answers.vectors(index).astype(np.float64).reshape(expected.shape), expected, size)
        if not apart <= TOLERANCE:
            raise ExportError(
                f"look-up {lookup.name} of table {model.tables[lookup.table].name}: what was written of it differs by "
                f"{apart:.1e} from the model's rows on samples; {_REPORT}"
            )
        return apart

    def _check_outputs(self, found: Arrays, wanted: Arrays) -> list[float]:
        """How far each output is from the model's own, at most."""
        differences = {}
        for tensor in self._design.model.outputs:
            answer, own = wanted[tensor.name], found[tensor.name]
            if answer.shape != own.shape and not (answer.shape == () and own.shape == (1,)):
                raise ExportError(
                    f"output {tensor.name}: expected shape {answer.shape} on samples, as the whole model has it, got "
                    f"{own.shape} of what was written; {_REPORT}"
                )
            differences[tensor.name] = difference(own.reshape(answer.shape), answer)
        _refuse_outputs(differences, self._source.tolerance)
        return list(differences.values())


def score_error(found: Arrays, whole: Arrays) -> ScoreError:
    """How far outputs lie from those of rows as they came; whole numbers count where there are no others.

    Raises ExportError where they are not finite while the model's are.
    """
    fractions = {name: each for name, each in whole.items() if each.dtype.kind == "f"} or whole
    apart = []
    for name, answer in fractions.items():
        own = found[name].reshape(answer.shape)
        with np.errstate(invalid="ignore"):  # of infinities
            each = np.abs(own.astype(np.float64) - answer.astype(np.float64))
        apart.append(np.where((own == answer) | (np.isnan(own) & np.isnan(answer)), 0, each).reshape(-1))
        if not np.isfinite(apart[-1]).all():
            raise ExportError(
                f"output {name}: expected finite numbers of samples, got others with the rows as they are stored; "
                "store them in more bits: rows in the spec"
            )
    numbers = np.concatenate(apart)
    return ScoreError(float(numbers.max(initial=0)), float(numbers.mean()) if numbers.size else 0.0)


@dataclass(frozen=True, slots=True)
class _HeldRows:
    """Rows of a table that samples read and a service has.

    mine: which of the table's, (n,) booleans. places: in the service's matrix. rows: as they should be stored there.
    """

    holding: Holding
    mine: NDArray[np.bool_]
    places: NDArray[np.int64]
    rows: NDArray[np.uint8]


def proof_of_whole(design: Design, source: Source, queries: QueryFile, folder: Path) -> Proof:
    """That a whole model which was copied answers as its owner's; raises ExportError where it does not."""
    inputs = proof_query(source, queries)
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
