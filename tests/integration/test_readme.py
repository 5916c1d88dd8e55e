"""The README's own model, commands and code, as a reader would run them."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from elasticrec.cli import main
from repo_builder.export.examples import COUNTRIES, HISTORY, NUMBERS, DcnV2, write_example_program
from repo_builder.serving.client import infer
from repo_builder.spec import load_spec
from tests.servers import serving

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.server, pytest.mark.slow]


def python_code(of: str) -> str:
    """The README's one program, of some ten lines, that imports `of`."""
    found = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (code,) = [each for each in found if re.search(rf"^import {of}\b", each, re.MULTILINE)]
    assert len([line for line in code.splitlines() if line]) <= 11
    return str(code)


def test_the_readme_does_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Plan, build, verify and serve `examples/rm1.yaml`; then the ten lines of `tritonclient`, over both protocols."""
    spec, repository = str(ROOT / "examples/rm1.yaml"), str(tmp_path / "rm1")
    plan, picture = str(tmp_path / "plan.json"), str(tmp_path / "hotness.png")
    assert main(["plan", spec, "-o", plan, "--plot", picture]) == 0
    assert capsys.readouterr().out.rstrip() in (ROOT / "README.md").read_text()
    assert main(["build", spec, "--plan", plan, "-o", repository]) == 0
    assert main(["verify", repository]) == 0
    code = python_code("tritonclient")
    with serving(Path(repository), tmp_path / "log") as server:
        for protocol, address in (("grpc", server.grpc), ("http", server.http)):
            program = code.replace("tritonclient.grpc", f"tritonclient.{protocol}").replace("127.0.0.1:8001", address)
            done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
            assert len(re.findall(r"\[0\.\d+ *\]", done.stdout)) == 32


def test_a_model_of_ones_own_is_served_as_the_readme_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What init prints stands there; what is served answers as the module itself, in plain PyTorch."""
    path, spec, repository = tmp_path / "dcn_v2.pt2", tmp_path / "dcn_v2.yaml", tmp_path / "dcn_v2"
    write_example_program(800_000, path)
    assert main(["init", str(path), "-o", str(spec)]) == 0
    told = capsys.readouterr().out.split("\n\nat 100 queries/s")[0]
    assert "\n".join(line.rstrip() for line in told.splitlines()) in (ROOT / "README.md").read_text()
    assert main(["build", str(spec), "-o", str(repository)]) == 0
    torch.manual_seed(0)
    module = DcnV2(800_000).eval()
    rng = np.random.default_rng(3)
    query = {
        "user": rng.integers(0, 800_000, 33),
        "item": rng.integers(0, 800_000, 33),
        "seen": rng.integers(0, 800_000, (33, HISTORY)) * rng.integers(0, 2, (33, HISTORY)),  # half of them none
        "country": rng.integers(0, COUNTRIES, 33),
        "numbers": rng.standard_normal((33, NUMBERS), np.float32),
    }
    with torch.no_grad():
        expected = module(*(torch.from_numpy(query[tensor.name]) for tensor in load_spec(spec).model.inputs)).numpy()
    with serving(repository, tmp_path / "log") as server:
        for protocol, address in (("grpc", server.grpc), ("http", server.http)):
            answers = infer(protocol, address, "dcn_v2", query)
            np.testing.assert_allclose(answers["sigmoid"], expected, atol=1e-5)


def test_the_library_does_what_the_readme_says(tmp_path: Path) -> None:
    """A line a service, the server's addresses, and a score for each of the four rows."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    words = [sys.executable, "-c", python_code("elasticrec")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^(\w+) \d+ \d+$", done.stdout, re.MULTILINE) == ["dense", "tier0", "tier1"]
    assert re.search(r"^127.0.0.1:\d+ 127.0.0.1:\d+ http://127.0.0.1:\d+/metrics$", done.stdout, re.MULTILINE)
    assert len(re.findall(r"\[0\.\d+ *\]", done.stdout)) == 4
