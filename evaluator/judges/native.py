"""The judge: evidence and policy become GO, NO-GO or INCONCLUSIVE (method B.5).

NO-GO needs proof that a metric is worse than its margin, at a false-alarm rate of `alpha_no_go` (by default alpha) over
all questions. GO needs proof that every metric is within its margin, at alpha. Neither follows from the absence of the
other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from evaluator.judges import advice, wording
from evaluator.judges.multiplicity import adjust, adjust_plausible
from evaluator.records import (
    Comparison,
    Evidence,
    EvidenceKind,
    Finding,
    Level,
    Look,
    MetricStatus,
    Reason,
    Role,
    Rulebook,
    VerdictWord,
)
from evaluator.wording import name_comparison

JUDGE = "native"
"""Name of this judge in a verdict."""

CAUSES_OF_MISSING = frozenset({"retries", "without_server", "other_servers", "sample_ratio"})
"""Health checks that say why an arm has hardly any requests: if they fail, that explains metrics without data."""

MAX_UNJUDGED = 0.05
"""Largest share of traffic on endpoints that could not be judged with which a GO is possible."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict's word, its reasons, the next action, and the comparisons with their status."""

    word: VerdictWord
    reasons: tuple[Reason, ...]
    next_action: str
    comparisons: tuple[Comparison, ...]
    decided_at_s: float | None = None
    """Seconds of judged data after which it was decided; `None`: it was not."""


def judge_evidence(evidence: Evidence, rulebook: Rulebook, release: str) -> Judgement:
    """Judge `evidence` under `rulebook`. Pure: the same input gives the same judgement.

    Several candidates (A/B/n) share one false-alarm rate, and one error rate of "within". The release is GO if one of
    them is GO (the best is named), and NO-GO if all of them are NO-GO.
    """
    judged = _set_status(evidence, rulebook)
    # Failed health checks that make the comparison invalid: they forbid a NO-GO as well as a GO.
    void = [finding for finding in evidence.findings if finding.void and finding.level is Level.FAIL]
    by_arm = _group_by_arm(judged)
    if len(by_arm) < 2:  # one candidate, whose comparisons are all there are; or none, and no comparison
        return _judge_candidate(judged, judged, evidence, rulebook, void, release, _find_early_p(judged))
    early_p_by_arm: dict[str, float] = {}
    if rulebook.monitoring.early_go:
        # All candidates share the error rate of an early GO, so their p-values are adjusted together. The correlation
        # of two candidates is taken to be that of their worst comparisons.
        worst_by_arm = _find_worst([comparison for own in by_arm.values() for comparison in own])
        early_p_values = [_find_early_p(by_arm[arm]) for arm in worst_by_arm]
        adjusted = adjust(early_p_values, _align_loadings([*worst_by_arm.values()]))
        early_p_by_arm = dict(zip(worst_by_arm, adjusted, strict=True))
    judgements = {
        arm: _judge_candidate(own, judged, evidence, rulebook, void, release, early_p_by_arm.get(arm, 1.0))
        for arm, own in by_arm.items()
    }
    return _choose(judgements, release, rulebook.no_go_level)


def _group_by_arm(comparisons: Sequence[Comparison]) -> dict[str, list[Comparison]]:
    """Group comparisons by their candidate, in the order in which candidates first occur."""
    by_arm: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        by_arm.setdefault(comparison.arm, []).append(comparison)
    return by_arm


