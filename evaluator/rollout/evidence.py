"""What a step of a rollout has shown: its own requests, judged by the policy that the rollout started with.

A step is judged by the time for which it bakes and, if it has shown too little by then, once more by its deadline.
Both looks are paid for: each has half of the error rates. GO needs no correction for the number of steps, because each
of them has to be GO; NO-GO does (`alpha_no_go` of the plan).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from evaluator.assess import ReleaseData
from evaluator.errors import InputError, UnknownName, UsageError
from evaluator.metrics import METRICS
from evaluator.metrics.outcome_base import OutcomeMetric
from evaluator.pipeline.assessing import Judged
from evaluator.pipeline.judging import judge_runs, keep_verdict, name_step
from evaluator.pipeline.landing import land_release, with_present_facts
from evaluator.pipeline.runs import list_steps
from evaluator.policy import Policy, parse_policy
from evaluator.policy.overrides import override_policy
from evaluator.records import (
    BASELINE,
    Cells,
    Evidence,
    EvidenceKind,
    Level,
    MetricStatus,
    Release,
    Role,
    Run,
    RunFacts,
    RunState,
    Verdict,
    VerdictWord,
    add_router_facts,
)
from evaluator.records.rollouts import EventKind, JudgedAt, Observe, Rollout, RolloutPlan, StepNeeds
from evaluator.reports import to_json
from evaluator.rollout.checks import StepTime, bound_failures, check_step, forbids_no_harm, list_servers
from evaluator.rollout.together import judge_together
from evaluator.sources.access_logs.tail_state import read_tail_state
from evaluator.stats.shaping.cells import recode
from evaluator.stats.shaping.narrow import narrow
from evaluator.store import Store
from evaluator.store.rollouts import Rollouts
from evaluator.wording import format_count, format_number, write_check_name

OF_OUTCOMES = frozenset(kind for kind, metric in METRICS.items() if issubclass(metric, OutcomeMetric))
"""Types of metrics that compare outcomes of users."""
EARLY_S = 5.0
"""How long before its begin was written a step's requests may begin."""


@dataclass(frozen=True, slots=True)
class StepEvidence:
    """What an observation has shown at a look."""

    word: VerdictWord
    """Of several services, each is GO for GO, and one is NO-GO for NO-GO."""
    no_harm: bool
    missing: tuple[str, ...]
    """Sentences: what is missing for what the step needs, or why it is NO-GO."""
    data_hash: str
    """Hash of what was judged; empty: nothing was."""
    verdict_hash: str
    exposed: int
    """Judged requests of the candidate."""
    note: str = ""
    """A sentence on all services together."""
    arm: str = ""
    """The arm that won an A/B test; empty: none has."""
    is_sound: bool = False
    """Of the planned end of an A/B test: can its data be believed?"""


# ------------------------------------------------------------------ the policy


def freeze_policy(policy: Policy) -> dict[str, Any]:
    """Write the policy as a rollout keeps it: what judges, with every default, and the overrides of its stages."""
    stages = policy.rollout.stages if policy.rollout else []
    overrides = [{"name": stage.name, "policy": stage.policy} for stage in stages if stage.policy]
    return {**policy.effective, **({"rollout": {"stages": overrides}} if overrides else {})}


def frozen_policy(rollout: Rollout, plan: RolloutPlan, step: Observe) -> Policy:
    """Make the policy that judges a step: that of the start, with the overrides of its stage.

    A step with a deadline after its bake is looked at twice: each look has half of alpha and half of the plan's
    `alpha_no_go`. No look before these is GO.
    """
    return _make_frozen(rollout.policy, plan, step, f"policy of rollout {rollout.id}")


def make_step_policy(policy: Policy, plan: RolloutPlan, step: Observe) -> Policy:
    """Make the policy that would judge a step of a plan that is not started."""
    return _make_frozen(freeze_policy(policy), plan, step, policy.origin)


