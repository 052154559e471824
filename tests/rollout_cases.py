"""Rollouts in all their states, for tests of what is shown of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from reporting import HOSTILE, SHORT, SLOWER, give_verdict

from evaluator.policy import parse_policy
from evaluator.records import Verdict
from evaluator.records.rollouts import Event, EventKind, JudgedAt, Rollout, RolloutOutcome, to_plain
from evaluator.reports.rollout import StepRequests
from evaluator.rollout.planning import make_plan
from evaluator.rollout.reporting import BETWEEN, RolloutFacts

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LOAD = {"locustfile": "users.py", "run_time": "5m", "baseline": ["http://b"], "canary": ["http://c"]}
HOOKS = [{"command": {"run": ["true"]}}]
POLICY = {
    "service": "cart",
    "rollout": {
        "strategy": "canary",
        "router": {
            "cart": {
                "haproxy": {
                    "socket": "/h.sock",
                    "backend": "cart",
                    "servers": {"baseline": ["b1", "b2", "b3"], "canary": ["c1", "c2", "c3"]},
                }
            }
        },
        "live": {"access_log": "/var/log/h.log"},
        "stages": [
            {"name": "test", "environment": "test", "needs": "go", "load": LOAD},
            {"name": "5 %", "share": "5%", "needs": "no_harm", "bake": "10m"},
            {"name": "50 %", "share": "50%", "needs": "go", "bake": "60m", "deadline": "3h", "agree": 1},
            {"name": "full", "share": "100%", "needs": "nothing", "bake": "1h"},
        ],
        "acts": {
            "test": [{"name": "deploy", "hooks": HOOKS, "retry_for": "60s"}],
            "end": [{"name": "dns", "hooks": HOOKS, "irreversible": True}],
            "always": [{"name": "teardown", "hooks": HOOKS}],
        },
    },
}
"""Steps: 0 deploy, 1 test, 2 to 5 %, 3 its stage, 4 to 50 %, 5 its stage, 6 to 100 %, 7 its stage, 8 dns, 9 end."""


def start_rollout(release: str = "cart@1.5.0", reason: str = "sprint 12") -> Rollout:
    """A rollout of the policy, as it is stored at its start."""
    plan = make_plan(parse_policy(POLICY), release)
    return Rollout("r1", release, to_plain(plan), plan.hash(), POLICY, "ann", ("ann",), reason, START)


def at(seconds: float, kind: EventKind, step: int = -1, **values) -> Event:
    """An event so many seconds after the start."""
    return Event(kind, START.timestamp() + seconds, step, **values)


def pass_steps(first: int, last: int, begin_s: float, each_s: float) -> list[Event]:
    """The events of steps that are begun and done one after the other."""
    return [
        event
        for number in range(first, last + 1)
        for event in (
            at(begin_s + (number - first) * each_s, EventKind.BEGUN, number),
            at(begin_s + (number - first + 1) * each_s, EventKind.DONE, number),
        )
    ]


def judge(seconds: float, step: int, verdict: str, *, no_harm: bool = True) -> Event:
    """The look at the end of an observation."""
    return at(seconds, EventKind.JUDGED, step, look=JudgedAt.BAKE, verdict=verdict, no_harm=no_harm, data_hash="x")


def of_step(verdict: Verdict, step: str) -> Verdict:
    """The verdict as it would be of one step."""
    return replace(verdict, step=step, only_step=True)


def make_cases() -> dict[str, tuple[RolloutFacts, float]]:
    """Name → what the store has of a rollout, and how many seconds after its start it is looked at."""
    good, bad = give_verdict(SHORT, figures=False), give_verdict(SLOWER, figures=False)
    to_five = [*pass_steps(0, 2, 5, 20), judge(640, 3, "inconclusive"), *pass_steps(3, 3, 70, 600)]
    exposed = (StepRequests("5 %", 0.05, 12_040, 607, 3, 11), StepRequests("50 %", 0.5, 9_000, 4_301, 212, 4))
    back = [
        *to_five,
        at(700, EventKind.ASKED, 4, text="cart to 50 % needs the agreement of 1 more"),
        at(710, EventKind.AGREED, 4, person="ben"),
        *pass_steps(4, 4, 711, 2),
        at(714, EventKind.BEGUN, 5),
        at(760, EventKind.STOPPED, text="the guard: 38 of 61 requests of cart failed in 10 s, more than 5 %"),
        at(760.4, EventKind.RETURNED),
        at(760.5, EventKind.UNDO_BEGUN),
        at(764, EventKind.UNDONE),
        *pass_steps(9, 9, 765, 3),
        at(769, EventKind.ENDED, outcome=RolloutOutcome.ROLLED_BACK),
    ]
    promoted = [
        *pass_steps(0, 8, 5, 30),
        at(300, EventKind.READ_BACK),
        *pass_steps(9, 9, 301, 2),
        at(304, EventKind.ENDED, outcome=RolloutOutcome.PROMOTED),
    ]
    verdicts = {"test": of_step(good, "test"), "5 %": of_step(good, "5 %")}
    hostile = start_rollout("<script>alert(1)</script>@1", HOSTILE)
    between = StepRequests(BETWEEN, None, 240, 31, 0, 0)
    missing = "84 of 500 requests of the canary were judged"
    asked = at(700, EventKind.ASKED, 4, text="cart to 50 % needs the agreement of 1 more")
    return {
        "asked": (RolloutFacts(start_rollout(), (*to_five, asked), verdicts, exposed[:1]), 760),
        "unanswered": (
            RolloutFacts(
                start_rollout(),
                (
                    *to_five[:-3],
                    at(70, EventKind.BEGUN, 3),
                    replace(judge(671, 3, "inconclusive", no_harm=False), text=missing),
                    at(672, EventKind.ASKED, 3, text="5 % has not shown what it needs (no harm)"),
                ),
                verdicts,
            ),
            700,
        ),
        "going": (RolloutFacts(start_rollout(), tuple(back[:-4]), verdicts, exposed), 762),
        "new": (RolloutFacts(start_rollout()), 2),
        "running": (RolloutFacts(start_rollout(), (*to_five[:-2], at(70, EventKind.BEGUN, 3)), verdicts), 300),
        "broken_off": (
            RolloutFacts(start_rollout(), tuple(to_five[:3]), driver="process 4711 on web1, which is gone"),
            3600,
        ),
        "held": (RolloutFacts(start_rollout(), (*to_five, at(675, EventKind.HELD, person="ben", text="lunch"))), 700),
        "back": (
            RolloutFacts(start_rollout(), tuple(back), {**verdicts, "50 %": of_step(bad, "50 %")}, (*exposed, between)),
            900,
        ),
        "promoted": (RolloutFacts(start_rollout(), tuple(promoted), verdicts, exposed), 900),
        "hostile": (
            RolloutFacts(hostile, (at(5, EventKind.HELD, person=HOSTILE, text=HOSTILE + "x" * 9000),), {}, exposed),
            60,
        ),
    }
