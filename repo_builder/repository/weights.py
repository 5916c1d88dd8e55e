"""Writing a model's weights, the tables and the dense layers at the same time."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import numpy as np
from numpy.typing import NDArray

from repo_builder.access.hotness import Hotness
from repo_builder.export.scalars import serve_scalars
from repo_builder.model.source import Source
from repo_builder.output import Progress
from repo_builder.repository.design import Design
from repo_builder.repository.embeddings import Seen, write_embeddings
from repo_builder.repository.manifest import FileEntry, entry_of

_TURN_S = 0.0005  # Python's 5 ms: each block waits for several; tables then took a third longer beside the exporter


def write_weights(
    design: Design,
    source: Source,
    hotness: Hotness,
    folder: Path,
    pool: ThreadPoolExecutor,
    progress: Progress,
    seen: Seen,
) -> list[FileEntry]:
    """Write what `write_embeddings` does, and the dense graph. Returns the new files.

    The tables are written in a thread, which calls `progress` with the table bytes done and their total: that work is
    outside Python, torch's exporter's is inside. An error or an interrupt in either ends both, and comes out as it is.
    """
    total_bytes = source.model.size_bytes
    done = 0
    stop = Event()

    def advance(table: int, begin: int, block: NDArray[np.float32]) -> None:
        nonlocal done
        if stop.is_set():
            raise CancelledError
        seen(table, begin, block)
        done += block.nbytes
        progress(done, total_bytes)

    with ThreadPoolExecutor(1) as worker, _short_turns(), _no_collections():
        tables = worker.submit(write_embeddings, design, source, hotness, folder, pool, advance)
        try:
            dense = design.folder(design.dense)
            (folder / dense).mkdir(parents=True)
            names = source.write_dense(design.sums, folder / dense)
            serve_scalars(folder / dense / "model.onnx", (*design.model.dense.inputs, *design.model.outputs))
            return [*tables.result(), *(entry_of(folder, f"{dense}/{name}") for name in names)]
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
