"""Did the arms run at the same time? Only then do effects on both arms cancel."""

from __future__ import annotations

from collections.abc import Iterable

from evaluator.health.base import TOLERATED, RequestContext, fail, ok, show_clock, warn
from evaluator.records import BASELINE, Finding, Level, is_imported
from evaluator.stats.shaping.index import distinct
from evaluator.stats.shaping.panel import Panel
from evaluator.wording import format_duration

NAME = "overlap"
ENOUGH_REPLICATES = 3
MAX_DROPPED = 0.05
TEN_YEARS_S = 10 * 365 * 86400
Spans = dict[int, tuple[int, int]]
"""By run: first and last bucket."""
OTHER_MATCH = (
    "import the files again under another release id: an import now matches the runs of both arms by their times"
)


def check_overlap(context: RequestContext) -> Iterable[Finding]:
    """Arms at different times forbid a GO, unless enough replicates show how much time itself matters."""
    baseline = _find_spans(context, 0)
    for code, arm in enumerate(context.cells.arms[1:], start=1):
        panel = context.panels.get(arm)
        if panel is None:
            yield fail(NAME, f"{arm} and baseline share no usable data")
            continue
        spans = baseline, _find_spans(context, code)
        findings = [*_find_lone_replicates(context, arm, *spans)]
        if all(panel.paired.values()):
            findings += [*_find_cut_starts(context, arm, *spans), _judge_unmatched(context, arm, panel)]
        else:
            findings.append(_judge_apart(context, arm, *spans))
        yield from [finding for finding in findings if finding.level is not Level.OK] or findings


def _find_spans(context: RequestContext, arm: int) -> Spans:
    """First and last bucket of an arm in each of its runs."""
    moments = context.cells.moments
    rows = moments.arm == arm
    runs = distinct(moments.run[rows])
    buckets = [moments.bucket[rows & (moments.run == run)] for run in runs]
    return {int(run): (int(own.min()), int(own.max())) for run, own in zip(runs, buckets, strict=True)}


def _find_lone_replicates(context: RequestContext, arm: str, baseline: Spans, candidate: Spans) -> Iterable[Finding]:
    """Replicates of one arm only have nothing to be compared with."""
    alone = baseline.keys() ^ candidate.keys()
    if alone:
        total = len(baseline.keys() | candidate.keys())
        text = f"{len(alone)} of {total} replicates have one arm only and are not compared"
        missing = len(baseline.keys() - candidate.keys())
        if missing > context.rulebook.silence * total:
            text = f"{text}; {arm} has no request in {missing} of them"
            yield fail(NAME, text, f"find out why {arm} did not answer in these replicates, or leave them out")
        else:
            yield warn(NAME, text)


def _judge_apart(context: RequestContext, arm: str, baseline: Spans, candidate: Spans) -> Finding:
    """Replicates whose arms did not run at the same time."""
    replicates = len(context.panels[arm].paired)
    text = f"{arm} and baseline ran at different times"
    # If arms of *different* replicates ran together, their files were not matched by their times.
    met_another = any(
        first[0] <= second[1] and second[0] <= first[1]
        for run, first in baseline.items()
        for candidate_run, second in candidate.items()
        if run != candidate_run
    )
    if replicates >= ENOUGH_REPLICATES:
        return warn(
            NAME,
            f"{text}; {replicates} replicates show how much time itself matters",
            OTHER_MATCH if met_another else "",
        )
    remedy = f"run both arms at the same time: `evaluator load {context.release} --baseline URL --canary URL`"
    if is_imported(context.runs):
        remedy = "import runs in which both arms were under load at the same time, or at least three replicates an arm"
    text += ": other changes in between cannot be distinguished from the release"
    return fail(NAME, text, OTHER_MATCH if met_another else remedy)


def _find_cut_starts(context: RequestContext, arm: str, *spans: Spans) -> Iterable[Finding]:
    """Time before the first request of the later arm. It is not judged, except in a load, whose users ran then."""
    bucket_s = context.cells.bucket_s
    by_id = {run.id: run for run in context.runs}
    for code in spans[0].keys() & spans[1].keys():
        run = by_id.get(context.cells.runs[code])
        first = [max(span[code][0], context.warm_up.first_bucket.get(code, 0)) for span in spans]
        last = max(span[code][1] for span in spans)
        cut = abs(first[0] - first[1])
        if (run is not None and run.source == "locust") or cut <= TOLERATED * (last - min(first) + 1):
            continue
        early, late = (BASELINE, arm) if first[0] < first[1] else (arm, BASELINE)
        when = f"{late}'s first request ({show_clock(max(first) * bucket_s * 1000)})"
        yield warn(NAME, f"the {format_duration(cut * bucket_s)} that {early} ran before {when} are not judged")


def _judge_unmatched(context: RequestContext, arm: str, panel: Panel) -> Finding:
    """Requests without a counterpart at the same time on the same endpoint."""
    moments = context.cells.moments
    if is_imported(context.runs) and moments.bucket.max() * context.cells.bucket_s < TEN_YEARS_S:
        text = "times count from the start of a test, not from 1970, so the arms are assumed to have run together"
        return warn(NAME, text)
    total = panel.block_sum(panel.n)
    lonely = (total[0] == 0) | (total[1] == 0)
    # Warm-up is cut on purpose: only what the panel holds is counted.
    worst = max(float((panel.n[a] * lonely).sum()) / max(float(panel.n[a].sum()), 1.0) for a in (0, 1))
    if worst > MAX_DROPPED:
        return warn(NAME, f"{worst * 100:.1f} % of an arm's requests have no counterpart at the same time and endpoint")
    requests = [int(moments.n[moments.arm == a].sum()) for a in (0, context.cells.arms.index(arm))]
    return ok(NAME, f"{arm} and baseline ran together, {requests[0]:,} + {requests[1]:,} requests")
