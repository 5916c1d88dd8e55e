"""What goes out to the user: files that were named with -o or the like, whole or not at all; and how far work is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (done, total), in one unit that the source chooses: ids of an `.npz`, rows of a `.parquet`."""

Tell = Callable[[str], None]
"""Called with a line that a reader should know of, which is no mistake."""


def silent(done: int, total: int) -> None:
    """The Progress of a caller that does not want to know."""


def nobody(line: str) -> None:
    """The Tell of a caller that does not want to know."""
