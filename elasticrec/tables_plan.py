"""Plans for a terminal: their services, where these are placed, why they are cut so, and what if."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from elasticrec.tables import plain_table, profile_line, size
from repo_builder.analysis.explain import Chain, Move, PlanCut, Segment
from repo_builder.analysis.sizing import Sizing
from repo_builder.analysis.sweep import FIELDS, Sweep, SweepPoint
from repo_builder.partition.placement.place import Placement
from repo_builder.partition.plan import Choice, Grouping, Plan, Service
from repo_builder.partition.worth import Cuts
from repo_builder.spec import Spec
from repo_builder.words import count, table_label, times_less

_SHOWN_GROUPS = 20


def plan_table(plan: Plan) -> Table:
    """The services, one a line; how they store rows where that is not all fp32."""
    formats = any(service.row_dtype != "fp32" for service in plan.services)
    names = ("service", "device", "shards", "rows", *(["stored"] if formats else []))
    table = plain_table(*names, "gathers/query", "queries/s", "replicas", "memory each")
    for service in plan.services:
        rows = sum(shard.rows for shard in service.shards)
        table.add_row(
            service.name,
            service.device,
            f"{len(service.shards)}" if service.shards else "",
            f"{rows:,}" if rows else "",
            *([service.row_dtype if rows else ""] if formats else []),
            f"{service.gathers:,.0f}" if service.shards else "",
            f"{service.qps:,.0f}",
            f"{_replicas(service)} x {service.instances}",
            size(service.memory_bytes),
        )
    return table


def _replicas(service: Service) -> str:
    return f"{service.replicas} + {service.added}" if service.added else f"{service.replicas}"


def plan_summary(plan: Plan, spec: Spec) -> str:
    """What the plan costs, beside replicating the whole tables, and what it rests on."""
    whole = spec.model.stored_bytes(spec.rows.hot)
    return (
        f"{plan.grouping}, {spec.serving.target_qps:g} queries/s of {count(spec.serving.batch, 'row')}: "
        f"{size(plan.memory_bytes)} over all replicas ({size(plan.embedding_memory_bytes)} of it embedding services; "
        f"one copy of the tables is {size(whole)})\n"
        f"{choice_line(plan.choice, plan.grouping, spec.serving.target_qps)}"
        f"{_latency(plan, spec)}{profile_line(plan.profile)}"
    )


def choice_line(choice: Choice | None, grouping: Grouping, target_qps: float) -> str:
    """Whether to cut the model at all, and why; nothing where that was not weighed."""
    if choice is None:
        return ""
    whole = f"{count(choice.whole_replicas, 'whole replica')} take{'s' if choice.whole_replicas == 1 else ''}"
    fleet = f"{choice.grouping} in {count(choice.services, 'service')} takes {size(choice.memory_bytes)}"
    least = f"a fleet must save {choice.least_saving:.0%} to be worth it"
    told = f"{whole} {size(choice.whole_memory_bytes)}, {fleet}, {_less(choice.saving)}"
    if not choice.is_whole:
        return f"cut this model: {told}\n"
    if grouping == "model_wise":
        return (
            f"do not cut this model at {target_qps:g} queries/s: replicate it: {told}; {least} (--grouping "
            f"{choice.grouping} cuts it all the same)\n"
        )
    return f"this cut does not pay at {target_qps:g} queries/s: {told}; {least}: better replicate the model\n"


def _less(saving: float) -> str:
    return f"{saving:.1%} less" if saving >= 0 else f"{-saving:.1%} more"


def _latency(plan: Plan, spec: Spec) -> str:
    if plan.latency is None:
        return ""
    found = plan.latency
    line = (
        f"predicted latency: p50 {found.p50_ms:.1f} ms, p95 {found.p95_ms:.1f} ms, p99 {found.p99_ms:.1f} ms, "
        f"idle {found.idle_ms:.1f} ms; the SLA is {spec.serving.sla_ms:g} ms at p95"
    )
    added = sum(service.added for service in plan.services)
    if added:
        memory = size(plan.deployed_memory_bytes)
        were = f"{count(added, 'replica')} {'was' if added == 1 else 'were'} added"
        line += f", for which {were}, where they are cheapest ({memory} in all)"
    return line + "\n"


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


def sizes_table(sizes: Sequence[Sizing]) -> Table:
    """The services' replicas, counted both ways."""
    table = plain_table("service", "by capacity: queries/s", "replicas", "by CPU at light load: queries/s", "replicas")
    for each in sizes:
        capacity, light = f"{each.capacity_qps:,.0f}", f"{each.cpu_qps:,.0f}"
        table.add_row(each.service.name, capacity, f"{each.by_capacity:,}", light, f"{each.by_cpu:,}")
    return table


