"""Did the arms run at the same time? Only then do effects on both arms cancel."""

from __future__ import annotations

from collections.abc import Iterable

from evaluator.health.base import TOLERATED, RequestContext, fail, ok, show_clock, warn
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
    if is_imported(context.runs):
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
