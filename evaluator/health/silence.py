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
from evaluator.wording import format_count, format_duration, format_number, quote_command, write_command

NAME = "silence"
LOAD_SOURCE = "locust"
"""`Run.source` of a load of this program."""
REQUESTS_OF_TIME = 1e9
"""Requests of the reference in each bucket if time itself is the reference: larger than any count of requests."""
MOST_EXPECTED = 1e9
"""From this number of expected requests on, the number is no estimate: nothing outside the gap can be its basis."""
REAL_TIMES_FROM = 10 * 365 * 86400
"""Seconds since 1970 from which times are dates; smaller times count from the start of a test."""
ENDPOINTS_AT_A_TIME = 2_000


@dataclass(frozen=True, slots=True)
class RunTime:
    """The time of a run in which baseline and one candidate should have requests: buckets `first` to before `end`."""

    run: Run | None
    """`None`: nothing but its requests is known."""
    run_number: int
    """Number of the run in the cells."""
    arm: str
    """Name of the candidate."""
    first: int
    """First bucket, counted since the epoch as in the cells."""
    end: int
    """Bucket after the last."""
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
        return self.run is not None and self.run.source == LOAD_SOURCE

    @property
    def buckets(self) -> int:
        """Its length in buckets."""
        return self.end - self.first

    def count(self, rows: IntArray, codes: IntArray, chosen: IntArray, buckets: IntArray, n: IntArray) -> FloatArray:
        """Add up `n` of some rows by code and bucket, for the chosen codes: shape (chosen, buckets of the run).

        Args:
            rows: Indices of the rows to count, all within the time of the run.
            codes: Endpoint or instance (a number) of each row of the cells.
            chosen: The codes that are counted; rows of other codes are ignored.
            buckets: Bucket of each row of the cells.
            n: What is added up, of each row of the cells: requests or failures.
        """
        # Code → its position among the chosen codes; -1: it is not chosen.
        positions = np.full(max(int(codes.max()), int(chosen.max())) + 1, -1)
        positions[chosen] = np.arange(chosen.size)
        used = rows[positions[codes[rows]] >= 0]
        flat_index = positions[codes[used]] * self.buckets + buckets[used] - self.first  # in the result, row after row
        counts = np.bincount(flat_index, weights=n[used], minlength=chosen.size * self.buckets)
        return np.asarray(counts, float).reshape(chosen.size, self.buckets)


