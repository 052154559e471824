"""The log of verdicts."""

import re

from evaluator.intents import ActionRequest, approve, ask, execute_waiting
from evaluator.policy import load_policy
from evaluator.records.intents import Action, Person
from evaluator.store import Store


def test_every_verdict_with_what_it_rests_on(page, store_path, text):
    shown = page("audit", store_path)
    page_text = text(shown)
    assert not shown.exception
    for release in ("cart@1.5.0", "cart@1.9.0"):
        assert release in page_text
    assert page_text.count('title="sha256:') == 10


def test_filters_are_in_the_address(page, store_path, text):
    table = text(page("audit", store_path, word="NO-GO", q="cart")).split("</table>")[0]
    assert "cart@1.6.0" in table
    assert "cart@1.9.0" not in table


def test_nothing_yet(page, tmp_path, text):
    Store.open(tmp_path / "evaluator.duckdb", create=True)
    assert "No verdict was given yet." in text(page("audit", tmp_path / "evaluator.duckdb"))


def test_a_promotion_is_one_entry_with_its_rows_inside(page, shop, text):
    path = shop(
        "roles: {analyst: [ana], approver: [bob]}\napprovals: {self_approval: false}\n"
        "hooks: {promote: [{command: {run: [echo, '${release}']}}]}\n"
    )
    store, policy = Store.open(path), load_policy(path.parent / "evaluator.yaml")
    ana, bob = (Person(name, (name,)) for name in ("ana", "bob"))
    approve(store, policy, bob, ask(store, policy, ana, ActionRequest(Action.PROMOTE, "cart@1.9.0", "<b>fine</b>")).id)
    execute_waiting(store, lambda _release: policy, "worker host.example.org:4711")
    store.control.note("eve", "note", "cart@1.6.0", "slow disk")
    shown = page("audit", path)
    page_text = text(shown)
    assert not shown.exception
    assert page_text.count("<details>") == 1
    assert "ana requested, bob approved: &lt;b&gt;fine&lt;/b&gt;<" in page_text
    assert '<span class="status ok">✓ done</span>' in page_text
    assert re.search(r">\d{4}-\d\d-\d\d \d\d:\d\d:\d\d</time> <strong>promote</strong>", page_text)
    assert '<span title="worker host.example.org:4711">worker</span>' in page_text
    assert "<strong>note</strong>" in page_text
    assert page_text.index("slow disk") < page_text.index("<details>"), "the newest first"
    assert "slow disk" not in text(page("audit", path, q="cart@1.9")).split("</ul>")[0]
    labels = [element.label for element in (*shown.text_input, *shown.selectbox)]
    assert labels == ["Releases that contain", "Verdict"]
