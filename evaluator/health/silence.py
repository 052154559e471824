"""Times in which an arm, or an endpoint of the candidate, should have had requests and had none.

The whole run is checked, including its start and end. The run of a load lasts until its users were stopped. The run of
other data lasts from the moment at which both arms have had a request to the last request of either.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from evaluator.health.base import TOLERATED, RequestContext, grade, ok, show_period
from evaluator.health.endpoints import is_health_check
from evaluator.records import BASELINE, BLOCK_BUCKETS, Finding, Run, RunState
from evaluator.records.arrays import BoolArray, FloatArray, IntArray
from evaluator.stats.shaping.index import distinct
from evaluator.stats.shaping.silence import Gap, Silence, find_silence
from evaluator.wording import format_count, format_duration, format_number, write_command

NAME = "silence"
TIME = 1e9
"""Count of the reference in each bucket if time itself is the reference: larger than any count of requests."""
REAL_TIMES_FROM = 10 * 365 * 86400
ENDPOINTS_AT_A_TIME = 2_000


@dataclass(frozen=True, slots=True)
class RunTime:
    """The time of a run in which baseline and one candidate should have requests: buckets `first` to before `end`."""

    run: Run | None
    code: int
    """Code of the run in the cells."""
    arm: str
    first: int
    end: int
    counts: FloatArray
    """Requests of baseline and candidate in each bucket, shape (2, buckets)."""
    failures: FloatArray
    """Failures of both together in each bucket, shape (buckets,)."""
    rows: BoolArray
    """Rows of the cells' moments that count: those of health checks only if there are no others."""
    leaves_out_health_checks: bool

    @property
    def is_load(self) -> bool:
        """Is it a load of this program, whose users ran until its end?"""
        return self.run is not None and self.run.source == "locust"

    @property
    def buckets(self) -> int:
        """Its length in buckets."""
        return self.end - self.first

    def count(self, rows: IntArray, codes: IntArray, chosen: IntArray, buckets: IntArray, n: IntArray) -> FloatArray:
        """Add up `n` of some rows by code and bucket, for the chosen codes: shape (chosen, buckets)."""
        at = np.full(max(int(codes.max()), int(chosen.max())) + 1, -1)
        at[chosen] = np.arange(chosen.size)
        used = rows[at[codes[rows]] >= 0]
        key = at[codes[used]] * self.buckets + buckets[used] - self.first
        counts = np.bincount(key, weights=n[used], minlength=chosen.size * self.buckets)
        return np.asarray(counts, float).reshape(chosen.size, self.buckets)


