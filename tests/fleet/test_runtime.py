"""The run folder: one owner, and nothing but logs afterwards."""

from pathlib import Path

import pytest

from repo_builder.errors import InputError
from repo_builder.fleet.runtime import RunFolder, claimed, swap


def test_only_one_owner_at_a_time(tmp_path: Path) -> None:
    run = RunFolder.of(tmp_path / "fleet")
    with claimed(run):
        with pytest.raises(InputError, match="is up already; see elasticrec ps"), claimed(run):
            pass
        assert run.logs.is_dir()  # the second try swept nothing
    with claimed(run):
        pass


def test_leftovers_of_a_killed_owner_go_and_the_logs_of_the_last_run_stay(tmp_path: Path) -> None:
    run = RunFolder.of(tmp_path / "fleet")
    run.prometheus.mkdir(parents=True)
    run.socket.touch()
    (run.path / "link").symlink_to(tmp_path)
    with claimed(run):
        assert {path.name for path in run.path.iterdir()} == {"lock", "logs"}
        swap(run.addresses, "{}")
        run.events.write_text("happened\n")
    assert {path.name for path in run.path.iterdir()} == {"lock", "logs"}
    assert run.events.read_text() == "happened\n"
    assert tmp_path.is_dir()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run = RunFolder.of(tmp_path / "file" / "fleet")
    with (
        pytest.raises(InputError, match=r"fleet\.run: expected a folder to run in, but: Not a directory"),
        claimed(run),
    ):
        pass
