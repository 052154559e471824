"""Instances that end before their run does, and instances that are much younger than those of the other arm."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from evaluator.health.base import TOLERATED, RequestContext, fail, grade, name_some, ok, warn
from evaluator.health.silence import RunTime, describe_gap, find_run_times, may_be_go
from evaluator.records import BASELINE, Finding
from evaluator.records.arrays import FloatArray
from evaluator.stats.shaping.silence import Gap, find_silence
from evaluator.stats.variance.instances import FEWEST_REQUESTS
from evaluator.wording import count_of, format_duration

NAME = "turnover"
TOO_MANY = 0.25
BY_CHANCE = 0.0005
FEWEST_STEPS = 8
MANY_FAIL = 0.2
"""Share of failures among an instance's last requests. Bursts of a few percent also happen without an end."""
MUCH_YOUNGER = 0.5
LEAST_DIFFERENCE_S = 120.0
GROWN_UP_S = 1800.0


@dataclass(frozen=True, slots=True)
class _Quiet:
    """An instance that fell silent before the end of its run, for good or for a while."""

    name: str
    gap: Gap
    died: str
    """Why it counts as dead; empty if it was replaced."""


def check_turnover(context: RequestContext) -> Iterable[Finding]:
    """An instance that ends while its arm keeps its rate is turnover; if its requests are lost, it is silence."""
    findings: list[Finding] = []
    for arm in context.cells.arms[1:]:
        for time in find_run_times(context, arm):
            if not may_be_go(context, time):
                continue
            by_role = [_find_ended(context, time, role) for role in (0, 1)]
            for name, (_, ended) in zip((BASELINE, arm), by_role, strict=True):
                findings += _judge_dead(context, time, name, [instance for instance in ended if instance.died])
            findings += _judge_turnover(context, arm, by_role)
    yield from dict.fromkeys(findings)
    if not findings and any(len(design.instances) for design in context.designs.values()):
        yield ok(NAME, "every instance answered until the end of its run")


def _judge_dead(context: RequestContext, time: RunTime, name: str, dead: list[_Quiet]) -> Iterable[Finding]:
    if not dead:
        return
    worst = max(dead, key=lambda instance: (time.is_load and instance.gap.at_end, instance.gap.buckets))
    share = worst.gap.buckets / time.buckets
    # In a load users were there until the end. A restart in between is measured like every other hole.
    at_end = time.is_load and worst.gap.at_end
    if share > TOLERATED or at_end:
        further = f" (and {len(dead) - 1} more)" if len(dead) > 1 else ""
        text = f"{describe_gap(context, time, worst.gap, f'instance {worst.name}{further} of {name}')}; {worst.died}"
        remedy = f"check the logs of {worst.name}: it seems to have stopped answering"
        persistent = at_end or share > context.rulebook.silence
        yield grade("silence", text, remedy, fails=name != BASELINE and persistent)


def _judge_turnover(context: RequestContext, arm: str, by_role: list[tuple[int, list[_Quiet]]]) -> Iterable[Finding]:
    """Turnover of both arms is caused by the platform; if only the candidate's instances end, they may crash."""
    named: list[str] = []
    replaced = [sorted(instance.name for instance in ended if not instance.died) for _, ended in by_role]
    for name, names, (instances, _) in zip((BASELINE, arm), replaced, by_role, strict=True):
        if not names:
            continue
        many = f"{len(names)} of {count_of(instances, 'instance')} of {name}"
        text = f"{many} ended and others took over: {name_some(names)}"
        alone = name == arm and not replaced[0] and len(names) >= TOO_MANY * instances
        if alone and not context.rulebook.prior.turnover_expected:
            remedy = (
                f"check whether instances of {arm} crash; if they are replaced by design (autoscaling, a roll-out), "
                "set `instances: {turnover: expected}` in the policy"
            )
            yield fail(NAME, f"{text}; no instance of baseline ended", remedy)
        else:
            named.append(text)
    if named:
        yield ok(NAME, "; ".join(named))


def _find_ended(context: RequestContext, time: RunTime, role: int) -> tuple[int, list[_Quiet]]:
    """How many instances one arm has in a run, and which of them ended early or were dead for a while.

    A single instance is the arm itself, so it is not listed. Nor is one that paused while others took its requests.
    """
    code = 0 if role == 0 else context.cells.arms.index(time.arm)
    moments = context.cells.moments
    rows = np.flatnonzero(time.rows & (moments.arm == code))
    totals = np.asarray(np.bincount(moments.instance[rows], weights=moments.n[rows]), float)
    chosen = np.flatnonzero(totals >= FEWEST_REQUESTS)
    if chosen.size < 2:
        return int(chosen.size), []
    own, failures = (
        time.count(rows, moments.instance, chosen, moments.bucket, weights) for weights in (moments.n, moments.failures)
    )
    others = time.counts[role] - own
    quiet = []
    for silence in find_silence(own, others, paced_alike=False, one_hole=True):
        name, k = context.cells.instances[chosen[silence.series]], silence.series
        gap = max(silence.gaps, key=lambda gap: (gap.at_end, gap.buckets))
        why = _why_dead(context, time, role, name, own[k], failures[k], gap)
        if gap.at_end or why:
            quiet.append(_Quiet(name, gap, why))
    return int(chosen.size), quiet


