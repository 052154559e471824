"""Review a stored verdict: judge its data again, under other margins, or in part.

Nothing here writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from evaluator.assess import ReleaseData
from evaluator.pipeline.assessing import Judged, judge_data, read_data
from evaluator.pipeline.runs import choose_runs, find_judged
from evaluator.policy import parse_policy
from evaluator.records import Comparison, Margin, RunState, Verdict
from evaluator.stats.shaping.narrow import cut_each_run, narrow
from evaluator.store import Store


def judge_again(store: Store, verdict: Verdict) -> Judged:
    """Read the data of a verdict and judge them again by its own policy.

    If these data have changed or are gone, the newest runs are judged, and `data.as_judged` of the result is false.
    Raises UnknownName for an unknown release.
    """
    release_id = verdict.release.id
    judged_runs = find_judged(store, release_id, verdict.data_hash)
    rulebook = parse_policy(verdict.policy, origin="the stored policy").rulebook
    data = read_data(store, choose_runs(store.data.runs(release_id), *(judged_runs or ("latest", ""))), rulebook)
    return judge_data(replace(data, as_judged=judged_runs is not None), rulebook, release_id)


def judge_under_margins(judged: Judged, margins: Mapping[str, float], release_id: str) -> Judged:
    """Judge the same data under other margins. `margins`: name of a metric → its margin.

    A relative margin is a share (0.1 = 10 %), an absolute margin is in the unit of the metric. A metric that has no
    margin gets none.
    """
    rules = tuple(
        replace(rule, margin=Margin(margins[rule.name], relative=rule.margin.relative))
        if rule.margin and rule.name in margins
        else rule
        for rule in judged.rulebook.rules
    )
    return judge_data(judged.data, replace(judged.rulebook, rules=rules), release_id)


def look_closer(
    judged: Judged, release_id: str, *, endpoint: str | None, from_s: float, to_s: float
) -> tuple[Comparison, ...]:
    """Compare one endpoint in an interval of each run, as `judge_part`, and return the comparisons."""
    part = judge_part(judged, release_id, endpoint=endpoint, from_s=from_s, to_s=to_s)
    return part.evidence.comparisons


def judge_part(judged: Judged, release_id: str, *, endpoint: str | None, from_s: float, to_s: float) -> Judged:
    """Compare one endpoint (`None`: all) in an interval of each run, from `from_s` to `to_s` seconds after its start.

    This is for exploring the data of a verdict, not for a new verdict: nothing is left out at the start as warm-up, no
    endpoints are scanned, and runs count as complete. Of a load and production, those of the load are compared.
    """
    data = judged.data
    is_live = not data.runs and data.live_cells is not None  # production requests alone
    cells = cut_each_run(data.live_cells if is_live and data.live_cells is not None else data.cells, from_s, to_s)
    # A name that is no endpoint of the cells, such as `None`, restricts nothing.
    cells = narrow(cells, endpoints=[endpoint] if endpoint in cells.endpoints else None)
    # The rules on all requests and those on this endpoint, all applied to the cells that are left.
    rules = tuple(
        replace(rule, slice=replace(rule.slice, endpoint=None))
        for rule in judged.rulebook.on_requests([endpoint] if endpoint else [])
    )
    scan = replace(judged.rulebook.scan, enabled=False)
    monitoring = replace(judged.rulebook.monitoring, mode="fixed")  # a single look
    rulebook = replace(judged.rulebook, rules=rules, scan=scan, warm_up_s=0.0, monitoring=monitoring)
    runs = tuple(replace(run, state=RunState.COMPLETE) for run in (data.live_runs if is_live else data.runs))
    part = ReleaseData(runs, cells)
    if is_live:
        part = ReleaseData((), data.cells, live_runs=runs, live_cells=cells)
    return judge_data(part, rulebook, release_id)
