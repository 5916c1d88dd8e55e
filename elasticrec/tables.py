"""Plans and measurements as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from repo_builder.partition.cost import DEFAULT_PROFILE
from repo_builder.partition.plan import Plan, Service
from repo_builder.spec import Spec
from repo_builder.words import count

if TYPE_CHECKING:
    from elasticrec.demo import Report  # it imports torch


_NOT_MEASURED = {DEFAULT_PROFILE.name: " - NOT MEASURED: documented guesses; give your own with --profile"}


def size(size_bytes: float) -> str:
    """Bytes for a reader: 1.5 GiB."""
    power = min(4, (int(size_bytes).bit_length() - 1) // 10) if size_bytes >= 1 else 0
    return f"{size_bytes / 1024**power:.{1 if power else 0}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def plan_table(plan: Plan) -> Table:
    """The services, one a line."""
    table = plain_table("service", "device", "shards", "rows", "gathers/query", "queries/s", "replicas", "memory each")
    for service in plan.services:
        rows = sum(shard.rows for shard in service.shards)
        table.add_row(
            service.name,
            service.device,
            f"{len(service.shards)}" if service.shards else "",
            f"{rows:,}" if rows else "",
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
    whole = spec.model.size_bytes
    return (
        f"{plan.grouping}, {spec.serving.target_qps:g} queries/s of {count(spec.serving.batch, 'row')}: "
        f"{size(plan.memory_bytes)} over all replicas ({size(plan.embedding_memory_bytes)} of it embedding services; "
        f"one copy of the tables is {size(whole)})\n{_latency(plan, spec)}{profile_line(plan.profile)}"
    )


def profile_line(name: str | None) -> str:
    """Which profile the figures rest on."""
    return f"profile: {name}{_NOT_MEASURED.get(name or '', '')}"


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
        line += f", for which {were} ({memory} in all; --utilisation 0.8 may need less)"
    return line + "\n"


def demo_table(report: Report) -> Table:
    """The served models: what each holds, its processes' memory, and a request's mean times."""
    from repo_builder.repository.configs import router_threads  # imports Triton's protobuf: only where it is needed

    table = plain_table(
        "model", "instances", "rows", "memory (PSS)", "requests", "requests/call", "queue ms", "compute ms"
    )
    services = {f"{report.spec.name}_{service.name}": service for service in report.plan.services}
    instances = {name: service.instances * service.deployed for name, service in services.items()}
    router = f"{report.spec.name}_router"
    instances[router] = router_threads(report.plan)
    for name in [router, *services, report.spec.name, "tritonserver"]:
        service, times = services.get(name), report.times.get(name)
        rows = sum(shard.rows for shard in service.shards) if service else 0
        table.add_row(
            name,
            str(instances.get(name, "")),
            f"{rows:,}" if rows else "",
            size(report.memory[name]) if name in report.memory else "",
            f"{times.requests:,}" if times else "",
            f"{times.requests / times.executions:.2f}" if times and times.executions else "",
            f"{times.queue_ms:.2f}" if times else "",
            f"{times.compute_ms:.2f}" if times else "",
        )
    return table


def demo_summary(report: Report) -> str:
    """Throughput, latencies, memory and the verdict."""
    found = report.measurement
    whole = report.spec.model.size_bytes
    return (
        f"throughput {found.throughput_qps:.0f} queries/s of {count(report.spec.serving.batch, 'row')}, "
        f"latency p50 {found.p50_ms:.2f} ms, p95 {found.p95_ms:.2f} ms, p99 {found.p99_ms:.2f} ms\n"
        f"memory {size(sum(report.memory.values()))} in all, of it tables {size(whole)}\n"
        f"scores equal PyTorch's: max abs difference {max(report.differences.values()):.1e}"
    )


def plain_table(*columns: str) -> Table:
    """A table without lines: the first column to the left, the others to the right."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    return table
