"""What the commands print: tables without lines, sizes, and what a model is made of."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table as Printed

from repo_builder.model.arrays import shape_text
from repo_builder.model.types import Columns, Lookup, Model
from repo_builder.partition.cost import DEFAULT_MEASURED_ON, DEFAULT_PROFILE
from repo_builder.repository.manifest import ScoreError
from repo_builder.words import count

_MEASURED_ELSEWHERE = {
    DEFAULT_PROFILE.name: f" - of another machine ({DEFAULT_MEASURED_ON}): measure yours with elasticrec profile"
}


def size(size_bytes: float) -> str:
    """Bytes for a reader: 1.5 GiB."""
    power = min(4, (int(size_bytes).bit_length() - 1) // 10) if size_bytes >= 1 else 0
    return f"{size_bytes / 1024**power:.{1 if power else 0}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def plain_table(*columns: str) -> Printed:
    """A table without lines: the first column to the left, the others to the right."""
    table = Printed(box=None, header_style="bold", pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    return table


def profile_line(name: str | None) -> str:
    """Which profile the figures rest on."""
    measured = (name or "").partition(", ")[0]  # how replicas are counted follows
    return f"profile: {name}{_MEASURED_ELSEWHERE.get(measured, '')}"


def score_error_line(error: ScoreError) -> str:
    """What storing rows in fewer bits changes."""
    return f"score error of the stored rows on samples: at most {error.max:.1e}, {error.mean:.1e} on average"


def tensors_table(model: Model) -> Printed:
    """The inputs and outputs as clients name and send them: Triton has no scalars, and takes one number for such."""
    printed = plain_table("tensor", "", "datatype", "shape")
    for what, tensors in (("input", model.inputs), ("output", model.outputs)):
        for tensor in tensors:
            printed.add_row(escape(tensor.name), what, tensor.datatype, escape(shape_text(tensor.shape or (1,))))
    return printed


def tables_table(model: Model) -> Printed:
    """The tables that are cut, the largest first."""
    printed = plain_table("table", "rows", "dim", "dtype", "size", "ids/row")
    pairs = sorted(zip(model.tables, model.ids_per_row, strict=True), key=lambda pair: -pair[0].size_bytes)
    for table, ids in pairs:
        rows, dim = f"{table.rows:,}", f"{table.format.dim}"
        printed.add_row(escape(table.name), rows, dim, table.format.dtype.upper(), size(table.size_bytes), f"{ids:g}")
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


def kept_line(model: Model) -> str:
    """Which tables stay in the dense graph, in a line."""
    kept, size_bytes = model.kept, sum(4 * each.rows * each.dim for each in model.kept)
    more = f" and {len(kept) - _NAMED} more" if len(kept) > _NAMED else ""
    names = ", ".join(each.name for each in kept[:_NAMED])
    return f"kept dense: {names}{more} ({count(len(kept), 'table')}, {size(size_bytes)} as float32)"


_NAMED = 8


def _columns(lookup: Lookup) -> str:
    layout = lookup.ids.layout
    if not isinstance(layout, Columns):
        return f" by {layout.kind} {layout.bounds}"
    width = lookup.count * layout.bag
    if layout.width is None or width == layout.width:
        return ""
    return f"[{layout.begin}]" if width == 1 else f"[{layout.begin}:{layout.begin + width}]"