def _judge_candidate(
    own: Sequence[Comparison],
    judged: tuple[Comparison, ...],
    evidence: Evidence,
    rulebook: Rulebook,
    void: Sequence[Finding],
    release: str,
    early_p: float,
) -> Judgement:
    """Judge one candidate: NO-GO if a gate or endpoint is shown to be worse; else GO, or INCONCLUSIVE with any doubt.

    Args:
        own: Its comparisons.
        judged: The comparisons of all candidates, which the judgement contains.
        evidence: What was measured.
        rulebook: The policy.
        void: Failed health checks that forbid a NO-GO as well.
        release: Name of the release.
        early_p: p-value of "within" at a look before the planned end; a GO is early if it is below alpha.
    """
    broken = [c for c in own if c.status is MetricStatus.FAIL and c.rule.role is Role.GATE]
    if broken and not void:
        # The smallest p-value comes first. This order is kept among equals when the policy's metrics are put before the
        # scan's, and limits that the baseline breaks as well last.
        broken.sort(key=lambda c: 1.0 if c.p_value_adjusted is None else c.p_value_adjusted)
        broken.sort(key=lambda c: (wording.broke_limit_as_baseline(c, rulebook.no_go_level), c.scan))
        reasons = tuple(wording.explain_failure(c, rulebook.alpha, no_go_level=rulebook.no_go_level) for c in broken)
        # A gate that no earlier look showed to be worse was decided by all of the data.
        decided_at_s = min(_seconds_of(c, evidence) if c.decided_at_s is None else c.decided_at_s for c in broken)
        next_action = advice.next_after_no_go(reasons, release, judged, rulebook.no_go_level)
        return Judgement(VerdictWord.NO_GO, reasons, next_action, judged, decided_at_s)
    doubts = _list_doubts(own, evidence, rulebook, void, early_p)
    if doubts:
        next_action = advice.next_after_inconclusive(doubts, own, evidence, release)
        return Judgement(VerdictWord.INCONCLUSIVE, tuple(doubts), next_action, judged)
    reasons = (wording.explain_go(own, evidence),)
    return Judgement(VerdictWord.GO, reasons, f"promote {release}", judged, evidence.window.seconds)


def _seconds_of(comparison: Comparison, evidence: Evidence) -> float:
    """Return the seconds of judged data that a comparison is based on."""
    return (evidence.production if comparison.kind is EvidenceKind.LIVE else evidence.window).seconds


def _choose(by_arm: Mapping[str, Judgement], release: str, alpha: float) -> Judgement:
    """Turn the judgements of several candidates into that of the release: GO for the best, or NO-GO if all are.

    `by_arm`: candidate → its judgement. Otherwise it is INCONCLUSIVE, with the next action of the first open candidate.
    """
    go_arms = [arm for arm, judgement in by_arm.items() if judgement.word is VerdictWord.GO]
    no_go_arms = [arm for arm, judgement in by_arm.items() if judgement.word is VerdictWord.NO_GO]
    open_arms = [arm for arm in by_arm if arm not in go_arms and arm not in no_go_arms]
    failures = tuple(wording.name_arm(reason) for arm in no_go_arms for reason in by_arm[arm].reasons)
    comparisons = next(iter(by_arm.values())).comparisons  # each judgement has those of all candidates
    if len(no_go_arms) == len(by_arm):
        decided_at_s = max(by_arm[arm].decided_at_s or 0.0 for arm in no_go_arms)
        next_action = advice.next_after_no_go(failures, release, comparisons, alpha)
        return Judgement(VerdictWord.NO_GO, failures, next_action, comparisons, decided_at_s)
    if go_arms:
        best = wording.find_best(comparisons, go_arms)
        choice = wording.explain_choice(best, go_arms, open_arms, len(by_arm), by_arm[best].reasons[0])
        next_action = f"promote {best} of {release}"
        return Judgement(VerdictWord.GO, (choice, *failures), next_action, comparisons, by_arm[best].decided_at_s)
    doubts = [wording.name_arm(reason) for arm in open_arms for reason in by_arm[arm].reasons]
    reasons = (*dict.fromkeys(doubts), *failures)  # each doubt once
    return Judgement(VerdictWord.INCONCLUSIVE, reasons, by_arm[open_arms[0]].next_action, comparisons)


# ------------------------------------------------------------------ status of each metric


