"""Which children of a server are its Python stubs."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from repo_builder.serving.processes import (
    SERVER,
    children,
    cpu_seconds,
    dead_children,
    memory_alone,
    memory_by_model,
    stub_model,
    stub_models,
)

Start = Callable[..., psutil.Process]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts children of this process by their words."""
    with ExitStack() as stack:

        def started(*words: str, program: str | None = None) -> psutil.Process:
            process = subprocess.Popen(words, executable=program, stdin=subprocess.PIPE)
            stack.enter_context(process)
            stack.callback(process.kill)
            child = psutil.Process(process.pid)
            while not child.cmdline():  # a program that just begins has none yet
                time.sleep(0.01)
            return child

        yield started


def test_a_child_with_a_command_line_of_one_word_is_the_servers_own(start: Start) -> None:
    """`cat` waits on its pipe: one word and no more."""
    child = start("cat")
    assert child.cmdline() == ["cat"] and stub_model(child) is None
    memory = memory_by_model(os.getpid())
    assert set(memory) == {SERVER} and memory[SERVER] > 0


def test_a_stub_is_known_by_its_program_and_its_model_by_the_path(start: Start, tmp_path: Path) -> None:
    model = tmp_path / "small_tier0/1/model.py"
    model.parent.mkdir(parents=True)
    model.write_text("input()")
    stub = start("/a/triton_python_backend_stub", str(model), program=sys.executable)
    other = start("python", str(model), program=sys.executable)
    while not (stub.cmdline() and other.cmdline()):
        time.sleep(0.01)
    assert stub_model(stub) == "small_tier0" and stub_model(other) is None
    assert stub_models(os.getpid()) == {stub.pid: "small_tier0"}
    assert memory_by_model(os.getpid())["small_tier0"] > 0


def test_a_dead_child_has_no_command_line_and_is_seen(start: Start) -> None:
    child = start("cat")
    child.kill()
    while child.status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    assert stub_model(child) is None and child.pid not in stub_models(os.getpid())
    assert dead_children(os.getpid()) == [child.pid]


def test_of_a_server_that_has_gone_nothing_is_known() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    assert children(gone.pid) == [] and dead_children(gone.pid) == [] and not stub_models(gone.pid)


@pytest.mark.parametrize("look", [memory_by_model, memory_alone, cpu_seconds])
def test_children_that_come_and_go_are_no_hindrance(look: Callable[[int], object], start: Start) -> None:
    """As the shells that Triton starts a stub by."""
    server = start("sh", "-c", "while :; do sleep 0.001; done")
    for _ in range(500):
        look(server.pid)
    until = time.monotonic() + 20
    while not look(server.pid):  # a fast machine is here before the shell has taken a tick of CPU
        assert time.monotonic() < until


def test_a_process_that_has_gone_is_no_stub() -> None:
    with subprocess.Popen(["true"]) as gone:
        process = psutil.Process(gone.pid)
    assert stub_model(process) is None
