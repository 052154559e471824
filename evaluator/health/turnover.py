"""Instances that end before their run does, and instances that are much younger than those of the other arm."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from evaluator.health.base import TOLERATED, RequestContext, fail, grade, name_some, ok, warn
from evaluator.health.silence import RunTime, describe_gap, find_run_times, may_be_go
from evaluator.records import BASELINE, Finding
from evaluator.records.arrays import FloatArray, IntArray
from evaluator.stats.shaping.silence import Gap, find_silence
from evaluator.stats.variance.instances import FEWEST_REQUESTS
from evaluator.wording import count_of, format_duration

NAME = "turnover"
TOO_MANY = 0.25
"""Share of a candidate's instances whose end forbids a GO, if no instance of the baseline ended."""
BY_CHANCE = 0.0005
"""Chance below which an instance's last failures are not due to the usual failure rate."""
FEWEST_STEPS = 8
"""Steps of the traffic that are needed to know its usual step."""
MANY_FAIL = 0.2
"""Share of failures among an instance's last requests. Bursts of a few percent also happen without an end."""
MUCH_YOUNGER = 0.5
LEAST_DIFFERENCE_S = 120.0
GROWN_UP_S = 1800.0


@dataclass(frozen=True, slots=True)
class _EndedInstance:
    """An instance that fell silent before the end of its run, for good or for a while."""

    name: str
    gap: Gap
    why_dead: str
    """Why it counts as dead; empty if it was replaced."""


def check_turnover(context: RequestContext) -> Iterable[Finding]:
    """Judge instances that ended before their run did, in both arms.

    An instance that ends while its arm keeps its rate of requests is turnover; if its requests are lost, it is dead.
    """
    findings: list[Finding] = []
    for arm in context.cells.arms[1:]:
        for run_time in find_run_times(context, arm):
            if not may_be_go(context, run_time):  # a silent instance matters only when a GO may be given
                continue
            # For baseline and candidate: number of instances, and those that ended.
            by_role = [_find_ended(context, run_time, role) for role in (0, 1)]
            for name, (_, ended) in zip((BASELINE, arm), by_role, strict=True):
                # Of the instances that ended, those whose requests no other instance took over.
                dead = [instance for instance in ended if instance.why_dead]
                findings += _judge_dead(context, run_time, name, dead)
            findings += _judge_turnover(context, arm, by_role)
    yield from dict.fromkeys(findings)  # each finding once: of the baseline, every candidate gives the same
    if not findings and context.designs:  # a candidate was compared
        yield ok(NAME, "every instance answered until the end of its run")


def _judge_dead(context: RequestContext, run_time: RunTime, name: str, dead: list[_EndedInstance]) -> Iterable[Finding]:
    """Name the dead instance of an arm that was silent for longest; it forbids a GO only on a candidate.

    `name`: name of the arm; `dead`: its dead instances. A short silence that ended is not named.
    """
    if not dead:
        return
    worst = max(dead, key=lambda instance: (run_time.is_load and instance.gap.at_end, instance.gap.buckets))
    share = worst.gap.buckets / run_time.buckets
    # Only in a load it is known that users were there until the end. Any other silence counts by its share of the run.
    at_end = run_time.is_load and worst.gap.at_end
    if share > TOLERATED or at_end:
        further = f" (and {len(dead) - 1} more)" if len(dead) > 1 else ""
        instance = f"instance {worst.name}{further} of {name}"
        text = f"{describe_gap(context, run_time, worst.gap, instance)}; {worst.why_dead}"
        remedy = f"check the logs of {worst.name}: it seems to have stopped answering"
        persistent = at_end or share > context.rulebook.silence
        yield grade("silence", text, remedy, fails=name != BASELINE and persistent)


def _judge_turnover(
    context: RequestContext, arm: str, by_role: list[tuple[int, list[_EndedInstance]]]
) -> Iterable[Finding]:
    """Judge instances that ended and were replaced: if only the candidate's instances end, they may crash.

    If instances of the baseline end as well, the platform is the cause, which is in order.

    `by_role`: for baseline and candidate, the number of instances and those that ended.
    """
    texts: list[str] = []
    # Names of the instances of baseline and candidate that ended and were replaced by others.
    replaced = [sorted(instance.name for instance in ended if not instance.why_dead) for _, ended in by_role]
    baseline_has_turnover = bool(replaced[0])
    for name, replaced_of_arm, (instances, _) in zip((BASELINE, arm), replaced, by_role, strict=True):
        if not replaced_of_arm:
            continue
        count = f"{len(replaced_of_arm)} of {count_of(instances, 'instance')} of {name}"
        text = f"{count} ended and others took over: {name_some(replaced_of_arm)}"
        only_candidate = name == arm and not baseline_has_turnover and len(replaced_of_arm) >= TOO_MANY * instances
        if only_candidate and not context.rulebook.prior.turnover_expected:
            remedy = (
                f"check whether instances of {arm} crash; if they are replaced by design (autoscaling, a roll-out), "
                "set `instances: {turnover: expected}` in the policy"
            )
            yield fail(NAME, f"{text}; no instance of baseline ended", remedy)
        else:
            texts.append(text)
    if texts:
        yield ok(NAME, "; ".join(texts))


