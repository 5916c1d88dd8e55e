"""Imports point one way, as the table of ARCHITECTURE.md says: it is read here, and stands nowhere else."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("elasticrec", "k8s", "loadtest", "repo_builder", "triton_backends")


class Room(NamedTuple):
    """A row of the table: its folders or files, and the modules that they may import beside each other."""

    places: tuple[str, ...]
    may_import: tuple[str, ...]


def read_rooms() -> Iterator[Room]:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    (table,) = re.findall(r"^\| room \|.*?\n\n", text, re.MULTILINE | re.DOTALL)
    base = tuple(map(module, quoted(next(line for line in text.splitlines() if line.startswith("*base*: ")))))
    for row in table.strip().splitlines()[2:]:
        first, _, last = row.strip("| ").split(" | ")
        if last != "everything":
            named = tuple(map(module, quoted(last)))
            yield Room(tuple(quoted(first)), (*named, *(base if "base" in last else ())))


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def module(name: str) -> str:
    """The table leaves `repo_builder.` out."""
    return name if name.split(".")[0] in OURS else f"repo_builder.{name}"


def as_module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def files(place: str) -> list[Path]:
    path = ROOT / place
    return [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in the file; `from package import name` counts as `package.name`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def within(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or module.startswith(f"{place}.") for place in places)


ROOMS = tuple(read_rooms())


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.places[0])
def test_imports_point_one_way(room: Room) -> None:
    own = tuple(place.removesuffix(".py").strip("/").replace("/", ".") for place in room.places)
    for place in room.places:
        assert files(place), place
        for path in files(place):
            ours = {name for name in imported(path) if within(name, OURS)}
            stray = {name for name in ours if not within(name, (*own, *room.may_import))}
            assert not stray, f"{path.relative_to(ROOT)} may not import {stray}"


def test_every_module_has_a_row() -> None:
    listed = {path for room in ROOMS for place in room.places for path in files(place)}
    ours = {path for name in OURS for path in files(name) if path.name != "__init__.py" and name != "elasticrec"}
    unlisted = {path.relative_to(ROOT) for path in ours - listed}
    assert not unlisted


def test_what_may_be_imported_is_there() -> None:
    """A module that is gone would be a rule about nothing."""
    known = {as_module(path): path.read_text() for name in OURS for path in files(name)}
    named = {name for room in ROOMS for name in room.may_import} - known.keys()
    gone = {name for name in named if name.rpartition(".")[2] not in known.get(name.rpartition(".")[0], "")}
    assert not gone


def test_every_file_that_is_named_is_there() -> None:
    """By the end of its path, as the text names it."""
    text = re.sub(r"```.*?```", "", (ROOT / "ARCHITECTURE.md").read_text(), flags=re.DOTALL)
    named = {name for name in quoted(text) if re.fullmatch(r"[\w/]+\.(py|c)|[\w/]+/", name)}
    places = [path for name in (*OURS, "tests", "benchmarks") for path in [ROOT / name, *(ROOT / name).rglob("*")]]
    there = [f"/{path.relative_to(ROOT)}{'/' * path.is_dir()}" for path in places]
    gone = {name for name in named if not any(path.endswith(f"/{name}") for path in there)}
    assert named
    assert not gone


def folder(module: str) -> str:
    """A top-level package, or one of repo_builder's."""
    parts = module.split(".")
    inner = ROOT / parts[0] / parts[1] if parts[0] == "repo_builder" and len(parts) > 1 else None
    return f"{parts[0]}/{parts[1]}" if inner and inner.is_dir() else parts[0]


@pytest.mark.parametrize("name", [str, folder], ids=["top level", "rooms"])
def test_no_circles(name: type) -> None:
    """Neither between the folders of the top level nor between those of repo_builder."""
    graph: dict[str, set[str]] = defaultdict(set)
    for path in [path for name in OURS for path in files(name)]:
        importer = as_module(path)
        for other in {found for found in imported(path) if within(found, OURS)}:
            ends = [each.split(".")[0] if name is str else folder(each) for each in (importer, other)]
            if ends[0] != ends[1] and not (name is not str and "repo_builder" in ends):
                graph[ends[0]].add(ends[1])
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_torch_and_onnx_stay_in_export() -> None:
    """They are slow to import and heavy; a GPU's shards are the one exception, imported only there."""
    for path in [path for name in OURS for path in files(name)]:
        if "export" in path.parts or path.name in ("torch_shard.py", "kernel_shard.py"):
            continue
        assert not {module for module in imported(path) if within(module, ("torch", "onnx"))}, path


def test_only_the_command_line_prints() -> None:
    for path in [path for name in OURS for path in files(name)]:
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        named = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
        assert "commands" in path.parts or not named & {"print", "exit"}, path


def test_no_two_classes_share_a_name() -> None:
    """One word, one meaning; what a file keeps to itself (`_Name`) is its own affair."""
    homes: dict[str, list[str]] = defaultdict(list)
    for path in [path for name in OURS for path in files(name)]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes[node.name].append(as_module(path))
    assert not {name: found for name, found in homes.items() if len(found) > 1}