def _set_status(evidence: Evidence, rulebook: Rulebook) -> tuple[Comparison, ...]:
    """Set the status, p-values and reason of each comparison; gates and scan share the false-alarm rate.

    The scan gets `alpha_share` of it and the gates the rest. Instead of comparing p-values with a part of the rate,
    they are divided by that part's share. All dicts and lists of numbers `i` refer to positions in `comparisons`.
    """
    comparisons = evidence.comparisons
    gates = [i for i, c in enumerate(comparisons) if c.rule.role is Role.GATE and not c.scan and c.questions]
    scanned = [i for i, c in enumerate(comparisons) if c.scan and c.questions]
    scan_share = rulebook.scan.alpha_share if rulebook.scan.enabled and scanned else 0.0
    decided_at_s = _find_decision_times(comparisons, gates, scanned, rulebook.no_go_level, scan_share)
    p_worse = {i: min(1.0, p / (1 - scan_share)) for i, p in _adjust_gates(comparisons, gates).items()}
    if scan_share:
        # The scan has many endpoints: those whose estimate is within the margin cost the others no correction.
        adjusted = adjust_plausible([_find_p_worse(comparisons[i], "margin") for i in scanned])
        p_worse |= {i: min(1.0, p / scan_share) for i, p in zip(scanned, adjusted, strict=True)}
    p_within = _adjust_within(comparisons, rulebook.alpha)
    # Trends share alpha among the gates of a candidate, so that a false trend rarely prevents its GO. `gates` are those
    # of all candidates, so alpha is multiplied by the number of candidates.
    candidates = max(len({c.arm for c in comparisons}), 1)
    # Production requests are asked the same rules as those of a load: with both, a trend is found as with one.
    asked_once = [i for i in gates if comparisons[i].kind is not EvidenceKind.LIVE] or gates
    trend_alpha = rulebook.alpha * candidates / max(len(asked_once), 1)
    judged = [
        _judge_comparison(
            c, p_worse.get(i), p_within[i], decided_at_s.get(i), rulebook, trend_alpha, _seconds_of(c, evidence)
        )
        for i, c in enumerate(comparisons)
    ]
    return tuple(_tie_mean_to_failures(c, judged) for c in judged)


# ------------------------------------------------------------------ within, for one of several candidates


def _p_within(comparison: Comparison) -> float:
    """Return the p-value of "within its margin and limits" (small: shown to be within); 1 without data."""
    if comparison.no_data or not comparison.questions:
        return 1.0
    return max(question.p_within for question in comparison.deciding)


def _find_worst(comparisons: Sequence[Comparison]) -> dict[str, Comparison]:
    """Find for each candidate the gate or hold with the largest p-value of "within": it decides for all of them."""
    must_be_within = [c for c in comparisons if c.must_be_within]
    return {arm: max(own, key=_p_within) for arm, own in _group_by_arm(must_be_within).items()}


def _adjust_within(comparisons: Sequence[Comparison], alpha: float) -> list[float]:
    """Adjust the p-value of "within" of each comparison for the number of candidates; in the order of `comparisons`.

    A candidate is within if its worst metric is: no correction over metrics is needed (intersection-union test). Any of
    several candidates may be shown to be within by luck, so p-values are corrected for candidates (step-down max-t, see
    `adjust`). A metric that is not its candidate's worst is treated as if it were. The result is compared with alpha
    only, and may be above 1.
    """
    candidates = len({c.arm for c in comparisons})
    worst_by_arm = _find_worst(comparisons)
    out = []
    for comparison in comparisons:
        p = _p_within(comparison)
        # The adjusted p-value lies between p and Bonferroni's. It decides only where alpha lies between these, so only
        # there it is computed. Comparisons of the scan decide no GO.
        bonferroni_p = p * candidates
        if comparison.scan or not p < alpha <= bonferroni_p:
            out.append(bonferroni_p)
            continue
        # The comparison takes the place of its candidate's worst.
        deciding_by_arm = {**worst_by_arm, comparison.arm: comparison}
        deciding = list(deciding_by_arm.values())
        adjusted = adjust([_p_within(c) for c in deciding], _align_loadings(deciding))
        out.append(adjusted[list(deciding_by_arm).index(comparison.arm)])
    return out


