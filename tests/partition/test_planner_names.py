"""Names for services of tables whose own names Triton would not take."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_builder.access.load import load_hotness
from repo_builder.model.dlrm import DlrmTable
from repo_builder.partition.cost import DEFAULT_PROFILE
from repo_builder.partition.planner import legal_names, make_plan
from repo_builder.spec import Access
from tests.access.helpers import spec

POWERLAW = Access("powerlaw", None, 0.9)


@pytest.mark.parametrize(
    ("tables", "names"),
    [
        (["C1", "t_cat_0"], ["C1", "t_cat_0"]),
        (["user-id", "user.id", "user_id"], ["user_id_2", "user_id_3", "user_id"]),
        (["2nd", "_x", "t_2nd"], ["t_2nd_2", "t_x", "t_2nd"]),
        (["a-b", "a.b", "a_b_2"], ["a_b", "a_b_3", "a_b_2"]),
    ],
)
def test_legal_names_stay_and_others_are_mapped(tables: list[str], names: list[str]) -> None:
    assert [legal_names(tables)[table] for table in tables] == names


@given(st.lists(st.from_regex(r"\A[A-Za-z0-9_][A-Za-z0-9_.-]{0,5}\Z"), min_size=1, max_size=30, unique=True))
def test_all_are_legal_and_differ(tables: list[str]) -> None:
    names = legal_names(tables)
    assert len(set(names.values())) == len(tables)
    assert all(re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) for name in names.values())
    assert names == legal_names(tables)


def test_a_plan_a_table_has_legal_services_and_the_owners_table_names() -> None:
    wanted = spec(
        [DlrmTable("user-id", 900, 8, 2), DlrmTable("user_id", 900, 8, 2), DlrmTable("0", 900, 8, 2)], POWERLAW
    )
    plan = make_plan(wanted, load_hotness(wanted), DEFAULT_PROFILE, "per_table", 2)
    services = [service for service in plan.services if service.kind == "embedding"]
    assert {shard.table for service in services for shard in service.shards} == {"user-id", "user_id", "0"}
    assert {service.name.rpartition("_s")[0] for service in services} == {"user_id_2", "user_id", "t_0"}
