"""elasticrec: recommendation models cut by hotness into services of Triton that scale alone.

The verbs of the command line are functions here, on plain values:

    import elasticrec

    spec = elasticrec.load_spec("examples/rm1.yaml")
    elasticrec.build(spec, "model_repository/rm1", elasticrec.plan(spec))
    with elasticrec.serve("model_repository/rm1") as server:
        print(elasticrec.query("model_repository/rm1", server.grpc)["score"])

Errors that are raised on purpose are `errors.ElasticRecError`s, those of bad input `errors.InputError`s with a line for
each problem. Nothing is printed; long work tells how far it is where it is given a `watch`, and what a reader should
know goes to the logger `elasticrec`, or to the `tell` that is given. Names are read from their modules when they are
first asked for, so that `import elasticrec` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elasticrec.building import Built, Checked, build, check, check_weights
    from elasticrec.comparing import compare, load_traffic, simulate
    from elasticrec.drafting import FirstSpec, first_spec, init
    from elasticrec.fleets import down, k8s, logs, ps, scale, up
    from elasticrec.loading import load_cluster, load_hotness, load_plan, load_profile, load_spec
    from elasticrec.loads import loadtest, report, workload
    from elasticrec.planning import Explanation, Swept, explain, place, plan, plan_json, sweep
    from elasticrec.profiling import MeasuredProfile, profile
    from elasticrec.serving import query, serve, verify
    from loadtest.perf_run import Load
    from loadtest.run import Run
    from repo_builder import errors
    from repo_builder.access.hotness import Hotness
    from repo_builder.analysis.compare import ComparisonReport
    from repo_builder.analysis.sweep import Sweep
    from repo_builder.model.types import Model
    from repo_builder.partition.cost import Profile
    from repo_builder.partition.placement.cluster import Cluster
    from repo_builder.partition.placement.place import Placement
    from repo_builder.partition.plan import Plan, Service, Shard
    from repo_builder.repository.manifest import Manifest
    from repo_builder.serving.server import Ports, Server
    from repo_builder.simulation.fleets import Timing
    from repo_builder.spec import Spec
    from repo_builder.traffic import Traffic

_ROOMS = {
    "elasticrec.building": "Built Checked build check check_weights",
    "elasticrec.comparing": "compare load_traffic simulate",
    "elasticrec.drafting": "FirstSpec first_spec init",
    "elasticrec.fleets": "down k8s logs ps scale up",
    "elasticrec.loading": "load_cluster load_hotness load_plan load_profile load_spec",
    "elasticrec.loads": "loadtest report workload",
    "elasticrec.planning": "Explanation Swept explain place plan plan_json sweep",
    "elasticrec.profiling": "MeasuredProfile profile",
    "elasticrec.serving": "query serve verify",
    "loadtest.perf_run": "Load",
    "loadtest.run": "Run",
    "repo_builder": "errors",
    "repo_builder.access.hotness": "Hotness",
    "repo_builder.analysis.compare": "ComparisonReport",
    "repo_builder.analysis.sweep": "Sweep",
    "repo_builder.model.types": "Model",
    "repo_builder.partition.cost": "Profile",
    "repo_builder.partition.placement.cluster": "Cluster",
    "repo_builder.partition.placement.place": "Placement",
    "repo_builder.partition.plan": "Plan Service Shard",
    "repo_builder.repository.manifest": "Manifest",
    "repo_builder.serving.server": "Ports Server",
    "repo_builder.simulation.fleets": "Timing",
    "repo_builder.spec": "Spec",
    "repo_builder.traffic": "Traffic",
}
_HOMES = {name: room for room, names in _ROOMS.items() for name in names.split()}

__all__ = [
    "Built",
    "Checked",
    "Cluster",
    "ComparisonReport",
    "Explanation",
    "FirstSpec",
    "Hotness",
    "Load",
    "Manifest",
    "MeasuredProfile",
    "Model",
    "Placement",
    "Plan",
    "Ports",
    "Profile",
    "Run",
    "Server",
    "Service",
    "Shard",
    "Spec",
    "Sweep",
    "Swept",
    "Timing",
    "Traffic",
    "build",
    "check",
    "check_weights",
    "compare",
    "down",
    "errors",
    "explain",
    "first_spec",
    "init",
    "k8s",
    "load_cluster",
    "load_hotness",
    "load_plan",
    "load_profile",
    "load_spec",
    "load_traffic",
    "loadtest",
    "logs",
    "place",
    "plan",
    "plan_json",
    "profile",
    "ps",
    "query",
    "report",
    "scale",
    "serve",
    "simulate",
    "sweep",
    "up",
    "verify",
    "workload",
]


def __getattr__(name: str) -> Any:
    """A name when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = _HOMES[name]
    value = import_module("repo_builder.errors") if name == "errors" else getattr(import_module(room), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
