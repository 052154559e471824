"""Ctrl-C during the import of DuckDB is delivered after it."""

import subprocess
import sys

CODE = """
import sys, threading
sys.path.insert(0, sys.argv[1])

def run():
    try:
        import evaluator.store.library
    except KeyboardInterrupt:
        print("interrupted, library", "whole" if hasattr(sys.modules["duckdb"], "finished") else "broken")
    else:
        print("imported")

if len(sys.argv) > 2:
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
else:
    run()
"""


def execute(tmp_path, *arguments):
    (tmp_path / "tried.py").write_text(CODE)
    words = [sys.executable, tmp_path / "tried.py", tmp_path, *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_it_is_delivered_afterwards(tmp_path):
    (tmp_path / "duckdb.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\nfinished = True\n")
    assert execute(tmp_path) == "interrupted, library whole\n"


def test_other_threads_import_it_as_it_is(tmp_path):
    assert execute(tmp_path, "in another thread") == "imported\n"
