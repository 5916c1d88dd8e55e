"""The run folder: one owner, events and logs, and nothing but logs afterwards."""

from pathlib import Path

import pytest

from repo_builder.errors import InputError
from repo_builder.local_fleet.run_folder import Events, RunFolder, claimed, log_lines
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


def test_events_are_logged_and_shown_once(tmp_path: Path) -> None:
    events = Events(tmp_path / "fleet.log")
    events.tell("one")
    events.tell("two\nand more")
    shown = [line[9:] for line in events.new()]
    assert shown == ["one", "two\n    and more"]
    assert events.new() == []
    events.tell("three")
    assert [line[9:] for line in events.new()] == ["three"]
    assert [line[9:] for line in events.last(2)] == ["two\n    and more", "three"]
    assert (tmp_path / "fleet.log").read_text().count("\n") == 4


def test_a_log_that_cannot_be_written_ends_nobody(tmp_path: Path) -> None:
    events = Events(tmp_path / "gone" / "fleet.log")
    events.tell("one")
    assert [line[9:] for line in events.new()] == ["one"]


def test_logs_are_followed_as_they_grow_and_new_ones_come(tmp_path: Path) -> None:
    run = RunFolder.of(tmp_path / "fleet")
    run.logs.mkdir(parents=True)
    (run.logs / "tier0-1.log").write_text("a\nhalf")
    (run.logs / "tier00-1.log").write_text("of another service\n")
    lines = log_lines(run, "tier0", follow=True)
    assert next(lines) == ("tier0-1", "a")
    with (run.logs / "tier0-1.log").open("a") as log:
        log.write(" and half\n")
    assert next(lines) == ("tier0-1", "half and half")
    (run.logs / "tier0-2.log").write_text("b\n")
    assert next(lines) == ("tier0-2", "b")
    (run.logs / "tier0-1.log").write_text("x\n")  # begun anew
    assert next(lines) == ("tier0-1", "x")
    lines.close()


def test_logs_that_are_not_there_are_said_to_be(tmp_path: Path) -> None:
    run = RunFolder.of(tmp_path / "fleet")
    with pytest.raises(InputError, match="expected logs of a fleet, found none; start it: elasticrec up"):
        list(log_lines(run, None, follow=False))