def _find_ended(context: RequestContext, run_time: RunTime, role: int) -> tuple[int, list[_EndedInstance]]:
    """Count the instances of an arm in a run, and list those that ended early or were dead for a while.

    `role`: 0 for the baseline, 1 for the candidate. Instances with few requests are not counted. A single instance is
    the arm itself, so it is not listed. Nor is an instance that paused while others took its requests.
    """
    arm_code = 0 if role == 0 else context.cells.arms.index(run_time.arm)
    moments = context.cells.moments
    rows = np.flatnonzero(run_time.rows & (moments.arm == arm_code))
    requests_by_instance = np.asarray(np.bincount(moments.instance[rows], weights=moments.n[rows]), float)
    instances = np.flatnonzero(requests_by_instance >= FEWEST_REQUESTS)
    if instances.size < 2:
        return int(instances.size), []
    # Requests and failures of each instance, and requests of the arm's other instances: shape (instances, buckets).
    own_counts = run_time.count(rows, moments.instance, instances, moments.bucket, moments.n)
    failures = run_time.count(rows, moments.instance, instances, moments.bucket, moments.failures)
    counts_of_others = run_time.counts[role] - own_counts
    ended = []
    # An instance need not have the pace of the others; one hole, such as a restart, does not make it a rare series.
    for silence in find_silence(own_counts, counts_of_others, paced_alike=False, one_hole=True):
        position = silence.series
        name = context.cells.instances[instances[position]]
        gap = max(silence.gaps, key=lambda gap: (gap.at_end, gap.buckets))
        why_dead = _explain_death(context, run_time, role, name, own_counts[position], failures[position], gap)
        if gap.at_end or why_dead:
            ended.append(_EndedInstance(name, gap, why_dead))
    return int(instances.size), ended


def _explain_death(
    context: RequestContext,
    run_time: RunTime,
    role: int,
    name: str,
    own_counts: FloatArray,
    failures: FloatArray,
    gap: Gap,
) -> str:
    """Say why an instance that fell silent counts as dead; empty: other instances replaced it.

    Args:
        context: All data.
        run_time: The run.
        role: Its arm: 0 for the baseline, 1 for the candidate.
        name: Name of the instance.
        own_counts: Its requests in each bucket of the run, shape (buckets,).
        failures: Its failures in each bucket, same shape.
        gap: The time in which it is silent.
    """
    if any(request.instance == name for request in context.settled.failed):
        return "its last requests were never answered"
    last = np.flatnonzero(own_counts[: gap.start])[-2:]  # the last two buckets in which it had requests
    earlier = np.delete(np.arange(gap.start), last)
    own_rate = failures[earlier].sum() / max(own_counts[earlier].sum(), 1.0)  # failure rate before these two buckets
    # Failures that other instances have at the same time, such as of a database, do not show that this one died.
    requests_of_others = run_time.counts.sum(axis=0)[last].sum() - own_counts[last].sum()
    rate_of_others = (run_time.failures[last].sum() - failures[last].sum()) / max(requests_of_others, 1.0)
    burst_size = context.count_baseline_failures(run_time.arm).burst_size
    if (failures[last] >= MANY_FAIL * own_counts[last]).any():
        from scipy.special import betainc  # slow to import, and rarely needed

        # Chance of at least so many failures at the usual rate: exact binomial (an incomplete beta function), as counts
        # are small. A burst counts as one failure.
        bursts, requests = failures[last].sum() / burst_size, own_counts[last].sum() / burst_size
        # At least 0.1 %: at a rate of 0, a single failure would have no chance at all.
        rate = min(max(own_rate, rate_of_others, 0.001), 1.0)
        if betainc(bursts, max(requests - bursts, 0.0) + 1, rate) < BY_CHANCE:
            return "its last requests failed"
    return "" if _is_taken_over(run_time, role, own_counts, gap) else "no other instance took over its requests"


