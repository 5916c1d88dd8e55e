"""How the services of a repository store their rows: what a report tells of a fleet's bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from loadtest.run import ServiceRows
from repo_builder.repository.manifest import Manifest

_SHARD, _WEIGHTS = "/shard.json", "/weights.bin"


def service_rows(repository: Path, manifest: Manifest) -> Mapping[str, ServiceRows]:
    """The formats and bytes of every embedding service's rows, by its model; of those alone whose files are here."""
    sizes = {entry.path: entry.size_bytes for entry in manifest.files}
    found = {}
    for path in (path for path in sizes if path.endswith(_SHARD) and (repository / path).is_file()):
        version = path.removesuffix(_SHARD)
        matrices = json.loads((repository / path).read_text(encoding="utf-8"))["matrices"]
        dtypes = tuple(dict.fromkeys(matrix["dtype"] for matrix in matrices))
        rows = sum(matrix["rows"] for matrix in matrices)
        found[version.split("/")[-2]] = ServiceRows(dtypes, rows, sizes[f"{version}{_WEIGHTS}"])
    return found