def find_run_times(context: RequestContext, arm: str) -> list[RunTime]:
    """Find, for each run with requests of the baseline and the candidate `arm`, the time that is checked for silence.

    Runs without requests of one of the two arms are left out.
    """
    moments = context.cells.moments
    runs_by_id = {run.id: run for run in context.runs}
    arm_codes = 0, context.cells.arms.index(arm)  # of baseline and candidate
    out = []
    for run_number in distinct(moments.run).tolist():
        run = runs_by_id.get(context.cells.runs[run_number])
        rows, leaves_out_health_checks = _select_rows(context, run_number, arm_codes)
        interval = _find_interval(context, run, rows, arm_codes)
        if interval is None:
            continue
        first, end = interval
        inside = rows & (moments.bucket >= first) & (moments.bucket < end)
        buckets, bucket = end - first, moments.bucket[inside] - first
        position = (moments.arm[inside] != 0) * buckets + bucket  # the candidate's buckets follow the baseline's
        counts = np.bincount(position, weights=moments.n[inside], minlength=2 * buckets).reshape(2, -1)
        failures = np.bincount(bucket, weights=moments.failures[inside], minlength=buckets)
        out.append(
            RunTime(
                run=run,
                run_number=run_number,
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


def _select_rows(context: RequestContext, run_number: int, arm_codes: tuple[int, int]) -> tuple[BoolArray, bool]:
    """Select the rows of two arms in a run, after the warm-up; `arm_codes`: those of baseline and candidate.

    Health checks are left out, since a service may still answer them when it is silent to users. They stay if an arm
    has nothing else: then they are all that can be compared.

    Returns True for each selected row of the cells' moments, shape (rows,), and whether health checks were left out.
    """
    moments = context.cells.moments
    rows = (moments.run == run_number) & np.isin(moments.arm, arm_codes)
    rows &= moments.bucket >= context.warm_up.first_bucket.get(run_number, 0)
    is_health_check_by_endpoint = np.array([is_health_check(name) for name in context.cells.endpoints], dtype=bool)
    without_health_checks = rows & ~is_health_check_by_endpoint[moments.endpoint]
    both_have_others = all((without_health_checks & (moments.arm == arm_code)).any() for arm_code in arm_codes)
    if both_have_others and (rows & ~without_health_checks).any():
        return without_health_checks, True
    return rows, False


def _find_interval(
    context: RequestContext, run: Run | None, rows: BoolArray, arm_codes: tuple[int, int]
) -> tuple[int, int] | None:
    """Find the time of a run in which both arms should have requests; `None`: an arm has none at all.

    Args:
        context: All data.
        run: The run; `None` if nothing but its requests is known.
        rows: True for each row of the cells' moments that belongs to the run and one of the arms, shape (rows,).
        arm_codes: Codes of baseline and candidate.

    Returns:
        Its first bucket, and the bucket after its last.
    """
    moments = context.cells.moments
    baseline, candidate = (moments.bucket[rows & (moments.arm == arm_code)] for arm_code in arm_codes)  # buckets
    if not baseline.size or not candidate.size:
        return None
    starts = int(baseline.min()), int(candidate.min())
    end = max(int(baseline.max()), int(candidate.max())) + 1
    if run is None or run.source != LOAD_SOURCE:
        return max(starts), end  # imported data begin when both arms have had a request
    first = min(starts)  # the users of a load call both arms from its start on
    if run.facts.users_stopped and run.state is not RunState.RUNNING:
        # The bucket in which users were stopped is not complete.
        end = max(int(run.facts.users_stopped.timestamp() // context.cells.bucket_s), first + 1)
    return first, end


def check_silence(context: RequestContext) -> Iterable[Finding]:
    """Find times in which an arm, or an endpoint of a candidate, should have had requests and had none."""
    findings: list[Finding] = []
    checked = False
    for arm in context.cells.arms[1:]:
        for run_time in find_run_times(context, arm):
            checked = True
            silences = _find_silent_arms(context, run_time)
            findings += [finding for silence in silences for finding in _judge_arm(context, run_time, silence)]
            if may_be_go(context, run_time):  # a silent endpoint forbids a GO, and nothing else
                _, candidate_silence = silences
                findings += _judge_endpoints(context, run_time, candidate_silence)
    yield from dict.fromkeys(findings)  # each finding once: of the baseline, every candidate gives the same
    if checked and not findings:
        yield ok(NAME, "every arm and endpoint had requests until the end")


def may_be_go(context: RequestContext, run_time: RunTime) -> bool:
    """May a GO be given now, at the end of the run or early? Only then does a silence at this moment matter."""
    return run_time.run is None or run_time.run.state is not RunState.RUNNING or context.may_go_early


def _find_silent_arms(context: RequestContext, run_time: RunTime) -> tuple[Silence, Silence]:
    """Find the silences of baseline and candidate in one run; for an arm without silence, a `Silence` without gaps.

    An arm is silent while it has no requests and the other arm has. In a load, whose users keep calling, an arm is also
    silent while neither arm has requests. At the end of the load users are known to have run. Earlier, only a request
    that was waiting shows that there were users.
    """
    other_arm = run_time.counts[::-1]  # the reference of the baseline is the candidate, and the other way round
    gaps_by_other_arm = {silence.series: silence.gaps for silence in find_silence(run_time.counts, other_arm)}
    gaps_by_time: dict[int, tuple[Gap, ...]] = {}  # 0: baseline, 1: candidate; gaps without regard to the other arm
    if run_time.is_load:
        time_itself = np.full_like(run_time.counts, REQUESTS_OF_TIME)  # a reference with requests in each bucket
        silences = find_silence(run_time.counts, time_itself, paced_alike=False)
        gaps_by_time = {silence.series: silence.gaps for silence in silences}
    out = []
    for role in (0, 1):  # baseline, candidate
        gaps = [*gaps_by_other_arm.get(role, ())]
        known = {(gap.start, gap.end) for gap in gaps}
        for gap in gaps_by_time.get(role, ()):
            is_new = (gap.start, gap.end) not in known
            # At the end, users are known to have run; before that, only if a request was waiting.
            if is_new and (gap.at_end or _is_waited_for(context, run_time, role, gap)):
                gaps.append(gap)
        out.append(Silence(role, tuple(sorted(gaps, key=lambda gap: gap.start))))
    return out[0], out[1]


def _is_waited_for(context: RequestContext, run_time: RunTime, role: int, gap: Gap) -> bool:
    """Was a request of the arm waiting in the gap: did a request just before it fail, or last until its middle?

    `role`: 0 for the baseline, 1 for the candidate.
    """
    moments, bucket_s = context.cells.moments, context.cells.bucket_s
    units_per_s = 1000 * context.cells.units_per_ms
    arm_code = 0 if role == 0 else context.cells.arms.index(run_time.arm)
    rows = run_time.rows & (moments.arm == arm_code)
    bucket = moments.bucket - run_time.first  # bucket in which requests began, counted as gaps are
    before = rows & (bucket < gap.start)
    # Latest end of the slowest success in each row, in buckets: it began at the end of its bucket at the latest. A row
    # without successes has no response time (NaN): 0.
    ends = bucket[before] + 1 + np.nan_to_num(moments.max_time[before]) / units_per_s / bucket_s
    failures_just_before = moments.failures[before & (bucket == gap.start - 1)].sum()
    return bool(failures_just_before) or bool((ends >= (gap.start + gap.end) / 2).any())


def _judge_arm(context: RequestContext, run_time: RunTime, silence: Silence) -> Iterable[Finding]:
    """Judge the silence of an arm: at the end, or above the policy's share (`health.silence`), it forbids a GO.

    There is no finding if the gaps are no more than `TOLERATED` of the run and none of them counts as a stop.
    """
    if not silence.gaps:
        return
    name = (BASELINE, run_time.arm)[silence.series]  # series 0 is the baseline, 1 the candidate
    share = silence.buckets / run_time.buckets
    # In an import, a candidate that ends well before the baseline stopped if it has fewer requests. With as many
    # requests it may be a test of a fixed number of requests, which ends earlier if they are answered faster.
    baseline_requests, candidate_requests = run_time.counts.sum(axis=1)
    has_fewer = silence.series == 1 and candidate_requests < (1 - TOLERATED) * baseline_requests
    end_gap = silence.end  # the gap at the end of the run, if it counts as a stop
    if end_gap and not run_time.is_load and not (has_fewer and end_gap.buckets > TOLERATED * run_time.buckets):
        end_gap = None
    if not may_be_go(context, run_time):  # a run that goes on may have more requests later
        end_gap = None
    if share <= TOLERATED and not end_gap:
        return
    text = describe_gap(context, run_time, end_gap or silence.longest, name)
    if len(silence.gaps) > 1:
        text += f"; {len(silence.gaps)} such gaps are {format_number(share * 100)} % of the run"
    if run_time.leaves_out_health_checks:
        text += "; health checks are not counted"
    remedy = f"find out why {name} got no requests"
    if run_time.is_load:
        remedy += f", then load it again: `{quote_command('load', context.release)} …`"
    elif options := period_options(context, run_time, silence):
        remedy += f"; to judge only the time without gaps: `{write_command(context.release)} {options}`"
    else:
        remedy += ", then import the requests of a complete run"
    yield grade(NAME, text, remedy, fails=bool(end_gap) or share > context.rulebook.silence)


def describe_gap(context: RequestContext, run_time: RunTime, gap: Gap, name: str) -> str:
    """Say when `name` (an arm, endpoint or instance) was silent, for how long, and how many requests were expected."""
    bucket_s = context.cells.bucket_s
    # Minutes count from the first request of the run, warm-up included; the gap's buckets count from `run_time.first`.
    run_start = int(context.cells.moments.bucket[context.cells.moments.run == run_time.run_number].min())
    edges = []  # start and end of the gap, as texts
    for bucket in (run_time.first + gap.start, run_time.first + gap.end):
        edge = f"minute {format_number(round((bucket - run_start) * bucket_s / 60, 1))}"
        if bucket * bucket_s > REAL_TIMES_FROM:  # else times count from the start of a test, not from 1970
            edge += f" ({datetime.fromtimestamp(bucket * bucket_s, UTC):%H:%M:%S} UTC)"
        edges.append(edge)
    until = "the end" if gap.at_end else edges[1]
    length = format_duration(gap.buckets * bucket_s)
    share = format_number(gap.buckets / run_time.buckets * 100)
    expected = format_count(max(round(gap.expected), 1))
    # A larger number is no estimate: outside the gap, nothing was counted from which to estimate.
    where = f", where about {expected} were expected" if gap.expected < MOST_EXPECTED else ""
    return f"{name} had no request from {edges[0]} to {until}: {length}, {share} % of the run{where}"


def period_options(context: RequestContext, run_time: RunTime, silence: Silence) -> str:
    """Write the options `--from … --to …` that judge the longest time of the run between the gaps.

    Empty if there is no such time, or if times do not count from 1970.
    """
    # Start and end of each time between the gaps: the end of a gap is the start of the next such time.
    starts = [0, *(gap.end for gap in silence.gaps)]
    ends = [*(gap.start for gap in silence.gaps), run_time.buckets]
    start, end = max(zip(starts, ends, strict=True), key=lambda interval: interval[1] - interval[0])
    # Cells are cut at whole blocks, so only whole blocks are proposed: the start is rounded up, the end down.
    first_block = math.ceil((run_time.first + start) / BLOCK_BUCKETS)
    end_block = (run_time.first + end) // BLOCK_BUCKETS
    block_s = BLOCK_BUCKETS * context.cells.bucket_s
    start_s, end_s = first_block * block_s, end_block * block_s
    if start_s >= end_s or start_s < REAL_TIMES_FROM:
        return ""
    return show_period(start_s * 1000, end_s * 1000)


# ------------------------------------------------------------------ endpoints


def _judge_endpoints(context: RequestContext, run_time: RunTime, arm_silence: Silence) -> Iterable[Finding]:
    """Judge the candidate's endpoint that was silent for the longest share of the run while the baseline answered it.

    `arm_silence`: the gaps of the candidate as a whole, which have findings of their own.
    """
    silent: list[tuple[float, str, Gap]] = []  # of each silent endpoint: share of the run, name, longest gap
    for endpoints, candidate, baseline in _count_by_endpoint(context, run_time):
        for silence in find_silence(candidate, baseline):  # an endpoint is silent while the baseline still answers it
            # An endpoint counts from the first to the last request of the baseline: it may be called at the start only.
            requested = np.flatnonzero(baseline[silence.series])
            requested_from, requested_until = int(requested[0]), int(requested[-1]) + 1
            gaps = []  # those that are not within a gap of the whole arm
            for gap in silence.gaps:
                start, end = max(gap.start, requested_from), min(gap.end, requested_until)
                if not any(arm_gap.start <= start and end <= arm_gap.end for arm_gap in arm_silence.gaps):
                    gaps.append(replace(gap, start=start, end=end, at_end=end == run_time.buckets))
            buckets = sum(gap.buckets for gap in gaps)
            if buckets > TOLERATED * run_time.buckets:
                longest = max(gaps, key=lambda gap: (gap.at_end, gap.buckets))  # rather the gap at the end
                silent.append((buckets / run_time.buckets, endpoints[silence.series], longest))
    if not silent:
        return
    share, endpoint, gap = max(silent, key=lambda entry: (entry[0], entry[1]))
    further = f" (and {len(silent) - 1} more endpoints)" if len(silent) > 1 else ""
    text = (
        describe_gap(context, run_time, gap, f"{endpoint}{further} of {run_time.arm}") + "; baseline still answered it"
    )
    remedy = f"find out why {run_time.arm} got no requests for {endpoint}, or did not answer them"
    yield grade(NAME, text, remedy, fails=share > context.rulebook.silence)


def _count_by_endpoint(
    context: RequestContext, run_time: RunTime
) -> Iterable[tuple[list[str], FloatArray, FloatArray]]:
    """Count the requests of each endpoint that both arms have, in each bucket of the run.

    To save memory, up to 2,000 endpoints are counted at a time. Yields their names, and the requests of candidate and
    baseline: two arrays of shape (endpoints, buckets).
    """
    moments, endpoints = context.cells.moments, context.cells.endpoints
    inside = (moments.run == run_time.run_number) & (moments.bucket >= run_time.first) & (moments.bucket < run_time.end)
    baseline_rows = np.flatnonzero(inside & (moments.arm == 0))
    candidate_rows = np.flatnonzero(inside & (moments.arm == context.cells.arms.index(run_time.arm)))
    on_both = np.ones(len(endpoints), dtype=bool)
    for rows in (baseline_rows, candidate_rows):
        on_both &= np.bincount(moments.endpoint[rows], moments.n[rows], len(endpoints)) > 0
    endpoint_codes = np.flatnonzero(on_both)
    # `run_time.count` sums the last argument of these rows by endpoint and bucket.
    for start in range(0, endpoint_codes.size, ENDPOINTS_AT_A_TIME):
        part = endpoint_codes[start : start + ENDPOINTS_AT_A_TIME]
        baseline = run_time.count(baseline_rows, moments.endpoint, part, moments.bucket, moments.n)
        candidate = run_time.count(candidate_rows, moments.endpoint, part, moments.bucket, moments.n)
        yield [endpoints[endpoint_code] for endpoint_code in part], candidate, baseline
