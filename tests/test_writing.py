"""Files that are written whole: nobody's link, file or rights are lost on the way."""

import stat
from pathlib import Path

import pytest

from repo_builder.errors import InputError
from repo_builder.writing import write_whole


def test_a_link_stays_and_the_file_behind_it_is_written(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far/plan.json").write_text("{}")
    (tmp_path / "link.json").symlink_to(tmp_path / "far/plan.json")
    (tmp_path / "loose.json").symlink_to("far/new.json")
    for name in ("link.json", "loose.json"):
        write_whole(tmp_path / name, b'{"a": 1}')
        assert (tmp_path / name).is_symlink()
    assert (tmp_path / "far/plan.json").read_text() == (tmp_path / "far/new.json").read_text() == '{"a": 1}'
    assert len(list((tmp_path / "far").iterdir())) == 2


def test_a_file_keeps_its_rights_and_a_new_one_has_the_usual(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("{")
    (tmp_path / "old").chmod(0o640)
    (tmp_path / "plain").touch()
    for name in ("old", "new"):
        write_whole(tmp_path / name, b"{}")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("old", "new", "plain")]
    assert modes[0] == 0o640 and modes[1] == modes[2]


@pytest.mark.parametrize("content", [b"PK\x03\x04 a checkpoint", b"name: rm1\n", b"\x89PNG"])
def test_a_file_of_another_kind_is_not_replaced(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "mine").write_bytes(content)
    with pytest.raises(InputError, match="mine: expected no file, or one of the kind that is written here"):
        write_whole(tmp_path / "mine", b"{}")
    assert (tmp_path / "mine").read_bytes() == content
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_empty_file_and_one_of_the_same_kind_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "same").write_text('{"old": 1}')
    for name in ("empty", "same"):
        write_whole(tmp_path / name, b"{}")
        assert (tmp_path / name).read_bytes() == b"{}"


def test_a_device_is_written_into(capfd: pytest.CaptureFixture[str]) -> None:
    write_whole(Path("/dev/stdout"), b"{}\n")
    write_whole(Path("/dev/null"), b"{}\n")
    assert capfd.readouterr().out == "{}\n"
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("path", ["/", "", ".", "nowhere/file", "a\0b", "x" * 300])
def test_a_place_that_cannot_be_written_is_one_line(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        write_whole(Path(path), b"{}")
    assert len(caught.value.problems) == 1 and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
