"""Measures the default profile: what plans go by where nobody has measured a machine of theirs.

Native shards as a fleet runs them, with RM1's tables, and the dense layers of RM1 and RM3, whose queries take some
seventy times more operations: the dense time is fitted to both. A front end's time by ids and calls comes along. Let
nothing else run; it takes some 6 minutes. What it writes is checked in.

    python benchmarks/default_profile.py [--output repo_builder/partition/default_profile.json] [--seconds 3]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

from repo_builder.access.load import load_hotness
from repo_builder.partition.accesses import model_accesses
from repo_builder.profiling.document import profile_document
from repo_builder.profiling.fit import fit_measured
from repo_builder.profiling.measure import measure, measure_dense
from repo_builder.profiling.points import STANDARD, ProfileOptions
from repo_builder.spec import load_spec

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples/deeprecsys"
HELD_BYTES = 1 << 32  # of RM1's rows: all of them, since memory is slower the more of it is read


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "repo_builder/partition/default_profile.json")
    parser.add_argument("--seconds", type=float, default=STANDARD.seconds, help="for each point")
    args = parser.parse_args()
    specs = [load_spec(EXAMPLES / f"{name}.yaml") for name in ("rm1", "rm3")]
    hotness = [load_hotness(spec) for spec in specs]
    effort = replace(STANDARD, seconds=args.seconds)
    rows = HELD_BYTES // specs[0].model.tables[0].format.row_bytes
    options = ProfileOptions("tiered", "native", rows, effort)
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(specs[0], hotness[0], options, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        few_rows = replace(options, max_rows=1000)
        large = measure_dense(specs[1], hotness[1], few_rows, Path(folder))
    measured = replace(measured, dense=(*measured.dense, *large))
    fits = fit_measured(measured)
    document = profile_document(specs[0], model_accesses(specs[0], hotness[0]), options, measured, fits)
    document["name"] = "default"
    document["service"]["dense_specs"] = [spec.name for spec in specs]
    del document["remote_call_s"]  # over this machine's loop device, by a client in Python
    args.output.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    for name, quality in document["fit"].items():
        print(f"{name}: RMS error of the fit {quality['relative_rms']:.0%}, {quality['relative_max']:.0%} at most")
    told = ("service_time", "row_cache", "row_levels", "batching", "dense_service_time", "front_time")
    print(json.dumps({key: document[key] for key in told}))


if __name__ == "__main__":
    main()
