"""The goals beside replicating the whole model, and what they hang on: `python benchmarks/comparison.py [PROFILE]`.

Mean gains over the paper's three specs, at the traffic of ten model-wise replicas unless a line says another. A line
changes one thing of the first; a measured profile makes one more line. Needs some 7 GB of memory.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from repo_builder.access.load import load_hotness
from repo_builder.analysis.compare import PAPER, Comparison, average_gains, compare
from repo_builder.analysis.fleets import PER_TABLE, TIERED, ComparisonCase
from repo_builder.partition.accesses import model_accesses
from repo_builder.partition.cost import DEFAULT_PROFILE, Profile, load_profile
from repo_builder.partition.placement.cluster import Cluster, load_cluster
from repo_builder.partition.worth import LEAST_SAVING, PROFILE_ERROR
from repo_builder.spec import Spec, load_spec

EXAMPLES = Path(__file__).parent.parent / "examples"
SPECS = [EXAMPLES / folder / f"rm{n}.yaml" for folder in ("paper", "deeprecsys") for n in (1, 2, 3)]
CPUS, GPUS = (load_cluster(EXAMPLES / "clusters" / f"{name}.yaml") for name in ("cpu", "gpu"))
METRICS = ("memory", "utility", "utility by bytes", "price", "price in parts")


@dataclass(frozen=True)
class Line:
    """One line of the table; `locality` None: the specs' own."""

    profile: Profile = DEFAULT_PROFILE
    cluster: Cluster = CPUS
    replicas: int = 10
    locality: float | None = None
    least_saving: float = LEAST_SAVING
    profile_error: float = PROFILE_ERROR


def fixed(seconds: float) -> Profile:
    """The default profile with another fixed time of a call."""
    return replace(DEFAULT_PROFILE, service_time=replace(DEFAULT_PROFILE.service_time, fixed_s=seconds))


def lines() -> dict[str, Line]:
    """What is tried: the goals' own settings, then one change at a time."""
    found = {"CPU cluster, default profile": Line(), "CPU + GPU cluster": Line(cluster=GPUS)}
    if sys.argv[1:]:
        found["measured profile"] = Line(load_profile(Path(sys.argv[1])))
    found |= {f"fixed time {1e3 * s:g} ms": Line(fixed(s)) for s in (5e-4, 5e-5, 2e-5)}
    found |= {
        f"min memory {megabytes} MB": Line(replace(DEFAULT_PROFILE, min_memory_bytes=megabytes * 10**6))
        for megabytes in (20, 300)
    }
    found |= {f"traffic of {count} replicas": Line(replicas=count) for count in (3, 30, 100)}
    found["the profile to the letter"] = Line(profile_error=0.0)
    found["the paper's recurrence"] = Line(least_saving=0.0)
    found["no spread over nodes"] = Line(cluster=replace(CPUS, spread=1.0))
    return found | {f"locality {share}": Line(locality=share) for share in (0.5, 0.99)}


def comparisons(spec: Spec, tried: Mapping[str, Line]) -> dict[str, Comparison]:
    """One spec's comparison per line; its tables are merged once per locality, and only one order is held at a time."""
    found: dict[str, Comparison] = {}
    for locality in dict.fromkeys(line.locality for line in tried.values()):
        access = spec.access if locality is None else replace(spec.access, locality=locality)
        lines = {name: line for name, line in tried.items() if line.locality == locality}
        found |= _at_locality(replace(spec, access=access), lines)
    return found


def _at_locality(spec: Spec, tried: Mapping[str, Line]) -> dict[str, Comparison]:
    accesses = model_accesses(spec, load_hotness(spec), keep=True)
    cases = {
        name: ComparisonCase(spec, accesses, line.profile, line.cluster, 16, line.least_saving, line.profile_error)
        for name, line in tried.items()
    }
    return {name: compare(case, tried[name].replicas)[0] for name, case in cases.items()}


def table(title: str, by_spec: list[dict[str, Comparison]]) -> None:
    """The mean gains over these specs, a line per setting."""
    print(f"\n{title}: mean gains over model-wise, per_table / tiered")
    print(f"{'':32}" + "".join(f"{metric:>18}" for metric in METRICS))
    for name in by_spec[0]:
        gains = [average_gains([found[name] for found in by_spec], strategy) for strategy in (PER_TABLE, TIERED)]
        cells = (
            " / ".join("-" if gain[metric] is None else f"{gain[metric]:.2f}" for gain in gains) for metric in METRICS
        )
        print(f"{name:32}" + "".join(f"{cell:>18}" for cell in cells), flush=True)
    print(f"{'ElasticRec as published':32}" + "".join(f"{PAPER.get(metric, '-'):>18}" for metric in METRICS))


def main() -> None:
    """Print both tables."""
    tried = lines()
    found = [comparisons(load_spec(path), tried) for path in SPECS[:3]]
    table("the paper's three", found)
    found += [comparisons(load_spec(path), tried) for path in SPECS[3:]]
    table("all six", found)


if __name__ == "__main__":
    main()