def find_run_times(context: RequestContext, arm: str) -> list[RunTime]:
    """The time of each run in which the baseline and `arm` both have requests, or should have.

    Health checks do not count if there are other requests: a service that answers only health checks is silent.
    """
    moments, bucket_s = context.cells.moments, context.cells.bucket_s
    code = context.cells.arms.index(arm)
    by_id = {run.id: run for run in context.runs}
    probes = np.array([is_health_check(name) for name in context.cells.endpoints], dtype=bool)
    out = []
    for number in distinct(moments.run).tolist():
        run = by_id.get(context.cells.runs[number])
        rows = (moments.run == number) & ((moments.arm == 0) | (moments.arm == code))
        rows &= moments.bucket >= context.warm_up.first_bucket.get(number, 0)
        used = rows & ~probes[moments.endpoint]
        leaves_out = all((used & (moments.arm == a)).any() for a in (0, code)) and bool((rows & ~used).any())
        rows = used if leaves_out else rows
        own = [moments.bucket[rows & (moments.arm == a)] for a in (0, code)]
        if not own[0].size or not own[1].size:
            continue
        is_load = run is not None and run.source == "locust"
        starts, last = [int(buckets.min()) for buckets in own], max(int(buckets.max()) for buckets in own)
        first, end = min(starts) if is_load else max(starts), last + 1
        if run is not None and is_load and run.facts.users_stopped and run.state is not RunState.RUNNING:
            # The bucket in which users were stopped is not complete.
            end = max(int(run.facts.users_stopped.timestamp() // bucket_s), first + 1)
        inside = rows & (moments.bucket >= first) & (moments.bucket < end)
        position = (moments.arm[inside] != 0) * (end - first) + moments.bucket[inside] - first
        counts = np.bincount(position, weights=moments.n[inside], minlength=2 * (end - first)).reshape(2, -1)
        failures = np.bincount(moments.bucket[inside] - first, weights=moments.failures[inside], minlength=end - first)
        sums = np.asarray(counts, float), np.asarray(failures, float)
        out.append(RunTime(run, number, arm, first, end, *sums, inside, leaves_out))
    return out


def check_silence(context: RequestContext) -> Iterable[Finding]:
    """Compares arms with each other and with the time of their users, then the candidates' endpoints."""
    findings: list[Finding] = []
    looked = False
    for arm in context.cells.arms[1:]:
        for time in find_run_times(context, arm):
            looked = True
            silences = _find_silent_arms(context, time)
            findings += [finding for silence in silences for finding in _judge_arm(context, time, silence)]
            if may_be_go(context, time):
                findings += _judge_endpoints(context, time, silences[1])
    yield from dict.fromkeys(findings)
    if looked and not findings:
        yield ok(NAME, "every arm and endpoint had requests until the end")


def may_be_go(context: RequestContext, time: RunTime) -> bool:
    """May a GO be given now? Only then does a silence at this moment matter."""
    return time.run is None or time.run.state is not RunState.RUNNING or context.may_go_early


def _find_silent_arms(context: RequestContext, time: RunTime) -> tuple[Silence, Silence]:
    """The silences of baseline and candidate in one run.

    In a load an arm is also silent if the other arm is silent too, while users ran. At the end of the load users are
    known to have run. Earlier, only a request that was waiting shows that there were users.
    """
    reference = time.counts[::-1]
    by_other_arm = {silence.series: silence.gaps for silence in find_silence(time.counts, reference)}
    alone: dict[int, tuple[Gap, ...]] = {}
    if time.is_load:
        silences = find_silence(time.counts, np.full_like(time.counts, TIME), paced_alike=False)
        alone = {silence.series: silence.gaps for silence in silences}
    out = []
    for arm in (0, 1):
        gaps = [*by_other_arm.get(arm, ())]
        bounds = {(gap.start, gap.end) for gap in gaps}
        others = [gap for gap in alone.get(arm, ()) if (gap.start, gap.end) not in bounds]
        gaps += [gap for gap in others if gap.at_end or _is_waited_for(context, time, arm, gap)]
        out.append(Silence(arm, tuple(sorted(gaps, key=lambda gap: gap.start))))
    return out[0], out[1]


def _is_waited_for(context: RequestContext, time: RunTime, role: int, gap: Gap) -> bool:
    """Did a request that began before the gap fail, or take half of it?"""
    moments, bucket_s = context.cells.moments, context.cells.bucket_s
    rows = time.rows & (moments.arm == (0 if role == 0 else context.cells.arms.index(time.arm)))
    offset = moments.bucket - time.first
    before = rows & (offset < gap.start)
    ends = offset[before] + 1 + np.nan_to_num(moments.max_us[before]) / 1e6 / bucket_s
    failed = moments.failures[before & (offset == gap.start - 1)].sum()
    return bool(failed) or bool((ends >= (gap.start + gap.end) / 2).any())


def _judge_arm(context: RequestContext, time: RunTime, silence: Silence) -> Iterable[Finding]:
    if not silence.gaps:
        return
    name = (BASELINE, time.arm)[silence.series]
    share = silence.buckets / time.buckets
    # In an import, a candidate that ends well before the baseline stopped if it has fewer requests. With as many
    # requests it may be a test of a fixed number of requests, which ends earlier if they are answered faster.
    fewer = silence.series == 1 and time.counts[1].sum() < (1 - TOLERATED) * time.counts[0].sum()
    at_end = silence.end
    if at_end and not time.is_load and not (fewer and at_end.buckets > TOLERATED * time.buckets):
        at_end = None
    if not may_be_go(context, time):
        at_end = None
    if share <= TOLERATED and not at_end:
        return
    text = describe_gap(context, time, at_end or silence.longest, name)
    if len(silence.gaps) > 1:
        text += f"; {len(silence.gaps)} such gaps are {format_number(share * 100)} % of the run"
    if time.leaves_out_health_checks:
        text += "; health checks are not counted"
    remedy = f"find out why {name} got no requests"
    if time.is_load:
        remedy += f", then load it again: `evaluator load {context.release} …`"
    elif options := period_options(context, time, silence):
        remedy += f"; to judge only the time without gaps: `{write_command(context.release)} {options}`"
    else:
        remedy += ", then import the requests of a complete run"
    yield grade(NAME, text, remedy, fails=bool(at_end) or share > context.rulebook.silence)


def describe_gap(context: RequestContext, time: RunTime, gap: Gap, name: str) -> str:
    """Say when it was silent, for how long, and how many requests were expected."""
    bucket_s = context.cells.bucket_s
    start = int(context.cells.moments.bucket[context.cells.moments.run == time.code].min())
    moments = []
    for bucket in (time.first + gap.start, time.first + gap.end):
        moment = f"minute {format_number(round((bucket - start) * bucket_s / 60, 1))}"
        if bucket * bucket_s > REAL_TIMES_FROM:
            moment += f" ({datetime.fromtimestamp(bucket * bucket_s, UTC):%H:%M:%S} UTC)"
        moments.append(moment)
    until = "the end" if gap.at_end else moments[1]
    length = format_duration(gap.buckets * bucket_s)
    share = format_number(gap.buckets / time.buckets * 100)
    expected = format_count(max(round(gap.expected), 1))
    where = f", where about {expected} were expected" if gap.expected < TIME else ""
    return f"{name} had no request from {moments[0]} to {until}: {length}, {share} % of the run{where}"


def period_options(context: RequestContext, time: RunTime, silence: Silence) -> str:
    """The options that judge the longest time without these gaps; empty if times do not count from 1970."""
    edges = [0, *(edge for gap in silence.gaps for edge in (gap.start, gap.end)), time.buckets]
    pieces = list(zip(edges[::2], edges[1::2], strict=True))
    start, end = max(pieces, key=lambda piece: piece[1] - piece[0])
    # Cells are cut at whole blocks, so only whole blocks are proposed.
    first = -(-(time.first + start) // BLOCK_BUCKETS) * BLOCK_BUCKETS * context.cells.bucket_s
    last = (time.first + end) // BLOCK_BUCKETS * BLOCK_BUCKETS * context.cells.bucket_s
    if first >= last or first < REAL_TIMES_FROM:
        return ""
    return show_period(first * 1000, last * 1000)


# ------------------------------------------------------------------ endpoints


def _judge_endpoints(context: RequestContext, time: RunTime, arm: Silence) -> Iterable[Finding]:
    """Endpoints that the baseline still answered while the candidate did not."""
    silent: list[tuple[float, str, Gap]] = []
    for names, own, reference in _endpoint_counts(context, time):
        for silence in find_silence(own, reference):
            # An endpoint counts from the first to the last request of the baseline: it may be called at the start only.
            requested = np.flatnonzero(reference[silence.series])
            first, last = int(requested[0]), int(requested[-1]) + 1
            gaps = []
            for gap in silence.gaps:
                start, end = max(gap.start, first), min(gap.end, last)
                if not any(arm_gap.start <= start and end <= arm_gap.end for arm_gap in arm.gaps):
                    gaps.append(replace(gap, start=start, end=end, at_end=end == time.buckets))
            buckets = sum(gap.buckets for gap in gaps)
            if buckets > TOLERATED * time.buckets:
                longest = max(gaps, key=lambda gap: (gap.at_end, gap.buckets))
                silent.append((buckets / time.buckets, names[silence.series], longest))
    if not silent:
        return
    share, endpoint, gap = max(silent, key=lambda entry: (entry[0], entry[1]))
    further = f" (and {len(silent) - 1} more endpoints)" if len(silent) > 1 else ""
    text = describe_gap(context, time, gap, f"{endpoint}{further} of {time.arm}") + "; baseline still answered it"
    remedy = f"find out why {time.arm} got no requests for {endpoint}, or did not answer them"
    yield grade(NAME, text, remedy, fails=share > context.rulebook.silence)


def _endpoint_counts(context: RequestContext, time: RunTime) -> Iterable[tuple[list[str], FloatArray, FloatArray]]:
    """Names, requests of the candidate and of the baseline per endpoint and bucket, some endpoints at a time."""
    moments, endpoints = context.cells.moments, context.cells.endpoints
    inside = (moments.run == time.code) & (moments.bucket >= time.first) & (moments.bucket < time.end)
    rows = [np.flatnonzero(inside & (moments.arm == a)) for a in (0, context.cells.arms.index(time.arm))]
    called = [np.bincount(moments.endpoint[own], moments.n[own], len(endpoints)) > 0 for own in rows]
    chosen = np.flatnonzero(called[0] & called[1])
    for start in range(0, chosen.size, ENDPOINTS_AT_A_TIME):
        part = chosen[start : start + ENDPOINTS_AT_A_TIME]
        reference, own = (time.count(of_arm, moments.endpoint, part, moments.bucket, moments.n) for of_arm in rows)
        yield [endpoints[code] for code in part], own, reference
