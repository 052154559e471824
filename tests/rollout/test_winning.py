"""The planned end of an A/B test: which outcomes let an arm win, and what does not."""

import json
import random
import sys
import time
from datetime import UTC, datetime, timedelta, timezone

import duckdb
import pytest
from rollout.test_ab_test import MAP, POLICY

from evaluator.policy import parse_policy
from evaluator.records import Release, Service
from evaluator.records.intents import Person
from evaluator.records.rollouts import Event, EventKind, JudgedAt, StepNeeds, from_plain
from evaluator.rollout.evidence import make_step_policy
from evaluator.rollout.planning import make_plan
from evaluator.rollout.starting import draft_rollout
from evaluator.rollout.winning import judge_test
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts

STAGE_S = 3600.0
BEGIN = float(int(time.time()) - 4 * STAGE_S)
"""When the first of two stages began; the second one ended an hour ago."""
SHARES = ({"A": 0.8, "b": 0.1, "c": 0.1}, {"A": 0.5, "b": 0.25, "c": 0.25})
BUYS = {"A": 0.10, "b": 0.10, "c": 0.16}
END = 3
"""Position of the step that needs a winner."""


def make_rows(buys=BUYS, shares=SHARES, users=(3000, 6000), zone=UTC, seed=3):
    """Users of both stages, each with one row: a tuple of user, arm, 0 or 1, and time."""
    chance, rows = random.Random(seed), []
    for stage, (of_stage, count) in enumerate(zip(shares, users, strict=True)):
        for n in range(count):
            (arm,) = chance.choices(list(of_stage), of_stage.values())
            at = BEGIN + stage * (STAGE_S + 60) + (n + 0.5) * STAGE_S / count
            moment = datetime.fromtimestamp(at, zone)
            rows.append((f"u{stage}-{n}", arm, int(chance.random() < buys[arm]), moment))
    return rows


def write(path, rows, *, with_zone=True):
    lines = [
        f"{user},{arm},{bought},{at.isoformat() if with_zone else at.replace(tzinfo=None)}"
        for user, arm, bought, at in rows
    ]
    path.write_text("\n".join(["user_id,variant,bought,at", *lines]) + "\n")


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path / "evaluator.duckdb", create=True)


BEGUN = ((BEGIN, 1), (BEGIN + STAGE_S + 60, END))
"""When the stages of the policy began, and their positions."""


def start(store, outcomes, stages=POLICY["rollout"]["stages"], begun=BEGUN):
    """A rollout that has come to the planned end of its test."""
    section = {"outcomes": {"time": "at"} | outcomes, "stages": [stage | {"bake": "1h"} for stage in stages]}
    router = {"shop": {"haproxy": MAP | {"servers": {name: name for name in ("baseline", *stages[0]["shares"])}}}}
    policy = parse_policy(POLICY | {"rollout": POLICY["rollout"] | section | {"router": router}})
    plan = make_plan(policy, "shop@2")
    store.control.add_release(Release("shop@2", (Service("shop", "1.0", arms={"b": "2.0-b", "c": "2.0-c"}),)))
    draft = draft_rollout(policy, plan, Person("ann", ("ann",)), "test", is_queued=False)
    rollout = Rollouts(store.control.file).start(draft)
    for number, (at, position) in enumerate(begun):
        Rollouts(store.control.file).add_event(rollout, Event(EventKind.BEGUN, at, position))
        if number < len(begun) - 1:
            Rollouts(store.control.file).add_event(rollout, Event(EventKind.DONE, at + STAGE_S, position))
    assert plan.steps[begun[-1][1]].needs is StepNeeds.WINNER
    return rollout


def judge(store, rollout, look=JudgedAt.BAKE):
    return judge_test(store, rollout, from_plain(rollout.plan), END, look, datetime.now(UTC))


def judge_files(store, tmp_path, rows, **written):
    write(tmp_path / "outcomes.csv", rows, **written)
    return judge(store, start(store, {"files": [str(tmp_path / "outcomes.csv")]}))


def assert_cannot_win(evidence, *words):
    assert (evidence.arm, evidence.is_sound) == ("", False)
    text = "; ".join(evidence.missing)
    for word in words:
        assert word in text, text


# ------------------------------------------------------------------ who wins


