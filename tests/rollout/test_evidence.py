"""What a step of a rollout has shown: no harm is nothing that silence, a cut log or a wrong arm can show."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from judging import LIVE
from ladders import POLICY as POLICY_OF_LADDERS
from steps import EPOCH, land

import evaluator.health
from evaluator.policy import Policy, parse_policy
from evaluator.records import (
    Finding,
    Level,
    Release,
    RouterFacts,
    RunFacts,
    RunState,
    Service,
    VerdictWord,
)
from evaluator.records.rollouts import Act, Event, EventKind, JudgedAt, Observe, Rollout, RolloutPlan, StepNeeds
from evaluator.records.rollouts import to_plain as plan_to_plain
from evaluator.rollout.checks import FORBIDS_NO_HARM, FORBIDS_NOTHING, FORBIDS_ONLY_GO, forbids_no_harm
from evaluator.rollout.evidence import freeze_policy, frozen_policy, judge_step
from evaluator.rollout.planning import make_plan as make_rollout_plan
from evaluator.simulate import Change, Requests, simulate
from evaluator.simulate.requests import EPOCH_US
from evaluator.sources.access_logs.tail_state import TailState
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts

RELEASE = "cart@1.5.0"
BAKE_S = 300.0
SMALL = replace(LIVE, duration_s=BAKE_S, rate_per_s=15.0, instances=(2,))
STEP = Observe("5 %", "5 %", "production", ("cart",), StepNeeds.NO_HARM, BAKE_S, BAKE_S, share=0.5, least=500)
REQUESTS = simulate(SMALL, 3)
BY_ARM = {arm: [name for name in REQUESTS.instances if name.startswith(arm)] for arm in REQUESTS.arms}
ROUTER = {"cart": {"haproxy": {"backend": "cart", "servers": BY_ARM}}}


def make_plan(step: Observe = STEP) -> RolloutPlan:
    shift = Act("cart to 50 %", step.stage, services=step.services, share=step.share)
    return RolloutPlan(RELEASE, "canary", step.services, (shift, step), alpha_no_go=0.0125)


def start(store: Store, plan: RolloutPlan, policy: Policy, router=None) -> Rollout:
    """A rollout whose step has begun with the requests."""
    rollouts = Rollouts(store.control.file)
    at = datetime.fromtimestamp(EPOCH - 60, UTC)
    frozen = freeze_policy(policy) | ({"rollout": {"router": router}} if router else {})
    draft = Rollout("", RELEASE, plan_to_plain(plan), plan.hash(), frozen, "ann", ("ann",), "test", at)
    rollout = rollouts.start(draft)
    rollouts.add_event(rollout, Event(EventKind.BEGUN, EPOCH - 1, 1))
    return rollout


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "evaluator.duckdb", create=True)


POLICY = parse_policy({"service": "cart"})
NOW = datetime.fromtimestamp(EPOCH + BAKE_S + 70, UTC)


def judge(store: Store, step: Observe = STEP, look: JudgedAt = JudgedAt.BAKE, *, router=None, policy=POLICY, at=NOW):
    plan = make_plan(step)
    return judge_step(store, start(store, plan, policy, router), plan, 1, look, at)


def test_an_unchanged_release_shows_no_harm(store):
    land(store, REQUESTS)
    evidence = judge(store, router=ROUTER)
    assert evidence.missing == ()
    assert evidence.no_harm
    assert evidence.word is not VerdictWord.NO_GO
    assert evidence.exposed > 4000
    [kept] = store.control.verdicts(RELEASE)
    verdict = json.loads(kept.json)
    assert (verdict["step"], verdict["environment"], verdict["alpha"]) == ("5 %", "production", 0.05)
    assert verdict["policy"]["alpha_no_go"] == 0.0125


def test_what_an_earlier_rollout_has_recorded_shows_nothing(store):
    """It had a stage of the same name, and its GO is not that of this one."""
    land(store, REQUESTS)
    plan = make_plan()
    rollout = start(store, plan, POLICY, ROUTER)
    with store.control.file.opened(write=True) as connection:
        connection.execute("DELETE FROM rollout_events")
    Rollouts(store.control.file).add_event(rollout, Event(EventKind.BEGUN, EPOCH + 60, 1))
    evidence = judge_step(store, rollout, plan, 1, JudgedAt.BAKE, NOW)
    assert (evidence.word, evidence.no_harm, evidence.exposed) == (VerdictWord.INCONCLUSIVE, False, 0)
    assert "no requests of cart were recorded in 5 %" in evidence.missing[0]


def keep(requests: Requests, mask) -> Requests:
    names = ("ts_us", "run", "arm", "endpoint", "instance", "response_us", "response_bytes", "failed", "status")
    rows = {name: getattr(requests, name)[mask] for name in (*names, "exception")}
    users = None if requests.users is None else requests.users[mask]
    return replace(requests, **rows, users=users)


def canary(requests: Requests):
    return requests.arm == requests.arms.index("canary")


def after(requests: Requests, share: float):
    return requests.ts_us >= EPOCH_US + share * BAKE_S * 1e6


def only_one_endpoint(requests: Requests) -> Requests:
    """The candidate gets only the first endpoint."""
    return keep(requests, ~canary(requests) | (requests.endpoint == 0))


def cut(requests: Requests) -> Requests:
    return keep(requests, ~after(requests, 0.6))


def dead(requests: Requests) -> Requests:
    return keep(requests, ~(canary(requests) & after(requests, 0.65)))


def silent(requests: Requests) -> Requests:
    return keep(requests, ~canary(requests))


def few(requests: Requests) -> Requests:
    return keep(requests, ~canary(requests) | (np.arange(len(requests)) % 50 == 0))


def without_instance(requests: Requests) -> Requests:
    return keep(requests, requests.instance != requests.instances.index(BY_ARM["canary"][0]))


def failing(requests: Requests) -> Requests:
    """One in twenty requests of the candidate fails, as often as the guard allows."""
    failed = requests.failed | (canary(requests) & (np.arange(len(requests)) % 21 == 0))
    return replace(requests, failed=failed, status=np.where(failed, 500, requests.status))


def swapped(requests: Requests) -> Requests:
    """The servers of each arm are named as those of the other one."""
    return replace(requests, arms=tuple(reversed(requests.arms)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (dead, "silence|step window"),
        (silent, "canary has 0 judged requests|canary has no requests"),
        (few, "canary has .* judged requests, fewer than 500"),
        (cut, "step window"),
        (without_instance, "step servers"),
        (only_one_endpoint, "step endpoints"),
        (swapped, "step servers: requests of canary-1, canary-2 count for baseline"),
    ],
)
def test_no_harm_is_not_shown_by(store, change: Callable[[Requests], Requests], says):
    land(store, change(REQUESTS))
    evidence = judge(store, router=ROUTER)
    assert not evidence.no_harm
    assert evidence.word is not VerdictWord.GO
    assert re.search(says, " | ".join(evidence.missing)), evidence.missing


def test_failures_near_the_limit_of_the_guard_are_no_lack_of_harm(store):
    """A policy that does not look at failures is no reason to go on."""
    land(store, failing(REQUESTS))
    times = {"name": "p50", "type": "latency_quantile", "quantile": 0.5, "role": "gate", "margin": "50%"}
    policy = parse_policy({"service": "cart", "metrics": [times], "endpoint_scan": {"enabled": False}})
    evidence = judge(store, policy=policy)
    assert (evidence.word, evidence.no_harm) == (VerdictWord.GO, False)
    [missing] = evidence.missing
    assert re.fullmatch(r"up to 5\.\d+ % of the requests of canary may fail, and less than 5 % is allowed .*", missing)


@pytest.mark.parametrize(
    ("window", "says"),
    [
        ({"state": RunState.INCOMPLETE}, "complete: the run is incomplete"),
        ({"state": RunState.RUNNING}, "complete: the run has not reached its planned end"),
        ({"shares": {}}, "step share"),
        ({"shares": {"baseline": 0.95, "canary": 0.05}}, "sample ratio"),
        ({"facts": RunFacts(router=RouterFacts(answers=9000, unread={"that could not be read": 900}))}, "unread lines"),
        ({"facts": RunFacts(router=RouterFacts(answers=9000, holes=("10:00 to 10:02",), unread_s=60.0))}, "log holes"),
        ({"facts": RunFacts(router=RouterFacts(answers=9000, without_server=900, without_server_failures=900))},
         "without server"),
        ({"facts": RunFacts(router=RouterFacts(answers=9000, retried_by_unknown=900, retries_hidden=True))}, "retries"),
        ({"step": "25 %"}, "no requests of cart were recorded in 5 %"),
        ({"service": "shop"}, "no requests of cart were recorded in 5 %"),
        ({"start_s": -3600}, "no requests of cart were recorded in 5 %"),
    ],
)  # fmt: skip
def test_no_harm_is_not_shown_by_a_log_that(store, window, says):
    land(store, REQUESTS, **window)
    evidence = judge(store)
    assert not evidence.no_harm
    assert evidence.word is VerdictWord.INCONCLUSIVE
    assert any(says in text for text in evidence.missing), evidence.missing


def test_nothing_recorded_is_no_harm_of_nobody(store):
    store.control.add_release(Release(RELEASE, (Service("cart", "1.4", "1.5"),)))
    evidence = judge(store)
    assert (evidence.word, evidence.no_harm, evidence.exposed) == (VerdictWord.INCONCLUSIVE, False, 0)
    assert "no requests of cart" in evidence.missing[0]


@pytest.mark.parametrize(("share", "is_missing"), [(0.5, True), (0.0, False)])
def test_a_load_says_nothing_of_the_users_of_its_stage(store, share, is_missing):
    """A stage with a share of the users needs their requests, whatever its load has shown."""
    land(store, REQUESTS)
    with store.data.file.opened(write=True) as engine:
        engine.execute("UPDATE store.runs SET source = 'locust'")
    evidence = judge(store, replace(STEP, share=share, load={"baseline": ["http://b"], "canary": ["http://c"]}))
    assert evidence.exposed > 4000
    assert any("step window: no request of users" in text for text in evidence.missing) is is_missing


def test_failures_are_no_go(store):
    bad = replace(SMALL, changes=(Change(failures_added=0.2),))
    land(store, simulate(bad, 3))
    evidence = judge(store)
    assert evidence.word is VerdictWord.NO_GO
    assert not evidence.no_harm
    assert evidence.missing == tuple(
        reason["text"] for reason in json.loads(store.control.verdicts(RELEASE)[0].json)["reasons"]
    )


def test_judged_again_it_has_the_same_bytes(store):
    land(store, REQUESTS)
    plan = make_plan()
    rollout = start(store, plan, POLICY)
    first, second = (judge_step(store, rollout, plan, 1, JudgedAt.BAKE, NOW) for _ in range(2))
    assert first == second
    assert first.verdict_hash.startswith("sha256:")


LONG = replace(STEP, needs=StepNeeds.GO, deadline_s=2 * BAKE_S)


def test_each_of_two_looks_has_half_of_the_error_rates():
    plan = make_plan(LONG)
    policy = parse_policy({"service": "cart", "alpha": 0.04})
    rollout = Rollout("r1", RELEASE, {}, "", freeze_policy(policy), "ann", ("ann",), "", NOW)
    rulebook = frozen_policy(rollout, plan, LONG).rulebook
    assert (rulebook.alpha, rulebook.alpha_no_go) == (0.02, 0.00625)
    rulebook = frozen_policy(rollout, make_plan(), STEP).rulebook
    assert (rulebook.alpha, rulebook.alpha_no_go, rulebook.monitoring.early_go) == (0.04, 0.0125, False)


def test_a_stage_is_judged_by_its_own_margins():
    """Overrides are written as in the file: 1% is 0.01. The level of NO-GO is that of the plan, not of the file."""
    values = {"service": "cart", "alpha_no_go": 0.04, "rollout": copy.deepcopy(POLICY_OF_LADDERS["rollout"])}
    override = {"alpha": "1%", "metrics": [{"name": "latency_p95", "margin": "20%"}], "health": {"silence": "5%"}}
    values["rollout"]["stages"][0]["policy"] = override
    policy = parse_policy(values)
    plan = make_rollout_plan(policy, RELEASE)
    first, second, *_ = [step for step in plan.steps if isinstance(step, Observe)]
    rollout = Rollout("r1", RELEASE, {}, "", freeze_policy(policy), "ann", ("ann",), "", NOW)
    of_first, of_second = (frozen_policy(rollout, plan, step).rulebook for step in (first, second))
    assert plan.alpha_no_go == 0.01  # four judged stages
    assert (of_first.alpha, of_first.no_go_level, of_first.silence) == (0.01, 0.01, 0.05)
    assert (of_second.alpha, of_second.no_go_level, of_second.silence) == (0.05, 0.01, 0.2)
    margins = [next(r.margin.value for r in book.rules if r.name == "latency_p95") for book in (of_first, of_second)]
    assert margins == [0.2, 0.1]
    assert len(of_first.rules) == len(of_second.rules)


def test_the_deadline_judges_what_followed_the_bake(store):
    requests = simulate(replace(SMALL, duration_s=2 * BAKE_S), 3)
    late = after(requests, 1.0)
    land(store, keep(requests, ~late))
    plan = make_plan(LONG)
    rollout = start(store, plan, POLICY)
    at_bake = judge_step(store, rollout, plan, 1, JudgedAt.BAKE, NOW)
    assert at_bake.no_harm
    later = NOW + timedelta(seconds=BAKE_S)
    too_early = judge_step(store, rollout, plan, 1, JudgedAt.DEADLINE, later)
    assert not too_early.no_harm
    assert any("step window" in text for text in too_early.missing)
    land(store, keep(requests, late), "live-2", step="", start_s=BAKE_S, end_s=2 * BAKE_S)
    assert judge_step(store, rollout, plan, 1, JudgedAt.BAKE, NOW).exposed == at_bake.exposed
    at_deadline = judge_step(store, rollout, plan, 1, JudgedAt.DEADLINE, later)
    assert at_deadline.no_harm
    assert at_deadline.exposed > 1.9 * at_bake.exposed


def test_a_window_that_lasts_longer_is_cut_where_the_log_was_read(store):
    requests = simulate(replace(SMALL, duration_s=2 * BAKE_S), 3)
    land(store, requests, end_s=2 * BAKE_S, state=RunState.RUNNING)
    plan = make_plan(LONG)
    rollout = start(store, plan, POLICY)
    assert not judge_step(store, rollout, plan, 1, JudgedAt.BAKE, NOW).no_harm
    folder = store.data.segment_folder(store.data.runs(RELEASE)[0]).parent
    state = TailState("g", EPOCH, watermark=EPOCH + BAKE_S + 1)
    (folder / "tail-cart.json").write_text(json.dumps(asdict(state)))
    evidence = judge_step(store, rollout, plan, 1, JudgedAt.BAKE, NOW)
    assert evidence.no_harm, evidence.missing
    assert 0.4 < evidence.exposed / canary(requests).sum() < 0.6


def test_before_the_end_nothing_but_a_no_go_counts(store):
    land(store, REQUESTS)
    evidence = judge(store, look=JudgedAt.MEANWHILE, at=NOW - timedelta(seconds=200))
    assert (evidence.word, evidence.no_harm) == (VerdictWord.INCONCLUSIVE, False)
    assert not store.control.verdicts(RELEASE)


def test_every_health_check_has_one_class():
    """A new check must say what it does to a step: here, and in the table of docs/rollouts.md."""
    folder = Path(evaluator.health.__file__).parent
    text = "\n".join(path.read_text() for path in folder.glob("*.py"))
    names = set(re.findall(r"\b(?:ok|warn|fail|grade)\(\s*\"([a-z_]+)\"", text))
    names |= set(re.findall(r"^(?:NAME|SHARES|PHASES) = \"([a-z_]+)\"$", text, re.MULTILINE))
    table = re.findall(r"^\| ([a-z_, ]+) \| ", evaluator.health.__doc__, re.MULTILINE)
    names |= {name for row in table for name in row.split(", ")} - {"check"}
    classes = [FORBIDS_NO_HARM, FORBIDS_ONLY_GO, FORBIDS_NOTHING]
    own = {name for name in FORBIDS_NO_HARM if name.startswith("step_")}
    assert names | own == set().union(*classes)
    assert len(names | own) == sum(map(len, classes)), "a check has two classes"
    assert forbids_no_harm(Finding("a_new_check", Level.FAIL, ""))
    docs = (Path(__file__).parents[2] / "docs" / "rollouts.md").read_text()
    rows = dict(re.findall(r"^\| (`[^|]+`) \| ([^|]+ \| [^|]+) \|$", docs, re.MULTILINE))
    documented = {name: text for cell, text in rows.items() for name in re.findall(r"`([a-z_]+)`", cell)}
    for names, says in zip(classes, (r"no \| no", r"no \| yes", r"yes: .* \| yes"), strict=True):
        for name in names:
            assert re.match(says, documented.get(name, "")), name