def _find_early_p(own: Sequence[Comparison]) -> float:
    """Find the p-value of an early GO of a candidate: at one look before the last, all its gates and holds are within.

    At each look the largest p-value of its gates and holds counts, and of all looks the smallest; 1 without such looks.
    `own`: the comparisons of the candidate.
    """
    # For each gate and hold: time of a look → p-value of "within" at that look.
    paths = [{look.at_s: max(look.p_within, default=1.0) for look in c.looks} for c in own if c.must_be_within]
    common_looks = set.intersection(*(set(path) for path in paths)) if paths else set()
    return min((max(path[at_s] for path in paths) for at_s in common_looks), default=1.0)


def _align_loadings(comparisons: Sequence[Comparison], looks: Sequence[Look] | None = None) -> list[tuple[float, ...]]:
    """Make the loadings of comparisons of several kinds of evidence as long as each other, so that they can be used.

    The loadings of a comparison split the error of its estimate into components (minutes, instances, units); the sum of
    products of two comparisons' loadings is the correlation of their errors. Kinds of evidence have no component in
    common: each gets positions of its own, and zeros at those of the others. A comparison whose loadings are shorter
    than others of its kind gets none (an empty tuple), and counts as not correlated.

    Args:
        comparisons: The comparisons.
        looks: An earlier look at each comparison, whose loadings are taken instead; `None`: those of the last look.

    Returns:
        The loadings of each comparison.
    """
    loadings = [source.loadings for source in looks or comparisons]
    kinds = [list(EvidenceKind).index(c.kind) for c in comparisons]  # 0: the first kind of evidence, …
    lengths = [0] * len(EvidenceKind)  # length of the loadings of each kind; 0: it has none
    for components, kind in zip(loadings, kinds, strict=True):
        lengths[kind] = max(lengths[kind], len(components))
    if sum(length > 0 for length in lengths) < 2:  # of one kind: nothing to align
        return loadings
    aligned: list[tuple[float, ...]] = []
    for components, kind in zip(loadings, kinds, strict=True):
        zeros_before, zeros_after = (0.0,) * sum(lengths[:kind]), (0.0,) * sum(lengths[kind + 1 :])
        is_complete = len(components) == lengths[kind]
        aligned.append((*zeros_before, *components, *zeros_after) if is_complete else ())
    return aligned


# ------------------------------------------------------------------ worse, over all questions


def _find_decision_times(
    comparisons: Sequence[Comparison], gates: list[int], scanned: list[int], alpha: float, scan_share: float
) -> dict[int, float]:
    """Find when comparisons were first shown to be worse, among the looks before the last.

    Returns index of the comparison → seconds of judged data. `gates`, `scanned`: indices of gates and of comparisons of
    the scan; `scan_share`: the scan's share of alpha.
    """
    decided_at_s: dict[int, float] = {}
    level_of_gates, level_of_scan = alpha * (1 - scan_share), alpha * scan_share
    for members, level, is_scan in ((gates, level_of_gates, False), (scanned, level_of_scan, True)):
        for at_s in sorted({look.at_s for i in members for look in comparisons[i].looks}):
            looks = {i: look for i in members for look in comparisons[i].looks if look.at_s == at_s}
            for i in _find_rejected(comparisons, looks, level, scan=is_scan):
                decided_at_s.setdefault(i, at_s)  # the first such look counts
    return decided_at_s


def _find_rejected(
    comparisons: Sequence[Comparison], looks: Mapping[int, Look], level: float, *, scan: bool
) -> list[int]:
    """Find the comparisons (indices) shown to be worse at one look, at a family-wise error rate of `level`.

    `looks`: index of a comparison → this look at it. `scan`: they belong to the endpoint scan, not to gates.
    """
    # A comparison has a test for each of its deciding questions.
    tests = [(i, p) for i, look in looks.items() for p in look.p_worse]
    p_values = [p for _, p in tests]
    if not any(p < level for p in p_values):
        return []
    if scan:
        adjusted = adjust_plausible(p_values)
    else:
        loadings = _align_loadings([comparisons[i] for i, _ in tests], [looks[i] for i, _ in tests])
        adjusted = adjust(p_values, loadings)
    return sorted({i for (i, _), p in zip(tests, adjusted, strict=True) if p < level})