def test_the_better_arm_wins_and_its_version_becomes_that_of_the_release(store, tmp_path):
    evidence = judge_files(store, tmp_path, make_rows())
    assert (evidence.word, evidence.arm, evidence.is_sound, evidence.missing) == ("go", "c", True, ())
    (verdict,) = store.control.verdicts("shop@2")
    plain = json.loads(verdict.json)
    assert (plain["step"], plain["verdict"], evidence.data_hash) == ("25 %", "go", verdict.data_hash)
    assert plain["services"] == [
        {"name": "shop", "baseline": "1.0", "canary": "2.0-c", "arms": {"b": "2.0-b", "c": "2.0-c"}}
    ]
    assert plain["next_action"] == "c has won: the rollout gives it to all users"
    texts = [check["text"] for check in plain["health"] if check["check"] == "sample_ratio"]
    assert any("users of 10 %" in text for text in texts), "each stage has its counts"
    (service,) = store.control.release("shop@2").services
    assert (service.canary, service.baseline) == ("2.0-c", "1.0")


def test_no_arm_wins_where_none_is_better_and_the_data_are_sound(store, tmp_path):
    evidence = judge_files(store, tmp_path, make_rows(dict.fromkeys(BUYS, 0.1)))
    assert (evidence.arm, evidence.is_sound, evidence.word) == ("", True, "inconclusive")
    assert evidence.missing, "it says why"
    assert store.control.release("shop@2").services[0].canary == ""


def test_all_arms_that_are_worse_are_a_no_go(store, tmp_path):
    evidence = judge_files(store, tmp_path, make_rows({"A": 0.2, "b": 0.1, "c": 0.1}))
    assert (evidence.arm, evidence.word) == ("", "no_go")


def test_several_arms_have_to_be_paid_for(tmp_path):
    """An arm that is better by chance in one of 25 tests wins alone, and not as the better one of two."""
    counts = {"A": (6000, 600), "b": (3000, 300), "c": (3000, 339)}
    won = {}
    for arms in ("bc", "c"):
        folder = tmp_path / arms
        folder.mkdir()
        own = Store.open(folder / "evaluator.duckdb", create=True)
        rows = [
            (f"{arm}{n}", arm, int(n < bought), datetime.fromtimestamp(BEGIN + (n + 0.5) * STAGE_S / users, UTC))
            for arm, (users, bought) in counts.items()
            for n in range(users)
            if arm in ("A", *arms)
        ]
        write(folder / "outcomes.csv", rows)
        shares = {arm: "25%" if len(arms) == 2 else "33.33%" for arm in arms}
        stages = [{"name": "test", "shares": shares, "needs": "winner"}, POLICY["rollout"]["stages"][-1]]
        rollout = start(own, {"files": [str(folder / "outcomes.csv")]}, stages=stages, begun=((BEGIN, 1),))
        evidence = judge_test(own, rollout, from_plain(rollout.plan), 1, JudgedAt.BAKE, datetime.now(UTC))
        assert evidence.is_sound, evidence.missing
        won[arms] = evidence.arm
    assert won == {"bc": "", "c": "c"}


# ------------------------------------------------------------------ sample ratio


def test_the_ratio_is_that_of_each_stage_and_not_of_the_pool(store, tmp_path):
    """Pooled over both stages, these users have the shares of neither."""
    evidence = judge_files(store, tmp_path, make_rows(users=(4500, 4500)))
    assert evidence.is_sound


@pytest.mark.parametrize("stage", [0, 1])
def test_a_stage_with_other_shares_lets_no_arm_win(store, tmp_path, stage):
    wrong = {"A": 0.5, "b": 0.15, "c": 0.35} if stage else {"A": 0.8, "b": 0.05, "c": 0.15}
    shares = [wrong if n == stage else right for n, right in enumerate(SHARES)]
    assert_cannot_win(judge_files(store, tmp_path, make_rows(shares=shares)), "expected: baseline")


def test_users_of_several_arms_and_of_other_tests_let_no_arm_win(store, tmp_path):
    rows = make_rows()
    both = [*rows, *((user, "b", 0, at) for user, arm, _, at in rows[::20] if arm == "A")]
    assert_cannot_win(judge_files(store, tmp_path, both), "seen in several arms")


def test_an_arm_that_is_none_and_an_arm_without_users(tmp_path):
    cases = [
        ([(user, "x" if user.endswith("0") else arm, *rest) for user, arm, *rest in make_rows()], "x is no arm"),
        ([row for row in make_rows() if row[1] != "b"], "fewer than 100 of b"),
    ]
    for n, (rows, says) in enumerate(cases):
        folder = tmp_path / str(n)
        folder.mkdir()
        store = Store.open(folder / "evaluator.duckdb", create=True)
        assert_cannot_win(judge_files(store, folder, rows), says)


def test_values_that_are_no_outcome_let_no_arm_win_and_a_person_is_asked(store, tmp_path):
    """A share of users that bought needs 0 and 1: that no arm won is not known from other values."""
    rows = [(user, arm, 2 * bought, at) for user, arm, bought, at in make_rows()]
    assert_cannot_win(judge_files(store, tmp_path, rows), "c: conversion has no result: 'bought' has values other than")


