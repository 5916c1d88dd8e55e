"""The Python backend's processes: one an instance, children of the server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psutil

_PROGRAM = "triton_python_backend_stub"


def stub_model(process: psutil.Process) -> str | None:
    """The model that a process serves; None where it is no stub, or not yet, or no more.

    A stub's first argument is the model's file, `.../NAME/VERSION/model.py`.
    """
    try:
        command = process.cmdline()
    except psutil.Error:
        return None
    if len(command) < 2 or Path(command[0]).name != _PROGRAM:
        return None
    return Path(command[1]).parent.parent.name


def children(pid: int) -> list[psutil.Process]:
    """All that a server started; none where it has gone."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def stub_models(pid: int) -> Mapping[int, str]:
    """The models of a server's stubs by process id."""
    found = {child.pid: stub_model(child) for child in children(pid)}
    return {child: model for child, model in found.items() if model is not None}


def dead_children(pid: int) -> list[int]:
    """The process ids of those that have died: Triton does not reap its stubs, so they stay as zombies."""
    return [child.pid for child in children(pid) if _is_zombie(child)]


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
