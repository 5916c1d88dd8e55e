"""A manifest by hand, and the repository that it lists."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repo_builder.errors import RepositoryError

SHA = "0" * 64
FILES = {"small/config.pbtxt": b"name: 'small'\n", "small_router/1/idmap.bin": b"\0\1\2", "empty": b""}


def entry(path: str, content: bytes) -> dict[str, Any]:
    return {"path": path, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def manifest_document() -> dict[str, Any]:
    return {
        "format": 3,
        "generator": "elasticrec 0",
        "name": "small",
        "layout": "single",
        "plan_sha256": SHA,
        "batch": 8,
        "batched": True,
        "inputs": [
            {"name": "dense", "datatype": "FP32", "shape": ["batch", 3]},
            {"name": "indices", "datatype": "INT64", "shape": ["batch", 2]},
            {"name": "tags", "datatype": "INT64", "shape": ["tags"]},
            {"name": "offsets", "datatype": "INT32", "shape": ["bags"]},
        ],
        "outputs": [{"name": "score", "datatype": "FP32", "shape": ["batch", 1]}],
        "tables": [{"name": "users", "rows": 3000, "dim": 8}],
        "groups": [{"rows": "batch", "mean_rows": 1.0}],
        "lookups": [
            lookup("users", "indices", {"begin": 0, "bag": 2, "width": 2}, padding=-1),
            lookup("tags", "tags", {"bounds": "offsets", "kind": "ends", "block": 0, "blocks": 1}),
        ],
        "files": [entry(path, content) for path, content in FILES.items()],
        "sla_ms": 400.0,
        "access": {"source": "powerlaw", "locality": 0.8, "seed": 0},
        "table_access": {"users": {"source": "powerlaw", "locality": 0.5, "seed": 1}},
        "sampled": True,
        "proof": {"samples_sha256": SHA, "difference": 1e-7},
    }


def lookup(name: str, tensor: str, layout: dict[str, Any], padding: int | None = None) -> dict[str, Any]:
    ids = {"tensor": tensor, "layout": layout, "weights": None, "padding": padding, "from_end": False}
    return {
        "name": name, "table": 0, "group": 0, "ids": ids, "mode": "sum", "count": 1, "shape": ["batch", 8],
        "mean_ids": 2.0,
    }  # fmt: skip


def write(folder: Path, document: object) -> None:
    (folder / "manifest.json").write_text(json.dumps(document))


def problems(call: Callable[[Path], object], folder: Path) -> list[str]:
    with pytest.raises(RepositoryError) as caught:
        call(folder)
    assert str(caught.value).splitlines() == list(caught.value.problems)
    return list(caught.value.problems)
