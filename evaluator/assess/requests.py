"""Requests: the cells of every candidate and the baseline, and their evidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import accumulate

import numpy as np

from evaluator.assess.base import complete_arms, find_depth, find_rules, plan_runs
from evaluator.errors import UnknownName
from evaluator.health import RequestContext
from evaluator.health.per_instance_load import explain_difference, find_differing
from evaluator.metrics.base import Pair, RequestMetric, no_data
from evaluator.metrics.scan import MIN_FOR_TIME, Measured, scan_endpoints
from evaluator.records import (
    BASELINE,
    BLOCK_BUCKETS,
    ArmSummary,
    Cells,
    Comparison,
    Evidence,
    EvidenceKind,
    Finding,
    LeftOut,
    Progress,
    Rule,
    Rulebook,
    Run,
    RunState,
    Window,
    is_imported,
)
from evaluator.records.arrays import IntArray
from evaluator.stats.estimators.rates import active_slots
from evaluator.stats.shaping.account import account_for_rows
from evaluator.stats.shaping.cells import recode
from evaluator.stats.shaping.in_flight import settle_in_flight
from evaluator.stats.shaping.index import distinct
from evaluator.stats.shaping.instance_load import measure_instance_loads
from evaluator.stats.shaping.panel import build_panel
from evaluator.stats.shaping.rare import pool_rare_endpoints
from evaluator.stats.shaping.window import WarmUp, find_warm_up
from evaluator.stats.variance.replication import merge_unreplicated
from evaluator.stats.variance.uncertainty import choose_design


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPairs(RequestContext):
    """Requests of every candidate and the baseline: all of them, and those of the endpoints that rules name."""

    by_endpoint: Mapping[tuple[str, str | None], Pair | None]
    """By candidate and endpoint (`None`: all); `None` if the arms have no time in common."""
    span: tuple[int, int]
    """First judged bucket, rounded down to the start of its block, and the bucket after the last."""
    covered_s: int

    def find_pair(self, arm: str, endpoint: str | None = None, at_s: int | None = None) -> Pair | None:
        """Find the pair of the candidate `arm` with the baseline; `None` if they have no time in common.

        `endpoint=None`: all endpoints. `at_s`: only the first seconds of judged data; `None`: all of it.
        """
        pair = self.by_endpoint[arm, endpoint]
        if pair is None or at_s is None:
            return pair
        end_bucket = self.span[0] + at_s // self.cells.bucket_s  # the first bucket after the look
        panel = pair.panel.before(end_bucket)
        if panel is None:
            return None
        depth = find_depth(self.rulebook, early=True)
        return replace(pair, panel=panel, design=choose_design(panel, self.rulebook.prior), depth=depth)

    def measure(self, at_s: int | None = None) -> Measured:
        """Compare every candidate by every rule, and by the endpoint scan.

        `at_s`: end of an earlier look, in seconds of judged data; `None`: all data.
        """
        rules = find_rules(self.rulebook, self.kind, early=at_s is not None)
        comparisons: list[Comparison] = []
        pairs: list[Pair] = []
        scanned: list[Measured] = []  # results of the endpoint scan, by candidate
        for arm in self.cells.arms[1:]:
            pair = self.find_pair(arm, endpoint=None, at_s=at_s)
            if pair is None:
                why = self._explain_missing(arm)
                asked = [rule for metric, rule in RequestMetric.among(rules) if metric.applies(None, rule)]
                comparisons += [no_data(rule, arm, why) for rule in asked]
                continue
            pairs.append(pair)
            answers = self._compare(pair, rules, at_s)
            comparisons += answers
            scanned.append(scan_endpoints(pair, self.rulebook.scan, self.rulebook.rules, answers))
            comparisons += scanned[-1].comparisons
        comparisons = [self._finish(comparison) for comparison in comparisons]
        return Measured(
            # Two candidates share the baseline's instances but not their own: their errors get positions by candidate.
            comparisons=_separate_instances(comparisons, pairs),
            unjudged_share=max((scan.unjudged_share for scan in scanned), default=0.0),
            unjudged=tuple(sorted({name for scan in scanned for name in scan.unjudged})),
        )

    def _finish(self, comparison: Comparison) -> Comparison:
        """Note that it is of production, and take its answers back if it is of times and instances' loads differ."""
        if self.kind is EvidenceKind.LIVE:
            comparison = replace(comparison, evidence=self.kind)
        if not comparison.questions or not comparison.rule.metric.is_response_time:
            return comparison
        load = find_differing(self).get(comparison.arm)
        if load is None:
            return comparison
        questions = tuple(replace(question, p_worse=1.0, p_within=1.0) for question in comparison.questions)
        return replace(
            comparison,
            questions=questions,
            load_differs=True,
            unresolved=explain_difference(load, comparison.arm),
            needed_time=math.inf,
            drift=None,
        )

    def _compare(self, all_traffic: Pair, rules: Sequence[Rule], at_s: int | None) -> list[Comparison]:
        """Answer every rule that applies, in their order; rules of one type and endpoint share their work.

        `all_traffic`: the pair over all endpoints, at the same look.
        """
        indices_by_type: dict[tuple[str, str | None], list[int]] = {}  # by type and endpoint: indices of the rules
        for index, rule in enumerate(rules):
            indices_by_type.setdefault((rule.type, rule.slice.endpoint), []).append(index)
        by_index: dict[int, Comparison] = {}
        for (_, endpoint), indices in indices_by_type.items():
            pair = all_traffic if endpoint is None else self.find_pair(all_traffic.arm, endpoint, at_s)
            all_metrics = RequestMetric.among([rules[index] for index in indices])  # pairs of metric and rule
            asked = {
                index: (metric, rule)
                for index, (metric, rule) in zip(indices, all_metrics, strict=True)
                if metric.applies(pair, rule)
            }
            if not asked:
                continue
            metrics = list(asked.values())
            if self.traffic_is_routed and metrics[0][0].counts_traffic:
                why = "a router chooses how many requests each arm gets"
                answers = tuple(no_data(rule, all_traffic.arm, why) for _, rule in metrics)
            elif pair is None:
                why = f"{endpoint} was not called on both arms"
                answers = tuple(no_data(rule, all_traffic.arm, why) for _, rule in metrics)
            else:
                metric_class = type(metrics[0][0])  # all are of one type
                answers = metric_class.compare_all(pair, metrics)
            by_index |= zip(asked, answers, strict=True)
        return [by_index[index] for index in sorted(by_index)]

    def _explain_missing(self, arm: str) -> str:
        """Say why a candidate cannot be compared: which arm has no requests, or that no run has requests of both."""
        moments = self.cells.moments
        for name in (BASELINE, arm):
            if not moments.n[moments.arm == self.cells.arms.index(name)].any():
                return f"{name} has no requests"
        return f"no run has requests of both {BASELINE} and {arm} after warm-up"

    def summarise(self, measured: Measured, findings: tuple[Finding, ...]) -> Evidence:
        """Sum up the comparisons, the health findings, the arms and the judged time as evidence."""
        calendar, moments = self.calendar, self.cells.moments  # `moments`: a row an instance, endpoint and bucket
        arms = []
        for arm_code, account in enumerate(self.rows):  # of each arm: rows read, judged and left out
            of_arm = moments.arm == arm_code
            requests_by_instance = np.bincount(moments.instance[of_arm], weights=moments.n[of_arm])
            arms.append(
                ArmSummary(
                    name=account.arm,
                    role="candidate" if arm_code else "baseline",
                    requests=account.judged,
                    instances=int(np.count_nonzero(requests_by_instance)),
                    runs=int(distinct(moments.run[of_arm]).size),
                    read=account.read,
                    left_out=account.left_out,
                )
            )
        return Evidence(
            comparisons=measured.comparisons,
            findings=findings,
            arms=tuple(arms),
            window=(window := self._find_window()),
            production=window if self.kind is EvidenceKind.LIVE else Window(),
            unjudged_share=measured.unjudged_share,
            unjudged_endpoints=measured.unjudged,
            incomplete=any(run.state is RunState.INCOMPLETE for run in self.runs),
            monitoring=calendar.kind,
            final=calendar.final and all(run.state is not RunState.RUNNING for run in self.runs),
            imported=is_imported(self.runs),
            progress=Progress(float(self.covered_s), calendar.planned_s, calendar.next_s) if self.covered_s else None,
        )

    def _find_window(self) -> Window:
        """Find the judged time: from the first to the last judged bucket, and how many seconds in it have requests."""
        moments, bucket_s = self.cells.moments, self.cells.bucket_s
        first_bucket_of_row = _find_first_buckets(self.cells, self.warm_up)[moments.run]  # that of its run
        judged = moments.bucket[moments.bucket >= first_bucket_of_row]
        if not judged.size:
            return Window()
        # Of each candidate's panel: slots (buckets of its runs) with requests, on the arm that has more of them.
        slots = [int(active_slots(panel).sum(axis=1).max()) for panel in self.panels.values()]
        start = datetime.fromtimestamp(int(judged.min()) * bucket_s, UTC)
        end = datetime.fromtimestamp((int(judged.max()) + 1) * bucket_s, UTC)
        return Window(start, end, float(max(slots, default=0) * bucket_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class LivePairs(RequestPairs):
    """Requests of production, prepared in the same way."""

    kind = EvidenceKind.LIVE


def pair_requests(
    cells: Cells,
    runs: tuple[Run, ...],
    rulebook: Rulebook,
    release: str = "release",
    left_out: tuple[LeftOut, ...] = (),
    *,
    kind: EvidenceKind = EvidenceKind.REQUESTS,
) -> RequestPairs:
    """Prepare requests as they are judged, and build the panels that the rules need.

    Args:
        cells: The requests.
        runs: Their runs.
        rulebook: The policy.
        release: Name of the release, for remedies.
        left_out: Rows that are not in the cells, in addition to those that the runs themselves name.
        kind: Requests of a load, or `LIVE`: of production, which has no warm-up. There, an endpoint of a rule that was
            never called gives a comparison without data: its name in a load may be another one.

    Raises:
        UnknownName: An endpoint of a rule was never called in a load.
    """
    arms, code_shift = complete_arms(cells.arms)
    if code_shift:  # the baseline was added as the first arm
        cells = recode(cells, arm=1 + np.arange(len(cells.arms)))
    # Requests that were still without an answer at the end of a run become failures, or are left out.
    settled = settle_in_flight(replace(cells, arms=arms), runs)
    # An arm with too few instances to show how instances differ counts as one instance.
    cells, names_per_arm = merge_unreplicated(settled.cells)
    rulebook = replace(rulebook, rules=find_rules(rulebook, EvidenceKind.REQUESTS))
    for rule in rulebook.rules:
        name = rule.slice.endpoint
        if name is not None and name not in cells.endpoints and kind is EvidenceKind.REQUESTS:
            hint = f"metric '{rule.name}' of the policy needs it"
            raise UnknownName("endpoint", name, cells.endpoints, hint=hint)
    warm_up = find_warm_up(cells, 0.0 if kind is EvidenceKind.LIVE else rulebook.warm_up_s)
    by_endpoint = _pair_endpoints(cells, rulebook, warm_up)
    all_traffic = {arm: pair for (arm, endpoint), pair in by_endpoint.items() if pair and endpoint is None}
    panels = {arm: pair.panel for arm, pair in all_traffic.items()}
    start = end = 0  # first judged bucket, and the bucket after the last
    if cells.moments.bucket.size:
        # The start of the block, because looks end between two blocks.
        start = min(warm_up.first_bucket.values()) // BLOCK_BUCKETS * BLOCK_BUCKETS
        end = int(cells.moments.bucket.max()) + 1
    declared = {arm: count for arm in arms if (count := _find_declared(rulebook, arm)) is not None}
    # A router's log names the servers: those with few requests are instances as well.
    unknown = () if kind is EvidenceKind.LIVE else names_per_arm.keys()
    users_by_run = None
    if kind is EvidenceKind.REQUESTS and not any(run.shares for run in runs):
        loads = [run for run in runs if run.source == "locust" and run.id in cells.runs]
        users_by_run = {cells.runs.index(run.id): run.facts.users for run in loads}
    pairs_class = LivePairs if kind is EvidenceKind.LIVE else RequestPairs
    return pairs_class(
        release=release,
        rulebook=rulebook,
        runs=runs,
        cells=cells,
        warm_up=warm_up,
        panels=panels,
        designs={arm: pair.design for arm, pair in all_traffic.items()},
        calendar=plan_runs(runs, rulebook.monitoring, bucket_s=cells.bucket_s, start=start, end=end),
        rows=account_for_rows(cells, runs, warm_up, panels, (*left_out, *settled.cut_off)),
        settled=settled,
        names_per_arm=names_per_arm,
        instance_loads=measure_instance_loads(settled.cells, warm_up.first_bucket, declared, unknown, users_by_run),
        by_endpoint=by_endpoint,
        span=(start, end),
        covered_s=(end - start) * cells.bucket_s,
    )


def _find_declared(rulebook: Rulebook, arm: str) -> int | None:
    """Return how many instances the policy declares of an arm; `None`: it does not."""
    return rulebook.prior.baseline if arm == BASELINE else rulebook.prior.canary


def _pair_endpoints(cells: Cells, rulebook: Rulebook, warm_up: WarmUp) -> dict[tuple[str, str | None], Pair | None]:
    """Pair every candidate with the baseline: over all endpoints (`None`), and for each endpoint that a rule names.

    Returns candidate and endpoint → pair; `None` if the arms have no time in common.
    """
    # A dict is a set that keeps the order.
    endpoints = dict.fromkeys([None, *(rule.slice.endpoint for rule in rulebook.rules)])
    # The scan judges endpoints with fewer requests together.
    cells = pool_rare_endpoints(cells, MIN_FOR_TIME, keep={name for name in endpoints if name})
    loads = cells.loads  # a row holds the number of users of an arm in a bucket of a run
    is_judged = loads.bucket >= _find_first_buckets(cells, warm_up)[loads.run]
    pairs: dict[tuple[str, str | None], Pair | None] = {}
    for candidate_code, arm in enumerate(cells.arms[1:], start=1):
        baseline_users, candidate_users = (
            loads.users[is_judged & (loads.arm == arm_code)] for arm_code in (0, candidate_code)
        )
        mean_users = None  # not recorded
        if baseline_users.any() and candidate_users.any():
            mean_users = float(baseline_users.mean()), float(candidate_users.mean())
        for endpoint in endpoints:
            is_known = endpoint is None or endpoint in cells.endpoints
            panel = build_panel(cells, arm, endpoint=endpoint, first_bucket=warm_up.first_bucket) if is_known else None
            if panel is None:
                pairs[arm, endpoint] = None
            else:
                design = choose_design(panel, rulebook.prior)
                recorded = _count_after_warm_up(cells, candidate_code, endpoint, warm_up)
                pairs[arm, endpoint] = Pair(
                    panel, design, arm, rulebook.alpha, rulebook.prior, mean_users, recorded=recorded
                )
    return pairs


def _count_after_warm_up(cells: Cells, candidate_code: int, endpoint: str | None, warm_up: WarmUp) -> tuple[int, int]:
    """Count the requests of baseline and candidate after the warm-up, of one endpoint or (`None`) of all.

    Requests that cannot be compared, because the other arm has none in their run or at their time, count as well.
    """
    moments = cells.moments
    first_bucket = _find_first_buckets(cells, warm_up) // BLOCK_BUCKETS * BLOCK_BUCKETS  # whole blocks are judged
    is_counted = moments.bucket >= first_bucket[moments.run]
    if endpoint is not None:
        is_counted &= moments.endpoint == cells.endpoints.index(endpoint)
    baseline, candidate = (int(moments.n[is_counted & (moments.arm == code)].sum()) for code in (0, candidate_code))
    return baseline, candidate


def _find_first_buckets(cells: Cells, warm_up: WarmUp) -> IntArray:
    """Return the first judged bucket of each run, after its warm-up, shape (runs,); 0 for a run without requests."""
    first_buckets = [warm_up.first_bucket.get(run_number, 0) for run_number in range(len(cells.runs))]
    return np.array(first_buckets, dtype=np.int64)


def _separate_instances(comparisons: list[Comparison], pairs: list[Pair]) -> tuple[Comparison, ...]:
    """Give each candidate's instances positions of their own in the loadings; the baseline's positions are shared.

    Loadings are the components of an estimate's error, by position; the same position in two comparisons must mean the
    same source of error, such as one instance. Comparisons of several candidates with one baseline are correlated by
    the baseline's instances, as in Dunnett's test. The last components of a comparison's loadings are those of its
    candidate's instances; at the positions of other candidates it gets 0.
    """
    instances = {pair.arm: pair.design.instances[1] for pair in pairs if pair.design.kind == "instances"}
    if len(instances) < 2:
        return tuple(comparisons)
    # For each candidate: how many instances the candidates before it have. `accumulate` also yields the total, unused.
    offsets = dict(zip(instances, accumulate(instances.values(), initial=0), strict=False))
    total = sum(instances.values())
    out = []
    for comparison in comparisons:
        own_instances, loadings = instances.get(comparison.arm, 0), comparison.loadings
        if loadings and own_instances:
            zeros_before = (0.0,) * offsets[comparison.arm]
            zeros_after = (0.0,) * (total - len(zeros_before) - own_instances)
            shared, own = loadings[:-own_instances], loadings[-own_instances:]
            out.append(replace(comparison, loadings=(*shared, *zeros_before, *own, *zeros_after)))
        else:
            out.append(comparison)
    return tuple(out)
