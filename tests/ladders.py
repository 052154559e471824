"""Whole rollouts of simulated releases: the real judge and the real decisions, without a store, a router or a clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from evaluator.assess import ReleaseData
from evaluator.intents.rollout_progress import begin_progress, follow
from evaluator.pipeline.assessing import judge_data
from evaluator.policy import Policy, parse_policy
from evaluator.records import ACCESS_LOG_SOURCE, BINS_PER_DECADE, Cells, Run, RunState, VerdictWord
from evaluator.records.rollouts import Event, EventKind, JudgedAt, Observe, Rollout, RolloutPlan
from evaluator.rollout.checks import StepTime, check_step
from evaluator.rollout.deciding import Todo, decide
from evaluator.rollout.evidence import cut_cells, find_missing, freeze_policy, frozen_policy
from evaluator.rollout.planning import make_plan
from evaluator.simulate import SCENARIOS, Change, Scenario, simulate_cells
from evaluator.simulate.requests import EPOCH_US
from evaluator.stats.shaping.cells import where

RELEASE = "cart@1.5.0"
BUCKET_S = 15
MINUTES_10, HOUR = 600.0, 3600.0

SERVERS = {"baseline": ["b1", "b2", "b3", "b4"], "canary": ["c1", "c2", "c3", "c4"]}
POLICY = {
    "service": "cart",
    "rollout": {
        "strategy": "canary",
        "router": {
            "cart": {
                "haproxy": {
                    "socket": "/run/admin.sock",
                    "backend": "cart",
                    "servers": SERVERS,
                }
            }
        },
        "live": {"access_log": "/var/log/haproxy.log"},
        "stages": [
            {"name": "5 %", "share": "5%", "needs": "no_harm", "bake": "10m"},
            {"name": "25 %", "share": "25%", "needs": "no_harm", "bake": "10m"},
            {"name": "50 %", "share": "50%", "needs": "go", "bake": "60m", "deadline": "2h"},
            {"name": "98 %", "share": "98%", "needs": "no_harm", "bake": "10m"},
            {"name": "full", "share": "100%", "needs": "nothing", "bake": "10m"},
        ],
    },
}
INSTANCES = {"5 %": (4, 1), "25 %": (4, 1), "50 %": (4, 4), "98 %": (4, 4)}
"""Stage → instances of baseline and candidate: as many as the share needs, as replicas follow weights elsewhere."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a release: all requests until its deadline."""

    step: Observe
    cells: Cells

    def until(self, seconds: float) -> Cells:
        """The requests of its first seconds."""
        return cut_cells(self.cells, EPOCH_US / 1e6 + seconds)

    def count_exposed(self, seconds: float) -> int:
        """Requests that the candidate got in its first seconds."""
        moments = self.until(seconds).moments
        return int(moments.n[moments.arm == 1].sum())


@dataclass(frozen=True, slots=True)
class Ladder:
    """How a rollout ended."""

    outcome: str
    """`promoted`, `rolled back` or `asked`: a person has to decide."""
    stage: str
    """Stage at which it ended."""
    exposed: int
    """Requests that the candidate got before all traffic was given to it, or until the end."""
    seconds: float
    why: str = ""


def simulate_ladder(plan: RolloutPlan, change: Change, seed: int, base: Scenario = SCENARIOS["AA"]) -> list[Stage]:
    """Simulate the stages of one release; each draws its own instances."""
    stages = []
    observed = [step for step in plan.steps if isinstance(step, Observe) and 0 < step.share < 1]
    for number, step in enumerate(observed):
        design = replace(
            base,
            duration_s=step.deadline_s,
            split=(step.share,),
            instances=INSTANCES[step.stage],
            changes=(change,),
            bucket_s=BUCKET_S,
        )
        stages.append(Stage(step, simulate_cells(design, 100 * seed + number)))
    return stages


def follow_ladder(policy: Policy, plan: RolloutPlan, stages: list[Stage]) -> Ladder:
    """Let `decide` drive a rollout whose acts succeed at once, and whose people never answer."""
    rollout = Rollout("r1", RELEASE, {}, "", freeze_policy(policy), "ann", ("ann",), "", datetime.now(UTC))
    by_name = {stage.step.name: stage for stage in stages}
    progress, now, exposed = begin_progress(plan), 0.0, 0
    while True:
        decision = decide(plan, progress, now)
        step = plan.steps[decision.step] if 0 <= decision.step < len(plan.steps) else None
        events: list[Event] = []
        if decision.todo in (Todo.END, Todo.READ_BACK, Todo.STOP, Todo.ASK):
            words = {Todo.STOP: "rolled back", Todo.ASK: "asked"}
            name = plan.steps[min(progress.position(plan), plan.body - 1)].stage
            return Ladder(words.get(decision.todo, "promoted"), name, exposed, now, decision.why)
        if decision.todo is Todo.EXECUTE:
            events = [Event(kind, now, decision.step) for kind in (EventKind.BEGUN, EventKind.DONE)]
        elif decision.todo is Todo.OBSERVE:
            events = [Event(EventKind.BEGUN, now, decision.step)]
        elif decision.todo is Todo.PASS:
            events = [Event(EventKind.DONE, now, decision.step)]
        elif decision.todo is Todo.WAIT and decision.until is not None:
            now = decision.until
        elif decision.todo is Todo.JUDGE and isinstance(step, Observe):
            stage = by_name.get(step.name)
            begun_at = progress.begun_at or 0.0
            word, no_harm, decided_s = judge_stage(policy, plan, rollout, stage, step, decision.look)
            if stage is not None:
                seconds = decided_s or now - begun_at
                before = exposed if not progress.looks else exposed - stage.count_exposed(step.bake_s)
                exposed = before + stage.count_exposed(seconds)
                now = begun_at + seconds
            events = [
                Event(
                    EventKind.JUDGED, now, decision.step, look=decision.look, verdict=word.value, no_harm=no_harm
                )
            ]  # fmt: skip
        else:
            raise AssertionError(f"{decision}")
        for event in events:
            progress = follow(plan, progress, event)