def _make_frozen(frozen: Mapping[str, Any], plan: RolloutPlan, step: Observe, origin: str) -> Policy:
    """Make the policy of a step. `frozen`: what `freeze_policy` wrote; `origin`: for messages."""
    values = read_step_values(frozen, step, origin)
    alpha, share = float(values["alpha"]), 1 / count_looks(step)
    if step.arm_shares:  # outcomes are judged at the planned end, apart from requests
        requests = [metric for metric in values.pop("metrics") if metric["type"] not in OF_OUTCOMES]
        values |= {"metrics": requests} if requests else {}
    values |= {
        "alpha": alpha * share,
        "alpha_no_go": min(plan.alpha_no_go, alpha) * share,
        "monitoring": {**values.get("monitoring", {}), "early_go": False},
    }
    return parse_policy(values, origin=origin)


def read_step_values(frozen: Mapping[str, Any], step: Observe, origin: str) -> dict[str, Any]:
    """Read what judges a step of a frozen policy, with the overrides of its stage; shares and times are numbers."""
    values = dict(frozen)
    stages = values.pop("rollout", {}).get("stages", ())
    overrides: dict[str, Any] = next((stage.get("policy", {}) for stage in stages if stage["name"] == step.stage), {})
    overridden = parse_policy(override_policy(values, overrides), origin=origin)  # 1% becomes 0.01
    return {**overridden.effective, "alpha": overridden.rulebook.alpha}


def count_looks(step: Observe) -> int:
    """Count the looks at which a step can be GO: one if its deadline is its bake, else two."""
    return 2 if step.deadline_s > step.bake_s else 1


# ------------------------------------------------------------------ judging


def judge_step(
    store: Store,
    rollout: Rollout,
    plan: RolloutPlan,
    position: int,
    look: JudgedAt,
    judged_at: datetime,
) -> StepEvidence:
    """Judge an observation at a look, and keep the verdict of each of its services.

    Live requests belong to the step by its name, in a run of a followed log that began with the step
    (`begin_step`) and lasts until its bake; what follows without another step, or under the same name, is judged with
    it at the deadline. Data later than the look are not judged. Before all requests of the look were read, which is
    about a minute after its end, nothing but a NO-GO is possible.

    `MEANWHILE` can only be NO-GO, and is kept only then. A step that needs nothing is not judged. What cannot be judged
    is INCONCLUSIVE with the cause; raises StoreError if the store cannot be used now.
    """
    step = plan.steps[position]
    if not isinstance(step, Observe):
        raise TypeError(f"{step.name} is no observation")
    if step.needs is StepNeeds.NOTHING:
        return _show_nothing("it needs nothing, so it is not judged")
    _land(store, plan.release)
    asked = _Asked(store, rollout, plan, position, step, look, judged_at)
    parts, judged = [], {}
    for service in step.services:
        part, judged[service] = _judge_service(asked, service)
        parts.append(part)
    found = _join(parts)
    if plan.joint_margin is None or not plan.is_joint(step) or look is JudgedAt.MEANWHILE:
        return found
    note, is_harm = judge_together(judged, plan.joint_margin)
    return replace(found, note=note) if not is_harm else _turn_back(found, note)


def _turn_back(found: StepEvidence, why: str) -> StepEvidence:
    """Make what services have shown alone a NO-GO, because of what they show together."""
    missing = (why, *found.missing) if found.word is VerdictWord.NO_GO else (why,)
    return replace(found, word=VerdictWord.NO_GO, no_harm=False, missing=missing)


def _land(store: Store, release: str) -> None:
    """Land what was recorded; a release without any run has nothing to land."""
    with contextlib.suppress(UnknownName):
        land_release(store, release)


def _show_nothing(why: str) -> StepEvidence:
    """Evidence without data."""
    return StepEvidence(
        VerdictWord.INCONCLUSIVE, no_harm=False, missing=(why,), data_hash="", verdict_hash="", exposed=0
    )