def _find_p_worse(comparison: Comparison, kind: str) -> float:
    """Return a comparison's p-value of "worse" by its question of one `kind`: `margin`, or for the scan `tolerance`."""
    return next(question.p_worse for question in comparison.questions if question.kind == kind)


def _adjust_gates(comparisons: Sequence[Comparison], gates: list[int]) -> dict[int, float]:
    """Adjust the p-values of "worse" for the number of tests of all gates (step-down max-t, family-wise).

    Each question that decides (the margin, a limit) is a test. Tests whose errors are correlated are corrected for
    less; the correlations follow from the loadings of the gates: components of an estimate's error, whose sum of
    products with those of another gate is the correlation of both.

    Args:
        comparisons: All comparisons.
        gates: Indices of the gates among them.

    Returns:
        Index of a gate → the smallest adjusted p-value of its tests. A gate without a deciding question is left out.
    """
    loadings_by_gate = dict(zip(gates, _align_loadings([comparisons[i] for i in gates]), strict=True))
    # Of each test: the index of its gate, and its p-value.
    tests = [(i, question.p_worse) for i in gates for question in comparisons[i].questions if question.decides]
    adjusted = adjust([p for _, p in tests], [loadings_by_gate[i] for i, _ in tests])
    smallest_p: dict[int, float] = {}
    for (i, _), p in zip(tests, adjusted, strict=True):
        smallest_p[i] = min(p, smallest_p.get(i, 1.0))
    return smallest_p


def _judge_comparison(
    comparison: Comparison,
    p_worse: float | None,
    p_within: float,
    decided_at_s: float | None,
    rulebook: Rulebook,
    trend_alpha: float,
    judged_s: float,
) -> Comparison:
    """Set status, p-values and reason of a comparison. What an earlier look showed to be worse stays so.

    Args:
        comparison: One rule and candidate.
        p_worse: Its p-value of "worse", adjusted for all gates, or for all endpoints of the scan; `None`: it is neither
            a gate nor of the scan, so its own p-value counts.
        p_within: Its p-value of "within", adjusted for the candidates.
        decided_at_s: Seconds of data at the earlier look that showed it to be worse; `None`: there was none.
        rulebook: Has the error rates of all answers "worse" of gates and scan, and of "within" over all candidates.
        trend_alpha: Error rate of a trend towards harm.
        judged_s: Seconds of the data that it is based on.
    """
    if comparison.no_data or not comparison.questions:
        why = comparison.no_data or "nothing was asked"
        return replace(comparison, status=MetricStatus.NO_DATA, reason=f"{name_comparison(comparison)}: {why}")
    # The smallest p-value of the questions that decide (the margin and limits): one broken bound is enough.
    plain_p_worse = min(question.p_worse for question in comparison.deciding)
    decisive_p = plain_p_worse if p_worse is None else p_worse
    shown_within = p_within < rulebook.alpha
    # A hold only prevents a GO, so it is decided at the level of a GO.
    worse_level = rulebook.alpha if p_worse is None else rulebook.no_go_level
    status = MetricStatus.INCONCLUSIVE
    if decisive_p < worse_level or decided_at_s is not None:
        status = MetricStatus.FAIL
    elif shown_within and not _ends_beyond_margin(comparison, trend_alpha):
        status = MetricStatus.PASS
    judged = replace(
        comparison, status=status, p_value=plain_p_worse, p_value_adjusted=p_worse, decided_at_s=decided_at_s
    )
    reason = wording.explain_status(
        judged, rulebook.alpha, shown_within=shown_within, no_go_level=worse_level, judged_s=judged_s
    )
    return replace(judged, reason=reason)


