"""The machine's facts; and what does not fit into it is refused with numbers, before it is asked for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from elasticrec.cli import main
from repo_builder import machine
from repo_builder.errors import InputError
from repo_builder.machine import cache_sizes
from tests.integration.models import document


def test_the_image_tells_the_allocator_what_servers_are_told() -> None:
    text = (Path(__file__).parent.parent / "Dockerfile").read_text()
    assert dict(re.findall(r"(MALLOC_\w+)=(\S+)", text)) == machine.ALLOCATOR


def test_a_server_has_a_heap_a_core() -> None:
    assert [machine.allocator(cores)["MALLOC_ARENA_MAX"] for cores in (1, 2, 64)] == ["1", "2", "64"]
    assert machine.allocator(1).items() >= machine.ALLOCATOR.items()


def test_the_container_may_have_less_than_the_machine(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    assert machine.available_bytes(tmp_path) == 3_000_000
    (tmp_path / "memory.current").write_text("7000000\n")
    assert machine.available_bytes(tmp_path) == 0


@pytest.mark.parametrize("limit", ["max\n", "99999999999999999999\n", None])
def test_a_container_without_a_limit(tmp_path: Path, limit: str | None) -> None:
    if limit:
        (tmp_path / "memory.max").write_text(limit)
        (tmp_path / "memory.current").write_text("2000000\n")
    assert machine.available_bytes(tmp_path) > 10**7


def test_the_message_has_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "available_bytes", lambda: 3 * 2**30)
    machine.check_memory(3 * 2**30, "tables", "fewer rows")
    with pytest.raises(InputError) as caught:
        machine.check_memory(48 * 2**30, "tables: t: 2,147,483,647 rows", "fewer rows")
    assert str(caught.value) == (
        "tables: t: 2,147,483,647 rows: expected to fit into this machine's memory, but 48.0 GiB are needed and "
        "3.0 GiB are free; fewer rows"
    )


def wide(tmp_path: Path, rows: int, count: int) -> Path:
    tables = [{"name": "t", "rows": rows, "dim": 8, "pooling": 1, "count": count}]
    path = tmp_path / "wide.yaml"
    path.write_text(yaml.safe_dump({**document(), "tables": tables, "weights": {"source": "random"}}))
    return path


@pytest.mark.parametrize(
    ("command", "rows", "count"),
    [
        *((command, 2**31 - 1, 1) for command in ("plan", "build", "compare", "simulate")),
        *((command, 10**6, 100_000) for command in ("plan", "build")),
    ],
)
def test_every_command_says_so(
    command: str,
    rows: int,
    count: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(machine, "available_bytes", lambda: 10**9)
    (tmp_path / "traffic.csv").write_text("seconds,qps\n0,1\n60,1\n")
    (tmp_path / "c.yaml").write_text("name: c\npools: [{name: p, cores: 4, memory_gb: 64, price_per_hour: 1}]\n")
    words = {
        "plan": [],
        "build": ["-o", str(tmp_path / "out")],
        "compare": ["--cluster", str(tmp_path / "c.yaml")],
        "simulate": ["--traffic", str(tmp_path / "traffic.csv")],
    }
    assert main([command, str(wide(tmp_path, rows, count)), *words[command]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "GiB are needed and 0.9 GiB are free" in line


def test_caches_of_data_stand_by_their_level(tmp_path: Path) -> None:
    """One that is no larger than a nearer one holds nothing more."""
    caches = (
        (0, 1, "Instruction", "64K"), (1, 1, "Data", "48K"), (2, 3, "Unified", "32768K"), (3, 2, "Unified", "1024K"),
        (4, 4, "Unified", "16384K"),
    )  # fmt: skip
    for index, level, kind, size in caches:
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        (folder / "level").write_text(f"{level}\n")
        (folder / "type").write_text(f"{kind}\n")
        (folder / "size").write_text(f"{size}\n")
    assert cache_sizes(tmp_path) == (48 << 10, 1 << 20, 32 << 20)


def test_no_cache_told_is_none(tmp_path: Path) -> None:
    assert cache_sizes(tmp_path) == ()
