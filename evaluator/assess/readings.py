"""Readings: those of every candidate and the baseline, alone or in the time for which a load was judged."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from evaluator.assess.base import answer_nothing, complete_arms, find_depth, find_rules, plan_runs
from evaluator.assess.requests import RequestPairs
from evaluator.health import ReadingContext, fail, warn
from evaluator.metrics.reading_base import ReadingMetric, ReadingPair
from evaluator.metrics.scan import Measured
from evaluator.records import (
    BASELINE,
    UP,
    ArmSummary,
    Comparison,
    Evidence,
    EvidenceKind,
    Finding,
    QueryFacts,
    QueryKind,
    ReadingCells,
    Rulebook,
    Run,
    RunState,
    Window,
)
from evaluator.stats.shaping.index import distinct
from evaluator.stats.shaping.reading_panels import RunInterval, cut, keep_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingPairs(ReadingContext):
    """Readings of all arms in the time that is judged, and the panels that were built from them."""

    start_s: float
    """Start of the judged time, seconds since the epoch; looks count from it."""
    panels: dict[Any, Any] = field(default_factory=dict)
    """Panels built for one look, kept for the next."""

    def measure(self, at_s: int | None = None) -> Measured:
        """Compare every candidate by every rule. `at_s`: an earlier look."""
        book, early = self.rulebook, at_s is not None
        before_s = None if at_s is None else self.start_s + at_s
        depth = find_depth(book, early=early)
        rules = find_rules(book, self.kind, early=early)
        pairs = [
            ReadingPair(self.view, arm, book.alpha, book.prior, self.panels, before_s, depth)
            for arm in self.view.readings.arms[1:]
        ]
        metrics = ReadingMetric.among(rules)
        compared = [metric.compare(pair, rule) for pair in pairs for metric, rule in metrics]
        return Measured(_share_errors(compared))

    def summarise(self, measured: Measured, findings: tuple[Finding, ...]) -> Evidence:
        """The evidence of readings."""
        view, alone = self.view, not self.intervals
        cells = view.readings
        arms = tuple(
            ArmSummary(
                name=name,
                role="candidate" if code else "baseline",
                requests=self._count_requests(code),
                instances=int(distinct(cells.instance[cells.arm == code]).size),
                runs=int(distinct(view.run[cells.arm == code]).size),
            )
            for code, name in enumerate(cells.arms)
        )
        window, (start, end) = Window(), view.span
        if alone and start != end:
            first, last = (datetime.fromtimestamp(bucket * cells.bucket_s, UTC) for bucket in (start, end))
            window = Window(first, last, float(np.unique(cells.bucket).size * cells.bucket_s))
        ended = self.calendar.final and all(run.state is not RunState.RUNNING for run in self.runs)
        return Evidence(
            comparisons=measured.comparisons,
            findings=findings,
            arms=arms,
            window=window,
            incomplete=any(run.state is RunState.INCOMPLETE for run in self.runs),
            monitoring=self.calendar.kind,
            final=ended or not alone,
            collected=alone,
        )

    def _count_requests(self, arm: int) -> int:
        """Requests or observations of an arm, by the denominator of the policy's metrics that counted most."""
        counted = [0.0]
        queries = [rule.metric.denominator for rule in find_rules(self.rulebook, self.kind)]
        for query in (query for query in queries if query):
            rows = self.view.find(query, 3 if query.kind is QueryKind.HISTOGRAM else 0)
            cells = self.view.readings
            counted.append(float(cells.total[rows][cells.arm[rows] == arm].sum()))
        return round(max(counted))


def pair_readings(
    readings: ReadingCells | None,
    runs: tuple[Run, ...],
    rulebook: Rulebook,
    release: str,
    load: RequestPairs | None = None,
    client: tuple[Comparison, ...] = (),
) -> ReadingPairs | Evidence:
    """Prepare readings. Returns evidence without comparisons if there are none to compare, or no rule on them.

    Args:
        readings: All that was collected.
        runs: The runs that collected them.
        rulebook: The policy.
        release: Its name, for remedies.
        load: The load that ran at the same time, as it was judged; `None`: there was none.
        client: The comparisons of that load's requests.
    """
    if readings is None:
        why = f"no readings were collected: `evaluator collect {release}`"
        return Evidence(answer_nothing(rulebook, EvidenceKind.READINGS, why, load.cells.arms[1:] if load else ()))
    arms, shift = complete_arms(readings.arms)
    readings, targets = _take_out_targets(replace(readings, arms=arms, arm=readings.arm + shift), rulebook)
    if not find_rules(rulebook, EvidenceKind.READINGS):
        ignored = warn("readings", "readings were collected, but the policy has no metric of them")
        return Evidence(findings=(ignored,))
    readings, shared = _without_shared_instances(readings)
    intervals = _find_judged_times(load) if load else ()
    view = cut(readings, intervals if load else _since_the_candidate(readings))
    if load and not view.run.size:
        why = "no readings lie in the time for which the load is judged"
        command = f"`evaluator collect {release} --from T --to T`, or `evaluator load {release} --collect`"
        finding = fail("reading_overlap", why, f"collect that time: {command}")
        return Evidence(answer_nothing(rulebook, EvidenceKind.READINGS, why, arms[1:]), (finding,))
    start, end = load.span if load else view.span
    bucket_s = load.cells.bucket_s if load else readings.bucket_s
    own_calendar = plan_runs(_as_one(runs), rulebook.monitoring, bucket_s=bucket_s, start=start, end=end)
    return ReadingPairs(
        release=release,
        readings=readings,
        view=view,
        runs=runs,
        rulebook=rulebook,
        calendar=load.calendar if load else own_calendar,
        start_s=float(start * bucket_s),
        covered_s=float((end - start) * bucket_s),
        intervals=intervals,
        client=client,
        targets=targets,
        shared_instances=shared,
    )


