"""Private files are those that only their owner can read."""

import os
import threading

from evaluator.permissions import choose_file_mode, is_private, make_private, private_files


def mode(path):
    return path.stat().st_mode & 0o777


def test_files_are_private_until_the_last_block_ends(tmp_path, monkeypatch):
    before = os.umask(0o022)
    try:
        inside, go_on = threading.Event(), threading.Event()

        def make_private_elsewhere():
            with private_files():
                inside.set()
                go_on.wait(10)

        thread = threading.Thread(target=make_private_elsewhere)
        with private_files():
            thread.start()
            inside.wait(10)
        (tmp_path / "a").touch()  # the other thread still makes private files
        assert choose_file_mode(private=False) == 0o644
        go_on.set()
        thread.join()
        (tmp_path / "b").touch()
        with private_files(when=False):
            (tmp_path / "c").touch()
        assert [mode(tmp_path / name) for name in "abc"] == [0o600, 0o644, 0o644]
        assert (choose_file_mode(private=True), choose_file_mode(private=False)) == (0o600, 0o644)
    finally:
        os.umask(before)


def test_a_folder_becomes_private_with_all_that_is_in_it_and_nothing_else(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    inner = tmp_path / "data" / "run"
    inner.mkdir(parents=True)
    (inner / "segment").touch(mode=0o664)
    (inner / "script").touch(mode=0o755)
    (inner / "link").symlink_to(outside)
    (inner / "dead").symlink_to(tmp_path / "nothing")
    make_private(tmp_path / "data")
    assert [mode(path) for path in (tmp_path / "data", inner, inner / "segment", inner / "script")] == [
        0o700, 0o700, 0o600, 0o700,
    ]  # fmt: skip
    assert not is_private(outside)
    assert is_private(inner)
    assert not is_private(tmp_path / "nothing")
    make_private(tmp_path / "nothing")
