"""The proof of a build: the whole model and what was written of it answer the same samples.

While the tables are streamed the rows that the samples need are kept. Then each look-up is made twice: of these rows,
and through the written id maps and shards. Where they agree, the written dense graph makes its answers of the latter,
and they are compared with the model's own. So what is wrong is told by the place where it begins.

A model without samples of its own is a DLRM by its numbers. To run it whole is to read all tables once more, measured
to take 15 to 30% of a build. So its queries are drawn, and the proof is put together: all look-ups agree, and the dense
graph was compared with PyTorch's on any vectors when it was written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.query_file import QueryFile
from repo_builder.errors import ExportError, InputError
from repo_builder.model.arrays import Arrays, has_rows
from repo_builder.model.source import Source, divisors_name
from repo_builder.repository.design import FIRST_VERSION, Design
from repo_builder.repository.looked_up import LookedUp
from repo_builder.repository.manifest import Proof
from repo_builder.repository.wiring import SUMS, at_shard, on_wire, pieces
from repo_builder.repository.written_answer import written_answer
from triton_backends.router.router import Router

ROWS = 32  # of the samples, where they are cut
_REPORT = "please report it with the spec"
TOLERANCE = 1e-5  # of a number, or of 1 where it is smaller


class Trial:
    """A query to a model that is being built: what is kept of its tables, and what its parts answer."""

    def __init__(
        self, design: Design, source: Source, samples: Arrays | None, queries: QueryFile, folder: Path
    ) -> None:
        """The ids graph is written already. samples: the source's; queries: taken where it has none.

        Raises InputError where samples have ids that are none of their table's, ExportError where the written ids
        graph makes other ids than the model.
        """
        self._design, self._source, self._folder = design, source, folder
        self._own = samples is not None
        self._inputs = queries.first(ROWS) if samples is None else _first(design, samples)
        ids = source.ids(self._inputs)
        self._tensors = {**self._inputs, **self._computed(ids)}
        self._looked_up = LookedUp(design.model, {**self._inputs, **ids})
        self.see = self._looked_up.see

    def proof(self) -> Proof:
        """Compare; raises ExportError where it is not the same model, by look-up or output."""
        router = Router.open(self._folder / self._design.front_folder("router"))
        try:
            routed = router.route(self._tensors)
        except ValueError as exc:
            raise InputError(f"samples: {exc}") from exc
        sums = {
            (k, share.group): found[at_shard(SUMS, share.group)]
            for k, holding in enumerate(self._design.wiring)
            for found in [self._service_sums(k, routed)]
            for share in holding.shares
        }
        differences = [self._check_lookup(place, sums, routed) for place in range(len(self._design.model.lookups))]
        if self._own:
            differences = self._check_outputs(sums, routed)
        return Proof(_sha256(self._inputs), max(differences))

    def _computed(self, ids: Arrays) -> Arrays:
        """What the written ids graph makes of the query: the same as the model's own."""
        graph = self._design.model.ids_graph
        if graph is None:
            return {}
        given = {tensor.name: self._inputs[tensor.name] for tensor in graph.inputs}
        found = _run(self._folder / self._design.front_folder("ids"), given)
        for tensor in graph.outputs:
            own, expected = found[tensor.name], ids.get(tensor.name)
            if expected is not None and (own.shape != expected.shape or not _agree(own, expected)):
                raise ExportError(
                    f"ids {tensor.name}: the written ids graph makes others of samples than the model does; {_REPORT}"
                )
        return found

    def _check_lookup(self, place: int, sums: Mapping[tuple[int, int], NDArray[np.float32]], routed: Arrays) -> float:
        """How far a look-up is from one of the model's rows, at most."""
        model = self._design.model
        lookup = model.lookups[place]
        expected, size = self._looked_up.sums(place)
        found = np.zeros(expected.shape)
        for k, held in enumerate(self._design.wiring):
            for share in held.shares:
                if place in share.columns:
                    begin = share.columns[place]
                    found += sums[k, share.group][:, begin : begin + model.width(lookup)]
        if lookup.mode == "mean":
            before = sum(model.lookups[i].count for i in model.in_group(lookup.group) if i < place)
            divisors = routed[divisors_name(lookup.group)][:, before : before + lookup.count]
            found /= np.repeat(divisors, model.tables[lookup.table].format.dim, axis=1)
        difference = _difference(found, expected, size)
        if not difference <= TOLERANCE:
            raise ExportError(
                f"look-up {lookup.name} of table {model.tables[lookup.table].name}: what was written of it differs by "
                f"{difference:.1e} from the model's rows on samples; {_REPORT}"
            )
        return difference

    def _service_sums(self, k: int, routed: Arrays) -> dict[str, NDArray[np.float32]]:
        """What a service answers to its part of the query."""
        holding = self._design.wiring[k]
        asked = [(kind, share.group) for share in holding.shares for kind in share.asks]
        inputs = {at_shard(kind, group): routed[on_wire(holding.name, kind, group)] for kind, group in asked}
        return written_sums(self._folder / self._design.folder(holding.service), holding, inputs)

    def _check_outputs(self, sums: Mapping[tuple[int, int], NDArray[np.float32]], routed: Arrays) -> list[float]:
        """How far each output is from the model's own, at most."""
        design, model = self._design, self._design.model
        inputs = {tensor.name: self._tensors[tensor.name] for tensor in model.dense.inputs}
        given = {**inputs, **self._partials(sums), **{name: routed[name] for name in design.divisors}}
        found = _run(self._folder / design.folder(design.dense), given)
        answers = self._source.answers(self._inputs)
        differences = {}
        for tensor in model.outputs:
            answer, own = answers[tensor.name], found[tensor.name]
            if answer.shape != own.shape and not (answer.shape == () and own.shape == (1,)):
                raise ExportError(
                    f"output {tensor.name}: expected shape {answer.shape} on samples, as the whole model has it, got "
                    f"{own.shape} of what was written; {_REPORT}"
                )
            differences[tensor.name] = _difference(own.reshape(answer.shape), answer, np.abs(answer.astype(np.float64)))
        _refuse_outputs(differences)
        return list(differences.values())

    def _partials(self, sums: Mapping[tuple[int, int], NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """The dense graph's inputs, made of the services' sums as the ensemble or a fleet's router does."""
        found: dict[str, NDArray[np.float32]] = {}
        for k, held in enumerate(self._design.wiring):
            for share in held.shares:
                own = sums[k, share.group]
                if self._design.arrangement.router == "router":
                    found[on_wire(held.name, SUMS, share.group)] = own
                    continue
                whole = self._design.sums[share.group]
                joined = found.setdefault(whole.name, np.zeros((len(own), whole.width), np.float32))
                for begin, end, columns in pieces(self._design.model, share, whole):
                    joined[:, end : end + columns] += own[:, begin : begin + columns]
        return found


def proof_of_whole(design: Design, source: Source, samples: Arrays | None, queries: QueryFile, folder: Path) -> Proof:
    """That a whole model which was copied answers as its owner's; raises ExportError where it does not."""
    inputs = queries.first(ROWS) if samples is None else _first(design, samples)
    found, answers = _run(folder / design.spec.name / FIRST_VERSION, inputs), source.answers(inputs)
    differences = {
        name: _difference(found[name].reshape(own.shape), own, np.abs(own.astype(np.float64)))
        for name, own in answers.items()
    }
    _refuse_outputs(differences)
    return Proof(_sha256(inputs), max(differences.values()))


def _refuse_outputs(differences: Mapping[str, float]) -> None:
    for name, difference in differences.items():
        if not difference <= TOLERANCE:
            raise ExportError(
                f"output {name}: what was written differs by {difference:.1e} from the whole model's answers on "
                f"samples, though all look-ups agree; {_REPORT}"
            )


def _first(design: Design, samples: Arrays) -> Arrays:
    """The first rows of samples; all of them where their rows do not stand for themselves."""
    if design.joins and all(has_rows(tensor) for tensor in design.model.inputs):
        return {name: array[:ROWS] for name, array in samples.items()}
    return samples


def _run(folder: Path, inputs: Arrays) -> dict[str, NDArray[Any]]:
    """The outputs of a folder's `model.onnx`; what has no dimensions is served as one of [1]."""
    from onnxruntime import InferenceSession, SessionOptions  # only where it is needed: it takes a while to import
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    options = SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # none: what is wrong is raised
    try:
        session = InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        ranks = {entry.name: len(entry.shape) for entry in session.get_inputs()}
        given = {name: each.reshape(1) if not each.ndim and ranks.get(name) else each for name, each in inputs.items()}
        names = [entry.name for entry in session.get_outputs()]
        return dict(zip(names, session.run(names, given), strict=True))
    except (
        errors.Fail,
        errors.InvalidArgument,
        errors.InvalidGraph,
        errors.NotImplemented,
        errors.RuntimeException,
        ValueError,
    ) as exc:
        raise ExportError(f"{folder.parent.name}: what was written does not run on samples: {exc}; {_REPORT}") from exc


def _difference(found: NDArray[Any], expected: NDArray[Any], size: NDArray[Any]) -> float:
    """The largest difference, as a share of the expected number's size, or of 1 where that is smaller."""
    with np.errstate(invalid="ignore"):  # of infinities
        apart = np.abs(found.astype(np.float64) - expected.astype(np.float64)) / np.maximum(size, 1)
    same = (found == expected) | (np.isnan(found.astype(np.float64)) & np.isnan(expected.astype(np.float64)))
    return float(np.where(same, 0, apart).max(initial=0))


def _agree(found: NDArray[Any], expected: NDArray[Any]) -> bool:
    """Whether ids are the same, and weights of them are alike."""
    whole = expected.dtype.kind in "iub"
    return _difference(found, expected, np.abs(expected.astype(np.float64))) <= (0 if whole else TOLERANCE)


def _sha256(arrays: Arrays) -> str:
    """Of names, types, shapes and numbers."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {arrays[name].shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
