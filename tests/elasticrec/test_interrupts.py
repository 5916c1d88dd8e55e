"""Ctrl-C and its kin, from the first import on: one line, and 128 + the signal; and what start-up costs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.integration.models import document, make_spec

ROOT = Path(__file__).parent.parent.parent
HEAVY = ("numpy", "torch", "scipy", "matplotlib", "rich", "yaml", "jsonschema", "pyarrow", "numba", "grpc", "psutil")

# Python imports this before anything of ours; it sends the signal while the named module is being looked for
SITE = """
import os, sys

class Finder:
    def find_spec(self, name, *_):
        if name == os.environ["INTERRUPT_AT"]:
            os.kill(os.getpid(), int(os.environ["INTERRUPT_BY"]))

sys.meta_path.insert(0, Finder())
"""


@pytest.fixture(scope="module")
def spec_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interrupts")
    make_spec(folder)
    (folder / "small.yaml").write_text(yaml.safe_dump(document()))
    (folder / "sitecustomize.py").write_text(SITE)
    return folder / "small.yaml"


def interrupted(spec_file: Path, module: str, by: signal.Signals, *words: object) -> subprocess.CompletedProcess[str]:
    path = f"{spec_file.parent}:{ROOT}"
    environment = {**os.environ, "PYTHONPATH": path, "INTERRUPT_AT": module, "INTERRUPT_BY": str(int(by))}
    started = [sys.executable, "-m", "elasticrec.cli", *map(str, words)]
    return subprocess.run(started, env=environment, capture_output=True, text=True, timeout=250, check=False)


@pytest.mark.parametrize("module", ["argparse", "rich.console", "yaml", "jsonschema", "numpy", "numpy.linalg"])
def test_ctrl_c_while_modules_are_imported(module: str, spec_file: Path) -> None:
    done = interrupted(spec_file, module, signal.SIGINT, "plan", spec_file)
    assert (done.stdout, done.stderr, done.returncode) == ("", "elasticrec: interrupted\n", 130)


@pytest.mark.parametrize("module", ["torch", "torch.nn", "onnx"])
def test_ctrl_c_while_a_command_imports_what_it_needs(module: str, spec_file: Path, tmp_path: Path) -> None:
    done = interrupted(spec_file, module, signal.SIGINT, "build", spec_file, "-o", tmp_path / "out")
    assert (done.stdout, done.returncode) == ("", 130)
    assert done.stderr == "elasticrec: interrupted; nothing was left behind\n"
    assert not list(tmp_path.iterdir())


def test_sigterm_says_its_own_number(spec_file: Path) -> None:
    done = interrupted(spec_file, "numpy", signal.SIGTERM, "plan", spec_file)
    assert (done.stderr, done.returncode) == ("elasticrec: interrupted\n", 143)


@pytest.mark.parametrize("words", ["--version", "--help"])
def test_version_and_help_import_nothing_heavy(words: str) -> None:
    told = f"import sys; sys.argv = ['elasticrec', '{words}']; from elasticrec.cli import console\n"
    told += "try: console()\nexcept SystemExit: print('heavy', [m for m in sys.modules if m in " + repr(HEAVY) + "])"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.endswith("heavy []\n")


def test_a_command_imports_only_its_own_room() -> None:
    told = "import sys; from elasticrec.command_line import parse; parse(['verify', 'x'])\n"
    told += "print(sorted(m for m in sys.modules if m.startswith('elasticrec.commands.')))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "['elasticrec.commands.common', 'elasticrec.commands.serving']\n"


def test_nohup_is_left_alone(spec_file: Path) -> None:
    """A terminal that ends must not end what nohup started."""
    told = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); from elasticrec.cli import main\n"
    told += f"main(['plan', {str(spec_file)!r}, '--json'])\n"
    told += "assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN"
    subprocess.run([sys.executable, "-c", told], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
