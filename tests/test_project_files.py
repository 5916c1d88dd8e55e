"""What CONTRIBUTING.md, the workflow and the hooks name is there."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]


@pytest.mark.parametrize("path", sorted([*ROOT.glob("*.md"), *ROOT.glob("*/*.md")]), ids=lambda path: path.name)
def test_no_text_is_left_from_a_merge(path: Path) -> None:
    assert not re.findall(r"^(?:<{7}|>{7}|={7}$).*", path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "CHANGELOG.md"])
def test_what_is_named_is_there(name: str) -> None:
    text = (ROOT / name).read_text()
    paths = re.findall(r"`([\w.]+/[\w./-]*)`", text) + re.findall(r"\]\(([\w./-]+)\)", text)
    assert not [path for path in paths if not (ROOT / path).exists()]
    assert set(re.findall(r"make ([a-z-]+)", text)) - {"s"} <= TARGETS | {"a"}


def test_the_workflow_runs_what_there_is() -> None:
    assert set(WORKFLOW["test"]["strategy"]["matrix"]["target"]) <= TARGETS
    versions = [each.rpartition(" ")[2] for each in PROJECT["classifiers"] if "Python ::" in each]
    assert WORKFLOW["plan"]["strategy"]["matrix"]["python"] == versions


def test_the_hooks_run_tools_of_the_environment() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    tools = [hook["entry"].split()[0] for hook in repository["hooks"]]
    required = {re.split(r"[^\w-]", each)[0] for each in PROJECT["optional-dependencies"]["dev"]}
    assert repository["repo"] == "local" and {Path(tool).name for tool in tools} <= required
    assert all(tool.startswith(".venv/bin/") for tool in tools)
