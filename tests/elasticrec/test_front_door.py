"""`import elasticrec`: what it shows, what it imports, and that it is typed."""

import subprocess
import sys
from pathlib import Path

import pytest

import elasticrec
from elasticrec.commands import COMMANDS

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "onnx", "numpy", "scipy", "matplotlib", "plotly", "rich", "grpc", "pyarrow", "tritonclient", "yaml")
LATE = ("torch", "onnx", "matplotlib", "plotly", "grpc", "pyarrow")


def loaded(program: str, *names: str) -> set[str]:
    """Which of those modules a program has imported when it ends."""
    told = f"import sys\n{program}\nprint(*(sys.modules.keys() & {set(names)!r}))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_every_name_is_there_and_in_one_list() -> None:
    assert elasticrec.__all__ == sorted(elasticrec._HOMES)
    assert set(elasticrec.__all__) <= set(dir(elasticrec))
    assert all(getattr(elasticrec, name) for name in elasticrec.__all__)
    assert (Path(elasticrec.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = elasticrec.nothing


def test_every_command_is_a_verb() -> None:
    """But for the tour of all of them."""
    assert set(COMMANDS) - {"demo"} <= set(elasticrec.__all__)


def test_every_public_function_says_what_it_does() -> None:
    for name in elasticrec.__all__:
        assert getattr(elasticrec, name).__doc__, name


def test_the_names_are_those_that_type_checkers_see(tmp_path: Path) -> None:
    """A checker reads the imports, the interpreter the table: they name the same things."""
    program = tmp_path / "program.py"
    program.write_text(
        "import elasticrec\n"
        "spec = elasticrec.load_spec('rm1.yaml')\n"
        "names: list[str] = [service.name for service in elasticrec.plan(spec).services]\n"
        "with elasticrec.serve('rm1') as server:\n"
        "    address: str = server.grpc\n" + "".join(f"elasticrec.{name}\n" for name in elasticrec.__all__)
    )
    words = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(program)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout


def test_importing_it_imports_nothing_heavy() -> None:
    found = loaded("import elasticrec; dir(elasticrec); elasticrec.errors.InputError", *HEAVY)
    assert not found


@pytest.mark.parametrize(
    "name", ["load_spec", "plan", "compare", "simulate", "build", "first_spec", "verify", "profile"]
)
def test_a_verb_imports_what_it_needs_when_it_is_called(name: str) -> None:
    """Having it costs no torch, nor a library that draws, nor a client of servers."""
    found = loaded(f"import elasticrec; elasticrec.{name}", *LATE)
    assert not found
