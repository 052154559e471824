"""The pages as a whole."""

import inspect
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from evaluator import ui
from evaluator.permissions import make_private
from evaluator.serving.access import Refusal

ROOT = Path(__file__).parent.parent.parent
DOCS = (ROOT / "docs" / "app.md").read_text(encoding="utf-8")


def test_every_page_is_named_in_the_docs():
    for _, title in ui.PAGES:
        assert f"\n| {title['title']} | " in DOCS, title["title"]


def test_app_py_is_short_and_runs(store_path, monkeypatch):
    lines = [line for line in (ROOT / "app.py").read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(lines) <= 10
    monkeypatch.setenv("EVALUATOR_STORE", str(store_path))
    monkeypatch.chdir(ROOT)
    shown = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    assert not shown.exception
    assert [element.value for element in shown.title] == ["Releases"]
    # Without the server of `evaluator app`, the page itself sends the script of its links.
    (script,) = [element.proto for element in shown.get("html") if "<script>" in element.proto.body]
    assert script.unsafe_allow_javascript
    assert "history.pushState" in script.body


def test_a_private_store_is_not_shown_where_nobody_is_known(own, html, monkeypatch):
    make_private(own)
    monkeypatch.setenv("EVALUATOR_STORE", str(own))
    monkeypatch.chdir(ROOT)
    shown = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60).run()
    assert "This store is private" in html(shown)
    assert "To read it, start `evaluator app`".replace("`", "") in re.sub("</?code>", "", html(shown))
    assert not shown.title
    assert "cart" not in html(shown)


@pytest.mark.parametrize("title", [settings["title"] for _, settings in ui.PAGES])
def test_what_fails_around_a_page_is_a_sentence_and_no_page_of_streamlit(title, store_path, html, monkeypatch):
    def fail(_store):
        raise PermissionError(13, "Permission denied", "/srv/evaluator.data")

    monkeypatch.setenv("EVALUATOR_STORE", str(store_path))
    monkeypatch.setattr("evaluator.ui.frame.hide_private_store", fail)
    shown = AppTest.from_string(f"""
        from evaluator.ui import PAGES, open_frame
        (show_page,) = [run for run, settings in PAGES if settings["title"] == {title!r}]
        open_frame({title!r}, show_page)
    """).run()
    assert not shown.exception
    assert "/srv/evaluator.data cannot be used: Permission denied." in html(shown)
    assert 'role="alert"' in html(shown)


def break_into_noise(store):
    store.write_bytes(bytes(range(256)) * 16)


def break_off(store):
    store.write_bytes(store.read_bytes()[:5000])


def replace_by_a_folder(store):
    store.unlink()
    store.mkdir()


def break_decisions(store):
    store.with_name("evaluator.control.sqlite").write_bytes(b"no database" * 100)


@pytest.mark.parametrize("break_store", [break_into_noise, break_off, replace_by_a_folder, break_decisions])
def test_a_broken_store_is_a_sentence_with_a_command_on_every_page(break_store, own, html, page):
    break_store(own)
    for name in ("releases", "release", "compare", "plan", "promote"):
        shown = page(name, own, release="cart@1.6.0")
        assert not shown.exception
        words = unescape(html(shown))
        assert 'role="alert"' in words, name
        assert "unexpected" not in words
        assert f"<code>evaluator --store {own} rollback cart@1.6.0 --reason WHY</code>" in words, name


def test_a_page_without_a_store_fills_by_itself(store_path, tmp_path, html, page):
    path = tmp_path / "new" / "evaluator.duckdb"
    for name in ("releases", "release", "compare", "promote", "audit"):
        shown = page(name, path)
        assert f"There is no store at {path} yet." in html(shown), name
        assert f"<code>evaluator --store {path} demo</code>" in html(shown)
        assert "traffic" not in html(shown)  # nothing was promoted that could go back
    shutil.copytree(store_path.parent, path.parent)
    assert "There is no store at" in html(shown)
    assert "There is no store at" not in html(shown.run())


def test_mistakes_in_a_policy_are_lines_with_code(shop, html, page):
    store = shop("gates: 1\nmetrics:\n  - {name: p95, type: latency_quantil, margin: 1%}\n")
    words = html(page("promote", store, release="cart@1.9.0"))
    assert "<br>" in words
    assert "\\n" not in words
    assert "`" not in words


def test_parts_that_refresh_themselves_are_hidden_once_the_store_is_private(own, html, page):
    make_private(own)
    for name in ("release", "promote"):
        shown = page(name, own, refusal=Refusal.NO_SESSION, release="cart@1.6.0")
        assert "This store is private" in html(shown)
        assert "cart" not in html(shown)
        assert not page(name, own, release="cart@1.6.0").exception
        assert "This store is private" not in html(page(name, own, release="cart@1.6.0"))


def test_a_fault_of_a_page_is_a_sentence_and_the_log_has_the_rest(html, caplog):
    def script():
        from evaluator.ui.frame import guarded

        def broken():
            raise RuntimeError("secret detail")

        guarded(broken)()

    shown = AppTest.from_function(script).run()
    assert not shown.exception
    assert "This part could not be shown: unexpected RuntimeError." in html(shown)
    assert "secret detail" not in html(shown)
    assert "secret detail" in caplog.text


def test_a_store_that_is_being_written_names_who_and_offers_to_try_again(html):
    def script():
        from evaluator.errors import StoreBusy
        from evaluator.ui.frame import guarded

        def busy():
            raise StoreBusy("the store is kept by process 4711", hint="try again when it has ended")

        guarded(busy)()

    shown = AppTest.from_function(script).run()
    assert "process 4711" in html(shown)
    assert shown.button[0].label == "Try again"


def test_pages_read_the_store_in_one_place_only():
    folder = Path(inspect.getfile(ui)).parent
    users = {
        path.name for path in folder.glob("*.py") if "evaluator.store import" in path.read_text().split("SNIPPET")[0]
    }
    assert users <= {"reads.py"}


def test_a_store_that_is_used_or_locked_away_is_a_sentence_with_its_remedy(own, page, html, monkeypatch):
    monkeypatch.setattr("evaluator.ui.reads.WAIT_S", 0.2)
    holder = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(own)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        shown = page("releases", own)
        process.stdin.close()
    assert "Another process uses the store." in html(shown)
    sentence = r"kept open by process \d+ .* for more than 0\.2 s\. Close the program .*, and try again\."
    assert re.search(sentence, html(shown))
    assert "Try again" in [each.label for each in shown.button]

    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("evaluator.store.control_file.sqlite3.connect", refuse)
    page_text = html(page("audit", own))
    assert "check the path, its permissions and the disk" in page_text
    assert "restore a backup" not in page_text
