"""A running fleet's status as tables for the terminal."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from repo_builder.local_fleet.status import Status

MIB = 1024**2


def service_table(status: Status) -> Table:
    """A line a service."""
    table = _table("service", "ready", "wanted", "queries/s", "p95 ms", "memory (PSS)")
    for service in status["services"]:
        p95 = service["p95_ms"]
        table.add_row(
            Text(service["name"]),
            str(service["ready"]),
            str(service["wanted"]),
            f"{service['qps']:,.1f}",
            f"{p95:,.2f}" if p95 is not None else "not yet" if service["qps"] else "no queries",
            f"{service['memory_bytes'] / MIB:,.1f} MiB",
        )
    return table


def replica_table(status: Status) -> RenderableType:
    """The services, and below them a line a replica."""
    table = _table("replica", "state", "pid", "grpc", "http", left=5)
    for service in status["services"]:
        for replica in service["replicas"]:
            words = (replica[key] for key in ("name", "state", "pid", "grpc", "http"))
            table.add_row(*(Text("-" if word is None else str(word)) for word in words))
    return Group(service_table(status), Text(), table)


def live_view(status: Status) -> RenderableType:
    """The services, the front ends' addresses and what happened last, to be drawn again and again."""
    lines = [f"{status['model']}: {status['phase']}"]
    frontends = [replica["grpc"] for replica in status["services"][0]["replicas"] if replica["state"] == "ready"]
    lines.append(f"front ends (gRPC): {', '.join(frontends) or 'none yet'}")
    events = Text("\n".join(status["events"]), style="dim")
    return Group(Text("\n".join(lines)), Text(), service_table(status), Text(), events)


def _table(*columns: str, left: int = 1) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i < left else "right")
    return table