def _ends_beyond_margin(comparison: Comparison, trend_alpha: float) -> bool:
    """Is the end of the run beyond the margin, so that the whole run cannot pass?

    Either the estimate of the last third of the run is beyond it, or a trend that is shown to worsen ends beyond it.
    `Drift` has the distance of both from the margin, positive beyond it. `False` without a margin, and for metrics that
    are only watched.
    """
    drift = comparison.drift
    if drift is None or comparison.rule.margin is None or comparison.rule.role is Role.WATCH:
        return False
    return drift.last_third > 0 or (drift.p_worsening < trend_alpha and drift.at_end > 0)


def _tie_mean_to_failures(comparison: Comparison, judged: Sequence[Comparison]) -> Comparison:
    """A mean of successes passes only if failures are within their margin: slow requests may have failed."""
    needs_failures = comparison.rule.metric.needs_failures_within and not comparison.scan
    if not needs_failures or comparison.status is not MetricStatus.PASS:
        return comparison
    failures = [c for c in judged if c.rule.metric.is_failure_rate and not c.scan and c.arm == comparison.arm]
    # Failures of a load say nothing of the requests of production, nor the other way round.
    other_requests = {EvidenceKind.REQUESTS, EvidenceKind.LIVE} - {comparison.kind}
    failures = [c for c in failures if c.kind not in other_requests]
    if all(c.status is MetricStatus.PASS for c in failures):
        return comparison
    why = "covers successes only, and failures are not shown to be within their margin"
    return replace(comparison, status=MetricStatus.INCONCLUSIVE, reason=f"{name_comparison(comparison)} {why}")


# ------------------------------------------------------------------ what forbids a GO


def _list_doubts(
    judged: Sequence[Comparison], evidence: Evidence, rulebook: Rulebook, void: Sequence[Finding], early_p: float
) -> list[Reason]:
    """List everything that forbids a GO of a candidate, the most important first; empty when nothing does.

    `judged`: its comparisons; `void`: failed health checks that forbid a NO-GO as well; `early_p`: p-value of an early
    GO.
    """
    doubts = [wording.explain_health(finding) for finding in void]
    broken_holds = [c for c in judged if c.rule.role is Role.HOLD and c.status is MetricStatus.FAIL]
    doubts += [wording.explain_hold(c, rulebook.alpha) for c in broken_holds]
    failed_checks = [f for f in evidence.findings if f.level is Level.FAIL and not f.void]
    # Requests that did not come, or failed before they reached an arm, are why its data are missing.
    causes = [f for f in failed_checks if f.check in CAUSES_OF_MISSING]
    doubts += [wording.explain_health(finding) for finding in causes]
    failed_checks = [f for f in failed_checks if f not in causes]
    must_be_within = [c for c in judged if c.must_be_within]
    doubts += wording.explain_missing([c for c in must_be_within if c.status is MetricStatus.NO_DATA])
    doubts += [wording.explain_health(finding) for finding in failed_checks]
    early_go = rulebook.monitoring.early_go and early_p < rulebook.alpha
    if not evidence.final and not early_go:
        doubts.append(wording.explain_not_final(evidence))
    # The health check `complete` says the same with details.
    if evidence.incomplete and not any(finding.check == "complete" for finding in failed_checks):
        doubts.append(Reason("incomplete", "the run did not end as planned"))
    still_open = [c for c in must_be_within if c.status is MetricStatus.INCONCLUSIVE]
    doubts += [wording.give_reason("not_shown", c.reason, c) for c in still_open]
    if rulebook.scan.enabled:
        # An endpoint that is shown to be worse than is tolerated in a GO, though not than the scan's margin (NO-GO).
        scanned = [c for c in judged if c.scan and c.questions]
        level = rulebook.alpha * rulebook.scan.alpha_share
        adjusted = adjust_plausible([_find_p_worse(c, "tolerance") for c in scanned])
        doubts += [wording.explain_scan_doubt(c) for c, p in zip(scanned, adjusted, strict=True) if p < level]
        if evidence.unjudged_share > MAX_UNJUDGED:
            doubts.append(wording.explain_unjudged(evidence))
    if not any(c.rule.role is Role.GATE for c in must_be_within):
        doubts.append(Reason("no_gate", "the policy has no gate metric, so nothing was shown to be within a margin"))
    return doubts
