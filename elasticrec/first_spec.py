"""The text of a first spec, for a model that its owner has as a file: it says what that says, and marks the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from repo_builder.model.dlrm import Dlrm
from repo_builder.model.source import FileSource

_TRAFFIC = """\
# Not in the file: which rows are hot, and the traffic. Counts or a trace of your own say more than a power law.
access: {source: powerlaw, locality: 0.9}     # guessed: the hottest 10% of rows take 90% of the look-ups
serving: {target_qps: 100, batch: 32, sla_ms: 400}     # guessed: queries/s, rows to score in each, latency bound
"""


def model_file_spec(name: str, source: FileSource, path: Path) -> str:
    """The spec of a model file; `path` as the spec's folder sees it."""
    return (
        f"name: {_word(name)}\nmodel: {{source: {source}, path: {_text(str(path))}}}\n"
        "# samples: requests.npz     # an array an input: requests to prove the cut with, and to draw queries from\n"
        f"{_TRAFFIC}"
    )


def dlrm_spec(name: str, dlrm: Dlrm, path: Path, ordered: bool) -> str:
    """The spec of a state dict; `path` as the spec's folder sees it. ordered: the file keeps the tables' order."""
    return "".join(f"{line}\n" for line in _dlrm_lines(name, dlrm, path, ordered)) + _TRAFFIC


def _dlrm_lines(name: str, dlrm: Dlrm, path: Path, ordered: bool) -> Iterator[str]:
    yield f"name: {_word(name)}"
    yield f"dense_features: {dlrm.dense_features}"
    yield f"bottom_mlp: {_list(dlrm.bottom_mlp)}"
    yield f"top_mlp: {_list(dlrm.top_mlp)}"
    yield f"interaction: {dlrm.interaction.kind}"
    for key, value in dlrm.interaction.keys().items():
        yield f"{key}: {_list(value) if isinstance(value, Sequence) else value}"
    yield "# Not in the file: pooling, how many ids of a table a row brings at most, here 1 each. Where it is more, say"
    yield "# mode: sum or mean too, how their rows are pooled."
    if not ordered and len(dlrm.tables) > 1:
        yield "# Nor the tables' order, on which the interaction depends: list them as the EmbeddingBagCollection does,"
        yield "# and say tables_in_order: true in weights."
    yield "tables:"
    for table in dlrm.tables:
        yield f"  - {{name: {_text(table.name)}, rows: {table.rows}, dim: {table.dim}, pooling: {table.pooling}}}"
    yield f"weights: {{source: {dlrm.weights.source}, path: {_text(str(path))}}}"


def _word(name: str) -> str:
    """A name that YAML takes for one: of some, such as `true`, only within quotes."""
    return name if yaml.safe_load(name) == name else _text(name)


def _list(widths: Sequence[int]) -> str:
    return f"[{', '.join(map(str, widths))}]"


def _text(value: str) -> str:
    """A YAML string: JSON's is one."""
    return json.dumps(value, ensure_ascii=False)