def _is_taken_over(run_time: RunTime, role: int, own_counts: FloatArray, gap: Gap) -> bool:
    """Did the arm keep its rate of requests, relative to the other arm, when an instance fell silent?

    Then other instances took over. The time just before the gap is compared with an equally long time just after its
    start. A drop counts if it is larger than twice the usual step at other moments of the run, as traffic varies by
    itself. True also if the other arm is silent, so that nothing is known.

    Args:
        run_time: The run.
        role: The arm of the instance: 0 for the baseline, 1 for the candidate.
        own_counts: Requests of the instance, shape (buckets,).
        gap: The time in which the instance is silent.
    """
    width = min(gap.start, gap.buckets)  # of the time before and after, in buckets
    moments = np.arange(width, run_time.buckets - width + 1)  # buckets with that much time before and after them
    is_start = moments == gap.start
    # Requests of the arm and of the other arm just before and just after each moment, shape (moments,).
    before, after = _sum_around(run_time.counts[role], moments, width)
    other_before, other_after = _sum_around(run_time.counts[1 - role], moments, width)
    if not (other_before[is_start].all() and other_after[is_start].all()):
        return True
    with np.errstate(divide="ignore", invalid="ignore"):
        # Change of the ratio of both arms' requests at each moment, as a log; below 0: the arm lost requests.
        steps = np.log(after / other_after) - np.log(before / other_before)
    step_at_start = float(steps[is_start][0])  # when the instance fell silent
    # Steps at moments whose time around them contains neither the start nor the end of the gap.
    elsewhere = (np.abs(moments - gap.start) >= width) & (np.abs(moments - gap.end) >= width)
    usual_steps = steps[elsewhere & np.isfinite(steps)]
    usual_step = float(np.sqrt(np.mean(usual_steps**2))) if usual_steps.size >= FEWEST_STEPS else 0.0
    # Standard error of a step: the log of a count varies by about 1/√count (Poisson).
    noise = np.sqrt(sum(1 / max(sums[is_start][0], 1.0) for sums in (before, after, other_before, other_after)))
    typical_step = max(usual_step, float(noise))
    just_before = slice(gap.start - width, gap.start)
    share_of_arm = own_counts[just_before].sum() / max(run_time.counts[role][just_before].sum(), 1.0)
    # Less than half of the instance's share is lost, or the drop is no larger than usual.
    return bool(step_at_start > np.log1p(-share_of_arm / 2) or step_at_start > -2 * typical_step)


def _sum_around(counts: FloatArray, moments: IntArray, width: int) -> tuple[FloatArray, FloatArray]:
    """Sum `counts` over the `width` buckets before each moment, and over those from it on: shape (moments,) each.

    `counts` has shape (buckets,); `moments` are numbers of buckets, each with `width` buckets on both sides.
    """
    sum_before = np.concatenate([[0.0], np.cumsum(counts)])  # the sum of all buckets before bucket 0, 1, …
    before = sum_before[moments] - sum_before[moments - width]
    after = sum_before[moments + width] - sum_before[moments]
    return before, after


# ------------------------------------------------------------------ age


def check_instance_age(context: RequestContext) -> Iterable[Finding]:
    """Young instances have cold caches: if those of one arm are much younger, that may explain the difference."""
    for arm in context.cells.arms[1:]:
        for run_time in find_run_times(context, arm):
            if not run_time.counts.sum(axis=1).all():  # an arm without requests has no ages
                continue
            baseline_s = _mean_age_s(context, run_time, 0)
            candidate_s = _mean_age_s(context, run_time, context.cells.arms.index(arm))
            young_s, old_s = sorted((baseline_s, candidate_s))
            if young_s < MUCH_YOUNGER * old_s and old_s - young_s > LEAST_DIFFERENCE_S and young_s < GROWN_UP_S:
                younger, older = (arm, BASELINE) if candidate_s < baseline_s else (BASELINE, arm)
                yield warn(
                    "instance_age",
                    f"instances of {younger} have been answering for {format_duration(young_s)} on average, those of "
                    f"{older} for {format_duration(old_s)}: young instances may be slower, whatever their version",
                    "let the instances of both arms answer for the same time before you compare them",
                )
                break  # one finding is enough, however many runs there are


def _mean_age_s(context: RequestContext, run_time: RunTime, arm_code: int) -> float:
    """Return the mean age of the instances that answered the requests of an arm in a run, in seconds.

    The age of an instance is the time since its first request in the run, warm-up included.
    """
    moments = context.cells.moments
    rows = (moments.run == run_time.run_number) & (moments.arm == arm_code)
    first_bucket = np.full(len(context.cells.instances), np.iinfo(np.int64).max)  # of each instance
    np.minimum.at(first_bucket, moments.instance[rows], moments.bucket[rows])
    rows &= (moments.bucket >= run_time.first) & (moments.bucket < run_time.end)
    ages = moments.bucket[rows] - first_bucket[moments.instance[rows]]  # in buckets, shape (selected rows,)
    return float(np.average(ages, weights=moments.n[rows])) * context.cells.bucket_s
