"""The zoo's files, made once, each model by a process of its own: nothing of its library is here when it is opened."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.zoo.catalogue import SUFFIXES
from tests.zoo.hosts import Hosts, hosts


@pytest.fixture(scope="session")
def zoo_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The path of a model's file of a kind, its queries beside it."""
    folder = tmp_path_factory.mktemp("zoo")

    def file(name: str, kind: str) -> Path:
        path = folder / (name + SUFFIXES[kind])
        if not path.exists():
            made = subprocess.run(
                [sys.executable, "-m", "tests.zoo", folder, name],
                cwd=Path(__file__).parents[2],
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
            assert path.exists(), made.stderr[-3000:]
        return path

    return file


@pytest.fixture(scope="session")
def zoo_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with hosts(tmp_path_factory.mktemp("hosts")) as found:
        yield found
