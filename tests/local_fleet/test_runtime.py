"""The run folder: one owner, and nothing but logs afterwards."""

from pathlib import Path

import pytest

from repo_builder.errors import InputError
from repo_builder.local_fleet.run_folder import RunFolder, claimed
from repo_builder.writing import replace_file


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
    with claimed(run):
        pass
    run.prometheus.mkdir(parents=True)
    run.socket.touch()
    run.rules.symlink_to(tmp_path)
    with claimed(run):
        assert {path.name for path in run.path.iterdir()} == {"lock", "logs"}
        replace_file(run.addresses, "{}")
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


@pytest.mark.parametrize("theirs", ["notes.txt", "lock", "logs/monday.log", "prometheus/data"])
def test_a_folder_of_somebody_elses_is_left_alone(theirs: str, tmp_path: Path) -> None:
    """It has the name that a run would take, and may have files of the names that a run has."""
    run = RunFolder.of(tmp_path / "fleet")
    (run.path / theirs).parent.mkdir(parents=True)
    (run.path / theirs).write_text("mine")
    with pytest.raises(InputError, match=r"fleet\.run: expected no such folder, .* got other files"), claimed(run):
        pass
    assert (run.path / theirs).read_text() == "mine"


def test_what_somebody_put_beside_a_runs_files_is_left_alone(tmp_path: Path) -> None:
    run = RunFolder.of(tmp_path / "fleet")
    with claimed(run):
        pass
    (run.path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"expected a fleet's own files alone, got notes\.txt too"), claimed(run):
        pass
    assert (run.path / "notes.txt").read_text() == "mine"
