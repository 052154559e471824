"""Times in which an arm, or an endpoint of the candidate, should have had requests and had none.

The whole run is checked, including its start and end. The run of a load lasts until its users were stopped. The run of
other data lasts from the moment at which both arms have had a request to the last request of either.
"""

from __future__ import annotations

import math
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
"""Seconds since 1970 from which times are dates; smaller times count from the start of a test."""
ENDPOINTS_AT_A_TIME = 2_000


@dataclass(frozen=True, slots=True)
class RunTime:
    """The time of a run in which baseline and one candidate should have requests: buckets `first` to before `end`."""

    run: Run | None
    code: int
    """Code of the run in the cells."""
    arm: str
    """Name of the candidate."""
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
        """Add up `n` of some rows by code and bucket, for the chosen codes: shape (chosen, buckets).

        Args:
            rows: Indices of the rows to count.
            codes: What to count by, such as the endpoint or the instance of each row of the cells.
            chosen: The codes that are counted; rows of other codes are ignored.
            buckets: Bucket of each row of the cells.
            n: What is added up, of each row of the cells.
        """
        positions = np.full(max(int(codes.max()), int(chosen.max())) + 1, -1)  # of each code among the chosen
        positions[chosen] = np.arange(chosen.size)
        used = rows[positions[codes[rows]] >= 0]
        key = positions[codes[used]] * self.buckets + buckets[used] - self.first
        counts = np.bincount(key, weights=n[used], minlength=chosen.size * self.buckets)
        return np.asarray(counts, float).reshape(chosen.size, self.buckets)


