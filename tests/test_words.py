"""Numbers in words: nothing reads "1 nodes" or "0.52x times less"."""

import pytest

from repo_builder.words import count, plural, times_less


@pytest.mark.parametrize(
    ("number", "noun", "expected"),
    [
        (0, "node", "0 nodes"),
        (1, "node", "1 node"),
        (2, "node", "2 nodes"),
        (1234, "row", "1,234 rows"),
        (1, "query", "1 query"),
        (2, "query", "2 queries"),
        (1, "model-wise replica", "1 model-wise replica"),
    ],
)
def test_a_count_and_its_noun(number: int, noun: str, expected: str) -> None:
    assert count(number, noun) == expected
    assert plural(number, noun) == expected.split(" ", 1)[1]


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(2.5, "2.50x less"), (0.52, "1.92x more"), (1.0, "as much"), (1.004, "as much"), (0.5, "2.00x more")],
)
def test_a_ratio_names_its_direction(ratio: float, expected: str) -> None:
    assert times_less(ratio) == expected