@dataclass(frozen=True, slots=True)
class _Asked:
    """One question: a step of a rollout at a look."""

    store: Store
    rollout: Rollout
    plan: RolloutPlan
    position: int
    step: Observe
    look: JudgedAt
    judged_at: datetime

    @property
    def begun_at(self) -> float:
        """When the step was begun (epoch s)."""
        events = Rollouts(self.store.control.file).events(self.rollout.id)
        begun = [event.at for event in events if event.kind is EventKind.BEGUN and event.step == self.position]
        return begun[0] if begun else self.rollout.started_at.timestamp()

    def choose(self, service: str) -> tuple[Run, ...]:
        """Choose the runs of the step and of a service, the oldest first: of each kind the newest group.

        Of a followed log, the windows that follow one another from the step's begin on.
        """
        try:
            stored = self.store.data.runs(self.plan.release)
        except UnknownName:
            return ()
        earliest = datetime.fromtimestamp(self.begun_at - EARLY_S, UTC)
        runs = [
            with_present_facts(self.store, run)
            for run in stored
            if run.service in ("", service) and run.started is not None and run.started >= earliest
        ]
        newest_group = {run.kind: run.group for run in runs if run.step == self.step.name}
        chosen = [run for run in runs if run.group == newest_group.get(run.kind)]
        live = _follow_windows([run for run in chosen if run.kind is EvidenceKind.LIVE], self.step.name)
        others = [run for run in chosen if run.kind is not EvidenceKind.LIVE and run.step == self.step.name]
        return (*others, *live)

    def find_time(self, runs: Sequence[Run], service: str) -> StepTime | None:
        """Find the time of the requests of users that the look judges; `None`: the step has none."""
        live = [run for run in runs if run.kind is EvidenceKind.LIVE]
        if not self.step.share:
            return None
        started = live[0].started.timestamp() if live and live[0].started else self.begun_at
        is_late = self.look is JudgedAt.DEADLINE or (
            self.look is JudgedAt.MEANWHILE and self.judged_at.timestamp() >= started + self.step.bake_s
        )
        seconds = self.step.deadline_s if is_late else self.step.bake_s
        servers = self.plan.find_arms(self.position, service) or list_servers(self.rollout, service)
        return StepTime(self.step, started, started + seconds, servers)

    def is_read(self, runs: Sequence[Run], time: StepTime) -> bool:
        """Were all requests of the look read?"""
        for run in runs:
            if run.kind is not EvidenceKind.LIVE or run.started is None or run.started.timestamp() >= time.ends:
                continue
            if run.state is RunState.COMPLETE:
                continue
            folder = self.store.data.segment_folder(run).parent
            log = read_tail_state(folder, run.service)
            if run.state is not RunState.RUNNING or log is None or (log.watermark or 0.0) < time.ends:
                return False
        return True


def _follow_windows(runs: Sequence[Run], step: str) -> tuple[Run, ...]:
    """Follow the windows of a log from the first one of a step: those of the step, and those of none after it."""
    ordered = sorted(runs, key=lambda run: run.started or datetime.max.replace(tzinfo=UTC))
    first = next((n for n, run in enumerate(ordered) if run.step == step), len(ordered))
    windows: list[Run] = []
    for run in ordered[first:]:
        if run.step not in ("", step) or (windows and run.shares != windows[0].shares):
            break  # another step, or other shares: what follows is no part of this step
        windows.append(run)
    return tuple(windows)


def _judge_service(asked: _Asked, service: str) -> tuple[StepEvidence, Judged | None]:
    """Judge one service of a step, and keep the verdict. Without what was judged, nothing could be."""
    runs = asked.choose(service)
    if not runs:
        why = f"no requests of {service} were recorded in {asked.step.name}: look at the log or load, and its --step"
        return _show_nothing(why), None
    time = asked.find_time(runs, service)
    policy = frozen_policy(asked.rollout, asked.plan, asked.step)
    release = narrow_release(asked.store.control.release(asked.plan.release), service)
    try:
        verdict, judged = judge_runs(
            asked.store,
            release,
            tuple(run for run in runs if time is None or _begins_before(run, time)),
            policy,
            judged_at=asked.judged_at,
            prepare=lambda data: _join_windows(asked, data, runs, time),
            check=lambda data: tuple(check_step(data, time)) if time is not None else (),
        )
    except (UnknownName, UsageError, InputError) as error:
        # The data do not fit the policy, such as an endpoint that was never called.
        return _show_nothing(f"{service}: {error.message}"), None
    stored = asked.store.data.runs(asked.plan.release)
    verdict = name_step(verdict, runs[:1], list_steps(stored), policy, asked=asked.step.name)
    verdict = replace(verdict, step=asked.step.name, environment=asked.step.environment)
    is_harm = verdict.word is VerdictWord.NO_GO or bool(asked.step.arm_shares and find_harmed_arms(judged))
    is_kept = asked.look is not JudgedAt.MEANWHILE or is_harm
    if is_kept:
        keep_verdict(asked.store, verdict)
    return _to_evidence(asked, verdict, judged, service), judged


