"""An opened `.onnx` file: its tables as blocks, its dense and ids graphs as files, and the whole model's answers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from repo_builder.errors import InputError
from repo_builder.export.join import join_partials
from repo_builder.export.onnx_file.cut import OnnxCut
from repo_builder.export.onnx_file.file import lean_message
from repo_builder.export.onnx_file.graph import Graph
from repo_builder.export.onnx_file.run import HALVES, RUNTIME_ERRORS, Session, reason
from repo_builder.export.onnx_file.tensors import FILE, StoredTables, external_place, is_external, tensors, write_model
from repo_builder.export.queries import check_query
from repo_builder.model.arrays import Arrays
from repo_builder.model.source import HALF_TOLERANCE, TOLERANCE, Partial
from repo_builder.model.types import Model, Table


class OnnxSource:
    """A model that was cut; its file must stay as it is meanwhile."""

    def __init__(
        self,
        path: Path,
        model: Model,
        graph: Graph,
        cut: OnnxCut,
        graphs: tuple[onnx.ModelProto, onnx.ModelProto | None],
        sessions: tuple[Session, Session | None],
        tried: Arrays,
        recorded: Arrays | None,
    ) -> None:
        """graphs, sessions: the dense graph and that of the ids; the whole model and the ids graph, to run them.

        tried: a query that the model takes. recorded: the samples.
        """
        self.model = model
        self.is_as_filed = True
        self.notes: Sequence[str] = cut.notes
        self.tolerance = HALF_TOLERANCE if _computes_in_halves(graph) else TOLERANCE
        self._path = path
        self._dense, self._ids = graphs
        self._whole, self._ids_session = sessions
        self._tried, self._recorded = tried, recorded
        self._members = dict(zip(cut.names, cut.members, strict=True))
        members = {name: graph.initializers[name] for of_table in cut.members for name in of_table}
        self._tables = StoredTables(path, members, cut.quantized)
        self._quantized = cut.quantized

    def table_chunks(self, table: Table) -> Iterator[NDArray[Any]]:
        """The table's rows in id order, read from the file block by block."""
        members = self._members[table.name]
        if table.format.dtype != "fp32":
            return self._quantized[members[0]].stored(table.format)
        return self._tables.chunks(members)

    def write_dense(self, partials: Sequence[Partial], folder: Path) -> Sequence[str]:
        """Write the dense graph on partial sums; raises ExportError where the partials do not make up the model."""
        joined = join_partials(self._dense, self.model, partials)
        return write_model(joined, self._path.parent, folder)

    def write_ids(self, folder: Path) -> Sequence[str]:
        """Write the ids graph, where there is one."""
        return write_model(self._ids, self._path.parent, folder) if self._ids is not None else ()

    def write_whole(self, folder: Path) -> Sequence[str]:
        """Copy the file itself, and what lies beside it; nothing where it computes in what onnxruntime cannot."""
        if not self.is_as_filed:
            return []
        shutil.copyfile(self._path, folder / FILE)
        stored = onnx.ModelProto.FromString(lean_message(self._path))
        positions = {external_place(each)[0] for each in tensors(stored.graph) if is_external(each)}
        beside = sorted(positions - {self._path.name})
        for name in beside:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._path.parent / name, folder / name)
        return [FILE, *beside]

    def ids(self, inputs: Arrays) -> Arrays:
        """The query's tensors, and those that the ids graph makes of them; raises InputError where it takes no such."""
        if self._ids_session is None:
            return inputs
        try:
            return {**inputs, **self._ids_session.run(inputs)}
        except RUNTIME_ERRORS as exc:
            raise InputError(f"the model refuses the query: {reason(exc)}; check its ids and sizes") from exc

    def answers(self, inputs: Arrays) -> Arrays:
        """The whole model's outputs, by onnxruntime. Raises InputError where the inputs are none that it takes."""
        check_query(self.model.inputs, inputs)
        try:
            return self._whole.run(inputs)
        except RUNTIME_ERRORS as exc:
            raise InputError(f"{self._path}: the model does not take this query: {reason(exc)}") from exc

    def samples(self) -> Arrays | None:
        """The recorded query; None: draw one."""
        return self._recorded

    def tried(self) -> Arrays:
        """The recorded query's first rows, or one that was drawn until the model took it."""
        return self._tried


def _computes_in_halves(graph: Graph) -> bool:
    """Whether a node makes half precision of it, and not only has rows of it, or moves them."""
    nodes = (node for node in graph.nodes if node.op_type not in ("Cast", "Gather", "Identity"))
    return any(graph.types.get(name) in HALVES for node in nodes for name in node.output)
