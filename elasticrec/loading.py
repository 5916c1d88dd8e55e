"""The values that the verbs work on, read from the files that users write; and how long work says how far it is.

Every reader reports all mistakes of a file at once, as an `errors.InputError` with a line each.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TypeAlias

from repo_builder.access.hotness import Hotness
from repo_builder.access.load import load_hotness as read_hotness
from repo_builder.extras import named_extras
from repo_builder.output import Progress, Tell, silent
from repo_builder.partition.cost import DEFAULT_PROFILE, Profile
from repo_builder.partition.cost import load_profile as read_profile
from repo_builder.partition.placement.cluster import Cluster
from repo_builder.partition.placement.cluster import load_cluster as read_cluster
from repo_builder.partition.plan import Plan, check_plan
from repo_builder.partition.plan import load_plan as read_plan
from repo_builder.spec import Spec
from repo_builder.spec import load_spec as read_spec

StrPath: TypeAlias = str | os.PathLike[str]

Watch: TypeAlias = Callable[[str], AbstractContextManager[Progress]]
"""Called with what begins, such as `building`; the block's Progress is called with what is done, and of how much."""

log: Tell = logging.getLogger("elasticrec").info
"""Where lines go that a reader should know of, which are no mistakes: to Python's own logging."""


@contextmanager
def unwatched(_: str) -> Iterator[Progress]:
    """The Watch of a caller that does not want to know."""
    yield silent


@named_extras()
def load_spec(path: StrPath) -> Spec:
    """Read a model's spec, YAML or JSON, and open the model file that it names.

    >>> spec = elasticrec.load_spec("rm1.yaml")
    >>> spec.name, len(spec.model.tables), spec.serving.target_qps
    ('rm1', 10, 3000.0)
    """
    return read_spec(Path(path))


def load_hotness(spec: Spec, *, watch: Watch = unwatched, tell: Tell = log) -> Hotness:
    """Where the accesses of the spec's tables fall: reads its counts or its trace, which may take long.

    The verbs do that themselves; whoever calls several of them reads once and hands it to each.

    >>> spec = elasticrec.load_spec("rm1.yaml")
    >>> table = spec.model.tables[0]
    >>> print(f"{elasticrec.load_hotness(spec).cdf(table)[table.rows // 10]:.2f} of the look-ups: the hottest tenth")
    0.90 of the look-ups: the hottest tenth
    """
    with watch("reading accesses") as progress:
        return read_hotness(spec, progress, lambda line: tell(f"note: {line}"))


def load_plan(path: StrPath, spec: Spec | None = None) -> Plan:
    """Read a plan that `plan_json` wrote, edited or not; with a spec it is checked that it can be built for that.

    >>> spec = elasticrec.load_spec("rm1.yaml")
    >>> _ = pathlib.Path("plan.json").write_text(elasticrec.plan_json(elasticrec.plan(spec)))
    >>> elasticrec.load_plan("plan.json", spec) == elasticrec.plan(spec)
    True
    """
    plan = read_plan(Path(path))
    if spec:
        check_plan(plan, spec, str(path))
    return plan


def load_profile(path: StrPath | None) -> Profile:
    """Read measured service times, the output of `profile`; None: those that come along, of another machine.

    >>> elasticrec.load_profile(None).name
    'default'
    """
    return DEFAULT_PROFILE if path is None else read_profile(Path(path))


def load_cluster(path: StrPath) -> Cluster:
    """Read nodes and their prices, YAML or JSON.

    >>> [pool.name for pool in elasticrec.load_cluster("examples/clusters/cpu.yaml").pools]
    ['cpu']
    """
    return read_cluster(Path(path))
