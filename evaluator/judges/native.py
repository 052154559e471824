"""The judge: evidence and policy become GO, NO-GO or INCONCLUSIVE (method B.5).

NO-GO needs proof that a metric is worse than its margin, at a false-alarm rate of alpha over all questions. GO needs
proof that every metric is within its margin. Neither follows from the absence of the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from evaluator.judges import wording
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

MAX_UNJUDGED = 0.05


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
    judged = _with_status(evidence.comparisons, rulebook)
    void = [finding for finding in evidence.findings if finding.void and finding.level is Level.FAIL]
    by_arm = _by_arm(judged)
    if len(by_arm) < 2:
        return _judge_candidate(judged, judged, evidence, rulebook, void, release)
    # All candidates share the error rate of an early GO, so their p-values are adjusted together.
    early: dict[str, float] = {}
    if rulebook.monitoring.early_go:
        worst = _find_worst([c for own in by_arm.values() for c in own])
        adjusted = adjust([_early_p(by_arm[arm]) for arm in worst], _side_by_side([*worst.values()]))
        early = dict(zip(worst, adjusted, strict=True))
    each = {
        arm: _judge_candidate(own, judged, evidence, rulebook, void, release, early.get(arm, 1.0))
        for arm, own in by_arm.items()
    }
    return _choose(each, release, rulebook.alpha)


def _by_arm(judged: Sequence[Comparison]) -> dict[str, list[Comparison]]:
    out: dict[str, list[Comparison]] = {}
    for comparison in judged:
        out.setdefault(comparison.arm, []).append(comparison)
    return out


def _judge_candidate(
    own: Sequence[Comparison],
    judged: tuple[Comparison, ...],
    evidence: Evidence,
    rulebook: Rulebook,
    void: Sequence[Finding],
    release: str,
    early: float | None = None,
) -> Judgement:
    """The judgement of one candidate by its own comparisons. `early`: p-value of an early GO (`None`: its own)."""
    broken = [c for c in own if c.status is MetricStatus.FAIL and c.rule.role is Role.GATE]
    if broken and not void:
        # Smallest p-value first; the policy's metrics before the scan's rows; limits that both arms break come last.
        broken.sort(key=lambda c: 1.0 if c.p_value_adjusted is None else c.p_value_adjusted)
        broken.sort(key=lambda c: (wording.broke_limit_as_baseline(c, rulebook.alpha), c.scan))
        reasons = tuple(wording.explain_failure(c, rulebook.alpha) for c in broken)
        decided = min(evidence.window.seconds if c.decided_at_s is None else c.decided_at_s for c in broken)
        next_action = wording.next_after_no_go(reasons, release, judged, rulebook.alpha)
        return Judgement(VerdictWord.NO_GO, reasons, next_action, judged, decided)
    doubts = _doubts(own, evidence, rulebook, void, _early_p(own) if early is None else early)
    if doubts:
        next_action = wording.next_after_inconclusive(doubts, own, evidence, release)
        return Judgement(VerdictWord.INCONCLUSIVE, tuple(doubts), next_action, judged)
    reasons = (wording.explain_go(own, evidence),)
    return Judgement(VerdictWord.GO, reasons, f"promote {release}", judged, evidence.window.seconds)


def _choose(by_arm: Mapping[str, Judgement], release: str, alpha: float) -> Judgement:
    """One judgement of several candidates."""
    going = [arm for arm, judgement in by_arm.items() if judgement.word is VerdictWord.GO]
    stopped = [arm for arm, judgement in by_arm.items() if judgement.word is VerdictWord.NO_GO]
    failures = tuple(wording.name_arm(reason) for arm in stopped for reason in by_arm[arm].reasons)
    any_judgement = next(iter(by_arm.values()))
    if len(stopped) == len(by_arm):
        decided = max(by_arm[arm].decided_at_s or 0.0 for arm in stopped)
        next_action = wording.next_after_no_go(failures, release, any_judgement.comparisons, alpha)
        return Judgement(VerdictWord.NO_GO, failures, next_action, any_judgement.comparisons, decided)
    if going:
        best = wording.find_best(any_judgement.comparisons, going)
        waiting = [arm for arm in by_arm if arm not in going and arm not in stopped]
        reasons = (wording.explain_choice(best, going, waiting, len(by_arm), by_arm[best].reasons[0]), *failures)
        next_action = f"promote {best} of {release}"
        return Judgement(VerdictWord.GO, reasons, next_action, any_judgement.comparisons, by_arm[best].decided_at_s)
    undecided = [judgement for arm, judgement in by_arm.items() if arm not in stopped]
    doubts = tuple(dict.fromkeys(wording.name_arm(reason) for judgement in undecided for reason in judgement.reasons))
    return Judgement(VerdictWord.INCONCLUSIVE, doubts + failures, undecided[0].next_action, any_judgement.comparisons)


# ------------------------------------------------------------------ status of each metric


def _with_status(comparisons: Sequence[Comparison], rulebook: Rulebook) -> tuple[Comparison, ...]:
    gates = [i for i, c in enumerate(comparisons) if c.rule.role is Role.GATE and not c.scan and c.questions]
    scanned = [i for i, c in enumerate(comparisons) if c.scan and c.questions]
    share = rulebook.scan.alpha_share if rulebook.scan.enabled and scanned else 0.0
    decided = _decision_times(comparisons, gates, scanned, rulebook.alpha, share)
    adjusted = {i: p / (1 - share) for i, p in _adjust_gates(comparisons, gates).items()}
    if share:
        p_values = adjust_plausible([_p_worse(comparisons[i], "margin") for i in scanned])
        adjusted |= {i: p / share for i, p in zip(scanned, p_values, strict=True)}
    candidates = max(len({c.arm for c in comparisons}), 1)
    alpha, trend_alpha = rulebook.alpha, rulebook.alpha * candidates / max(len(gates), 1)
    within = _within_any(comparisons, rulebook.alpha)
    judged = [
        _judge_one(c, min(1.0, adjusted[i]) if i in adjusted else None, within[i], decided.get(i), alpha, trend_alpha)
        for i, c in enumerate(comparisons)
    ]
    return tuple(_tie_mean_to_failures(c, judged) for c in judged)


# ------------------------------------------------------------------ within, for one of several candidates


def _p_within(comparison: Comparison) -> float:
    """p-value against "beyond its margin or a limit"; 1 without data."""
    is_answered = not comparison.no_data and comparison.questions
    return max(q.p_within for q in comparison.deciding) if is_answered else 1.0


def _find_worst(comparisons: Sequence[Comparison]) -> dict[str, Comparison]:
    """For each candidate, the gate or hold with the largest p-value of "within": it decides for all of them."""
    must_be_within = [c for c in comparisons if c.must_be_within]
    return {arm: max(own, key=_p_within) for arm, own in _by_arm(must_be_within).items()}


def _within_any(comparisons: Sequence[Comparison], alpha: float) -> list[float]:
    """p-value of "within" of each comparison, adjusted for the number of candidates.

    A candidate is within if its worst metric is (intersection-union: no correction over metrics). Any of several
    candidates may be shown to be within by luck, so candidates are corrected by step-down max-t. A metric that is not
    its candidate's worst is treated as if it were. The result is compared with alpha only, and may be above 1.
    """
    own = [_p_within(c) for c in comparisons]
    candidates = len({c.arm for c in comparisons})
    worst = _find_worst(comparisons)
    out = []
    for comparison, p in zip(comparisons, own, strict=True):
        # The result lies between p and Bonferroni's p. It is computed only where alpha lies between them.
        if comparison.scan or not p < alpha <= p * candidates:
            out.append(p * candidates)
            continue
        arms = {**worst, comparison.arm: comparison}
        adjusted = adjust([_p_within(c) for c in arms.values()], _side_by_side(list(arms.values())))
        out.append(adjusted[list(arms).index(comparison.arm)])
    return out


def _early_p(own: Sequence[Comparison]) -> float:
    """The least level at which one look before the last shows every gate and hold to be within its margin."""
    paths = [{look.at_s: max(look.p_within, default=1.0) for look in c.looks} for c in own if c.must_be_within]
    shared = set.intersection(*(set(path) for path in paths)) if paths else set()
    return min((max(path[at_s] for path in paths) for at_s in shared), default=1.0)


def _side_by_side(comparisons: Sequence[Comparison], looks: Sequence[Look] | None = None) -> list[tuple[float, ...]]:
    """Give the loadings of requests, readings and outcomes positions of their own: they share no unit.

    `looks`: an earlier look of each comparison, whose loadings are taken instead.
    """
    loadings = [look.loadings for look in looks or comparisons]
    kinds = [list(EvidenceKind).index(c.rule.evidence) for c in comparisons]
    sizes = [0] * len(EvidenceKind)
    for row, kind in zip(loadings, kinds, strict=True):
        sizes[kind] = max(sizes[kind], len(row))
    if sum(size > 0 for size in sizes) < 2:
        return loadings
    return [
        (0.0,) * sum(sizes[:kind]) + row + (0.0,) * sum(sizes[kind + 1 :]) if len(row) == sizes[kind] else ()
        for row, kind in zip(loadings, kinds, strict=True)
    ]


# ------------------------------------------------------------------ worse, over all questions


def _decision_times(
    comparisons: Sequence[Comparison], gates: list[int], scanned: list[int], alpha: float, share: float
) -> dict[int, float]:
    """When each comparison was first shown to be worse, among the looks before the last."""
    out: dict[int, float] = {}
    for members, level in ((gates, alpha * (1 - share)), (scanned, alpha * share)):
        for at_s in sorted({look.at_s for i in members for look in comparisons[i].looks}):
            now = {i: look for i in members for look in comparisons[i].looks if look.at_s == at_s}
            for i in _rejected(comparisons, now, level, scan=members is scanned):
                out.setdefault(i, at_s)
    return out


def _rejected(comparisons: Sequence[Comparison], looks: Mapping[int, Look], level: float, *, scan: bool) -> list[int]:
    """Comparisons with a p-value that is rejected at one look, family-wise."""
    tests = [(i, p) for i, look in looks.items() for p in look.p_worse]
    p_values = [p for _, p in tests]
    if not any(p < level for p in p_values):
        return []
    if scan:
        adjusted = adjust_plausible(p_values)
    else:
        loadings = _side_by_side([comparisons[i] for i, _ in tests], [looks[i] for i, _ in tests])
        adjusted = adjust(p_values, loadings)
    return sorted({i for (i, _), p in zip(tests, adjusted, strict=True) if p < level})


def _p_worse(row: Comparison, kind: str) -> float:
    """p-value of "worse" of a row of the scan. `kind`: against its margin, or against what a GO tolerates."""
    return next(question.p_worse for question in row.questions if question.kind == kind)


def _adjust_gates(comparisons: Sequence[Comparison], members: list[int]) -> dict[int, float]:
    """Adjusted p-value of each gate; a metric with a margin and limits asks more than one question."""
    loadings = dict(zip(members, _side_by_side([comparisons[i] for i in members]), strict=True))
    tests = [(i, test.p_worse) for i in members for test in comparisons[i].questions if test.decides]
    adjusted = adjust([p for _, p in tests], [loadings[i] for i, _ in tests])
    out: dict[int, float] = {}
    for (i, _), p in zip(tests, adjusted, strict=True):
        out[i] = min(p, out.get(i, 1.0))
    return out


def _judge_one(
    comparison: Comparison,
    adjusted: float | None,
    p_within: float,
    decided_at_s: float | None,
    alpha: float,
    trend_alpha: float,
) -> Comparison:
    """Status, p-values and reason of one metric. What an earlier look showed to be worse stays so.

    `alpha`: error rate of all "worse" answers, and of "within" over candidates; `trend_alpha`: that of its trend.
    """
    if comparison.no_data or not comparison.questions:
        why = comparison.no_data or "nothing was asked"
        return replace(comparison, status=MetricStatus.NO_DATA, reason=f"{name_comparison(comparison)}: {why}")
    p_value = min(test.p_worse for test in comparison.deciding)
    decisive = p_value if adjusted is None else adjusted
    shown_within = p_within < alpha
    # Is the end of the run beyond the margin although the whole is within?
    drift, drifts = comparison.drift, False
    if drift and comparison.rule.margin and comparison.rule.role is not Role.WATCH:
        drifts = drift.last_third > 0 or (drift.p_worsening < trend_alpha and drift.at_end > 0)
    status = MetricStatus.INCONCLUSIVE
    if decisive < alpha or decided_at_s is not None:
        status = MetricStatus.FAIL
    elif shown_within and not drifts:
        status = MetricStatus.PASS
    return replace(
        comparison,
        status=status,
        p_value=p_value,
        p_value_adjusted=adjusted,
        decided_at_s=decided_at_s,
        reason=wording.explain_status(comparison, status, alpha, shown_within=shown_within),
    )


def _tie_mean_to_failures(comparison: Comparison, judged: Sequence[Comparison]) -> Comparison:
    """A mean of successes passes only if failures are within their margin: slow requests may have failed."""
    needs_failures = comparison.rule.metric.needs_failures_within and not comparison.scan
    if not needs_failures or comparison.status is not MetricStatus.PASS:
        return comparison
    failures = [c for c in judged if c.rule.metric.is_failure_rate and not c.scan and c.arm == comparison.arm]
    if all(c.status is MetricStatus.PASS for c in failures):
        return comparison
    why = "covers successes only, and failures are not shown to be within their margin"
    return replace(comparison, status=MetricStatus.INCONCLUSIVE, reason=f"{name_comparison(comparison)} {why}")


# ------------------------------------------------------------------ what forbids a GO


def _doubts(
    judged: Sequence[Comparison], evidence: Evidence, rulebook: Rulebook, void: Sequence[Finding], early: float
) -> list[Reason]:
    """Everything that forbids a GO, the most important first; empty when nothing does."""
    doubts = [wording.explain_health(finding) for finding in void]
    holds = [c for c in judged if c.rule.role is Role.HOLD and c.status is MetricStatus.FAIL]
    doubts += [wording.explain_hold(c, rulebook.alpha) for c in holds]
    failed = [f for f in evidence.findings if f.level is Level.FAIL and not f.void]
    must_be_within = [c for c in judged if c.must_be_within]
    doubts += wording.explain_missing([c for c in must_be_within if c.status is MetricStatus.NO_DATA])
    doubts += [wording.explain_health(finding) for finding in failed]
    if not (evidence.final or (rulebook.monitoring.early_go and early < rulebook.alpha)):
        doubts.append(wording.explain_not_final(evidence))
    if evidence.incomplete and not any(finding.check == "complete" for finding in failed):
        doubts.append(Reason("incomplete", "the run did not end as planned"))
    still_open = [c for c in must_be_within if c.status is MetricStatus.INCONCLUSIVE]
    doubts += [wording.give_reason("not_shown", c.reason, c) for c in still_open]
    if rulebook.scan.enabled:
        rows, level = [c for c in judged if c.scan and c.questions], rulebook.alpha * rulebook.scan.alpha_share
        adjusted = adjust_plausible([_p_worse(c, "tolerance") for c in rows])
        doubts += [wording.explain_scan_doubt(c) for c, p in zip(rows, adjusted, strict=True) if p < level]
        if evidence.unjudged_share > MAX_UNJUDGED:
            doubts.append(wording.explain_unjudged(evidence))
    if not any(c.rule.role is Role.GATE for c in must_be_within):
        doubts.append(Reason("no_gate", "the policy has no gate metric, so nothing was shown to be within a margin"))
    return doubts
