"""What a model is made of, as tables for a terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table as Printed

from elasticrec.tables import plain_table, size
from repo_builder.model.arrays import shape_text
from repo_builder.model.types import Columns, Lookup, Model


def tensors_table(model: Model) -> Printed:
    """The inputs and outputs, as clients name them."""
    printed = plain_table("tensor", "", "datatype", "shape")
    for what, tensors in (("input", model.inputs), ("output", model.outputs)):
        for tensor in tensors:
            printed.add_row(escape(tensor.name), what, tensor.datatype, escape(shape_text(tensor.shape)))
    return printed


def tables_table(model: Model) -> Printed:
    """The tables that are cut, the largest first."""
    printed = plain_table("table", "rows", "dim", "dtype", "size", "ids/row")
    pairs = sorted(zip(model.tables, model.ids_per_row, strict=True), key=lambda pair: -pair[0].size_bytes)
    for table, ids in pairs:
        rows, dim = f"{table.rows:,}", f"{table.format.dim}"
        printed.add_row(escape(table.name), rows, dim, "FP32", size(table.size_bytes), f"{ids:g}")
    return printed


def lookups_table(model: Model) -> Printed:
    """Which table each look-up reads, where its ids come from, and what comes out."""
    printed = plain_table("look-up", "table", "ids from", "shape", "pooling", "weighted")
    inputs = {tensor.name for tensor in model.inputs}
    for lookup in model.lookups:
        ids = lookup.ids
        computed = "" if ids.tensor in inputs else " (computed)"
        printed.add_row(
            escape(lookup.name),
            escape(model.tables[lookup.table].name),
            escape(f"{ids.tensor}{_columns(lookup)}{computed}"),
            escape(shape_text(lookup.shape)),
            lookup.mode,
            escape(ids.weights or "no"),
        )
    return printed


def kept_table(model: Model) -> Printed:
    """What is read by look-ups and stays in the dense graph, and why."""
    printed = plain_table("stays dense", "rows", "dim", "because")
    for kept in model.kept:
        printed.add_row(escape(kept.name), f"{kept.rows:,}", f"{kept.dim}", escape(kept.reason))
    printed.columns[-1].justify = "left"
    printed.columns[-1].no_wrap = False
    return printed


def _columns(lookup: Lookup) -> str:
    layout = lookup.ids.layout
    if not isinstance(layout, Columns):
        return f" by {layout.kind} {layout.bounds}"
    width = lookup.count * layout.bag
    if layout.width is None or width == layout.width:
        return ""
    return f"[{layout.begin}]" if width == 1 else f"[{layout.begin}:{layout.begin + width}]"