def _why_dead(
    context: RequestContext, time: RunTime, role: int, name: str, own: FloatArray, failures: FloatArray, gap: Gap
) -> str:
    """Why an instance that ended counts as dead, by its last requests or those that its arm lost; empty: replaced."""
    if any(request.instance == name for request in context.settled.failed):
        return "its last requests were never answered"
    last = np.flatnonzero(own[: gap.start])[-2:]
    earlier = np.delete(np.arange(gap.start), last)
    usual = failures[earlier].sum() / max(own[earlier].sum(), 1.0)
    # Failures that other instances have at the same time, such as of a database, do not show that this one died.
    elsewhere = time.counts.sum(axis=0)[last].sum() - own[last].sum()
    alike = (time.failures[last].sum() - failures[last].sum()) / max(elsewhere, 1.0)
    together = context.count_failures(time.arm).together
    if (failures[last] >= MANY_FAIL * own[last]).any():
        from scipy.special import betainc  # slow to import, and rarely needed

        # Chance of at least as many failures: exact binomial, as counts are small.
        failed, answered = failures[last].sum() / together, own[last].sum() / together
        rate = min(max(usual, alike, 0.001), 1.0)
        if betainc(failed, max(answered - failed, 0.0) + 1, rate) < BY_CHANCE:
            return "its last requests failed"
    return "" if _is_taken_over(time, role, own, gap) else "no other instance took over its requests"


def _is_taken_over(time: RunTime, role: int, own: FloatArray, gap: Gap) -> bool:
    """Did the arm keep its rate, relative to the other arm, when the instance ended?

    The time just before the end is compared with an equally long time just after. A drop counts if it is larger than
    twice the usual step at other moments of the run, as traffic varies by itself.
    """
    width = min(gap.start, gap.buckets)
    arm_passed, other_passed = (np.concatenate([[0.0], np.cumsum(time.counts[arm])]) for arm in (role, 1 - role))
    at = np.arange(width, time.buckets - width + 1)
    sums = [(total[at] - total[at - width], total[at + width] - total[at]) for total in (arm_passed, other_passed)]
    if not all(part[at == gap.start].all() for part in sums[1]):
        return True  # the other arm is silent as well, so this cannot be determined
    with np.errstate(divide="ignore", invalid="ignore"):
        steps = np.log(sums[0][1] / sums[1][1]) - np.log(sums[0][0] / sums[1][0])
    step = float(steps[at == gap.start][0])
    elsewhere = (np.abs(at - gap.start) >= width) & (np.abs(at - gap.end) >= width)
    usual = steps[elsewhere & np.isfinite(steps)]
    noise = np.sqrt(sum(1 / max(part[at == gap.start][0], 1.0) for pair in sums for part in pair))
    spread = max(float(np.sqrt(np.mean(usual**2))) if usual.size >= FEWEST_STEPS else 0.0, float(noise))
    before = slice(gap.start - width, gap.start)
    share = own[before].sum() / max(time.counts[role][before].sum(), 1.0)
    return bool(step > np.log1p(-share / 2) or step > -2 * spread)


# ------------------------------------------------------------------ age


def check_instance_age(context: RequestContext) -> Iterable[Finding]:
    """Young instances have cold caches: if those of one arm are much younger, that may explain the difference."""
    for arm in context.cells.arms[1:]:
        for time in find_run_times(context, arm):
            if not time.counts.sum(axis=1).all():
                continue
            baseline, candidate = (_mean_age_s(context, time, code) for code in (0, context.cells.arms.index(arm)))
            young, old = sorted((baseline, candidate))
            if young < MUCH_YOUNGER * old and old - young > LEAST_DIFFERENCE_S and young < GROWN_UP_S:
                younger, older = (arm, BASELINE) if candidate < baseline else (BASELINE, arm)
                yield warn(
                    "instance_age",
                    f"instances of {younger} have been answering for {format_duration(young)} on average, those of "
                    f"{older} for {format_duration(old)}: young instances may be slower, whatever their version",
                    "let the instances of both arms answer for the same time before you compare them",
                )
                break


def _mean_age_s(context: RequestContext, time: RunTime, code: int) -> float:
    """Age of an arm's instances (s since their first request), averaged over its requests in the time of the run."""
    moments = context.cells.moments
    rows = (moments.run == time.code) & (moments.arm == code)
    first = np.full(len(context.cells.instances), np.iinfo(np.int64).max)
    np.minimum.at(first, moments.instance[rows], moments.bucket[rows])
    rows &= (moments.bucket >= time.first) & (moments.bucket < time.end)
    ages = moments.bucket[rows] - first[moments.instance[rows]]
    return float(np.average(ages, weights=moments.n[rows])) * context.cells.bucket_s
