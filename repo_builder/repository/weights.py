"""Writing a model's weights, the tables and the dense layers at the same time."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from repo_builder.access.hotness import Hotness
from repo_builder.access.progress import Progress
from repo_builder.export.layers import Partial
from repo_builder.export.weights import WeightSource
from repo_builder.partition.plan import Plan
from repo_builder.repository.configs import model_name
from repo_builder.repository.embeddings import write_embeddings
from repo_builder.repository.manifest import FileEntry, entry_of
from repo_builder.spec import Spec

_TURN_S = 0.0005  # Python's 5 ms: each block waits for several; tables then took a third longer beside the exporter


def write_weights(
    spec: Spec,
    plan: Plan,
    hotness: Hotness,
    weights: WeightSource,
    partials: Sequence[Partial],
    folder: Path,
    pool: ThreadPoolExecutor,
    progress: Progress,
) -> list[FileEntry]:
    """Write what `write_embeddings` does, and the dense layers, which take these partial sums. Returns the new files.

    The tables are written in a thread, which calls `progress` with the table bytes done and their total: that work is
    outside Python, torch's exporter's is inside. An error or an interrupt in either ends both, and comes out as it is.
    """
    total_bytes = spec.model.size_bytes
    done = 0
    stop = Event()

    def advance(block_bytes: int) -> None:
        nonlocal done
        if stop.is_set():
            raise CancelledError
        done += block_bytes
        progress(done, total_bytes)

    with ThreadPoolExecutor(1) as worker, _short_turns(), _no_collections():
        tables = worker.submit(write_embeddings, spec, plan, hotness, weights, folder, pool, advance)
        try:
            dense = _write_dense(spec, weights, partials, folder)
            return [*tables.result(), dense]
        except BaseException:
            stop.set()
            raise


@contextmanager
def _short_turns() -> Iterator[None]:
    """Let Python's threads take turns often: those that write tables need the interpreter briefly, but a lot."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(_TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(before_s)


@contextmanager
def _no_collections() -> Iterator[None]:
    """Let Python not look for reference cycles: torch's exporter makes so many objects that it takes half a second."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _write_dense(spec: Spec, weights: WeightSource, partials: Sequence[Partial], folder: Path) -> FileEntry:
    from repo_builder.export.dense import export_dense  # imports torch, for seconds: while tables are written

    path = f"{model_name(spec, 'dense')}/1/model.onnx"
    (folder / path).parent.mkdir(parents=True)
    export_dense(spec.dlrm, weights.dense(), partials, folder / path)
    return entry_of(folder, path)
