"""A bar that says how far work is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import rich.progress
from rich.console import Console

from repo_builder.output import Progress


@contextmanager
def progress_bar(console: Console, label: str) -> Iterator[Progress]:
    """A Progress that draws a bar on `console` while it is a terminal, and nothing when it is a pipe or a file."""
    columns = (*rich.progress.Progress.get_default_columns(), rich.progress.TimeElapsedColumn())
    bar = rich.progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
