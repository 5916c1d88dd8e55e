"""Building a repository beside `cp` of the same bytes, in turn in the same run. Goal: at least half of cp's throughput.

A build is on the disk when it ends, so its peer is `cp` and `sync` of the copy; `cp` alone leaves it in memory.
The checkpoint is in the page cache, as it is after a download or a training run. `random` weights are made, not copied:
they have no such goal and are not measured here.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from repo_builder.access.load import load_hotness
from repo_builder.export.dlrm.source import open_source
from repo_builder.export.examples import write_example_checkpoint
from repo_builder.partition.cost import DEFAULT_DENSE_TIME, Profile, ServiceTime
from repo_builder.partition.planner import make_plan
from repo_builder.repository.build import build
from repo_builder.spec import parse_spec


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=800_000, help="rows per table, ten tables of dim 32")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), args.rows, args.rounds)


def measure(folder: Path, rows: int, rounds: int) -> None:
    """Take turns: cp of the checkpoint, alone and onto the disk, and its build: whole, and until its last row is read.

    The tables are written beside the ONNX export, which takes its share of the cores.
    """
    spec = parse_spec(document(rows), folder / "spec.yaml")
    checkpoint = folder / "model.pt"
    write_example_checkpoint(spec.form, checkpoint)
    torch.load(checkpoint, weights_only=True)  # into the page cache
    hotness = load_hotness(spec)
    profile = Profile("40 MB a service", ServiceTime(5e-4, 5e-8), 40_000_000, DEFAULT_DENSE_TIME)
    plan = make_plan(spec, hotness, profile, "tiered", 4)
    size_mb = checkpoint.stat().st_size / 1e6
    spent: dict[str, list[float]] = {
        "cp": [],
        "cp + sync": [],
        "SHA-256": [],
        "build": [],
        "its tables": [],
        "its CPU": [],
    }
    streaming = spent["its tables"]
    copy = folder / "copy.pt"
    for _ in range(rounds):
        start = time.perf_counter()
        subprocess.run(["/bin/cp", str(checkpoint), str(copy)], check=True)
        spent["cp"].append(time.perf_counter() - start)
        subprocess.run(["/bin/sync", str(copy)], check=True)
        spent["cp + sync"].append(time.perf_counter() - start)
        copy.unlink()
        start = time.perf_counter()
        with checkpoint.open("rb") as file:
            hashlib.file_digest(file, "sha256")
        spent["SHA-256"].append(time.perf_counter() - start)
        start, cpu = time.perf_counter(), time.process_time()
        ends: list[float] = []
        note = partial(note_time, ends)
        build(spec, plan, hotness, open_source(spec), folder / "repository", note)
        streaming.append(ends[-1] - start)
        spent["build"].append(time.perf_counter() - start)
        spent["its CPU"].append(time.process_time() - cpu)
        shutil.rmtree(folder / "repository")
    print(f"{size_mb:.0f} MB in ten tables, {len(plan.embedding_services)} tiers, medians of {rounds}")
    for name, times in spent.items():
        print(f"  {name:<11} {np.median(times):6.2f} s   {size_mb / np.median(times):7.0f} MB/s")
    for name, peer in (("build", "cp + sync"), ("build", "cp"), ("its tables", "cp")):
        ratio = float(np.median(np.array(spent[peer]) / np.array(spent[name])))
        print(f"  throughput of {name} / {peer}: {ratio:.2f} (goal 0.5)")
    cores = os.cpu_count() or 1
    copy_s, hash_s, cpu_s = (float(np.median(spent[name])) for name in ("cp", "SHA-256", "its CPU"))
    for name, bound_s in (("what cp and SHA-256 take", copy_s + hash_s), ("what the build takes", cpu_s)):
        print(f"  {name}, spread evenly over {cores} cores: {cores * copy_s / bound_s:.2f} of cp at most")


def note_time(times: list[float], done: int, total: int) -> None:
    """A progress callback that keeps when it was called."""
    del done, total
    times.append(time.perf_counter())


def document(rows: int) -> dict[str, object]:
    """The model."""
    return {
        "name": "rm1",
        "dense_features": 13,
        "bottom_mlp": [256, 128, 32],
        "top_mlp": [256, 64, 1],
        "tables": [{"name": "C", "rows": rows, "dim": 32, "pooling": 128, "count": 10}],
        "weights": {"source": "dlrm", "path": "model.pt"},
        "access": {"source": "powerlaw", "locality": 0.9},
        "serving": {"target_qps": 800, "batch": 32},
    }


if __name__ == "__main__":
    main()
