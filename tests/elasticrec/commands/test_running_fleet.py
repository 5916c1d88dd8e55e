"""What commands say where a fleet of that folder is up, and to SERVICE=N as users mistype it.

A build does not change a running fleet, and rules undo a scale.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from elasticrec.cli import main
from elasticrec.commands.fleets import service_replicas
from repo_builder.local_fleet.control import Request, listening
from repo_builder.local_fleet.run_folder import RunFolder, claimed, is_up
from tests.test_figures import DOCUMENT


def test_a_folder_is_up_while_it_is_claimed(tmp_path: Path) -> None:
    run = RunFolder.of(tmp_path / "fleet")
    assert not is_up(run)
    with claimed(run):
        assert is_up(run)
    assert not is_up(run)


def test_a_build_of_a_running_fleet_says_that_it_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.yaml").write_text(yaml.safe_dump(DOCUMENT))
    words = ["build", str(tmp_path / "m.yaml"), "--layout", "fleet", "-o", str(tmp_path / "fleet")]
    with claimed(RunFolder.of(tmp_path / "fleet")):
        assert main(words) == 0
    told = capsys.readouterr().out
    assert f"goes on with the former build; change over with elasticrec down {tmp_path / 'fleet'}" in told
    assert "next:" not in told
    assert main(words) == 0
    assert f"next: elasticrec up {tmp_path / 'fleet'}" in capsys.readouterr().out


@pytest.mark.parametrize("rules", ["/rules", None])
def test_a_scale_under_rules_says_that_they_undo_it(
    rules: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, asked = RunFolder.of(tmp_path / "fleet"), []

    def handle(request: Request) -> Mapping[str, Any]:
        asked.append(request["do"])
        return {"rules": rules}

    with claimed(run), listening(run, handle):
        assert main(["scale", str(tmp_path / "fleet"), "tier0=3"]) == 0
    told = capsys.readouterr()
    assert asked == ["scale", "status"] and told.out.startswith("scaling tier0 to 3;")
    assert ("the rules in /rules decide again within seconds, and undo it" in told.err) == (rules is not None)


def test_a_service_and_its_number() -> None:
    assert service_replicas("tier0=12") == ("tier0", 12)


@pytest.mark.parametrize(
    "text", ["tier0", "tier0=", "=2", "tier0=0", "tier0=100000", "tier0=-1", "tier0=1.5", "tier0=²"]
)
@pytest.mark.parametrize("words", [["scale", "DIR"], ["up", "DIR", "--replicas"]])
def test_a_mistake_is_shown_with_what_was_expected(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, text])
    assert ended.value.code == 2
    assert f"expected SERVICE=N with N from 1 to 99999, got {text}" in capsys.readouterr().err
