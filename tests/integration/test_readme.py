"""The README's own model, commands and code, as a reader would run them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from repo_builder.cli import main
from tests.servers import serving

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.server, pytest.mark.slow]


def test_the_readme_does_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Plan, build, verify and serve `examples/rm1.yaml`; then the ten lines of `tritonclient`, over both protocols."""
    spec, repository = str(ROOT / "examples/rm1.yaml"), str(tmp_path / "rm1")
    plan, picture = str(tmp_path / "plan.json"), str(tmp_path / "hotness.png")
    assert main(["plan", spec, "-o", plan, "--plot", picture]) == 0
    assert capsys.readouterr().out.rstrip() in (ROOT / "README.md").read_text()
    assert main(["build", spec, "--plan", plan, "-o", repository]) == 0
    assert main(["verify", repository]) == 0
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 11
    with serving(Path(repository), tmp_path / "log") as server:
        for protocol, address in (("grpc", server.grpc), ("http", server.http)):
            program = code.replace("tritonclient.grpc", f"tritonclient.{protocol}").replace("127.0.0.1:8001", address)
            done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
            assert len(re.findall(r"\[0\.\d+ *\]", done.stdout)) == 32
