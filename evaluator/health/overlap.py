"""Did the arms run at the same time? Only then do effects on both arms cancel."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from evaluator.health.base import TOLERATED, ReadingContext, RequestContext, fail, ok, show_clock, warn
from evaluator.records import BASELINE, Finding, Level, is_imported
from evaluator.stats.shaping.index import distinct
from evaluator.stats.shaping.panel import Panel
from evaluator.wording import format_duration, quote_command

NAME = "overlap"
ENOUGH_REPLICATES = 3
MAX_DROPPED = 0.05
TEN_YEARS_S = 10 * 365 * 86400
Spans = dict[int, tuple[int, int]]
"""Number of a run → first and last bucket of an arm in it."""
OTHER_MATCH = (
    "import the files again under another release id: an import now matches the runs of both arms by their times"
)


def check_overlap(context: RequestContext) -> Iterable[Finding]:
    """Fail if the arms ran at different times, unless enough replicates show how much time itself matters.

    Warn of replicates, times and requests of one arm that the other arm does not have.
    """
    baseline_spans = _find_spans(context, 0)
    for arm_code, arm in enumerate(context.cells.arms[1:], start=1):
        panel = context.panels.get(arm)
        if panel is None:
            yield fail(NAME, f"{arm} and baseline share no usable data")
            continue
        spans = _find_spans(context, arm_code)
        findings = [*_find_lone_replicates(context, arm, baseline_spans, spans)]
        if all(panel.paired.values()):  # in every run the arms overlap in time
            findings += _find_cut_starts(context, arm, baseline_spans, spans)
            findings.append(_judge_unmatched(context, arm, panel))
        else:
            findings.append(_judge_apart(context, arm, baseline_spans, spans))
        # Findings that are in order are shown only if there are no others.
        yield from [finding for finding in findings if finding.level is not Level.OK] or findings


def _find_spans(context: RequestContext, arm_code: int) -> Spans:
    """Find the first and the last bucket of an arm in each run (by number) in which it has requests."""
    moments = context.cells.moments
    rows = moments.arm == arm_code
    spans: Spans = {}
    for run_number in distinct(moments.run[rows]):
        buckets = moments.bucket[rows & (moments.run == run_number)]
        spans[int(run_number)] = int(buckets.min()), int(buckets.max())
    return spans


def _find_lone_replicates(context: RequestContext, arm: str, baseline: Spans, candidate: Spans) -> Iterable[Finding]:
    """Name replicates (runs) with requests of one arm only: they are not compared. Many without `arm` forbid a GO.

    `baseline`, `candidate`: run → first and last bucket of that arm; `arm`: name of the candidate.
    """
    lone = baseline.keys() ^ candidate.keys()
    if lone:
        replicates = len(baseline.keys() | candidate.keys())
        text = f"{len(lone)} of {replicates} replicates have one arm only and are not compared"
        without_candidate = len(baseline.keys() - candidate.keys())
        allowed_share = context.rulebook.silence
        if without_candidate > allowed_share * replicates:
            text = f"{text}; {arm} has no request in {without_candidate} of them"
            yield fail(NAME, text, f"find out why {arm} did not answer in these replicates, or leave them out")
        else:
            yield warn(NAME, text)


def _judge_apart(context: RequestContext, arm: str, baseline: Spans, candidate: Spans) -> Finding:
    """Judge replicates whose arms did not run at the same time: with three or more a warning, else no GO.

    `arm`: name of the candidate; `baseline`, `candidate`: run → first and last bucket of that arm.
    """
    replicates = len(context.panels[arm].paired)  # `paired`: run → did its arms overlap in time?
    text = f"{arm} and baseline ran at different times"
    # If arms of *different* replicates ran together, their files were not matched by their times.
    met_another = any(
        baseline_first <= candidate_last and candidate_first <= baseline_last
        for baseline_run, (baseline_first, baseline_last) in baseline.items()
        for candidate_run, (candidate_first, candidate_last) in candidate.items()
        if baseline_run != candidate_run
    )
    if replicates >= ENOUGH_REPLICATES:
        return warn(
            NAME,
            f"{text}; {replicates} replicates show how much time itself matters",
            OTHER_MATCH if met_another else "",
        )
    remedy = f"run both arms at the same time: `{quote_command('load', context.release)} --baseline URL --canary URL`"
    if context.is_live:
        remedy = "let the router send requests to both arms at the same time"
    elif is_imported(context.runs):
        remedy = "import runs in which both arms were under load at the same time, or at least three replicates an arm"
    text += ": other changes in between cannot be distinguished from the release"
    return fail(NAME, text, OTHER_MATCH if met_another else remedy)


def _find_cut_starts(context: RequestContext, arm: str, baseline: Spans, candidate: Spans) -> Iterable[Finding]:
    """Name long times before the first request of the later arm: they are not judged.

    In a load (source `locust`) that time is judged, because its users ran on both arms. `baseline`, `candidate`: run →
    first and last bucket of that arm; `arm`: name of the candidate.
    """
    bucket_s = context.cells.bucket_s
    runs_by_id = {run.id: run for run in context.runs}
    for run_number in baseline.keys() & candidate.keys():
        run = runs_by_id.get(context.cells.runs[run_number])
        if run is not None and run.source == "locust":
            continue
        warm_up_end = context.warm_up.first_bucket.get(run_number, 0)
        baseline_first, baseline_last = baseline[run_number]
        candidate_first, candidate_last = candidate[run_number]
        baseline_start, candidate_start = max(baseline_first, warm_up_end), max(candidate_first, warm_up_end)
        last = max(baseline_last, candidate_last)
        start, later_start = sorted((baseline_start, candidate_start))
        cut = later_start - start  # buckets
        if cut <= TOLERATED * (last - start + 1):
            continue
        early, late = (BASELINE, arm) if baseline_start < candidate_start else (arm, BASELINE)
        when = f"{late}'s first request ({show_clock(later_start * bucket_s * 1000)})"
        yield warn(NAME, f"the {format_duration(cut * bucket_s)} that {early} ran before {when} are not judged")


def _judge_unmatched(context: RequestContext, arm: str, panel: Panel) -> Finding:
    """Judge the requests that have no counterpart: no request of the other arm at that time on that endpoint."""
    moments = context.cells.moments
    # Times within ten years after 1970 cannot be dates of a test.
    if is_imported(context.runs) and moments.bucket.max() * context.cells.bucket_s < TEN_YEARS_S:
        text = "times count from the start of a test, not from 1970, so the arms are assumed to have run together"
        return warn(NAME, text)
    # Shape (2, endpoints, slots): for each slot, the requests of its block (some successive slots). A request has a
    # counterpart if the other arm has any of that endpoint in its block.
    requests_in_block = panel.block_sum(panel.n)
    without_counterpart = (requests_in_block[0] == 0) | (requests_in_block[1] == 0)
    # Requests of the warm-up are left out on purpose, so only those of the panel are counted.
    shares = [  # of baseline and candidate
        float((requests * without_counterpart).sum()) / max(float(requests.sum()), 1.0) for requests in panel.n
    ]
    if max(shares) > MAX_DROPPED:  # largest share without a finding
        share = f"{max(shares) * 100:.1f} %"
        return warn(NAME, f"{share} of an arm's requests have no counterpart at the same time and endpoint")
    baseline = int(moments.n[moments.arm == 0].sum())
    candidate = int(moments.n[moments.arm == context.cells.arms.index(arm)].sum())
    return ok(NAME, f"{arm} and baseline ran together, {baseline:,} + {candidate:,} requests")


def check_windows(context: ReadingContext) -> Iterable[Finding]:
    """Judge readings of arms that ran one after the other, each in windows of its own: at least three, in turns.

    Windows of equal number are compared with each other. Their spread shows how much time itself matters only if the
    versions were replaced several times; otherwise any other change in between looks like the release.
    """
    windows, view = context.readings.windows, context.view
    if not windows:
        return
    remedy = (
        "deploy the versions in turns, in changing order, and collect three windows of each: "
        f"`{quote_command('collect', context.release)} --baseline-window START/END --canary-window START/END …`; "
        "or let both versions serve at the same time"
    )
    for arm_code, arm in enumerate(context.readings.arms[1:], start=1):
        pairs = list(zip(windows[BASELINE], windows.get(arm, ()), strict=False))
        numbers = [set(view.run[view.readings.arm == code].tolist()) for code in (0, arm_code)]
        empty_pairs = len(pairs) - len(numbers[0] & numbers[1])
        if empty_pairs:
            text = f"no readings of {arm} or of baseline in {empty_pairs} of {len(pairs)} pairs of windows"
            yield fail(NAME, text, "check the times, and for how long the metrics server keeps its data")
            continue
        text = f"{arm} and baseline ran at different times"
        # Does each pair end before the next one begins? Else, for example, all windows of the baseline come first.
        in_turns = all(
            max(end_ms for _, end_ms in pair) <= min(start_ms for start_ms, _ in next_pair)
            for pair, next_pair in itertools.pairwise(pairs)
        )
        if len(pairs) < ENOUGH_REPLICATES:
            cause = "other changes in between cannot be distinguished from the release"
            needed = f"in {len(pairs)} of the {ENOUGH_REPLICATES} pairs of windows that are needed"
            yield fail(NAME, f"{text}, {needed}: {cause}", remedy)
        elif not in_turns:
            cause = "other changes in between cannot be distinguished from the release"
            yield fail(NAME, f"{text}, and their windows are not in turns: {cause}", remedy)
        else:
            is_later = {candidate[0] > baseline[0] for baseline, candidate in pairs}
            order = f"; {arm} always came {'later' if True in is_later else 'first'}" if len(is_later) == 1 else ""
            yield warn(NAME, f"{text}; {len(pairs)} pairs of windows show how much time itself matters{order}")
