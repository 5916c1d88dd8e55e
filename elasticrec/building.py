"""A spec against the files that it names, and the model repository that is built of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from elasticrec.loading import StrPath, Watch, load_hotness, log, unwatched
from elasticrec.rows import with_chosen_rows
from repo_builder.analysis.choice import best_plan
from repo_builder.errors import InputError
from repo_builder.extras import named_extras
from repo_builder.model.source import ModelFile, Source
from repo_builder.output import Tell
from repo_builder.partition.accesses import model_accesses
from repo_builder.partition.cost import DEFAULT_PROFILE
from repo_builder.partition.plan import Choice, Plan, check_plan, on_cpu
from repo_builder.partition.planner import model_wise_plan
from repo_builder.partition.worth import LEAST_SAVING, PROFILE_ERROR
from repo_builder.repository.manifest import Layout, Manifest
from repo_builder.spec import Spec
from repo_builder.words import count

if TYPE_CHECKING:
    from repo_builder.repository.configs import ShardBackend  # which imports gRPC's Python


@dataclass(frozen=True, slots=True)
class Checked:
    """What was looked at, `weights`, `samples` or `access`, where, what is there, and every problem of it."""

    name: str
    where: str
    found: str
    problems: tuple[str, ...] = ()


@named_extras()
def check(spec: Spec, *, watch: Watch = unwatched, tell: Tell = log) -> tuple[Checked, ...]:
    """Check a spec's weights, a model file's samples, and accesses, as far as that goes without the tables' values.

    >>> [(each.name, each.found, each.problems) for each in elasticrec.check(elasticrec.load_spec("rm1.yaml"))]
    [('weights', 'drawn from its seed', ()), ('access', 'of every table', ())]
    """

    def accesses() -> tuple[str, str]:
        load_hotness(spec, watch=watch, tell=tell)
        return str(spec.access.path or spec.access.source), "of every table"

    weights = spec.form.path if isinstance(spec.form, ModelFile) else spec.form.weights.path
    samples = [_checked("samples", spec.file, lambda: _samples(spec))] if isinstance(spec.form, ModelFile) else []
    return (
        _checked("weights", weights, lambda: _weights(spec, tell)),
        *samples,
        _checked("access", spec.access.path, accesses),
    )


@named_extras()
def check_weights(spec: Spec, tell: Tell = log) -> None:
    """Raise the error that `build` would of the spec's weights; tells where they are not there yet, which is no error.

    >>> elasticrec.check_weights(elasticrec.load_spec("rm1.yaml"))
    """
    path = spec.form.path if isinstance(spec.form, ModelFile) else spec.form.weights.path
    if path is not None and not path.exists():
        tell(f"{path}: not there, so not checked: elasticrec build will need it")
    elif path is not None:
        _open(spec)


def _checked(name: str, path: Path | None, look: Callable[[], tuple[str, str]]) -> Checked:
    try:
        return Checked(name, *look())
    except InputError as exc:
        return Checked(name, str(path), count(len(exc.problems), "problem"), tuple(exc.problems))


def _weights(spec: Spec, tell: Tell) -> tuple[str, str]:
    for note in _open(spec).notes:
        tell(note)
    if isinstance(spec.form, ModelFile):
        cut = count(len(spec.model.lookups), "look-up")
        return str(spec.form.path), f"{cut} to cut, {len(spec.model.kept)} stay dense"
    weights = spec.form.weights
    tensors = len(spec.form.tables) + 2 * (len(spec.form.bottom_mlp) + len(spec.form.top_mlp))
    tensors += sum(len(layer) for stack in spec.form.interaction_stacks.values() for layer in stack)
    found = "drawn from its seed" if weights.path is None else f"{tensors} tensors as in the spec"
    return str(weights.path or weights.source), found


def _samples(spec: Spec) -> tuple[str, str]:
    from repo_builder.repository.samples import check_samples

    source = _open(spec)
    check_samples(spec, source)
    if isinstance(spec.form, ModelFile) and spec.form.samples:
        return str(spec.form.samples), "an array per input"
    return "drawn" if source.samples() is None else "in the model's file", "an array per input"


def _open(spec: Spec) -> Source:
    from repo_builder.export.dlrm.source import open_source  # torch is slow to import: only where it is needed

    return open_source(spec)


def _against_the_planner(choice: Choice, spec: Spec) -> str:
    replicas = count(choice.whole_replicas, "replica")
    return (
        f"{spec.name}: elasticrec plan would not cut this model at {spec.serving.target_qps:g} queries/s: cutting "
        f"saves less than {choice.least_saving:.0%} of the memory of {replicas} of the whole; it is built cut all the "
        "same: --layout model-wise builds it whole, --layout single or fleet asks for the cuts"
    )


@dataclass(frozen=True, slots=True)
class Built:
    """The plan that a repository was built by, and its manifest."""

    plan: Plan
    manifest: Manifest


@named_extras()
def build(
    spec: Spec,
    target: StrPath,
    plan: Plan | None = None,
    *,
    layout: Layout | None = None,
    shard_backend: ShardBackend = "python",
    s_max: int = 16,
    cpu_only: bool = False,
    watch: Watch = unwatched,
    tell: Tell = log,
) -> Built:
    """Write a model repository into a folder, which appears whole or not at all; a former one there is replaced.

    plan: made now where it is not given, tiered, with at most `s_max` shards per table; where `elasticrec.plan` would
    not cut, and no layout is given either, that is told. layout: `single`, one server and one
    ensemble, `fleet`, a repository and a server for each service, or `model-wise`, one server that holds every table
    whole; where none is given `single`, or `model-wise` for a plan that does not cut; shard_backend: `python`, or
    `native`, in C; cpu_only: place on the CPU what the plan places on GPUs.

    >>> spec = elasticrec.load_spec("rm1.yaml")
    >>> plan = elasticrec.plan(spec, grouping="tiered")
    >>> manifest = elasticrec.build(spec, "model_repository/rm1", plan, shard_backend="native").manifest
    >>> manifest.name, manifest.layout, [tensor.name for tensor in manifest.inputs]
    ('rm1', 'single', ['dense', 'indices'])
    """
    from repo_builder.repository.build import build as write_repository  # imports onnx
    from repo_builder.repository.configs import ShardBackend  # imports gRPC's Python

    for name, value, known in (("layout", layout, Layout), ("shard_backend", shard_backend, ShardBackend)):
        if value is not None and value not in get_args(known):
            raise InputError(f"{name}: expected one of {', '.join(get_args(known))}, got {value!r}")
    nothing_asked = plan is None and layout is None
    layout = layout or ("model-wise" if plan and plan.grouping == "model_wise" else "single")
    if plan and layout == "model-wise" and plan.grouping != "model_wise":
        raise InputError("plan: expected none with the layout model-wise, which cuts nothing; leave one out")
    if plan:
        check_plan(plan, spec)
    source = _open(spec)
    for note in source.notes:
        tell(note)
    hotness = load_hotness(spec, watch=watch, tell=tell)

    def planned(each: Spec) -> Plan:
        if layout == "model-wise":
            return model_wise_plan(each, hotness, DEFAULT_PROFILE)
        accesses = model_accesses(each, hotness)
        return best_plan(each, accesses, DEFAULT_PROFILE, "tiered", s_max, 1.0, LEAST_SAVING, PROFILE_ERROR)[0]

    plan = plan or planned(with_chosen_rows(spec, hotness, planned, watch, tell))
    plan = on_cpu(plan) if cpu_only else plan
    with watch("building") as progress:
        folder = Path(target)
        manifest = write_repository(spec, plan, hotness, source, folder, progress, shard_backend, layout=layout)
    if nothing_asked and plan.choice and plan.choice.is_whole:
        tell(_against_the_planner(plan.choice, spec))
    return Built(plan, manifest)