def judge_stage(
    policy: Policy, plan: RolloutPlan, rollout: Rollout, stage: Stage | None, step: Observe, look: JudgedAt
) -> tuple[VerdictWord, bool, float | None]:
    """Judge a stage at a look. Returns the word, whether no harm was shown, and after how many seconds it was NO-GO."""
    if stage is None:
        return VerdictWord.INCONCLUSIVE, False, None
    seconds = step.deadline_s if look is JudgedAt.DEADLINE else step.bake_s
    cells = stage.until(seconds)
    started = datetime.fromtimestamp(EPOCH_US / 1e6, UTC)
    ends = datetime.fromtimestamp(EPOCH_US / 1e6 + seconds, UTC)
    run = Run(
        cells.runs[0], RELEASE, "log", ACCESS_LOG_SOURCE, started=started, planned_end=ends, ended=ends,
        state=RunState.COMPLETE, fingerprint={"pid": 1}, step=step.name, landed=int(cells.moments.n.sum()),
        shares={"baseline": 1 - step.share, "canary": step.share},
    )  # fmt: skip
    data = ReleaseData((), where(cells, run=[]), live_runs=(run,), live_cells=cells)
    findings = tuple(check_step(data, StepTime(step, started.timestamp(), ends.timestamp())))
    judged = judge_data(data, frozen_policy(rollout, plan, step).rulebook, RELEASE, findings)
    word = judged.judgement.word
    missing = list(find_missing(plan, step, judged))
    return word, not missing, judged.judgement.decided_at_s if word is VerdictWord.NO_GO else None


# ------------------------------------------------------------------ fixed thresholds


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Analysis by fixed thresholds, measured every few minutes, as users of Argo Rollouts write it."""

    success: float = 0.95
    p95_ms: float = np.inf
    interval_s: float = 300.0
    failure_limit: int = 3
    """Measurements of one metric that may fail; one more aborts the rollout."""


def follow_thresholds(plan: RolloutPlan, stages: list[Stage], rules: Thresholds) -> Ladder:
    """Follow the same stages, each for its bake, with an analysis in the background from the first to the last."""
    failed = {"success": 0, "p95": 0}
    exposed, now = 0, 0.0
    for stage in stages:
        for number, (success, p95_ms) in enumerate(_measure(stage, rules.interval_s), start=1):
            failed["success"] += success < rules.success
            failed["p95"] += p95_ms > rules.p95_ms
            if max(failed.values()) > rules.failure_limit:
                seconds = number * rules.interval_s
                return Ladder("rolled back", stage.step.stage, exposed + stage.count_exposed(seconds), now + seconds)
        exposed += stage.count_exposed(stage.step.bake_s)
        now += stage.step.bake_s
    return Ladder("promoted", "full", exposed, now)


def _measure(stage: Stage, interval_s: float) -> Iterator[tuple[float, float]]:
    """Measure the candidate's success rate and p95 (ms) in each interval of a stage's bake."""
    moments, bins = stage.cells.moments, stage.cells.bins
    first, width = int(EPOCH_US / 1e6) // BUCKET_S, int(interval_s) // BUCKET_S
    for start in range(first, first + int(stage.step.bake_s) // BUCKET_S, width):
        here = (moments.arm == 1) & (moments.bucket >= start) & (moments.bucket < start + width)
        requests, failures = moments.n[here].sum(), moments.failures[here].sum()
        inside = (bins.arm == 1) & (bins.bucket >= start) & (bins.bucket < start + width)
        counts = np.bincount(bins.bin[inside], weights=bins.n[inside])
        position = int(np.searchsorted(np.cumsum(counts), 0.95 * counts.sum())) if counts.size else 0
        yield 1 - failures / max(requests, 1), 10 ** ((position + 0.5) / BINS_PER_DECADE) / 1000


def find_usual_p95(plan: RolloutPlan) -> float:
    """Find the p95 (ms) that the service has on most days: the median of the stages of some unchanged releases."""
    seen = [p95 for seed in (901, 902, 903) for stage in simulate_ladder(plan, Change(), seed)[:2]
            for _, p95 in _measure(stage, 300.0)]  # fmt: skip
    return float(np.median(seen))


def make_ladder() -> tuple[Policy, RolloutPlan]:
    """The policy and plan of the ladder."""
    policy = parse_policy(POLICY)
    return policy, make_plan(policy, RELEASE)
