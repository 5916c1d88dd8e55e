"""Facts of the machine."""

from pathlib import Path

from repo_builder.machine import last_cache_bytes


def test_the_last_cache_is_that_of_the_highest_level(tmp_path: Path) -> None:
    for index, level, size in ((0, 1, "32K"), (1, 1, "48K"), (2, 3, "32768K"), (3, 2, "1024K")):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        (folder / "level").write_text(f"{level}\n")
        (folder / "size").write_text(f"{size}\n")
    assert last_cache_bytes(tmp_path) == 32 << 20


def test_no_cache_told_is_none(tmp_path: Path) -> None:
    assert last_cache_bytes(tmp_path) == 0
