"""Numbers in words: singular and plural, and ratios that name their direction."""

from __future__ import annotations


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