def find_run_times(context: RequestContext, arm: str) -> list[RunTime]:
    """Find the time of each run in which the baseline and the candidate `arm` have requests, or should have.

    Health checks do not count if there are other requests: a service that answers only health checks is silent. Runs
    without requests of one of the arms are left out.
    """
    moments, bucket_s = context.cells.moments, context.cells.bucket_s
    code = context.cells.arms.index(arm)
    runs_by_id = {run.id: run for run in context.runs}
    is_health_check_by_endpoint = np.array([is_health_check(name) for name in context.cells.endpoints], dtype=bool)
    out = []
    for run_code in distinct(moments.run).tolist():
        run = runs_by_id.get(context.cells.runs[run_code])
        rows = (moments.run == run_code) & ((moments.arm == 0) | (moments.arm == code))
        rows &= moments.bucket >= context.warm_up.first_bucket.get(run_code, 0)
        others = rows & ~is_health_check_by_endpoint[moments.endpoint]  # rows that are no health checks
        both_have_others = all((others & (moments.arm == arm_code)).any() for arm_code in (0, code))
        leaves_out_health_checks = both_have_others and bool((rows & ~others).any())
        if leaves_out_health_checks:
            rows = others
        baseline, candidate = (moments.bucket[rows & (moments.arm == arm_code)] for arm_code in (0, code))
        if not baseline.size or not candidate.size:
            continue
        is_load = run is not None and run.source == "locust"
        starts = int(baseline.min()), int(candidate.min())
        # The users of a load call both arms from its start on; other data begin when both arms have had a request.
        first = min(starts) if is_load else max(starts)
        end = max(int(baseline.max()), int(candidate.max())) + 1
        if run is not None and is_load and run.facts.users_stopped and run.state is not RunState.RUNNING:
            # The bucket in which users were stopped is not complete.
            end = max(int(run.facts.users_stopped.timestamp() // bucket_s), first + 1)
        inside = rows & (moments.bucket >= first) & (moments.bucket < end)
        buckets, bucket = end - first, moments.bucket[inside] - first
        position = (moments.arm[inside] != 0) * buckets + bucket  # the candidate's buckets follow the baseline's
        counts = np.bincount(position, weights=moments.n[inside], minlength=2 * buckets).reshape(2, -1)
        failures = np.bincount(bucket, weights=moments.failures[inside], minlength=buckets)
        out.append(
            RunTime(
                run=run,
                code=run_code,
                arm=arm,
                first=first,
                end=end,
                counts=np.asarray(counts, float),
                failures=np.asarray(failures, float),
                rows=inside,
                leaves_out_health_checks=leaves_out_health_checks,
            )
        )
    return out


def check_silence(context: RequestContext) -> Iterable[Finding]:
    """Find times in which an arm, or an endpoint of a candidate, should have had requests and had none."""
    findings: list[Finding] = []
    checked = False
    for arm in context.cells.arms[1:]:
        for time in find_run_times(context, arm):
            checked = True
            silences = _find_silent_arms(context, time)
            findings += [finding for silence in silences for finding in _judge_arm(context, time, silence)]
            if may_be_go(context, time):
                findings += _judge_endpoints(context, time, silences[1])
    yield from dict.fromkeys(findings)  # each finding once: of the baseline, every candidate gives the same
    if checked and not findings:
        yield ok(NAME, "every arm and endpoint had requests until the end")


def may_be_go(context: RequestContext, time: RunTime) -> bool:
    """May a GO be given now? Only then does a silence at this moment matter."""
    return time.run is None or time.run.state is not RunState.RUNNING or context.may_go_early


def _find_silent_arms(context: RequestContext, time: RunTime) -> tuple[Silence, Silence]:
    """Find the silences of baseline and candidate in one run; without silence, a `Silence` without gaps.

    In a load an arm is also silent if the other arm is silent too, while users ran. At the end of the load users are
    known to have run. Earlier, only a request that was waiting shows that there were users.
    """
    other_arm = time.counts[::-1]  # the reference of the baseline is the candidate, and the other way round
    gaps_by_other_arm = {silence.series: silence.gaps for silence in find_silence(time.counts, other_arm)}
    gaps_by_time: dict[int, tuple[Gap, ...]] = {}
    if time.is_load:
        silences = find_silence(time.counts, np.full_like(time.counts, TIME), paced_alike=False)
        gaps_by_time = {silence.series: silence.gaps for silence in silences}
    out = []
    for role in (0, 1):  # baseline, candidate
        gaps = [*gaps_by_other_arm.get(role, ())]
        known = {(gap.start, gap.end) for gap in gaps}
        for gap in gaps_by_time.get(role, ()):
            is_new = (gap.start, gap.end) not in known
            if is_new and (gap.at_end or _is_waited_for(context, time, role, gap)):
                gaps.append(gap)
        out.append(Silence(role, tuple(sorted(gaps, key=lambda gap: gap.start))))
    return out[0], out[1]


def _is_waited_for(context: RequestContext, time: RunTime, role: int, gap: Gap) -> bool:
    """Was a request of the arm waiting in the gap: did a request just before it fail, or last until its middle?

    `role`: 0 for the baseline, 1 for the candidate.
    """
    moments, bucket_s = context.cells.moments, context.cells.bucket_s
    rows = time.rows & (moments.arm == (0 if role == 0 else context.cells.arms.index(time.arm)))
    bucket = moments.bucket - time.first  # as gaps, counted from the start of the run
    before = rows & (bucket < gap.start)
    # Latest end of the slowest request in each row, in buckets; NaN: there is no response time.
    ends = bucket[before] + 1 + np.nan_to_num(moments.max_us[before]) / 1e6 / bucket_s
    failures_just_before = moments.failures[before & (bucket == gap.start - 1)].sum()
    return bool(failures_just_before) or bool((ends >= (gap.start + gap.end) / 2).any())


def _judge_arm(context: RequestContext, time: RunTime, silence: Silence) -> Iterable[Finding]:
    """Judge the silence of an arm: at the end, or above the policy's share (`health.silence`), there is no GO."""
    if not silence.gaps:
        return
    name = (BASELINE, time.arm)[silence.series]
    share = silence.buckets / time.buckets
    # In an import, a candidate that ends well before the baseline stopped if it has fewer requests. With as many
    # requests it may be a test of a fixed number of requests, which ends earlier if they are answered faster.
    baseline_requests, candidate_requests = time.counts.sum(axis=1)
    has_fewer = silence.series == 1 and candidate_requests < (1 - TOLERATED) * baseline_requests
    end_gap = silence.end  # the gap at the end of the run, if it counts as a stop
    if end_gap and not time.is_load and not (has_fewer and end_gap.buckets > TOLERATED * time.buckets):
        end_gap = None
    if not may_be_go(context, time):  # a run that goes on may have more requests later
        end_gap = None
    if share <= TOLERATED and not end_gap:
        return
    text = describe_gap(context, time, end_gap or silence.longest, name)
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
    yield grade(NAME, text, remedy, fails=bool(end_gap) or share > context.rulebook.silence)


def describe_gap(context: RequestContext, time: RunTime, gap: Gap, name: str) -> str:
    """Say when `name` (an arm, endpoint or instance) was silent, for how long, and how many requests were expected."""
    bucket_s = context.cells.bucket_s
    run_start = int(context.cells.moments.bucket[context.cells.moments.run == time.code].min())
    edges = []  # start and end of the gap
    for bucket in (time.first + gap.start, time.first + gap.end):
        edge = f"minute {format_number(round((bucket - run_start) * bucket_s / 60, 1))}"
        if bucket * bucket_s > REAL_TIMES_FROM:  # else times count from the start of a test, not from 1970
            edge += f" ({datetime.fromtimestamp(bucket * bucket_s, UTC):%H:%M:%S} UTC)"
        edges.append(edge)
    until = "the end" if gap.at_end else edges[1]
    length = format_duration(gap.buckets * bucket_s)
    share = format_number(gap.buckets / time.buckets * 100)
    expected = format_count(max(round(gap.expected), 1))
    # If time itself is the reference, nothing is known of the number of requests.
    where = f", where about {expected} were expected" if gap.expected < TIME else ""
    return f"{name} had no request from {edges[0]} to {until}: {length}, {share} % of the run{where}"


def period_options(context: RequestContext, time: RunTime, silence: Silence) -> str:
    """Write the options that judge the longest time without these gaps.

    Empty if there is no such time, or if times do not count from 1970.
    """
    edges = [0, *(edge for gap in silence.gaps for edge in (gap.start, gap.end)), time.buckets]
    pieces = list(zip(edges[::2], edges[1::2], strict=True))  # the times between the gaps
    start, end = max(pieces, key=lambda piece: piece[1] - piece[0])
    # Cells are cut at whole blocks, so only whole blocks are proposed: the start is rounded up, the end down.
    first_block = math.ceil((time.first + start) / BLOCK_BUCKETS)
    end_block = (time.first + end) // BLOCK_BUCKETS
    block_s = BLOCK_BUCKETS * context.cells.bucket_s
    start_s, end_s = first_block * block_s, end_block * block_s
    if start_s >= end_s or start_s < REAL_TIMES_FROM:
        return ""
    return show_period(start_s * 1000, end_s * 1000)


# ------------------------------------------------------------------ endpoints


def _judge_endpoints(context: RequestContext, time: RunTime, arm_silence: Silence) -> Iterable[Finding]:
    """Judge the endpoint that was silent for the longest share of the run while the baseline still answered it.

    `arm_silence`: the gaps of the candidate as a whole, which have findings of their own.
    """
    silent: list[tuple[float, str, Gap]] = []  # share of the run, endpoint, longest gap
    for names, candidate, baseline in _count_by_endpoint(context, time):
        for silence in find_silence(candidate, baseline):
            # An endpoint counts from the first to the last request of the baseline: it may be called at the start only.
            requested = np.flatnonzero(baseline[silence.series])
            first, last = int(requested[0]), int(requested[-1]) + 1
            gaps = []
            for gap in silence.gaps:
                start, end = max(gap.start, first), min(gap.end, last)
                if not any(arm_gap.start <= start and end <= arm_gap.end for arm_gap in arm_silence.gaps):
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


def _count_by_endpoint(context: RequestContext, time: RunTime) -> Iterable[tuple[list[str], FloatArray, FloatArray]]:
    """Count the requests of the endpoints that both arms have.

    Yields the names of up to 2,000 endpoints at a time (memory), and requests of candidate and baseline, shape
    (endpoints, buckets) each.
    """
    moments, endpoints = context.cells.moments, context.cells.endpoints
    inside = (moments.run == time.code) & (moments.bucket >= time.first) & (moments.bucket < time.end)
    baseline_rows = np.flatnonzero(inside & (moments.arm == 0))
    candidate_rows = np.flatnonzero(inside & (moments.arm == context.cells.arms.index(time.arm)))
    on_both = np.ones(len(endpoints), dtype=bool)
    for rows in (baseline_rows, candidate_rows):
        on_both &= np.bincount(moments.endpoint[rows], moments.n[rows], len(endpoints)) > 0
    codes = np.flatnonzero(on_both)
    for start in range(0, codes.size, ENDPOINTS_AT_A_TIME):
        part = codes[start : start + ENDPOINTS_AT_A_TIME]
        baseline = time.count(baseline_rows, moments.endpoint, part, moments.bucket, moments.n)
        candidate = time.count(candidate_rows, moments.endpoint, part, moments.bucket, moments.n)
        yield [endpoints[code] for code in part], candidate, baseline
