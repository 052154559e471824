"""Did the arms run at the same time? Only then does what hits both cancel."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from evaluator.health.base import TOLERATED, RequestContext, ok, warn
from evaluator.records import BASELINE, Finding, Level, is_imported
from evaluator.stats.index import distinct
from evaluator.wording import format_duration

__all__ = ["check_overlap"]

NAME = "overlap"
ENOUGH_REPLICATES = 3
MAX_DROPPED = 0.05
TEN_YEARS_S = 10 * 365 * 86400
OTHER_MATCH = "import the files again under another release id: the runs of both arms are matched by their times now"


def check_overlap(context: RequestContext) -> Iterable[Finding]:
    """Arms at different times forbid a GO, unless enough replicates show how much time itself matters."""
    for arm in context.cells.arms[1:]:
        panel = context.panels.get(arm)
        if panel is None:
            yield Finding(NAME, Level.FAIL, f"{arm} and baseline share no usable data")
            continue
        found = [
            *_alone(context, arm),
            *(_apart(context, arm) or (*_cut_at_the_start(context, arm), *_dropped(context, arm))),
        ]
        yield from [finding for finding in found if finding.level is not Level.OK] or found


def _alone(context: RequestContext, arm: str) -> Iterable[Finding]:
    """Replicates of one arm only have nothing to be compared with."""
    with_arm = [set(_spans(context, code)) for code in (0, context.cells.arms.index(arm))]
    alone = with_arm[0] ^ with_arm[1]
    if alone:
        total = len(with_arm[0] | with_arm[1])
        text = f"{len(alone)} of {total} replicates are of one arm only, and not compared"
        missing = len(with_arm[0] - with_arm[1])
        if missing > context.rulebook.silence * total:
            text = f"{text}; {arm} has no request in {missing} of them"
            yield Finding(
                NAME, Level.FAIL, text, remedy=f"find out why {arm} did not answer in them, or leave them out"
            )
        else:
            yield warn(NAME, text)


def _apart(context: RequestContext, arm: str) -> list[Finding]:
    """Replicates whose arms did not run at the same time."""
    paired = context.panels[arm].paired
    if all(paired.values()):
        return []
    text = f"{arm} and baseline ran at different times"
    remedy = OTHER_MATCH if _met_another(context, arm) else ""
    if len(paired) >= ENOUGH_REPLICATES:
        return [warn(NAME, f"{text}; {len(paired)} replicates show by how much", remedy)]
    cure = (
        "import runs in which both were under load at once, or three replicates an arm and more"
        if is_imported(context.runs)
        else f"run both arms at once: `evaluator load {context.release} --baseline URL --canary URL`"
    )
    text += ": what changed in between cannot be told from the release"
    return [Finding(NAME, Level.FAIL, text, remedy=remedy or cure)]


def _spans(context: RequestContext, arm: int) -> dict[int, tuple[int, int]]:
    """First and last bucket of an arm in each run that it is in."""
    moments = context.cells.moments
    mine = moments.arm == arm
    runs = distinct(moments.run[mine])
    buckets = [moments.bucket[mine & (moments.run == run)] for run in runs]
    return {int(run): (int(own.min()), int(own.max())) for run, own in zip(runs, buckets, strict=True)}


def _met_another(context: RequestContext, arm: str) -> bool:
    """Did the arms of *other* replicates run together? Then their files were not matched by their times."""
    base, own = (_spans(context, code) for code in (0, context.cells.arms.index(arm)))
    return any(
        first[0] <= second[1] and second[0] <= first[1]
        for run, first in base.items()
        for other, second in own.items()
        if run != other
    )


def _cut_at_the_start(context: RequestContext, arm: str) -> Iterable[Finding]:
    """Time before the first request of the arm that began later: it is not judged, unless users of a load ran in it."""
    spans = [_spans(context, code) for code in (0, context.cells.arms.index(arm))]
    by_id = {run.id: run for run in context.runs}
    for code in spans[0].keys() & spans[1].keys():
        run = by_id.get(context.cells.runs[code])
        first = [max(span[code][0], context.warm_up.first_bucket.get(code, 0)) for span in spans]
        last = max(span[code][1] for span in spans)
        cut = abs(first[0] - first[1])
        if (run is not None and run.source == "locust") or cut <= TOLERATED * (last - min(first) + 1):
            continue
        early, late = (BASELINE, arm) if first[0] < first[1] else (arm, BASELINE)
        began = datetime.fromtimestamp(max(first) * context.cells.bucket_s, UTC)
        length = format_duration(cut * context.cells.bucket_s)
        when = f"{late}'s first request ({began:%Y-%m-%d %H:%M:%S} UTC)"
        yield warn(NAME, f"the {length} that {early} ran before {when} are not judged")


def _dropped(context: RequestContext, arm: str) -> Iterable[Finding]:
    """Requests that had no partner at the same time on the same endpoint."""
    panel = context.panels[arm]
    code = context.cells.arms.index(arm)
    moments = context.cells.moments
    all_requests = [int(moments.n[moments.arm == a].sum()) for a in (0, code)]
    total = panel.block_sum(panel.n)
    lonely = (total[0] == 0) | (total[1] == 0)
    # Warm-up is cut on purpose: only what the panel holds is counted.
    lost = [float((panel.n[a] * lonely).sum()) / max(float(panel.n[a].sum()), 1.0) for a in (0, 1)]
    worst = max(lost)
    if is_imported(context.runs) and moments.bucket.max() * context.cells.bucket_s < TEN_YEARS_S:
        yield warn(
            NAME, "times count from the start of a test and not from 1970: the arms are taken to have run together"
        )
    elif worst > MAX_DROPPED:
        yield warn(NAME, f"{worst * 100:.1f} % of an arm's requests have no counterpart at the same time and endpoint")
    else:
        yield ok(NAME, f"{arm} and baseline ran together, {all_requests[0]:,} + {all_requests[1]:,} requests")
