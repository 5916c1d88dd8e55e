"""What-if sweeps and explanations for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from elasticrec.tables import plain_table, size
from repo_builder.analysis.explain import Chain, Move, PlanCut, Segment
from repo_builder.analysis.sweep import FIELDS, Sweep, SweepPoint
from repo_builder.words import count, table_label, times_less


def sweep_table(sweep: Sweep, points: Sequence[SweepPoint]) -> Table:
    """A line a value."""
    unit = FIELDS[sweep.field].unit
    table = plain_table(f"{sweep.field}, {unit}", "memory", "model-wise", "compared", "services", "replicas", "p95 ms")
    for point in points:
        table.add_row(
            f"{point.value:,.6g}",
            size(point.memory_bytes),
            f"{size(point.model_wise_memory_bytes)} in {point.model_wise_replicas}",
            times_less(point.gain),
            str(point.services),
            f"{point.replicas:,}",
            "" if point.p95_ms is None else f"{point.p95_ms:.1f}",
        )
    return table


def explanation(chains: Sequence[Chain]) -> str:
    """Why each cut lies where it does, in words; changes are of the memory over all replicas."""
    return "\n".join(line for chain in chains for line in _chain_lines(chain))


def _chain_lines(chain: Chain) -> list[str]:
    names = table_label(chain.tables)
    if not chain.cuts:
        return [f"{names}: no cut pays: one service, {chain.services[0].name}, holds all rows"]
    return [f"{names}:", *(line for cut in chain.cuts for line in _cut_lines(cut))]


def _cut_lines(cut: PlanCut) -> list[str]:
    lines = [
        f"  {cut.left.name} | {cut.right.name}: cut after {count(cut.position, 'row')}, "
        f"which take {cut.accesses:.1%} of the gathers",
        f"    hotter  {_segment(cut.left)}",
        f"    colder  {_segment(cut.right)}",
    ]
    lines += [f"    {_move(cut, move)}" for move in cut.moves]
    return [*lines, f"    without this cut   {_change(cut.joined_bytes)}"]


def _segment(segment: Segment) -> str:
    share = segment.load / segment.replicas
    return (
        f"{segment.name}: {count(segment.rows, 'row')}, {segment.gathers:,.0f} gathers a query, "
        f"{count(segment.replicas, 'replica')} {share:.1%} loaded, {size(segment.cost_bytes)} over all"
    )


def _move(cut: PlanCut, move: Move) -> str:
    side = "colder" if move.rows > 0 else "hotter"
    return f"{count(abs(move.rows), 'row')} {side}   {_change(move.cost_bytes)}{_why(cut, move)}"


def _why(cut: PlanCut, move: Move) -> str:
    """The replicas that a move adds, or else how often its rows are stored."""
    sides = ((cut.left, move.left_replicas), (cut.right, move.right_replicas))
    added = [f"{side.name} needs {count(now, 'replica')}" for side, now in sides if now > side.replicas]
    if added:
        return ": " + " and ".join(added)
    before, after = (cut.right, cut.left) if move.rows > 0 else (cut.left, cut.right)
    if before.replicas == after.replicas:
        return ": both sides have as many replicas"
    return f": these rows in {count(after.replicas, 'replica')} instead of {before.replicas:,}"


def _change(change_bytes: int) -> str:
    sign = "+" if change_bytes >= 0 else "-"
    return f"{sign}{size(abs(change_bytes))}"
