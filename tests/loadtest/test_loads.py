"""The words that ask for loads."""

import pytest

from loadtest.loads import concurrencies, request_rates
from repo_builder.errors import InputError


@pytest.mark.parametrize(
    ("text", "values"),
    [("3", [3]), ("1:4", [1, 2, 3, 4]), ("1:16:5", [1, 6, 11, 16]), ("1:15:5", [1, 6, 11]), ("2:2", [2])],
)
def test_concurrencies(text: str, values: list[float]) -> None:
    assert [(load.kind, load.value) for load in concurrencies(text)] == [("concurrency", value) for value in values]


def test_request_rates_may_be_fractions() -> None:
    assert [load.value for load in request_rates("0.1:0.4:0.1")] == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize("text", ["", "0", "-1", "x", "1:", "1:2:0", "5:1", "1:2:3:4", "nan", "inf", "1:100000", "1.5"])
def test_mistakes_are_one_line(text: str) -> None:
    with pytest.raises(InputError, match="--concurrency: expected") as caught:
        concurrencies(text)
    assert "\n" not in str(caught.value)
