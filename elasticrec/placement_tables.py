"""Placements as tables for a terminal."""

from __future__ import annotations

from rich.table import Table

from elasticrec.tables import plain_table
from repo_builder.partition.placement.place import Placement
from repo_builder.words import count

_SHOWN_GROUPS = 20


def placement_table(placement: Placement) -> Table:
    """The nodes, those with the same contents in one line."""
    table = plain_table("pool", "nodes", "replicas of each node")
    table.columns[2].justify, table.columns[2].no_wrap = "left", False
    for group in placement.packing.groups[:_SHOWN_GROUPS]:
        held = ", ".join(f"{number} {name}" for name, number in group.replicas.items())
        table.add_row(group.pool, f"{group.nodes:,}", held)
    rest = placement.packing.groups[_SHOWN_GROUPS:]
    if rest:
        table.add_row("...", f"{sum(group.nodes for group in rest):,}", "(all nodes: --json)")
    return table


def placement_summary(placement: Placement) -> str:
    """Nodes, price and how far it may be from the least, the bottleneck, and what the GPU times rest on."""
    packing = placement.packing
    nodes = ", ".join(f"{number:,} of pool {pool}" for pool, number in packing.pool_nodes.items())
    used = ", ".join(f"{name} {share:.0%}" for name, share in packing.utilisation.items())
    sure = "proven least" if packing.gap < 1e-9 else f"at most {packing.gap:.1%} above the least"
    lines = [
        f"cluster {placement.cluster.name}: {count(packing.nodes, 'node')} ({nodes}) for {packing.price_per_hour:,.2f} "
        f"an hour, {sure} (lower bound {packing.lower_bound_per_hour:,.2f})",
        f"bottleneck: {packing.bottleneck}; used of these nodes: {used}",
    ]
    if placement.cluster.gpu_pools and not placement.gpu_measured:
        lines.append(
            "GPU times: NOT MEASURED: documented guesses (0.5 ms a call, 500 M gathers/s, 5 TFLOP/s); "
            "give a profile with gpu times with --profile"
        )
    return "\n".join(lines)
