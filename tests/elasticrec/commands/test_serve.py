"""`elasticrec serve` looks at what it is to serve before it starts anything."""

from pathlib import Path

import pytest

from elasticrec.cli import main
from tests.integration.fleets import make_fleet, plan_for
from tests.integration.models import make_repository, make_spec


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("layout", ["single", "fleet"])
def test_a_changed_weight_is_named_and_never_served(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a fleet's service, its own files are looked at."""
    if layout == "single":
        make_repository(tmp_path, "tiered")
        served = tmp_path / "repository"
        weights = served / "small_tier0/1/weights.bin"
    else:
        spec = make_spec(tmp_path)
        served = make_fleet(tmp_path / "fleet", plan_for(spec, "tiered", 2), spec) / "tier0"
        (weights,) = served.glob("*/*/weights.bin")
    flip_a_bit(weights)
    assert main(["serve", str(served)]) == 2
    told = capsys.readouterr().err.replace("\n", "")
    assert f"{weights}: expected SHA-256" in told
    assert not list(tmp_path.glob("*.log"))


@pytest.mark.parametrize("layout", ["single", "python shard", "no repository"])
def test_a_port_for_calls_that_nobody_takes_there_is_refused(
    layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if layout == "single":
        make_repository(tmp_path, "tiered", shard_backend="native")
        served, told = tmp_path / "repository", "--calls-port: expected a fleet's embedding service, built by"
    elif layout == "python shard":
        spec = make_spec(tmp_path)
        served = make_fleet(tmp_path / "fleet", plan_for(spec, "tiered", 2), spec) / "tier0"
        told = "--calls-port: expected a fleet's embedding service, built by"
    else:
        served, told = tmp_path / "none", f"{tmp_path / 'none'}"
    assert main(["serve", str(served), "--calls-port", "8003"]) == 2
    words = capsys.readouterr().err.replace("\n", "")
    assert told in words
    assert ("--calls-port" in words) is (layout != "no repository")
    assert not list(tmp_path.glob("*.log"))
