"""A/B tests as rollouts: what the policy refuses, and what the driver does at the planned end."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from rollout_world import AB_TEST, START, Found, World, make_plan

from evaluator.errors import PolicyError, UsageError
from evaluator.policy import parse_policy
from evaluator.records import Release
from evaluator.records.intents import Person
from evaluator.records.rollouts import JudgedAt, Rollout, RolloutOutcome, from_plain, split_traffic, to_plain
from evaluator.rollout.collaborators import StepAnswers
from evaluator.rollout.describing import find_exit_code
from evaluator.rollout.planning import make_plan as plan_policy
from evaluator.rollout.reporting import RolloutFacts, make_report
from evaluator.rollout.starting import check_start, draft_rollout
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts

MAP = {"socket": "/run/h.sock", "map": "/etc/shop.map", "servers": {"baseline": "a", "b": "b", "c": "c"}}
CONVERSION = {"name": "conversion", "type": "outcome_proportion", "outcome": "bought", "margin": "0pp"}
FAILURES = {"name": "failures", "type": "failure_rate", "role": "gate", "margin": "1pp"}
POLICY = {"service": "shop", "metrics": [CONVERSION], "rollout": AB_TEST | {"router": {"shop": {"haproxy": MAP}}}}
WON = Found("go", no_harm=False, arm="c", is_sound=True)
NO_ARM = Found("inconclusive", no_harm=False, missing=("conversion rose by 0.1 pp (-0.2 to 0.4)",), is_sound=True)
BROKEN = Found("inconclusive", no_harm=False, missing=("outcomes.csv cannot be read",))
BEGAN = datetime.fromtimestamp(START, UTC)
END, TO_WINNER = 3, 4


@pytest.fixture
def world():
    """Its planned end has what is in `at_end`, by the look; before, requests show no harm."""
    made = World(make_plan(AB_TEST, groups=[["shop"]]))
    made.at_end = {JudgedAt.BAKE: WON, JudgedAt.DEADLINE: WON}
    judge = made.judge

    def judge_end(position, look):
        found = judge(position, look)
        return made.at_end.get(look, Found("inconclusive")) if position == END else found

    made.judge = judge_end
    return made


def shares_of(world):
    return world.traffic.status.realised["shop"]


def looks_at_end(world):
    """Looks that read outcomes."""
    return [look for position, look in world.looks if position == END and look is not JudgedAt.MEANWHILE]


def test_the_arm_that_won_gets_all_users(world):
    assert world.drive() is RolloutOutcome.PROMOTED
    assert shares_of(world) == {"baseline": 0.0, "c": 1.0}
    assert find_exit_code(world.plan, world.events) == 0
    assert any("all traffic is at c" in text for text in world.said)
    assert any("25 %: is GO: c has won" in text for text in world.said)
    assert looks_at_end(world) == [JudgedAt.BAKE], "one look, at the end"


def test_users_go_back_if_no_arm_won(world):
    world.at_end = dict.fromkeys(world.at_end, NO_ARM)
    assert world.drive() is RolloutOutcome.ROLLED_BACK
    assert (TO_WINNER in world.executed, shares_of(world)["baseline"]) == (False, 1.0)
    assert find_exit_code(world.plan, world.events) == 3, "no failure"
    assert any("goes back to the baseline: no arm won 25 %" in text for text in world.said)


def test_a_no_go_on_all_arms_is_one_and_says_so(world):
    world.at_end = dict.fromkeys(world.at_end, Found("no_go", no_harm=False, is_sound=True))
    assert world.drive() is RolloutOutcome.ROLLED_BACK
    assert find_exit_code(world.plan, world.events) == 1


def test_a_no_go_before_the_end_turns_it_back_and_outcomes_are_not_read(world):
    world.found[1] = [Found("no_go", no_harm=False)]
    assert world.drive() is RolloutOutcome.ROLLED_BACK
    assert END not in [position for position, _ in world.looks]


def test_people_are_asked_about_data_that_cannot_be_believed_and_an_agreement_judges_once_more(world):
    world.at_end[JudgedAt.BAKE], world.answers = BROKEN, StepAnswers()
    world.at(100, lambda: setattr(world, "answers", StepAnswers(("ben",))))
    assert world.drive() is RolloutOutcome.PROMOTED
    assert looks_at_end(world) == [JudgedAt.BAKE, JudgedAt.DEADLINE]
    assert "an agreement is to read and judge them once more" in world.asked[0][1]
    assert "outcomes.csv cannot be read" in world.asked[0][1], "with the cause"


@pytest.mark.parametrize(
    ("answers", "code"), [(StepAnswers(("ben",)), 4), (StepAnswers((), "ben"), 3), (StepAnswers(), 3)]
)
def test_no_answer_lets_an_arm_win(world, answers, code):
    world.at_end, world.answers = dict.fromkeys(world.at_end, BROKEN), answers
    assert world.drive() is RolloutOutcome.ROLLED_BACK
    assert TO_WINNER not in world.executed
    assert find_exit_code(world.plan, world.events) == code


@pytest.mark.parametrize(
    "found",
    [
        Found("go", no_harm=True, is_sound=True),
        Found("go", no_harm=True, arm="c"),
        Found("inconclusive", no_harm=True, arm="c"),
    ],
)
def test_a_go_without_an_arm_or_without_sound_data_is_no_winner(world, found):
    world.at_end = dict.fromkeys(world.at_end, found)
    assert world.drive() is RolloutOutcome.ROLLED_BACK
    assert TO_WINNER not in world.executed


@pytest.mark.parametrize("after", range(1, 22))
def test_a_driver_that_is_killed_at_any_event_goes_on_to_the_same_end(world, after):
    """Also between the verdict that c has won and the shift to it."""
    add = world.add

    def add_until_killed(event):
        add(event)
        if len(world.events) == after:
            raise SystemExit

    world.add = add_until_killed
    try:
        world.drive()
    except SystemExit:
        world.add = add
        world.drive()
    assert world.events[-1].outcome is RolloutOutcome.PROMOTED
    assert shares_of(world) == {"baseline": 0.0, "c": 1.0}
    assert world.executed.count(TO_WINNER) == 1
    assert world.looks.count((END, JudgedAt.BAKE)) == 1


def report_of(world):
    rollout = Rollout("r1", "shop@2", to_plain(world.plan), world.plan.hash(), {}, "ann", ("ann",), "test", BEGAN)
    return make_report(RolloutFacts(rollout, tuple(world.events)), BEGAN + timedelta(seconds=300))


def test_the_report_names_the_arm_that_won(world):
    world.drive()
    page = report_of(world)
    assert page.word.startswith("PROMOTED")
    assert page.why.endswith("the router says that c, the arm that won, has all traffic.")
    assert "judged after its time: GO, c has won" in [event.what for event in page.happenings]


def test_the_report_of_a_test_without_a_winner_asks_for_no_repair(world):
    world.at_end = dict.fromkeys(world.at_end, NO_ARM)
    world.drive()
    page = report_of(world)
    assert page.word.startswith("ROLLED BACK")
    assert (page.why, page.next_action[:8]) == ("Turned back at 25 %: no arm won 25 %.", "nothing;")


# ------------------------------------------------------------------ the plan


def refuse(changed, **policy):
    with pytest.raises(PolicyError) as error:
        plan_policy(
            parse_policy(
                {k: v for k, v in {**POLICY, **policy}.items() if v} | {"rollout": POLICY["rollout"] | changed}
            ),
            "shop@2",
        )
    return f"{error.value.message} {error.value.hint}"


def stages(*changed):
    return [stage | change for stage, change in zip(AB_TEST["stages"], changed, strict=True)]


def test_the_plan_names_arms_and_is_read_back():
    plan = plan_policy(parse_policy(POLICY), "shop@2")
    assert [step.name for step in plan.steps][::2] == [
        "shop to b 10 %, c 10 %",
        "shop to b 25 %, c 25 %",
        "shop to the arm that won",
    ]
    assert plan.candidates == ("b", "c")
    assert from_plain(to_plain(plan)) == plan
    assert split_traffic(plan.steps[2]) == {"baseline": 0.5, "b": 0.25, "c": 0.25}
    assert split_traffic(plan.steps[4], "b") == {"baseline": 0.0, "b": 1.0}
    with pytest.raises(ValueError, match="no arm has won"):
        split_traffic(plan.steps[4])


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"stages": stages({"shares": {"b": "50%", "c": "50%"}}, {}, {})}, "nothing is left for the baseline"),
        ({"stages": stages({"shares": {"b": "60%", "c": "60%"}}, {}, {})}, "120%"),
        ({"stages": stages({"shares": {"b": "10%", "baseline": "80%"}}, {}, {})}, "share of baseline"),
        ({"stages": stages({"shares": {"b": "0%", "c": "10%"}}, {}, {})}, "gives nothing to b"),
        ({"stages": stages({}, {"shares": {"b": "25%", "d": "25%"}}, {})}, "the arms b and d, not b and c"),
        ({"stages": stages({}, {"shares": {"b": "5%", "c": "45%"}}, {})}, "takes users away from b"),
        ({"stages": stages({}, {"needs": "no_harm"}, {})}, "needs: winner"),
        ({"stages": stages({"needs": "winner"}, {}, {})}, "only the last split has"),
        ({"stages": stages({"needs": "go"}, {}, {})}, "before the planned end"),
        ({"stages": stages({}, {}, {"needs": "winner"})}, "needs: nothing"),
        ({"stages": stages({}, {"deadline": "90s"}, {})}, "leave deadline out"),
        ({"stages": stages({}, {"share": "50%"}, {})}, "name one of them"),
        ({"stages": AB_TEST["stages"][2:]}, "needs a stage that splits users"),
        ({"stages": AB_TEST["stages"][:2]}, "share: 100%"),
        ({"outcomes": None}, "decided by outcomes"),
        ({"outcomes": {"files": ["o.csv"]}}, "outcomes: {time: COLUMN}"),
        ({"outcomes": {"time": "at"}}, "files, command or query"),
        ({"outcomes": {"files": ["o.csv"], "command": ["x"], "time": "at"}}, "files, command or query"),
        ({"outcomes": {"files": ["o.csv"], "database": "x", "time": "at"}}, "database"),
        ({"outcomes": {"files": ["o.csv"], "time": "at", "time_zone": "Mars/Olympus"}}, "no time zone Mars"),
        ({"strategy": "canary"}, "only strategy: ab_test"),
        ({"router": {"shop": {"haproxy": MAP | {"servers": {"baseline": "a", "b": "b"}}}}}, "the arms baseline, b, c"),
        ({"acts": {"10 %": [{"name": "deploy", "arm": "d"}]}}, "no arm 'd'"),
        (
            {"router": {"shop": {"haproxy": {k: v for k, v in MAP.items() if k != "map"} | {"backend": "shop"}}}},
            "docs/ab-test.md",
        ),
    ],
)
def test_what_contradicts_is_refused(changed, says):
    assert says in refuse(changed)


def test_metrics_and_services_that_cannot_decide_a_test_are_refused():
    assert "no metric of outcomes decides" in refuse({}, metrics=[CONVERSION | {"role": "watch"}, FAILURES])
    assert "no metric of outcomes decides" in refuse({}, metrics=[FAILURES])
    live = {"access_log": {"shop": "shop.log", "cart": "cart.log"}}
    routers = {name: {"haproxy": MAP} for name in ("shop", "cart")}
    assert "of one service" in refuse(
        {"router": routers, "live": live, "order": ["shop", "cart"]}, service=None, services=["shop", "cart"]
    )


# ------------------------------------------------------------------ the document


DOCUMENT = (Path(__file__).parents[2] / "docs" / "ab-test.md").read_text(encoding="utf-8")


def test_examples_of_the_document_are_plans_and_sources():
    blocks = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)]
    policies = [block for block in blocks if "rollout" in block]
    assert [step.name for step in plan_policy(parse_policy(policies[0]), "shop@2").steps[:2]] == [
        "deploy b",
        "deploy c",
    ]
    for block in [block["outcomes"] for block in blocks if "outcomes" in block]:
        plan_policy(parse_policy(POLICY | {"rollout": POLICY["rollout"] | {"outcomes": block}}), "shop@2")
    routers = [block for block in blocks if set(block) & {"haproxy", "nginx"}]
    assert len(routers) == 2, "the tests of hooks run them"


def test_a_second_rollout_of_a_service_is_refused_before_its_router_is_looked_at(tmp_path):
    """What the first one does to the router, such as drained servers, is no mistake that a person should repair."""
    store, policy = Store.open(tmp_path / "evaluator.duckdb", create=True), parse_policy(POLICY)
    drafts = [
        draft_rollout(policy, plan_policy(policy, release), Person("ann", ("ann",)), "test", is_queued=False)
        for release in ("shop@2", "shop@3")
    ]
    Rollouts(store.control.file).start(drafts[0])
    with pytest.raises(UsageError, match="rollout r1 of shop@2 has not ended, and it has shop, too"):
        check_start(store, plan_policy(policy, "shop@3"), drafts[1], Release("shop@3"))
