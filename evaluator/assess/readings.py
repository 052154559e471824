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
from evaluator.stats.inference.calendar import Calendar
from evaluator.stats.shaping.index import distinct
from evaluator.stats.shaping.reading_panels import (
    COUNT,
    VALUE,
    RunInterval,
    cut,
    cut_windows,
    keep_rows,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingPairs(ReadingContext):
    """Readings of all arms in the time that is judged, and the panels that were built from them."""

    start_s: float
    """Start of the judged time, seconds since the epoch; looks count from it."""
    panels: dict[Any, Any] = field(default_factory=dict)
    """Panels built for one look, kept for the next."""

    def measure(self, at_s: int | None = None) -> Measured:
        """Compare every candidate by every rule. `at_s`: an earlier look, at these seconds of the judged time."""
        rulebook, early = self.rulebook, at_s is not None
        pairs = [
            ReadingPair(
                view=self.view,
                arm=arm,
                alpha=rulebook.alpha,
                prior=rulebook.prior,
                panels=self.panels,
                before_s=None if at_s is None else self.start_s + at_s,
                depth=find_depth(rulebook, early=early),
            )
            for arm in self.view.readings.arms[1:]
        ]
        metrics = ReadingMetric.among(find_rules(rulebook, self.kind, early=early))
        comparisons = [metric.compare(pair, rule) for pair in pairs for metric, rule in metrics]
        return Measured(_keep_common_loadings(comparisons))

    def summarise(self, measured: Measured, findings: tuple[Finding, ...]) -> Evidence:
        """Sum up the comparisons, the health findings, the arms and the judged time as evidence.

        If a load ran at the same time, the evidence of its requests states the judged time and whether it is final.
        """
        view, without_load = self.view, not self.intervals  # `intervals`: the judged times of the load
        cells = view.readings
        arms = tuple(
            ArmSummary(
                name=name,
                role="candidate" if arm_code else "baseline",
                requests=self._count_requests(arm_code),
                instances=int(distinct(cells.instance[cells.arm == arm_code]).size),
                runs=int(distinct(view.run[cells.arm == arm_code]).size),
            )
            for arm_code, name in enumerate(cells.arms)
        )
        start, end = view.span  # first judged bucket, and the bucket after the last
        window = Window()
        if without_load and start != end:
            start_time, end_time = (datetime.fromtimestamp(bucket * cells.bucket_s, UTC) for bucket in (start, end))
            window = Window(start_time, end_time, float(np.unique(cells.bucket).size * cells.bucket_s))
        ended = self.calendar.final and all(run.state is not RunState.RUNNING for run in self.runs)
        return Evidence(
            comparisons=measured.comparisons,
            findings=findings,
            arms=arms,
            window=window,
            incomplete=any(run.state is RunState.INCOMPLETE for run in self.runs),
            monitoring=self.calendar.kind,
            final=ended or not without_load,  # with a load, this evidence does not prevent a final verdict
            collected=without_load,
        )

    def _count_requests(self, arm_code: int) -> int:
        """Count the requests or observations of an arm: those of the policy's denominator that counted most; or 0."""
        cells = self.view.readings
        counts = [0.0]
        for rule in find_rules(self.rulebook, self.kind):
            query = rule.metric.denominator
            if query is not None:
                rows = self.view.find(query, COUNT if query.kind is QueryKind.HISTOGRAM else VALUE)
                counts.append(float(cells.total[rows][cells.arm[rows] == arm_code].sum()))
        return round(max(counts))


def pair_readings(
    readings: ReadingCells | None,
    runs: tuple[Run, ...],
    rulebook: Rulebook,
    release: str,
    load: RequestPairs | None = None,
    client: tuple[Comparison, ...] = (),
) -> ReadingPairs | Evidence:
    """Prepare readings for comparison; without readings, or without a rule on them, return evidence that says so.

    Readings count in the time for which the load is judged; without a load, from the first reading of a candidate on.

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
    arms, code_shift = complete_arms(readings.arms)  # if the baseline was added, the codes of all arms move by 1
    readings, targets = _separate_targets(replace(readings, arms=arms, arm=readings.arm + code_shift), rulebook)
    if readings.windows and load:
        why = "each arm has readings of its own windows, so they cannot be judged together with a load"
        remedy = f"collect the time of the load: `evaluator collect {release}`; or collect under another release id"
        finding = fail("reading_overlap", why, remedy)
        return Evidence(answer_nothing(rulebook, EvidenceKind.READINGS, why, arms[1:]), (finding,))
    if not find_rules(rulebook, EvidenceKind.READINGS):
        ignored = warn("readings", "readings were collected, but the policy has no metric of them")
        return Evidence(findings=(ignored,))
    if readings.windows:
        return _pair_windows(readings, targets, runs, rulebook, release)
    readings, shared_instances = _remove_shared_instances(readings)
    intervals = _find_judged_times(load) if load else ()
    view = cut(readings, intervals if load else _find_time_of_candidates(readings))
    if load and not view.run.size:
        why = "no readings lie in the time for which the load is judged"
        command = f"`evaluator collect {release} --from T --to T`, or `evaluator load {release} --collect`"
        finding = fail("reading_overlap", why, f"collect that time: {command}")
        return Evidence(answer_nothing(rulebook, EvidenceKind.READINGS, why, arms[1:]), (finding,))
    start, end = load.span if load else view.span  # first judged bucket, and the bucket after the last
    bucket_s = load.cells.bucket_s if load else readings.bucket_s
    own_calendar = plan_runs(_join_runs(runs), rulebook.monitoring, bucket_s=bucket_s, start=start, end=end)
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
        shared_instances=shared_instances,
    )


def _pair_windows(
    readings: ReadingCells, targets: ReadingCells | None, runs: tuple[Run, ...], rulebook: Rulebook, release: str
) -> ReadingPairs:
    """Prepare readings of arms that ran one after the other, each in windows of its own.

    Windows of equal number are replicates, whose arms do not overlap in time. There is a single look, after all of
    them. An instance of both arms is no proxy: it served one version after the other. The other arguments are those of
    `pair_readings`; `targets`: readings of `up`.
    """
    view = cut_windows(readings, readings.windows)
    judged_s = [
        float(np.unique(view.readings.bucket[view.readings.arm == arm_code]).size * readings.bucket_s)
        for arm_code in range(len(readings.arms))
    ]
    covered_s = min(judged_s)  # of the arm with the fewest readings
    return ReadingPairs(
        release=release,
        readings=readings,
        view=view,
        runs=runs,
        rulebook=rulebook,
        calendar=Calendar("fixed", interim=(), planned_s=covered_s, final=True),
        start_s=float(view.span[0] * readings.bucket_s),
        covered_s=covered_s,
        targets=targets,
    )


def _keep_common_loadings(comparisons: list[Comparison]) -> tuple[Comparison, ...]:
    """Keep the loadings of comparisons of the same instances over the same buckets; remove those of all others.

    Loadings are the components of an estimate's error, by which the correlation of two comparisons is computed. A
    position means the same component only in comparisons of the same instances and buckets. Those are taken to be
    comparisons that agree in candidate, numbers of instances and length of the loadings; the largest group of them
    keeps its loadings. So several candidates count as independent, which is stricter than their common baseline
    requires.
    """
    keys = [(comparison.arm, comparison.instances, len(comparison.loadings)) for comparison in comparisons]
    counts = Counter(key for key, comparison in zip(keys, comparisons, strict=True) if comparison.loadings)
    most_frequent = max(counts, key=counts.__getitem__, default=None)
    return tuple(
        comparison if key == most_frequent else replace(comparison, loadings=())
        for key, comparison in zip(keys, comparisons, strict=True)
    )


def _find_judged_times(load: RequestPairs) -> tuple[RunInterval, ...]:
    """Find the judged time of each load run: from the end of its warm-up to its last request."""
    moments, bucket_s = load.cells.moments, load.cells.bucket_s
    intervals = []
    for run_number in distinct(moments.run).tolist():
        buckets = moments.bucket[moments.run == run_number]
        start = max(load.warm_up.first_bucket.get(run_number, 0), int(buckets.min()))
        end = int(buckets.max()) + 1
        intervals.append(RunInterval(load.cells.runs[run_number], float(start * bucket_s), float(end * bucket_s)))
    return tuple(intervals)


def _find_time_of_candidates(readings: ReadingCells) -> tuple[RunInterval, ...] | None:
    """Find the time from the first reading of a candidate on; before it, the baseline has no counterpart.

    `None`: all of the time, as the baseline does not start earlier, or an arm has no readings.
    """
    candidates, baseline = readings.bucket[readings.arm > 0], readings.bucket[readings.arm == 0]
    if not candidates.size or not baseline.size or candidates.min() <= baseline.min():
        return None
    start_s = float(candidates.min()) * readings.bucket_s
    return (RunInterval("readings", start_s, math.inf),)  # the name is free: without a load there is no run to name


def _separate_targets(readings: ReadingCells, rulebook: Rulebook) -> tuple[ReadingCells, ReadingCells | None]:
    """Separate `up`, by which a metrics server records whether each scrape of a target succeeded, from other readings.

    Targets may include more than the instances of the service. Returns the readings without `up`, and those of `up`
    (`None`: it was not collected). If the policy has a metric of `up`, it stays among the readings as well.
    """
    if UP not in readings.queries:
        return readings, None
    up_code = readings.queries.index(UP)
    is_up = readings.query == up_code
    targets = replace(keep_rows(readings, is_up), facts=tuple(fact for fact in readings.facts if fact.query == UP))
    if any(UP in rule.metric.queries for rule in rulebook.rules):
        return readings, targets
    without_targets = keep_rows(readings, ~is_up)
    without_targets = replace(
        without_targets,
        queries=tuple(query for query in readings.queries if query != UP),
        query=without_targets.query - (without_targets.query > up_code),  # codes of later queries move by one
        facts=tuple(fact for fact in readings.facts if fact.query != UP),
    )
    return without_targets, targets


def _remove_shared_instances(readings: ReadingCells) -> tuple[ReadingCells, tuple[str, ...]]:
    """Remove the names of instances that counted both arms from their readings; returns these names too.

    Such an instance is a proxy. Its series distinguish the arms, but not the instances of an arm.
    """
    if any(fact.shared for fact in readings.facts):
        # A series was selected for both arms: the selectors are wrong, which a health check reports.
        return readings, ()
    baseline = distinct(readings.instance[readings.arm == 0])
    candidates = distinct(readings.instance[readings.arm > 0])
    # Codes of instances that both arms have; series without a name of their instance are no such instance.
    shared_codes = [code for code in np.intersect1d(baseline, candidates).tolist() if readings.instances[code]]
    if not shared_codes:
        return readings, ()
    shared_names = tuple(readings.instances[code] for code in shared_codes)
    names, code_without_name = (*readings.instances, ""), len(readings.instances)
    instance = np.where(np.isin(readings.instance, shared_codes), code_without_name, readings.instance)
    return replace(readings, instances=names, instance=instance), shared_names


def _join_runs(runs: tuple[Run, ...]) -> tuple[Run, ...]:
    """Join the collections of a release, which are parts of one run: it is running while one of them is.

    Its planned end is the last one; `None` if that of a part is not known.
    """
    if len(runs) < 2:
        return runs
    # Whether a part is incomplete does not matter here: only a run that still runs gets further looks.
    running = any(run.state is RunState.RUNNING for run in runs)
    planned_ends = [run.planned_end for run in runs]
    last_end = max((end for end in planned_ends if end is not None), default=None)
    state = RunState.RUNNING if running else RunState.COMPLETE
    return (replace(runs[-1], state=state, planned_end=None if None in planned_ends else last_end),)


def count_samples(readings: ReadingCells, fact: QueryFacts, window: Window) -> Mapping[str, int]:
    """Account for the samples of one query of one arm: `read` is the sum of all other counts.

    `not_judged`: samples outside of the judged time, or of a time without readings of the other arm.
    """
    used = dict(fact.used)  # bucket → samples
    if readings.windows:
        judged_buckets = _find_judged_buckets(readings, fact.arm)
        judged = sum(samples for bucket, samples in used.items() if bucket in judged_buckets)
        return _account(fact, judged)
    # The other arm of the baseline is any candidate; that of a candidate is the baseline.
    is_candidate = fact.arm in readings.arms[1:]
    is_other_arm = readings.arm > 0 if fact.arm == BASELINE else (readings.arm == 0) & is_candidate
    others = readings.bucket[is_other_arm]
    first, last = (int(others.min()), int(others.max())) if others.size else (0, -1)  # without any, no bucket
    if window.start and window.end:  # only buckets that begin within it count
        first = max(first, math.ceil(window.start.timestamp() / readings.bucket_s))
        last = min(last, math.ceil(window.end.timestamp() / readings.bucket_s) - 1)
    return _account(fact, sum(samples for bucket, samples in used.items() if first <= bucket <= last))


def _find_judged_buckets(readings: ReadingCells, arm: str) -> set[int]:
    """Find the buckets of an arm that lie completely within one of its windows."""
    bucket_ms = readings.bucket_s * 1000
    return {
        bucket
        for start_ms, end_ms in readings.windows.get(arm, ())
        for bucket in range(-(-start_ms // bucket_ms), end_ms // bucket_ms)
    }


def _account(fact: QueryFacts, judged: int) -> Mapping[str, int]:
    """Account for the samples of one query of one arm, of which `judged` are judged."""
    return {
        "read": fact.read,
        "judged": judged,
        "not_judged": sum(samples for _, samples in fact.used) - judged,
        "not_a_number": fact.nan,
        "infinite": fact.infinite,
        "repeated": fact.repeated,
        "other_time": fact.outside,  # outside of the time that was asked for
        "dropped": fact.falls,  # a counter that fell without a restart
    }