def test_ids_and_times_are_read_as_they_are_written_and_no_row_is_left_out(store, tmp_path):
    """Ids look like numbers, of more digits than a number has; late rows are of guests. BigQuery writes the times."""
    rows = []
    for n, (_, *rest) in enumerate(make_rows(users=(15000, 15000))):
        is_guest = n > 22000 and n % 12 == 0
        rows.append((f"guest {n}" if is_guest else f"{1_000_000_000 + n}.{1_700_000_000 + n}", *rest))
    write(tmp_path / "outcomes.csv", rows)
    write_assigned(tmp_path / "assigned.csv", rows)
    text = (tmp_path / "outcomes.csv").read_text()
    (tmp_path / "outcomes.csv").write_text(text.replace("+00:00", " UTC"))
    files = {name: [str(tmp_path / f"{name}.csv")] for name in ("outcomes", "assigned")}
    evidence = judge(store, start(store, {"files": files["outcomes"], "assigned": files["assigned"]}))
    assert evidence.arm == "c", evidence.missing
    run = next(run for run in store.data.runs("shop@2") if run.step == "25 %")
    assert sum(moments.n for moments in store.data.read_outcomes(run).moments) == 15000


def test_a_row_that_cannot_be_split_is_named_by_its_line(store, tmp_path):
    rows = [(user, arm, f"{bought},x" if user == "u1-7" else bought, at) for user, arm, bought, at in make_rows()]
    assert_cannot_win(judge_files(store, tmp_path, rows), "outcomes.csv:3009: the row has 5 values, the header 4")


def test_a_value_that_is_missing_is_named_by_its_row_and_stage(store, tmp_path):
    rows = [(user, "" if user == "u1-7" else arm, *rest) for user, arm, *rest in make_rows()]
    evidence = judge_files(store, tmp_path, rows)
    assert_cannot_win(evidence, "row 8 of the outcomes of 25 %: column 'variant' has no value")
    assert "/tmp/evaluator" not in str(evidence.missing)


# ------------------------------------------------------------------ half of it, and at other times


def test_half_of_the_time_and_too_few_users_let_no_arm_win(store, tmp_path):
    rows = make_rows()
    evidence = judge_files(store, tmp_path, rows[: 3000 + 3000])
    assert_cannot_win(evidence, "25 % has no rows of outcomes after")


def test_too_few_users(store, tmp_path):
    assert_cannot_win(judge_files(store, tmp_path, make_rows(users=(60, 60))), "fewer than 100 of")


def test_times_of_another_zone_are_read_by_their_zone(store, tmp_path):
    evidence = judge_files(store, tmp_path, make_rows(zone=timezone(timedelta(hours=5, minutes=30))))
    assert evidence.arm == "c"


def test_times_without_a_zone_are_refused(store, tmp_path):
    evidence = judge_files(store, tmp_path, make_rows(), with_zone=False)
    assert_cannot_win(evidence, "none of the 9,000 rows", "9,000 have no time in at with its zone")


def test_times_without_a_zone_are_those_of_the_zone_that_is_named(store, tmp_path):
    berlin = timezone(timedelta(hours=1))
    if datetime.now(UTC).astimezone().month not in (11, 12, 1, 2):
        berlin = UTC
    write(tmp_path / "outcomes.csv", make_rows(zone=berlin), with_zone=False)
    zone = "Etc/GMT-1" if berlin is not UTC else "UTC"
    rollout = start(store, {"files": [str(tmp_path / "outcomes.csv")], "time_zone": zone})
    assert judge(store, rollout).arm == "c"


def test_times_in_the_wrong_zone_let_no_arm_win(store, tmp_path):
    write(tmp_path / "outcomes.csv", make_rows(), with_zone=False)
    rollout = start(store, {"files": [str(tmp_path / "outcomes.csv")], "time_zone": "Etc/GMT-1"})
    assert_cannot_win(judge(store, rollout))


# ------------------------------------------------------------------ who was assigned


def write_assigned(path, rows):
    lines = [f"{user},{arm},{at.isoformat()}" for user, arm, _, at in rows]
    path.write_text("\n".join(["user_id,variant,at", *lines]) + "\n")


