"""What services cost on this machine, measured for plans."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from elasticrec.loading import Watch, load_hotness, log, unwatched
from repo_builder.errors import InputError
from repo_builder.extras import named_extras
from repo_builder.output import Tell
from repo_builder.partition.accesses import model_accesses
from repo_builder.partition.plan import Grouping
from repo_builder.spec import Spec

if TYPE_CHECKING:
    from repo_builder.profiling.fit import Fits
    from repo_builder.profiling.points import Measured
    from repo_builder.repository.configs import ShardBackend

HELD_BYTES = 1 << 30  # of rows, by default
QUICK_HELD_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class MeasuredProfile:
    """What `profile` found: the content of a profile's file, and what its plot is drawn from."""

    document: Mapping[str, Any]
    measured: Measured
    fits: Fits


@named_extras()
def profile(
    spec: Spec,
    *,
    grouping: Grouping = "tiered",
    shard_backend: ShardBackend = "python",
    rows: int | None = None,
    seconds: float | None = None,
    quick: bool = False,
    watch: Watch = unwatched,
    tell: Tell = log,
) -> MeasuredProfile:
    """Start real servers with services like the spec's, measure them, and fit the cost model that `plan` takes.

    rows: of the measured service in all, by default the spec's, at most 1 GiB of them; seconds: a point, by default 3,
    quick: 1; quick: fewer points, each measured once. Written as JSON, the document is what `load_profile` reads.
    """
    from repo_builder.profiling.document import profile_document  # torch and SciPy are slow to import
    from repo_builder.profiling.fit import fit_measured
    from repo_builder.profiling.measure import measure
    from repo_builder.profiling.points import QUICK, STANDARD, ProfileOptions
    from repo_builder.repository.configs import ShardBackend

    known = {"grouping": (grouping, ("tiered", "per_table")), "shard_backend": (shard_backend, get_args(ShardBackend))}
    for name, (value, words) in known.items():
        if value not in words:
            raise InputError(f"{name}: expected one of {', '.join(words)}, got {value!r}")
    effort = QUICK if quick else STANDARD
    row_bytes = max(table.format.row_bytes for table in spec.model.tables)
    held_rows = (QUICK_HELD_BYTES if quick else HELD_BYTES) // row_bytes
    effort = replace(effort, seconds=seconds) if seconds else effort
    options = ProfileOptions(grouping, shard_backend, rows or held_rows, effort)
    hotness = load_hotness(spec, watch=watch, tell=tell)
    with tempfile.TemporaryDirectory(prefix="elasticrec-profile-") as folder, watch("measuring") as progress:
        measured = measure(spec, hotness, options, Path(folder), progress)
    fits = fit_measured(measured)
    document = profile_document(spec, model_accesses(spec, hotness), options, measured, fits)
    return MeasuredProfile(document, measured, fits)