def _begins_before(run: Run, time: StepTime) -> bool:
    """Does a run begin before the end of the judged time?"""
    return run.kind is not EvidenceKind.LIVE or run.started is None or run.started.timestamp() < time.ends


def narrow_release(release: Release, service: str) -> Release:
    """Keep one service of a release; one without services stays as it is."""
    services = tuple(known for known in release.services if known.name == service)
    return replace(release, services=services) if services else release


def _join_windows(asked: _Asked, data: ReleaseData, runs: Sequence[Run], time: StepTime | None) -> ReleaseData:
    """Make one run of the windows of a step, which ends with the judged time.

    It is complete when the log was read up to this time, although it is followed further.
    """
    if data.live_cells is None or time is None:
        return data
    first, last = data.live_runs[0], data.live_runs[-1]
    ends = datetime.fromtimestamp(time.ends, UTC)
    is_cut = last.state is RunState.RUNNING or (last.ended is not None and last.ended > ends)
    state = RunState.COMPLETE if asked.is_read(runs, time) else last.state
    if any(run.state is RunState.INCOMPLETE for run in data.live_runs):
        state = RunState.INCOMPLETE
    if asked.look is JudgedAt.MEANWHILE and state is RunState.COMPLETE:
        state = RunState.RUNNING  # before its time is over, nothing but a NO-GO is possible
    run = replace(
        first,
        step=asked.step.name,
        planned_end=ends,
        ended=ends if state is RunState.COMPLETE else None,
        state=state,
        landed=sum(window.landed for window in data.live_runs),
        facts=_add_facts([window.facts for window in data.live_runs], is_cut=is_cut),
    )
    cells = recode(data.live_cells, run=np.zeros(len(data.live_cells.runs), dtype=np.int64))
    cells = replace(cells, runs=(run.id,))
    if is_cut:
        cells = cut_cells(cells, time.ends)
    return replace(data, live_runs=(run,), live_cells=cells)


