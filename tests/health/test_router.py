"""What the access log of a router says: which parts of it forbid a GO, and how the sentence names them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from judging import RULEBOOK, RUN, SMALL, evidence

from evaluator.health.left_out import check_aborts
from evaluator.health.router import check_router
from evaluator.records import (
    ACCESS_LOG_SOURCE,
    ArmRows,
    LeftOut,
    LeftOutKind,
    Level,
    MetricStatus,
    RouterFacts,
    RunFacts,
    RunState,
)
from evaluator.simulate import simulate_cells

CELLS = simulate_cells(SMALL, 1)
READ = {arm: int(CELLS.moments.n[CELLS.moments.arm == code].sum()) for code, arm in enumerate(CELLS.arms)}
ANSWERS = sum(READ.values())


def find(check, left_out=(), runs=1, **facts):
    """Level and text of the finding of a check on runs of an access log; None if it has none."""
    router = RouterFacts(**{"answers": ANSWERS, **facts})
    read = {arm: rows + sum(part.rows for part in left_out if part.arm == arm) for arm, rows in READ.items()}
    run = replace(
        RUN,
        source=ACCESS_LOG_SOURCE,
        facts=RunFacts(router=router, read=read, left_out=tuple(left_out)),
        landed=ANSWERS,
    )
    found = [f for f in evidence(CELLS, RULEBOOK, (run,) * runs).findings if f.check == check]
    assert len(found) <= 1
    return (found[0].level, found[0].text, found[0].remedy) if found else None


UNREAD = {"unread": {"that could not be read": 11, "of a.log went back": 2}}

CHECKS = (
    "router",
    "without_server",
    "retries",
    "other_servers",
    "grpc_status",
    "log_holes",
    "unread_lines",
    "late",
    "pooled_endpoints",
    "client_aborts",
)


def test_a_log_whose_requests_all_belong_to_an_arm_has_one_good_finding():
    assert [check for check in CHECKS if find(check)] == ["router"]
    assert find("router")[0] is Level.OK


def test_requests_of_no_router_have_no_such_finding():
    assert not [f for f in evidence(CELLS, RULEBOOK, (RUN,)).findings if f.check in CHECKS]


@pytest.mark.parametrize(
    ("check", "level", "says", "facts"),
    [
        # 0.1 % of some 24,000 requests are 24.
        pytest.param("without_server", Level.WARN, "4 of ", {"without_server_failures": 4}, id="few without server"),
        pytest.param("without_server", Level.FAIL, "reached no server", {"without_server_failures": 60}, id="many"),
        pytest.param("without_server", Level.OK, "the router itself answered", {"without_server": 900}, id="own"),
        pytest.param(
            "retries", Level.WARN, "baseline 3, canary 500", {"retried": {"canary": 500, "baseline": 3}}, id="r"
        ),
        # 0.1 % of the canary's 12,000 requests are 12.
        pytest.param("retries", Level.WARN, "0.0", {"retried_by_unknown": 5}, id="few of unknown servers"),
        pytest.param("retries", Level.FAIL, "if it was always one of canary", {"retried_by_unknown": 20}, id="many"),
        pytest.param("retries", Level.FAIL, "does not show retries", {"retries_hidden": True}, id="hidden"),
        pytest.param("other_servers", Level.WARN, "b9, x", {"other_servers": {"x": 1, "b9": 5}}, id="others"),
        pytest.param(
            "other_servers", Level.FAIL, "c2", {"other_servers": {"c2": READ["canary"] + 1}}, id="large other"
        ),
        pytest.param("grpc_status", Level.WARN, "canary 3 of", {"grpc_unread": {"canary": 3}}, id="few unread"),
        pytest.param("grpc_status", Level.FAIL, "baseline 900 of", {"grpc_unread": {"baseline": 900}}, id="unread"),
        pytest.param("unread_lines", Level.WARN, "5 that co", {"unread": {"that could not be read": 5}}, id="few"),
        pytest.param("unread_lines", Level.FAIL, "2 of a.log went back", UNREAD, id="many lines"),
        pytest.param("log_holes", Level.FAIL, "not known for how long", {"holes": ("a.log is gone",)}, id="hole"),
        pytest.param("log_holes", Level.WARN, "2 s of", {"holes": ("a", "b", "c", "d"), "unread_s": 2.0}, id="small"),
        pytest.param("log_holes", Level.FAIL, "a.log", {"holes": ("a.log is gone",), "unread_s": 20.0}, id="large"),
        pytest.param("late", Level.WARN, "3 of", {"late": 3}, id="few late"),
        pytest.param("late", Level.FAIL, "500 of", {"late": 500}, id="many late"),
        pytest.param(
            "pooled_endpoints",
            Level.WARN,
            "GET /u/ann",
            {"endpoints_pooled": 9, "pooled_example": "GET /u/ann"},
            id="pool",
        ),
    ],
)
def test_what_a_router_did_is_named_and_forbids_a_go_where_it_could_hide_failures(check, level, says, facts):
    if "without_server_failures" in facts:
        facts = {**facts, "without_server": facts["without_server_failures"]}
    found_level, text, remedy = find(check, **facts)
    assert found_level is level
    assert says in text
    assert remedy or level is Level.OK or check == "retries"


def test_users_who_got_a_failure_are_named_with_attempts_that_failed():
    says = find("retries", retried={"canary": 500}, failed_answers=7)[1]
    assert f"in the end 7 of {ANSWERS:,} requests in the log (0.02" in says
    assert says.endswith("failed for the user")
    assert "for the user" not in find("retries", retried={"canary": 500})[1], "it is not known"


def test_an_unread_line_forbids_no_go_that_it_could_not_change():
    """A line in a million is no reason to wait, and a share of lines that could be failures of the canary is one."""
    level, text, _ = find("unread_lines", unread={"that could not be read": 12})
    assert (level, "if each was a failure of canary, its failure rate is 0.0" in text) == (Level.WARN, True)
    assert find("unread_lines", unread={"that could not be read": 13})[0] is Level.FAIL


def test_four_failures_are_no_sign_even_in_a_short_log():
    assert find("without_server", answers=100, without_server=4, without_server_failures=4)[0] is Level.WARN
    assert find("without_server", answers=100, without_server=5, without_server_failures=5)[0] is Level.FAIL


def test_numbers_of_several_runs_are_added_up():
    assert find("retries", runs=1, retried_by_unknown=10)[0] is Level.WARN
    level, text, _ = find("retries", runs=2, retried_by_unknown=10)
    assert (level, "retried 20 failed attempts" in text) == (Level.FAIL, True)
    assert "4 s of" in find("log_holes", runs=2, holes=("x",), unread_s=2.0)[1]


def test_without_a_candidate_unknown_attempts_forbid_a_go():
    run = replace(RUN, facts=RunFacts(router=RouterFacts(answers=10, retried_by_unknown=1)))
    context = SimpleNamespace(runs=(run,), rows=(), rulebook=RULEBOOK, covered_s=300.0, release="cart@2")
    assert [f.level for f in check_router(context)] == [Level.FAIL]


@pytest.mark.parametrize(
    ("baseline", "canary", "level"),
    [
        pytest.param(100, 110, Level.OK, id="alike"),
        pytest.param(0, 400, Level.FAIL, id="users give up on the canary"),
        pytest.param(400, 0, Level.OK, id="on the baseline"),
    ],
)
def test_clients_that_give_up_on_the_candidate_forbid_a_go(baseline, canary, level):
    rows = {"baseline": baseline, "canary": canary}
    parts = [LeftOut(arm, LeftOutKind.CLIENT_ABORT, count) for arm, count in rows.items() if count]
    found_level, text, _ = find("client_aborts", parts)
    assert found_level is level
    assert f"baseline {baseline} of" in text
    assert f"canary {canary} of" in text


def test_more_aborts_than_chance_but_fewer_than_the_margin_of_failures_are_only_shown():
    """In a log of a million requests even 0.06 pp are more than chance."""
    rows = tuple(
        ArmRows(arm, 1_000_000, 1_000_000 - n, (LeftOut(arm, LeftOutKind.CLIENT_ABORT, n),))
        for arm, n in (("baseline", 300), ("canary", 900))
    )
    assert [f.level for f in check_aborts(SimpleNamespace(rulebook=RULEBOOK, rows=rows))] == [Level.OK]


def test_streams_on_one_arm_only_forbid_a_go_as_requests_may_be_among_them():
    left_out = (LeftOut("canary", LeftOutKind.STREAM, 900),)
    facts = RunFacts(read={**READ, "canary": READ["canary"] + 900}, left_out=left_out)
    found = [f for f in evidence(CELLS, RULEBOOK, (replace(RUN, facts=facts),)).findings if f.level is Level.FAIL]
    assert [f.check for f in found] == ["coverage"]
    assert "streams differ in share: baseline 0 of" in found[0].text


def find_of_load(check, *, landed=ANSWERS, **facts):
    """Level, text and remedy of the finding of a check on a load through a router; None if it has none."""
    router = RouterFacts(**{"answers": ANSWERS, **facts})
    run = replace(
        RUN, source="locust", landed=landed, facts=RunFacts(router=router, read=READ, counted=ANSWERS, pacing="open")
    )
    found = [f for f in evidence(CELLS, RULEBOOK, (run,)).findings if f.check == check]
    assert len(found) <= 1
    return (found[0].level, found[0].text, found[0].remedy) if found else None


@pytest.mark.parametrize(
    ("check", "level", "says", "helps", "facts"),
    [
        pytest.param("router", Level.OK, "of the load belong to an arm", "", {}, id="all of an arm"),
        pytest.param(
            "without_server", Level.FAIL, "no server is named", "always", {"without_server_failures": 60}, id="failures"
        ),
        pytest.param(
            "without_server", Level.WARN, "without a header", "docs/recording.md", {"without_server": 900}, id="some"
        ),
        pytest.param(
            "without_server", Level.FAIL, "without a header", "all answers", {"without_server": 20_000}, id="most"
        ),
        pytest.param(
            "retries", Level.FAIL, "the answers do not say", "--no-retries", {"retries_hidden": True}, id="not said"
        ),
        pytest.param(
            "retries", Level.FAIL, "the answers do not say which", "redispatch", {"retried_by_unknown": 99}, id="who"
        ),
        # The canary has 12,000 requests: 13 failures could be 0.1 % of them, and 121 requests are more than 1 %.
        pytest.param(
            "without_server", Level.FAIL, "no server is named", "always", {"without_server_failures": 13}, id="hidden"
        ),
        pytest.param(
            "without_server", Level.WARN, "no server is named", "always", {"without_server_failures": 4}, id="few"
        ),
        pytest.param(
            "other_servers",
            Level.FAIL,
            "of the load",
            "--arm-value ARM=c9",
            {"other_servers": {"c9": 140}},
            id="a part",
        ),
        pytest.param(
            "other_servers", Level.WARN, "of the load", "--arm-value ARM='x 1'", {"other_servers": {"x 1": 5}}, id="of"
        ),
    ],
)
def test_what_answers_to_a_load_say_of_the_router(check, level, says, helps, facts):
    facts = {"without_server": facts.get("without_server_failures", 0)} | facts
    found_level, text, remedy = find_of_load(check, **facts)
    assert found_level is level
    assert says in text
    assert helps in remedy
    assert "log" not in text


def test_requests_of_no_arm_are_recorded_and_attempts_are_none_that_locust_counted():
    others = {"without_server": 900, "other_servers": {"x": 50}}
    assert find_of_load("coverage", landed=ANSWERS - 950, **others)[0] is Level.OK
    assert find_of_load("coverage", landed=ANSWERS - 1900, **others)[0] is Level.FAIL
    assert find_of_load("coverage", landed=ANSWERS + 900, retried={"canary": 900})[0] is Level.OK
    # Those without an answer at the end are the router's, but Locust has not counted them.
    assert find_of_load("coverage", without_server=9000)[0] is Level.OK
    assert find_of_load("coverage", landed=ANSWERS + 900, without_server=9000)[0] is Level.FAIL


def test_users_behind_a_router_are_shared_and_not_counted_by_arm():
    assert find_of_load("pacing")[0] is Level.WARN
    assert "share their users" in find_of_load("pacing")[1]
    assert "--share canary=5%" in find_of_load("sample_ratio")[2]
    assert "load" not in find_of_load("comparability")[1]


def test_throughput_of_arms_behind_a_router_has_no_data():
    run = replace(RUN, source="locust", facts=RunFacts(router=RouterFacts(answers=ANSWERS)))
    (found,) = [c for c in evidence(CELLS, RULEBOOK, (run,)).comparisons if c.rule.name == "throughput" and not c.scan]
    assert (found.status, found.no_data) == (MetricStatus.NO_DATA, "a router chooses how many requests each arm gets")


def test_a_load_through_a_router_that_still_runs_is_no_go():
    run = replace(RUN, source="locust", state=RunState.RUNNING, fingerprint={"router": "http://shop.example"})
    found = [f for f in evidence(CELLS, RULEBOOK, (run,)).findings if f.check == "router"]
    assert [(f.level, f.void) for f in found] == [(Level.FAIL, False)]
