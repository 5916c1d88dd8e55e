"""Reading a spec's accesses, for commands: a bar while it lasts, and what is to be known of them."""

from __future__ import annotations

from elasticrec.commands.common import err
from repo_builder.access.hotness import Hotness
from repo_builder.access.load import load_hotness
from repo_builder.access.progress import progress_bar
from repo_builder.spec import Spec


def read_accesses(spec: Spec) -> Hotness:
    """The hotness that the spec asks for; raises AccessError."""
    with progress_bar(err, "reading accesses") as progress:
        return load_hotness(spec, progress, lambda line: err.print(f"note: {line}", markup=False, soft_wrap=True))
