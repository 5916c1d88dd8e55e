"""Opening a model with its weights, wherever the spec says that they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from repo_builder.export.dlrm.layers import RandomWeights, TablePartial, WeightSource
from repo_builder.export.dlrm.trained import open_trained
from repo_builder.model import source
from repo_builder.model.dlrm import Dlrm, WeightsSource
from repo_builder.model.types import Model, Table
from repo_builder.spec import Spec

_SOURCES: Mapping[WeightsSource, Callable[[Dlrm], WeightSource]] = {
    "random": RandomWeights,
    "dlrm": open_trained,
    "torchrec": open_trained,
}


def open_source(spec: Spec) -> source.Source:
    """Open the model that a spec names; raises what opening it raises."""
    return spec.opened or DlrmSource(spec.model, spec.dlrm, open_weights(spec.dlrm))


def open_weights(dlrm: Dlrm) -> WeightSource:
    """Open the weights named by `dlrm.weights` and check them against the whole spec.

    Raises CheckpointError with one line per problem: file, key, expected, got, remedy. What only a read of the tables
    can show (a value that is not finite) is raised by `table_chunks`.
    """
    return _SOURCES[dlrm.weights.source](dlrm)


class DlrmSource:
    """A DLRM with its weights, as a `Source`."""

    def __init__(self, model: Model, dlrm: Dlrm, weights: WeightSource) -> None:
        self.model = model
        self.notes: Sequence[str] = weights.notes
        self.tolerance = source.TOLERANCE
        self._dlrm = dlrm
        self._weights = weights

    def table_chunks(self, table: Table) -> Iterator[NDArray[Any]]:
        """See Source.table_chunks."""
        return self._weights.table_chunks(table)

    def write_dense(self, partials: Sequence[source.Partial], folder: Path) -> Sequence[str]:
        """See Source.write_dense; a look-up is a table, and those of a partial stand in it side by side."""
        from repo_builder.export.dlrm.dense import export_dense  # imports torch, for seconds: only where it is needed
        from repo_builder.export.dlrm.reference import whole_rows

        dlrm, cut = self._dlrm, self._dlrm.cut
        held = [TablePartial(each.name, tuple(cut[i] for i in sorted(each.columns))) for each in partials]
        kept = [whole_rows(self._weights, dlrm.tables[i]) for i in dlrm.kept]
        export_dense(dlrm, self._weights.dense(), held, folder / "model.onnx", kept)
        return ["model.onnx"]

    def write_ids(self, folder: Path) -> Sequence[str]:
        """See Source.write_ids; a DLRM's ids come as they are."""
        return []

    def write_whole(self, folder: Path) -> Sequence[str]:
        """See Source.write_whole; a DLRM has pooled bags."""
        return []

    def ids(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """See Source.ids."""
        return inputs

    def answers(self, inputs: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """See Source.answers; raises InputError."""
        from repo_builder.export.dlrm.reference import reference_scores  # imports torch, for seconds

        return {"score": reference_scores(self._dlrm, self._weights, inputs["dense"], inputs["indices"])}

    def samples(self) -> None:
        """A DLRM's queries are drawn."""

    def tried(self) -> None:
        """Its dense graph was compared with PyTorch's when it was written."""
