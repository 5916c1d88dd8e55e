"""How long work tells its caller how far it is; the library never prints on its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import rich.progress
from rich.console import Console

Progress = Callable[[int, int], None]
"""Called with (done, total), in one unit that the source chooses: ids of an `.npz`, rows of a `.parquet`."""


def silent(done: int, total: int) -> None:
    """The Progress of a caller that does not want to know."""


Tell = Callable[[str], None]
"""Called with a line that a reader should know of, which is no mistake."""


def nobody(line: str) -> None:
    """The Tell of a caller that does not want to know."""


@contextmanager
def progress_bar(console: Console, label: str) -> Iterator[Progress]:
    """A Progress that draws a bar on `console` while it is a terminal, and nothing when it is a pipe or a file."""
    columns = (*rich.progress.Progress.get_default_columns(), rich.progress.TimeElapsedColumn())
    bar = rich.progress.Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
