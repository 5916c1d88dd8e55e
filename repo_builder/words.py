"""Words for readers: singular and plural, ratios that name their direction, and many tables' names in few words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

_NAMED_TABLES = 3  # names, or runs of names, that are spelled out
_NAME_CHARS = 24  # of a table's name; longer ones lose their middle


def plural(number: float, noun: str) -> str:
    """The noun as it stands behind that number: node, nodes; query, queries."""
    if number == 1:
        return noun
    return f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"


def count(number: int, noun: str) -> str:
    """A whole number and its noun: 1 node, 1,200 nodes."""
    return f"{number:,} {plural(number, noun)}"


def times_less(ratio: float) -> str:
    """How many times less something is, or more where the ratio is below 1: 2.50x less, 1.92x more."""
    if f"{ratio:.2f}" == "1.00":
        return "as much"
    return f"{ratio:.2f}x less" if ratio > 1 else f"{1 / ratio:.2f}x more"


def table_label(names: Sequence[str]) -> str:
    """Tables in few words: runs of a `count` as "C2_0 ... C2_8", and no more than a few of them."""
    runs = [[_short(name) for name, _ in run] for _, run in groupby(_numbered(names), key=lambda pair: pair[1])]
    spelled = [run[0] if len(run) == 1 else f"{run[0]} ... {run[-1]}" for run in runs[:_NAMED_TABLES]]
    rest = sum(len(run) for run in runs[_NAMED_TABLES:])
    return ", ".join(spelled) + (f" and {rest} more" if rest else "")


def _short(name: str) -> str:
    return name if len(name) <= _NAME_CHARS else f"{name[: _NAME_CHARS - 9]}…{name[-8:]}"


def _numbered(names: Sequence[str]) -> list[tuple[str, tuple[str, int]]]:
    """Each name with what it has in common with the rest of its run: its stem, and its number less its index."""
    pairs = []
    for index, name in enumerate(names):
        stem, _, number = name.rpartition("_")
        pairs.append((name, (stem, int(number) - index) if stem and number.isdecimal() else (name, index)))
    return pairs
