"""A build never holds more than one table and 512 MiB, however large the model; all of it is in one process."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from repo_builder.export.examples import write_example_checkpoint
from repo_builder.repository.manifest import verify
from repo_builder.spec import load_spec

ROWS, DIM, TABLES = 1_250_000, 32, 5
BUILD = """
import sys
from pathlib import Path
from elasticrec.cli import main
code = main(["build", sys.argv[1], "-o", sys.argv[2]])
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(code, int(peak.split()[1]) * 1024)
"""


@pytest.mark.slow
def test_a_build_is_streamed(tmp_path: Path) -> None:
    """The peak of everything, the interpreter and torch included, for tables of 800 MB in all."""
    table_bytes = ROWS * DIM * 4
    document = {
        "name": "large",
        "dense_features": 13,
        "bottom_mlp": [64, DIM],
        "top_mlp": [64, 1],
        "tables": [{"name": "C", "rows": ROWS, "dim": DIM, "pooling": 8, "count": TABLES}],
        "weights": {"source": "dlrm", "path": "large.pt"},
        "access": {"source": "powerlaw", "locality": 0.9},
        "serving": {"target_qps": 3000},
    }
    path = tmp_path / "large.yaml"
    path.write_text(yaml.safe_dump(document))
    write_example_checkpoint(load_spec(path).form, tmp_path / "large.pt")
    words = [sys.executable, "-c", BUILD, str(path), str(tmp_path / "out")]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    code, peak_bytes = map(int, done.stdout.splitlines()[-1].split())
    assert code == 0
    assert sum(entry.size_bytes for entry in verify(tmp_path / "out").files) > TABLES * table_bytes
    assert peak_bytes <= table_bytes + 512 * 1024**2 < TABLES * table_bytes
