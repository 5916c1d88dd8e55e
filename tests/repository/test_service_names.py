"""Names that Kubernetes takes, from names that it does not."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_builder.errors import PlanError
from repo_builder.repository.service_names import MAX_LENGTH, dns_name, service_names

DNS_1035 = r"[a-z]([-a-z0-9]*[a-z0-9])?"  # what a Service's name must be, the strictest of all


@pytest.mark.parametrize(
    ("text", "name"), [("rm1_tier0", "rm1-tier0"), ("RM1_C_3_s0", "rm1-c-3-s0"), ("a__b_", "a--b"), ("a", "a")]
)
def test_short_names_stay_readable(text: str, name: str) -> None:
    assert dns_name(text) == name


@given(st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,150}", fullmatch=True))
def test_every_name_is_valid_and_short_enough_for_keda(text: str) -> None:
    assert re.fullmatch(DNS_1035, dns_name(text))
    assert len(f"keda-hpa-{dns_name(text)}") <= 63
    assert MAX_LENGTH == 54


def test_long_names_that_differ_at_the_end_stay_apart() -> None:
    names = service_names("m" * 60, ["tier0", "tier1"])
    assert len(set(names.values())) == 2
    assert all(len(name) == MAX_LENGTH and name.startswith("m" * 45) for name in names.values())


def test_names_that_collide_are_told_together() -> None:
    with pytest.raises(PlanError) as caught:
        service_names("rm1", ["C_1", "c_1", "d", "D", "e"])
    first, second = caught.value.problems
    assert "'C_1' and 'c_1' are both rm1-c-1; rename" in first
    assert "'d' and 'D' are both rm1-d" in second