def sizes_summary(sizes: Sequence[Sizing]) -> str:
    """The memory of both, and what they mean."""
    capacity, light = (
        sum(count * each.service.memory_bytes for count, each in zip(counts, sizes, strict=True))
        for counts in ([each.by_capacity for each in sizes], [each.by_cpu for each in sizes])
    )
    return (
        f"by capacity {size(capacity)}: the most that a replica on a core of its own answers within the SLA, many "
        f"queries in a call\nby CPU at light load {size(light)}: what a query takes that comes alone, mostly threads "
        "woken for it; plans go by it with --size-by cpu"
    )


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
    names, cuts = table_label(chain.tables), [line for cut in chain.cuts for line in _cut_lines(cut)]
    whole = f"{names}: no cut pays: one service, {chain.services[0].name}, holds all rows"
    told = _robust_lines(chain.weighed) if chain.weighed.robust else _merged_lines(chain.weighed)
    return [f"{names}:" if cuts else whole, *cuts, *told]


def _robust_lines(weighed: Cuts) -> list[str]:
    """What the cuts take where the profile is off, beside those that have the least memory by it to the letter."""
    robust, least, worth = weighed.robust, weighed.least, weighed.worth
    if robust is None:
        return []
    more = weighed.least_mean_bytes - robust.mean_bytes
    after = ", ".join(f"{position:,}" for position in least.cuts[1:-1])
    letter = f"{count(len(least.replicas), 'service')}{f', cut after {after} rows' if after else ''}"
    lines = [
        f"  memory is the mean where the profile is off by up to {worth.profile_error:.0%} either way; these cuts are "
        f"at most {robust.gap:.2%} above the least",
        f"  a service must save {size(weighed.service_bytes)} of it: {worth.share:.2%} of the least memory and "
        f"{size(worth.call_bytes)} of front ends for its calls (--least-saving)",
    ]
    if least.cuts == robust.cuts:
        return [*lines, "  by the profile to the letter (--profile-error 0) the least memory has the same cuts"]
    return [
        *lines,
        f"  by the profile to the letter (--profile-error 0) the least memory has {letter}: {size(weighed.more_bytes)} "
        f"less, and {size(more)} more on average where it is off",
    ]


def _merged_lines(weighed: Cuts) -> list[str]:
    """Which cuts the least memory would have beside, and why they are not worth a container each."""
    if not weighed.merged:
        return []
    after = ", ".join(f"{position:,}" for position in weighed.least.cuts[1:-1])
    worth = weighed.worth
    return [
        f"  merged: the least memory has {count(len(weighed.least.replicas), 'service')}, cut after {after} rows",
        f"    they save {size(weighed.more_bytes)}, {size(weighed.more_bytes / weighed.merged)} for each service more; "
        f"a service must save {size(weighed.service_bytes)}: {worth.share:.2%} of the least memory, "
        f"{size(weighed.service_bytes - worth.call_bytes)}, and {size(worth.call_bytes)} of front ends for its calls "
        "(--least-saving 0 keeps them)",
    ]


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
    mean = "" if segment.mean_replicas == segment.replicas else f", {segment.mean_replicas:.2f} on average"
    return (
        f"{segment.name}: {count(segment.rows, 'row')}, {segment.gathers:,.0f} gathers a query, "
        f"{count(segment.replicas, 'replica')} {share:.1%} loaded{mean}, {size(segment.cost_bytes)} over all"
    )


def _move(cut: PlanCut, move: Move) -> str:
    side = "colder" if move.rows > 0 else "hotter"
    return f"{count(abs(move.rows), 'row')} {side}   {_change(move.cost_bytes)}{_why(cut, move)}"


def _why(cut: PlanCut, move: Move) -> str:
    """The replicas that a move adds, or else how often its rows are stored; means where they are none."""
    sides = ((cut.left, move.left_replicas), (cut.right, move.right_replicas))
    if not all(now.is_integer() and side.mean_replicas.is_integer() for side, now in sides):
        changed = [
            f"{side.name} takes {now:.2f} replicas instead of {side.mean_replicas:.2f}"
            for side, now in sides
            if f"{now:.2f}" != f"{side.mean_replicas:.2f}"
        ]
        now_in, before_in = (cut.left, cut.right) if move.rows > 0 else (cut.right, cut.left)
        moved = f"these rows in {now_in.mean_replicas:.2f} replicas instead of {before_in.mean_replicas:.2f}"
        return ": " + ", ".join(changed or [moved])
    added = [f"{side.name} needs {count(round(now), 'replica')}" for side, now in sides if now > side.replicas]
    if added:
        return ": " + " and ".join(added)
    before, after = (cut.right, cut.left) if move.rows > 0 else (cut.left, cut.right)
    if before.row_dtype != after.row_dtype:
        instead = f"{before.row_dtype} in {before.replicas:,}"
        return f": these rows as {after.row_dtype} in {count(after.replicas, 'replica')} instead of {instead}"
    if before.replicas == after.replicas:
        return ": both sides have as many replicas"
    return f": these rows in {count(after.replicas, 'replica')} instead of {before.replicas:,}"


def _change(change_bytes: int) -> str:
    sign = "+" if change_bytes >= 0 else "-"
    return f"{sign}{size(abs(change_bytes))}"
