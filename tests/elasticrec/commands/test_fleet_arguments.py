"""SERVICE=N as users mistype it."""

import pytest

from elasticrec.cli import main
from elasticrec.commands.fleet_arguments import service_replicas


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
