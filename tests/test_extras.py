"""What is missing is named with the command that installs it; planning misses nothing."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from repo_builder.errors import MissingExtraError
from repo_builder.extras import EXTRAS, named_extras
from tests.loadtest.runs import day

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# the command line in an interpreter that has none of the extras' libraries
WITHOUT = f"""
import sys
for module in {[module for modules in EXTRAS.values() for module in modules]!r}:
    sys.modules[module] = None
from elasticrec.cli import console
sys.argv[0] = "elasticrec"
sys.exit(console())
"""


def without_extras(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, *words], cwd=folder, text=True, capture_output=True, env={**os.environ}
    )


def names(requirements: list[str]) -> list[str]:
    return [re.split(r"[^\w-]", each)[0] for each in requirements]


def test_the_extras_are_those_of_the_package() -> None:
    declared = PROJECT["optional-dependencies"]
    assert {extra: names(declared[extra]) for extra in ("build", "plots")} == {
        extra: list(EXTRAS[extra]) for extra in ("build", "plots")
    }
    assert set(EXTRAS["loadtest"]) < set(names(declared["loadtest"]))
    assert not set(names(PROJECT["dependencies"])) & {module for modules in EXTRAS.values() for module in modules}


@pytest.mark.parametrize("words", [["plan"], ["compare", "--cluster", str(ROOT / "examples/clusters/cpu.yaml")]])
def test_planning_needs_no_extra(words: list[str], tmp_path: Path) -> None:
    done = without_extras(tmp_path, *words, str(ROOT / "examples/rm1.yaml"))
    assert (done.returncode, done.stderr) == (0, "") and "profile: default" in done.stdout


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["build", "rm1.yaml", "-o", "out"], "build"),
        (["plan", "rm1.yaml", "--plot", "hotness.png"], "plots"),
        (["report", "run.json", "-o", "report.html"], "plots"),
    ],
)
def test_what_is_missing_is_one_line(words: list[str], extra: str, tmp_path: Path) -> None:
    (tmp_path / "rm1.yaml").write_text((ROOT / "examples/rm1.yaml").read_text())
    (tmp_path / "run.json").write_text(day().to_json())
    done = without_extras(tmp_path, *words)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    library = re.fullmatch(
        rf"elasticrec: (\w+): not installed, and needed for this; run: pip install 'elasticrec\[{extra}\]'", line
    )
    assert library and library[1] in EXTRAS[extra]
    assert {path.name for path in tmp_path.iterdir()} == {"rm1.yaml", "run.json"}  # nothing half-written


def test_a_module_of_no_extra_is_a_fault_of_ours() -> None:
    with pytest.raises(ModuleNotFoundError), named_extras():
        import repo_builder.no_such_room  # noqa: F401 - the import itself is what is tested

    with pytest.raises(MissingExtraError, match="torch"), named_extras():
        raise ModuleNotFoundError("No module named 'torch.fx'", name="torch.fx")