def _share_errors(compared: list[Comparison]) -> tuple[Comparison, ...]:
    """Keep the loadings of comparisons of the same instances over the same buckets: only their positions agree.

    Candidates of an A/B/n test are taken for independent, which is stricter than their common baseline requires.
    """
    keys = [(comparison.arm, comparison.instances, len(comparison.loadings)) for comparison in compared]
    alike = Counter(key for key, comparison in zip(keys, compared, strict=True) if comparison.loadings)
    most = max(alike, key=alike.__getitem__, default=None)
    return tuple(
        comparison if key == most else replace(comparison, loadings=())
        for key, comparison in zip(keys, compared, strict=True)
    )


def _find_judged_times(load: RequestPairs) -> tuple[RunInterval, ...]:
    """The judged time of each load run: from the end of its warm-up to its last request."""
    moments, bucket_s = load.cells.moments, load.cells.bucket_s
    out = []
    for code in distinct(moments.run).tolist():
        buckets = moments.bucket[moments.run == code]
        start = max(load.warm_up.first_bucket.get(code, 0), int(buckets.min()))
        out.append(
            RunInterval(load.cells.runs[code], float(start * bucket_s), float((int(buckets.max()) + 1) * bucket_s))
        )
    return tuple(out)


def _since_the_candidate(readings: ReadingCells) -> tuple[RunInterval, ...] | None:
    """The time from the first reading of a candidate on; before it, the baseline has no counterpart."""
    theirs, own = readings.bucket[readings.arm > 0], readings.bucket[readings.arm == 0]
    if not theirs.size or not own.size or theirs.min() <= own.min():
        return None
    return (RunInterval("readings", float(theirs.min()) * readings.bucket_s, math.inf),)


def _take_out_targets(readings: ReadingCells, rulebook: Rulebook) -> tuple[ReadingCells, ReadingCells | None]:
    """Separate the results of scrapes (`up`) from the other readings: targets may include more than the service.

    If the policy has a metric of `up`, it stays among the readings as well.
    """
    if UP not in readings.queries:
        return readings, None
    code = readings.queries.index(UP)
    own = readings.query == code
    targets = replace(keep_rows(readings, own), facts=tuple(fact for fact in readings.facts if fact.query == UP))
    if any(UP in rule.metric.queries for rule in rulebook.rules):
        return readings, targets
    without_targets = keep_rows(readings, ~own)
    without_targets = replace(
        without_targets,
        queries=tuple(query for query in readings.queries if query != UP),
        query=without_targets.query - (without_targets.query > code),
        facts=tuple(fact for fact in readings.facts if fact.query != UP),
    )
    return without_targets, targets


def _without_shared_instances(readings: ReadingCells) -> tuple[ReadingCells, tuple[str, ...]]:
    """Remove the names of instances that counted both arms from their readings; returns these names too.

    Such an instance is a proxy. Its series distinguish the arms, but not the instances of an arm.
    """
    if any(fact.shared for fact in readings.facts):  # then the selectors are wrong
        return readings, ()
    baseline = distinct(readings.instance[readings.arm == 0])
    others = distinct(readings.instance[readings.arm > 0])
    both = [code for code in np.intersect1d(baseline, others).tolist() if readings.instances[code]]
    if not both:
        return readings, ()
    names = (*readings.instances, "")
    instance = np.where(np.isin(readings.instance, both), len(readings.instances), readings.instance)
    return replace(readings, instances=names, instance=instance), tuple(readings.instances[code] for code in both)


def _as_one(runs: tuple[Run, ...]) -> tuple[Run, ...]:
    """Collections of one release are parts of one run, which is running while one of them is."""
    if len(runs) < 2:
        return runs
    running = any(run.state is RunState.RUNNING for run in runs)
    ends = [run.planned_end for run in runs]
    planned = max((end for end in ends if end is not None), default=None)
    state = RunState.RUNNING if running else RunState.COMPLETE
    return (replace(runs[-1], state=state, planned_end=None if None in ends else planned),)


def count_samples(readings: ReadingCells, fact: QueryFacts, window: Window) -> Mapping[str, int]:
    """The account of one query's samples of one arm: `read` is the sum of all other counts.

    `not_judged`: samples outside of the judged time, or of a time without readings of the other arm.
    """
    used = dict(fact.used)
    # First and last bucket with readings of the other arm.
    code = {name: code for code, name in enumerate(readings.arms)}.get(fact.arm, 0)
    others = readings.bucket[(readings.arm > 0) if fact.arm == BASELINE else (readings.arm == 0) & (code > 0)]
    first, last = (int(others.min()), int(others.max())) if others.size else (0, -1)
    if window.start and window.end:
        first = max(first, math.ceil(window.start.timestamp() / readings.bucket_s))
        last = min(last, math.ceil(window.end.timestamp() / readings.bucket_s) - 1)
    judged = sum(samples for bucket, samples in used.items() if first <= bucket <= last)
    return {
        "read": fact.read,
        "judged": judged,
        "not_judged": sum(used.values()) - judged,
        "not_a_number": fact.nan,
        "infinite": fact.infinite,
        "repeated": fact.repeated,
        "other_time": fact.outside,
        "dropped": fact.falls,
    }