def cut_cells(cells: Cells, ends: float) -> Cells:
    """Keep whole blocks of buckets before a moment (epoch s): a block that it divides may get further requests."""
    block_s = cells.bucket_s * 4
    return narrow(cells, end=datetime.fromtimestamp(ends // block_s * block_s, UTC))


def _add_facts(parts: Sequence[RunFacts], *, is_cut: bool) -> RunFacts:
    """Add what a log says of its windows. `is_cut`: later requests are not judged, so the rows read say nothing."""
    router = parts[0].router
    for part in parts[1:]:
        if router is not None and part.router is not None:
            router = add_router_facts(router, part.router)
    read: dict[str, int] = {}
    for part in parts:
        for arm, rows in part.read.items():
            read[arm] = read.get(arm, 0) + rows
    offsets = [part.clock_offset_s for part in parts if part.clock_offset_s is not None]
    return replace(
        parts[0],
        read={} if is_cut or not all(part.read for part in parts) else read,
        left_out=tuple(left_out for part in parts for left_out in part.left_out),
        quarantined=tuple(name for part in parts for name in part.quarantined),
        stopped_by=next((part.stopped_by for part in parts if part.stopped_by), ""),
        ended_early=next((part.ended_early for part in parts if part.ended_early), ""),
        clock_offset_s=max(offsets, default=None),
        router=router,
    )


# ------------------------------------------------------------------ what it has shown


def _to_evidence(asked: _Asked, verdict: Verdict, judged: Judged, service: str) -> StepEvidence:
    """Say what a verdict shows of a step."""
    harm = tuple(find_missing(asked.plan, asked.step, judged))
    word, no_harm = verdict.word, not harm
    harmed = find_harmed_arms(judged) if asked.step.arm_shares else ()
    if harmed:  # users of one arm alone are harmed, too
        word, no_harm = VerdictWord.NO_GO, False
    if asked.look is JudgedAt.MEANWHILE:  # a look that was not paid for
        word, no_harm = (word if word is VerdictWord.NO_GO else VerdictWord.INCONCLUSIVE), False
    missing = harm
    if word is VerdictWord.NO_GO or (asked.step.needs is StepNeeds.GO and word is not VerdictWord.GO):
        missing = tuple(reason.text for reason in verdict.reasons if not harmed or reason.arm in harmed)
    elif asked.step.needs is StepNeeds.GO:
        missing = ()
    name = f"{service}: " if len(asked.step.services) > 1 else ""
    return StepEvidence(
        word=word,
        no_harm=no_harm,
        missing=tuple(f"{name}{text}" for text in dict.fromkeys(missing)),
        data_hash=verdict.data_hash,
        verdict_hash=hash_texts(to_json(replace(verdict, figures=None))),
        exposed=sum(n for arm, n in _count_judged(judged.evidence, asked.step).items() if arm != BASELINE),
    )


def find_harmed_arms(judged: Judged) -> tuple[str, ...]:
    """Find the candidates that are NO-GO by themselves, also where the verdict on all of them is not."""
    if any(finding.level is Level.FAIL and finding.void for finding in judged.evidence.findings):
        return ()
    broken = [
        comparison.arm
        for comparison in judged.judgement.comparisons
        if comparison.status is MetricStatus.FAIL and comparison.rule.role is Role.GATE
    ]
    return tuple(dict.fromkeys(broken))


def find_missing(plan: RolloutPlan, step: Observe, judged: Judged) -> Iterator[str]:
    """Find what is missing to say that a step has shown no harm, as sentences; none: it has.

    `judged`: its data by the policy of `frozen_policy`, with the findings of `check_step`.
    """
    if judged.judgement.word is VerdictWord.NO_GO:
        yield from (reason.text for reason in judged.judgement.reasons)
    least = max(step.least, 1)
    counts = _count_judged(judged.evidence, step)
    arms = [BASELINE, *(step.arm_shares or (arm for arm in counts if arm != BASELINE))]
    if len(arms) < 2:
        yield "no requests of a candidate were judged"
    for arm in arms:
        if counts.get(arm, 0) < least:
            yield f"{arm} has {format_count(counts.get(arm, 0))} judged requests, fewer than {format_count(least)}"
    findings = (finding for finding in judged.evidence.findings if forbids_no_harm(finding))
    yield from (f"{write_check_name(finding.check)}: {finding.text}" for finding in findings)
    all_cells = [cells for cells in (judged.data.cells, judged.data.live_cells) if cells is not None]
    all_cells = [cells for cells in all_cells if cells.moments.n.sum()]
    if not all_cells:
        yield "without single requests it is not known how many of the candidate's fail"
    limit = plan.guard.failures
    for cells in all_cells:
        for arm in cells.arms[1:]:
            bound = bound_failures(cells, arm, judged.rulebook.alpha)
            if bound >= limit:
                shown, allowed = (format_number(100 * value) for value in (bound, limit))
                yield f"up to {shown} % of the requests of {arm} may fail, and less than {allowed} % is allowed (guard)"


def _count_judged(evidence: Evidence, step: Observe) -> Mapping[str, int]:
    """Count the judged requests of each arm: those of users if the step has a share of them, else of its load."""
    of_users = step.share > 0
    return {
        arm.name: arm.production.requests if of_users and arm.production is not None else arm.requests
        for arm in evidence.arms
    }


def hash_texts(*texts: str) -> str:
    """Hash texts: `sha256:…`."""
    return "sha256:" + hashlib.sha256("\n".join(texts).encode()).hexdigest()


def _join(parts: Sequence[StepEvidence]) -> StepEvidence:
    """Join what the services of a step have shown."""
    if len(parts) == 1:
        return parts[0]
    words = {part.word for part in parts}
    word = VerdictWord.INCONCLUSIVE
    harm_first = sorted(parts, key=lambda part: part.word is not VerdictWord.NO_GO)
    if VerdictWord.NO_GO in words:
        word = VerdictWord.NO_GO
    elif words == {VerdictWord.GO}:
        word = VerdictWord.GO
    return StepEvidence(
        word=word,
        no_harm=all(part.no_harm for part in parts),
        missing=tuple(dict.fromkeys(text for part in harm_first for text in part.missing)),
        data_hash=hash_texts(*(part.data_hash for part in parts)),
        verdict_hash=hash_texts(*(part.verdict_hash for part in parts)),
        exposed=sum(part.exposed for part in parts),
    )
