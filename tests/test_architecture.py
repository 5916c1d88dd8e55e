"""Imports point one way, as ARCHITECTURE.md says."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BASE = (
    "repo_builder.spec",
    "repo_builder.documents",
    "repo_builder.errors",
    "repo_builder.output",
    "repo_builder.writing",
    "repo_builder.words",
    "repo_builder.memory",
    "repo_builder.model",
)
READING = (*BASE, "repo_builder.parsing")
ABOVE = ("repo_builder.access", "repo_builder.partition", "repo_builder.export")
MAY_IMPORT = {
    "repo_builder/spec.py": (
        *BASE,
        "repo_builder.spec_dlrm",
        "repo_builder.export.open_model_file",
    ),  # it opens what it names
    "repo_builder/spec_dlrm.py": BASE,
    "repo_builder/documents.py": READING,
    "repo_builder/parsing.py": (),
    "repo_builder/memory.py": BASE,
    "repo_builder/errors.py": (),
    "repo_builder/output.py": ("repo_builder.errors",),
    "repo_builder/writing.py": ("repo_builder.errors",),
    "repo_builder/words.py": (),
    "repo_builder/model": ("repo_builder.errors", "repo_builder.model"),
    "repo_builder/figures.py": BASE,
    "repo_builder/machine.py": (),
    "repo_builder/traffic.py": BASE,
    "repo_builder/access": (*BASE, "repo_builder.access", "repo_builder.figures"),
    "repo_builder/partition": (*BASE, "repo_builder.access.hotness", "repo_builder.partition"),
    "repo_builder/analysis": (
        *BASE,
        "repo_builder.access",
        "repo_builder.analysis",
        "repo_builder.figures",
        "repo_builder.partition",
    ),
    "repo_builder/export": (*BASE, "repo_builder.export"),
    "repo_builder/repository": (*BASE, *ABOVE, "repo_builder.repository", "triton_backends"),
    "repo_builder/serving": (*BASE, "repo_builder.serving", "repo_builder.repository.manifest"),
    "repo_builder/scaling": (
        *BASE,
        "repo_builder.partition",
        "repo_builder.repository.built_fleet",
        "repo_builder.scaling",
    ),
    "repo_builder/simulation": (
        *BASE,
        "repo_builder.traffic",
        "repo_builder.figures",
        "repo_builder.partition",
        "repo_builder.repository.built_fleet",
        "repo_builder.scaling",
        "repo_builder.simulation",
    ),
    "repo_builder/local_fleet": (
        *BASE,
        "repo_builder.local_fleet",
        "repo_builder.repository.built_fleet",
        "repo_builder.repository.manifest",
        "repo_builder.scaling",
        "repo_builder.serving",
    ),
    "repo_builder/profiling": (
        *BASE,
        *ABOVE,
        "repo_builder.figures",
        "repo_builder.machine",
        "repo_builder.profiling",
        "repo_builder.repository",
        "repo_builder.serving",
    ),
    "triton_backends": ("triton_backends",),
    "loadtest": (
        *BASE,
        "loadtest",
        "repo_builder.access",
        "repo_builder.local_fleet.control",
        "repo_builder.local_fleet.run_folder",
        "repo_builder.machine",
        "repo_builder.profiling.perf_analyzer",
        "repo_builder.repository.manifest",
        "repo_builder.serving.client",
        "repo_builder.serving.processes",
        "repo_builder.traffic",
    ),
    "k8s": (
        *BASE,
        "k8s",
        "repo_builder.repository.built_fleet",
        "repo_builder.repository.files",
        "repo_builder.repository.manifest",
        "repo_builder.repository.service_names",
        "repo_builder.scaling",
    ),
}
OURS = ("elasticrec", "repo_builder", "triton_backends", "loadtest", "k8s")


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


@pytest.mark.parametrize("place", MAY_IMPORT)
def test_imports_point_one_way(place: str) -> None:
    sources = files(place)
    assert sources
    for path in sources:
        stray = {module for module in imported(path) if within(module, OURS) and not within(module, MAY_IMPORT[place])}
        assert not stray, f"{path.relative_to(ROOT)} may not import {stray}"


def test_torch_and_onnx_stay_in_export() -> None:
    """They are slow to import and heavy; a GPU's shard is the one exception, and it is imported only there."""
    for path in [*files("repo_builder"), *files("triton_backends"), *files("loadtest")]:
        if "export" in path.parts or path.name == "torch_shard.py":
            continue
        assert not {module for module in imported(path) if within(module, ("torch", "onnx"))}, path


def test_only_the_command_line_prints() -> None:
    for path in [*files("elasticrec"), *files("repo_builder"), *files("triton_backends"), *files("loadtest")]:
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        named = {call.func.id for call in calls if isinstance(call.func, ast.Name)}
        assert "commands" in path.parts or not named & {"print", "exit"}, path
