"""The report of a rollout: what it says in each state, and that nothing from outside gets through."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser

import pytest
from rollout_cases import START, at, make_cases, pass_steps, start_rollout

from evaluator.__main__ import run
from evaluator.guard.counters import CounterWatch
from evaluator.guard.setup import GuardReading, GuardStatus, describe_counts, read_status, to_plain
from evaluator.records import ACCESS_LOG_SOURCE, Release, Run
from evaluator.records.rollouts import EventKind, GuardLimits, RolloutOutcome
from evaluator.reports.rollout import StepRequests, to_html
from evaluator.rollout.reporting import RolloutFacts, find_return_s, make_report, read_facts
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts


@pytest.fixture(scope="module")
def cases():
    return make_cases()


@pytest.fixture(scope="module")
def report(cases):
    """Makes the report of a case."""

    def make(name):
        facts, seconds = cases[name]
        return make_report(facts, START + timedelta(seconds=seconds))

    return make


def test_a_rollout_that_went_back_says_where_why_and_when(report):
    shown = report("back")
    assert (shown.word, shown.kind) == ("ROLLED BACK ↩", "no_go")
    why = "the guard: 38 of 61 requests of cart failed in 10 s, more than 5 %"
    assert shown.why == f"Turned back at 50 %: {why}."
    assert [rung.state for rung in shown.ladder] == ["done", "undone", "turned", "skipped"]
    assert [(rung.wanted, rung.realised and round(rung.realised, 3)) for rung in shown.ladder] == [
        (None, None),
        (0.05, 0.05),
        (0.5, None),
        (1.0, None),
    ]
    assert [rung.note for rung in shown.ladder][1:] == ["no harm shown", "NO-GO ✗", "needs nothing"]
    assert dict(shown.facts)["off the traffic"] == "0.4 s after it was to go back"
    assert dict(shown.facts)["met the candidate"] == "4,939 requests, 215 of them failed"
    states = {row.number: row.state for row in shown.steps}
    assert states == {
        1: "undone", 2: "done", 3: "undone", 4: "done", 5: "undone", 6: "turned back here",
        7: "not begun", 8: "not begun", 9: "not begun", 10: "done",
    }  # fmt: skip
    turned = shown.steps[5]
    assert (turned.took, turned.notes) == ("46 s", (why,))
    assert [(one.what, one.person) for one in shown.happenings if one.person] == [("started", "ann"), ("agreed", "ben")]


def test_what_the_router_counted_stands_next_to_what_the_log_says(cases):
    """HAProxy logs no request whose server ends on a connection that was used before; its counters have it."""
    facts, seconds = cases["back"]
    counted = describe_counts([GuardReading("cart", "baseline", counted=9000, counted_failures=1),
                               GuardReading("cart", "canary", counted=4990, counted_failures=266)])  # fmt: skip
    assert counted == "the router counted 4,990 requests of canary of cart, 266 of them failed connections or answers"
    events = tuple(
        replace(event, text=counted) if event.kind is EventKind.RETURNED else event for event in facts.events
    )
    shown = make_report(replace(facts, events=events), START + timedelta(seconds=seconds))
    assert dict(shown.facts)["next to the log"].startswith(counted)
    assert counted in to_html(shown)


def test_an_answer_of_a_newer_guard_is_read():
    plain = to_plain(GuardStatus("r1", readings=(GuardReading("cart", "canary", counted=7, counted_failures=0),)))
    plain["readings"][0]["of_tomorrow"] = 1
    assert read_status(plain).counted.startswith("the router counted 7 requests of canary")


def test_the_counts_of_haproxy_are_those_since_the_guard_looks():
    answers = iter([(100, 3, 0), (130, 5, 2), (20, 1, 0)])  # the last after a reload

    def ask(_command):
        total, errors, bad = next(answers)
        head = "# pxname,svname,type,stot,scur,qcur,econ,eresp,hrsp_5xx,status"
        return f"{head}\nshop,c1,2,{total},0,0,{errors},{bad},0,UP\n"

    watch = CounterWatch(ask, "shop", {"c1": "canary"}.get, ("baseline", "canary"), GuardLimits(), by_status=True)
    for second in range(3):
        watch.look(float(second))
    assert (watch.counters["canary"].started, watch.counters["canary"].failures) == (50, 3)


@pytest.mark.parametrize(
    ("name", "word", "ladder", "next_action"),
    [
        ("new", "RUNNING", ["now", "later", "later", "later"], "`evaluator rollout status cart@1.5.0`"),
        ("running", "RUNNING", ["done", "now", "later", "later"], "`evaluator rollback cart@1.5.0` turns it back"),
        ("held", "HELD", ["done", "done", "now", "later"], "`evaluator rollout resume cart@1.5.0` lets it continue"),
        ("promoted", "PROMOTED ✓", ["done"] * 4, "`evaluator rollback cart@1.5.0` takes it back"),
        ("broken_off", "RUNNING", ["now", "later", "later", "later"], "evaluator rollout status"),
    ],
)
def test_what_is_now_and_what_to_do_next(report, name, word, ladder, next_action):
    shown = report(name)
    assert shown.word == word
    assert [rung.state for rung in shown.ladder] == ladder
    assert next_action in shown.next_action


def test_a_rollout_without_its_driver_says_so(report):
    facts = dict(report("broken_off").facts)
    assert facts["driver"] == "process 4711 on web1, which is gone"
    assert facts["newest event"] == "59.6 min ago"


def test_what_an_observation_waits_for(report):
    assert report("running").why == (
        "5 % is observed until 12:11:10 UTC; it needs no harm in 500 requests of each arm."
    )


def test_the_way_back_of_a_part(cases):
    events = (
        *pass_steps(0, 2, 5, 10),
        at(50, EventKind.BEGUN, 3),
        at(60, EventKind.STOPPED, person="ben", text="carts are empty"),
    )
    going = RolloutFacts(start_rollout(), events)
    shown = make_report(going, START + timedelta(seconds=62))
    assert shown.word == "GOING BACK ↩"
    assert dict(shown.facts)["off the traffic"] == "not yet"
    assert find_return_s(events) is None
    ended = (
        *events,
        at(61, EventKind.RETURNED),
        at(62, EventKind.UNDO_FAILED, text="deploy: exit code 1"),
        at(63, EventKind.ENDED, outcome=RolloutOutcome.ROLLED_BACK_PARTLY),
    )
    shown = make_report(RolloutFacts(start_rollout(), ended), START + timedelta(seconds=70))
    assert shown.word == "ROLLED BACK IN PART ✗"
    assert "hooks list" in shown.next_action
    assert "deploy: exit code 1" in {one.text for one in shown.happenings}


def test_a_run_of_which_nothing_has_landed_has_no_requests(tmp_path):
    store = Store.open(tmp_path / "evaluator.duckdb", create=True)
    store.data.register_run(
        Release("cart@1.5.0"), Run("r", "cart@1.5.0", "g", ACCESS_LOG_SOURCE, started=START, step="5 %")
    )
    facts = read_facts(store, Rollouts(store.control.file).start(start_rollout()))
    assert [(row.step, row.requests) for row in facts.exposures] == [("5 %", 0)]
    assert make_report(facts, START).word == "RUNNING"


class Page(HTMLParser):
    """Texts, and elements with their attributes."""

    def __init__(self):
        super().__init__()
        self.elements = []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))


@pytest.mark.parametrize("name", ["new", "running", "broken_off", "held", "back", "promoted", "hostile"])
def test_the_page_is_whole_and_brings_nothing_in(report, name):
    html = to_html(report(name))
    page = Page()
    page.feed(html)
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "img", "iframe", "object", "form"}
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    outside = [attributes["href"] for _, attributes in page.elements if "href" in attributes]
    assert all(target.startswith("#") or target == "data:," for target in outside)
    anchors = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert {target[1:] for target in outside if target.startswith("#")} <= anchors
    assert not re.search("[\x00-\x08\x1b\u202e]", html)


def test_a_share_that_is_off_by_more_than_a_point_is_marked(cases):
    facts, _ = cases["promoted"]
    for candidate, is_marked in ((5_080, False), (5_120, True), (4_880, True)):
        exposed = (StepRequests("50 %", 0.5, 10_000, candidate, 0, 0),)
        html = to_html(make_report(RolloutFacts(facts.rollout, facts.events, {}, exposed), START))
        assert ('<span class="differs">' in html) is is_marked


def test_the_command_writes_the_newest_rollout(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    store = Store.open(tmp_path / "evaluator.duckdb", create=True)
    assert run(["rollout", "report", "cart@1.5.0"]) == 2
    assert "cart@1.5.0" in capsys.readouterr().err
    store.control.add_release(Release("cart@1.5.0"))
    rollouts = Rollouts(store.control.file)
    first = rollouts.start(start_rollout(reason="the first"))
    rollouts.add_event(first, at(5, EventKind.ENDED, outcome=RolloutOutcome.ROLLED_BACK))
    rollouts.start(start_rollout(reason="the second"))
    assert run(["rollout", "report", "cart@1.5.0", "--format", "html=page.html"]) == 0
    assert "the second" in (tmp_path / "page.html").read_text()
    capsys.readouterr()
    assert run(["rollout", "report", "cart@1.5.0", "--rollout", "r1"]) == 0
    out = capsys.readouterr().out
    assert "the first" in out
    assert "ROLLED BACK" in out
    for options, sentence in (
        (["--rollout", "r7"], "r7"),
        (["--format", "pdf"], "pdf"),
        (["--format", "html="], "is not a file"),
        (["--format", "html=no/such/folder.html"], "the folder must exist"),
    ):
        assert run(["rollout", "report", "cart@1.5.0", *options]) == 2
        assert sentence in capsys.readouterr().err
