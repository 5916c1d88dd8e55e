"""What a spec says of a DLRM by its numbers beyond any schema: interactions, widths, tables' names, checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from repo_builder.model.interaction import Cross, Dot, Projection
from repo_builder.spec import parse_spec
from tests.spec_documents import REMOVED, VALID, changed, problems_of


def test_interaction_may_be_left_out() -> None:
    assert parse_spec(changed("interaction", REMOVED), Path("m.yaml")) == parse_spec(VALID, Path("m.yaml"))


DCN = {"interaction": "dcn", "cross_layers": 3, "cross_rank": 8}
PROJECTION = {"interaction": "projection", "branch1_mlp": [100, 64], "branch2_mlp": [96]}


def test_interactions() -> None:
    assert parse_spec(VALID, Path("m.yaml")).dlrm.interaction == Dot()
    assert parse_spec({**VALID, **DCN}, Path("m.yaml")).dlrm.interaction == Cross(layers=3, rank=8)
    expected = Projection(branch1=(100, 64), branch2=(96,))
    assert parse_spec({**VALID, **PROJECTION}, Path("m.yaml")).dlrm.interaction == expected


@pytest.mark.parametrize(
    ("interaction", "key"),
    [(DCN, "cross_layers"), (DCN, "cross_rank"), (PROJECTION, "branch1_mlp"), (PROJECTION, "branch2_mlp")],
)
def test_an_interaction_has_keys_of_its_own(interaction: dict[str, Any], key: str) -> None:
    without = {name: value for name, value in interaction.items() if name != key}
    assert problems_of({**VALID, **without}) == [f"{key}: expected this field, got none"]
    kind = interaction["interaction"]
    for other in ({}, {"interaction": "dot"}, PROJECTION if interaction is DCN else DCN):
        named = other.get("interaction", "dot")
        assert problems_of({**VALID, **other, key: interaction[key]}) == [
            f"{key}: expected only with interaction: {kind}, got it with {named}; take it out or set that"
        ]


@pytest.mark.parametrize(
    ("interaction", "key", "value", "problem"),
    [
        (DCN, "cross_layers", 0, "expected at least 1, got 0"),
        (DCN, "cross_layers", 65, "expected at most 64, got 65"),
        (DCN, "cross_layers", "3", 'expected an integer, got "3"'),
        (DCN, "cross_rank", 0, "expected at least 1, got 0"),
        (DCN, "cross_rank", 65537, "expected at most 65536, got 65537"),
        (DCN, "cross_rank", 1.5, "expected an integer, got 1.5"),
        (PROJECTION, "branch1_mlp", [], "expected at least 1 item, got []"),
        (
            PROJECTION,
            "branch1_mlp",
            [64, 33],
            "expected the last width to be a multiple of 32, the tables' dim, got 33",
        ),
        (PROJECTION, "branch2_mlp", 64, "expected a list, got 64"),
        (PROJECTION, "branch2_mlp", [31], "expected the last width to be a multiple of 32, the tables' dim, got 31"),
    ],
)
def test_numbers_of_interactions(interaction: dict[str, Any], key: str, value: object, problem: str) -> None:
    assert problems_of({**VALID, **interaction, key: value}) == [f"{key}: {problem}"]


@pytest.mark.parametrize("interaction", [DCN, PROJECTION])
def test_the_open_source_dlrm_has_the_dot_interaction_alone(interaction: dict[str, Any]) -> None:
    document = {**VALID, **interaction, "weights": {"source": "dlrm", "path": "w.pt"}}
    (problem,) = problems_of(document)
    assert problem.startswith("interaction: expected dot") and problem.endswith(f"got {interaction['interaction']}")


def test_count_expands_in_place() -> None:
    first = {"name": "A", "rows": 5, "dim": 32, "pooling": 1, "count": 2}
    document = changed("tables", [first, {**first, "name": "B", "count": 1}, {"name": "C", **VALID["tables"][0]}])
    assert [t.name for t in parse_spec(document, Path("m.yaml")).dlrm.tables] == ["A_0", "A_1", "B_0", "C1"]


@pytest.mark.parametrize(("source", "more"), [("dlrm", ""), ("torchrec", ", tables_in_order")])
def test_trained_weights_need_a_path_and_no_seed(source: str, more: str) -> None:
    def of(**weights: object) -> list[str]:
        wrong = changed("weights", {"source": source, **weights})
        for table in wrong["tables"]:
            table["mode"] = "sum"
        return problems_of(wrong)

    assert of() == ["weights.path: expected this field, got none"]
    assert of(path="w.pt", seed=1) == [f"weights.seed: unknown field; expected one of source, path{more}"]
    assert "weights.path: expected at least 1 character" in of(path="")[0]


def test_torchrec_needs_the_mode_of_bags_of_several_ids() -> None:
    """Its checkpoints are the same for both; a bag of one id is the same for both, too."""
    document = changed("weights", {"source": "torchrec", "path": "w.pt"})
    document["tables"] = [{"name": name, "rows": 9, "dim": 32, "pooling": n} for name, n in (("A", 1), ("B", 2))]
    (problem,) = problems_of(document)
    assert problem.startswith("tables[1].mode: expected sum or mean, the pooling of its EmbeddingBagConfig, got none")
    for mode in ("sum", "mean"):
        document["tables"][1]["mode"] = mode
        assert [table.mode for table in parse_spec(document, Path("m.yaml")).dlrm.tables] == ["sum", mode]
    document["weights"]["source"] = "dlrm"  # plain sums
    del document["tables"][1]["mode"]
    assert not parse_spec(document, Path("m.yaml")).dlrm.has_means


def test_last_width_of_the_top_mlp_is_the_score() -> None:
    assert problems_of(changed("top_mlp", [8, 2])) == ["top_mlp: expected the last width to be 1 (the score), got 2"]


def test_every_table_is_as_wide_as_the_bottom_mlp() -> None:
    assert problems_of(changed("tables.1.dim", 16)) == [
        "tables[1].dim: expected 32, the last width of bottom_mlp (dot interaction), got 16"
    ]


def test_table_names_differ() -> None:
    assert problems_of(changed("tables.1", VALID["tables"][0])) == [
        "tables[1].name: expected unique table names, got 'C1' from tables[0] and tables[1]"
    ]


def test_expanded_names_differ_from_plain_ones() -> None:
    assert problems_of(changed("tables.0.name", "C2_8")) == [
        "tables[1].name: expected unique table names, got 'C2_8' from tables[0] and tables[1]"
    ]


def test_names_clash_once_for_each_pair_of_entries() -> None:
    entry = VALID["tables"][1]
    document = changed("tables", [entry, {**entry, "count": 50_000}, {**entry, "count": 3}])
    assert problems_of(document) == [
        "tables[1].name: expected unique table names, got 'C2_0' and 8 more from tables[0] and tables[1]",
        "tables[2].name: expected unique table names, got 'C2_0' and 2 more from tables[0] and tables[2]",
    ]