@pytest.mark.parametrize(
    ("keep", "change", "says"),
    [
        (lambda n: True, lambda user, arm: (user, arm), ""),
        (lambda n: n % 2, lambda user, arm: (user, arm), "3,000 of 6,000 users that were assigned in 25 % have no"),
        (lambda n: True, lambda user, arm: (f"x{user}", arm), "6,000 users with outcomes, 6,000 were not assigned"),
        (lambda n: True, lambda user, arm: (user, {"A": "A", "b": "c", "c": "b"}[arm]), "assigned to another arm"),
    ],
)
def test_outcomes_have_to_be_those_of_all_users_that_were_assigned(store, tmp_path, keep, change, says):
    rows = make_rows()
    write(
        tmp_path / "outcomes.csv", [(*change(user, arm), *rest) for n, (user, arm, *rest) in enumerate(rows) if keep(n)]
    )
    write_assigned(tmp_path / "assigned.csv", rows)
    files = {name: [str(tmp_path / f"{name}.csv")] for name in ("outcomes", "assigned")}
    evidence = judge(store, start(store, {"files": files["outcomes"], "assigned": files["assigned"]}))
    if says:
        assert_cannot_win(evidence, says)
    else:
        assert evidence.arm == "c", evidence.missing


@pytest.mark.parametrize(("text", "says"), [("id,variant\nu,A\n", "no column user_id"), (None, "no file matches")])
def test_files_that_do_not_say_who_was_assigned_let_no_arm_win(store, tmp_path, text, says):
    write(tmp_path / "outcomes.csv", make_rows())
    if text:
        (tmp_path / "assigned.csv").write_text(text)
    outcomes = {"files": [str(tmp_path / "outcomes.csv")], "assigned": [str(tmp_path / "assigned*.csv")]}
    assert_cannot_win(judge(store, start(store, outcomes)), says)


# ------------------------------------------------------------------ sources


def test_a_program_and_a_query_give_the_same_winner(store, tmp_path):
    write(tmp_path / "outcomes.csv", make_rows())
    path = str(tmp_path / "outcomes.csv")
    code = (
        f"import sys; assert sys.argv[1] == 'shop@2' and sys.argv[2][-1] == 'Z'; print(open({path!r}).read(), end='')"
    )
    rollout = start(store, {"command": [sys.executable, "-c", code, "${release}", "${begin}"]})
    assert judge(store, rollout).arm == "c"
    database = tmp_path / "analytics.duckdb"
    with duckdb.connect(str(database)) as connection:
        connection.execute(f"CREATE TABLE visits AS SELECT * FROM read_csv('{tmp_path / 'outcomes.csv'}')")
    query = 'SELECT user_id, variant, bought, "at" FROM visits WHERE "at" >= $begin AND "at" < $end'
    own = Store.open(tmp_path / "other.duckdb", create=True)
    rollout = start(own, {"query": query, "database": str(database)})
    evidence = judge(own, rollout)
    assert evidence.arm == "c", evidence.missing


@pytest.mark.parametrize(
    ("outcomes", "says"),
    [
        ({"files": ["/no/outcomes.csv"]}, "/no/outcomes.csv"),
        ({"files": ["/no/*.csv"]}, "no file matches"),
        ({"command": ["/no/program"]}, "cannot be started"),
        ({"command": [sys.executable, "-c", "import sys; sys.exit('no table today')"]}, "ended with 1: no table today"),
        ({"command": [sys.executable, "-c", "pass"]}, "wrote no outcomes"),
        ({"command": [sys.executable, "-c", "import time; time.sleep(60)"], "timeout": "200ms"}, "within 0.2 s"),
        ({"command": [sys.executable, "-c", "print('user_id,variant,bought\\nu,A,1')"]}, "no column at"),
        ({"command": [sys.executable, "-c", "print('<html>404</html>')"]}, "cannot be used"),
        ({"query": "SELECT * FROM nothing"}, "the query of the outcomes cannot be run"),
        ({"query": "SELECT 1", "database": "/no/a.duckdb"}, "there is no database"),
    ],
)
def test_sources_that_give_nothing_let_no_arm_win_and_the_cause_is_named(store, outcomes, says):
    assert_cannot_win(judge(store, start(store, outcomes)), says)


def test_a_look_that_was_cut_off_counts_as_one_look(store, tmp_path):
    """A driver that is killed after its verdict was stored judges the same rows: no other look, the same winner."""
    write(tmp_path / "outcomes.csv", make_rows())
    rollout = start(store, {"files": [str(tmp_path / "outcomes.csv")]})
    first, second = judge(store, rollout), judge(store, rollout)
    assert (second.arm, second.data_hash) == (first.arm, first.data_hash)
    assert len({run.id for run in store.data.runs("shop@2")}) == 2, "one of each stage"


def test_requests_are_judged_without_the_metrics_of_outcomes(store, tmp_path):
    plan = make_plan(parse_policy(POLICY), "shop@2")
    policy = make_step_policy(parse_policy(POLICY), plan, plan.steps[END])
    kinds = {rule.metric.type for rule in policy.rulebook.rules}
    assert "failure_rate" in kinds
    assert not [kind for kind in kinds if kind.startswith("outcome")]
