"""A file is replaced in one step, and what killed processes left next to it is removed."""

import fcntl

import pytest

from evaluator.replacing import replace_file


def test_text_and_mode_are_new_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    replace_file(path, "ü\n", 0o640)
    assert path.read_text(encoding="utf-8") == "ü\n"
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_left_over_files_are_removed_and_those_of_a_living_process_are_not(tmp_path):
    path = tmp_path / "report.html"
    abandoned, living = tmp_path / ".report.html.abcdefgh.tmp", tmp_path / ".report.html.12345678.tmp"
    abandoned.touch()
    others = [tmp_path / name for name in (".report.html.my-notes.tmp", ".other.html.abcdefgh.tmp", "report.html.tmp")]
    for other in others:
        other.touch()
    with living.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        replace_file(path, "text", 0o644)
        assert living.exists()
    assert not abandoned.exists()
    assert all(other.exists() for other in others)


def test_a_failure_keeps_the_old_text_and_leaves_nothing(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        replace_file(path, "\ud800", 0o644)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
