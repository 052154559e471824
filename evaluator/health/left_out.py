"""Rows that were read and are not judged: are they named, and do they fail no more often than judged rows?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from evaluator.health.base import JudgedFailures, RequestContext, fail, ok, warn
from evaluator.records import ArmRows, Finding, LeftOut, LeftOutKind
from evaluator.stats.inference.score import difference_z
from evaluator.wording import describe_left_out, format_count, format_number, list_left_out

NAME = "left_out"
SURE = 0.001
NOTABLE = 0.05
MOST_TOGETHER = 20.0
"""Largest burst that counts as one failure: a few dozen failures are always evidence."""


def check_left_out(context: RequestContext) -> Iterable[Finding]:
    """Is every row that was read in the store or named, and does the baseline's rate explain their failures?"""
    findings = []
    for part in (part for rows in context.rows for part in rows.left_out if part.kind is LeftOutKind.LOST):
        text = f"{part.arm} has {describe_left_out(part)}"
        findings.append(fail(NAME, text, "record or import the release again under another id"))
    for rows in context.rows[1:]:
        findings += _judge_failures(context, context.rows[0], rows)
    for rows in context.rows:
        apart = sum(part.rows for part in rows.left_out if part.kind is LeftOutKind.NO_COUNTERPART)
        if rows.judged and apart > NOTABLE * rows.read:
            share = format_number(apart / rows.read * 100)
            text = f"{share} % of {rows.arm}'s requests are not judged: {list_left_out(rows.left_out)}"
            findings.append(warn(NAME, text))
    yield from findings
    if not findings and context.rows:
        judged = " + ".join(format_count(rows.judged) for rows in context.rows)
        read = " + ".join(format_count(rows.read) for rows in context.rows)
        yield ok(NAME, f"{judged} of {read} rows are judged, the others are named")


def _judge_failures(context: RequestContext, baseline: ArmRows, candidate: ArmRows) -> Iterable[Finding]:
    judged = context.count_failures(candidate.arm)
    for part in candidate.left_out:
        p_explained = _p_more_failures(part.rows, part.failures, judged.requests, judged.failures, judged.together)
        if part.kind not in {LeftOutKind.BAD_ROW, LeftOutKind.LONE_REPLICATE}:
            # What affects these rows of both arms, such as cold caches in the warm-up, is not caused by the candidate.
            alike = [same for same in baseline.left_out if (same.kind, same.detail) == (part.kind, part.detail)]
            p_explained = max(
                p_explained, *(_p_worse_than(baseline, same, candidate, part, judged) for same in alike), 0
            )
        if not part.failures or p_explained >= context.rulebook.alpha:
            continue
        why = "baseline has no judged requests to explain these failures"
        if judged.requests:
            rate = format_number(judged.failures / judged.requests * 100)
            why = f"the failure rate of baseline's judged requests ({rate} %) does not explain these failures"
        remedy = f"check these failures of {part.arm}; "
        remedy += "they are judged only if both arms have requests of that endpoint at that time"
        if part.kind is LeftOutKind.WARM_UP:
            remedy = f"check the failures of {part.arm} in the first minutes; "
            remedy += "to judge them, set `warm_up: 0s` in the policy"
        if part.kind is LeftOutKind.BAD_ROW:
            remedy = "correct these rows in the file and import it again under another release id"
        yield fail(NAME, f"{describe_left_out(part)}, of {candidate.arm}: {why}", remedy)


def _p_worse_than(
    baseline: ArmRows, alike: LeftOut, candidate: ArmRows, part: LeftOut, judged: JudgedFailures
) -> float:
    """p-value that a part of the candidate's rows fails no more than the same part of the baseline's.

    Failures are compared as a share of the part and as a share of all rows. The share of the part is uncertain if the
    baseline has few such rows, and unknown for failed checks: checks that passed have no row.
    """
    shares = (part.rows, alike.rows), (candidate.read, baseline.read)
    return min(_p_more_failures(own, part.failures, base, alike.failures, judged.together) for own, base in shares)


def _p_more_failures(rows: int, failures: int, other_rows: int, other_failures: int, together: float = 1.0) -> float:
    """One-sided p-value of the score test that the first rows fail no more often than the others.

    `together`: mean size of a burst of failures, by which all counts are divided.
    """
    if not rows or not other_rows:
        return 0.0 if failures else 1.0
    together = min(together, MOST_TOGETHER)
    x, n, x_other, n_other = (count / together for count in (failures, rows, other_failures, other_rows))
    z = float(difference_z(x, n, x_other, n_other, 0.0))
    return 0.5 * math.erfc(z / math.sqrt(2))


def check_skipped_rows(context: RequestContext) -> Iterable[Finding]:
    """Are skipped bad rows few, and as frequent in every arm? Are rows of other kinds as frequent in every arm?"""
    bad, of_other_kinds = (
        {rows.arm: sum(part.rows for part in rows.left_out if part.kind is kind) for rows in context.rows}
        for kind in (LeftOutKind.BAD_ROW, LeftOutKind.OTHER_KIND)
    )
    read = {rows.arm: max(rows.read, 1) for rows in context.rows}
    tolerated = 1 - context.rulebook.coverage
    remedy = "correct the files and import them again under another release id"
    if any(bad.values()):
        text = f"rows that could not be read were skipped: {_list_shares(bad, read)}"
        if max(n / read[arm] for arm, n in bad.items()) > tolerated:
            allowed = format_number(tolerated * 100)
            yield fail("coverage", f"{text}; more than {allowed} % (health.coverage)", remedy)
        elif lopsided := _find_lopsided(bad, read):
            why = f"{text}; the shares differ, so the rows that remain are no fair sample of {lopsided[0]} and baseline"
            yield fail("coverage", why, remedy)
        else:
            yield warn("coverage", text, remedy)
    baseline = next(iter(read), "")
    for arm in _find_lopsided(of_other_kinds, read):
        if abs(of_other_kinds[arm] / read[arm] - of_other_kinds[baseline] / read[baseline]) > tolerated:
            text = f"rows that are not requests differ in share: {_list_shares(of_other_kinds, read)}"
            remedy = f"find out what these rows of {arm} are (docs/formats.md): requests may be hidden among them"
            yield fail("coverage", text, remedy)
            break


def _list_shares(rows: Mapping[str, int], read: Mapping[str, int]) -> str:
    return ", ".join(f"{arm} {format_count(n)} of {format_count(read[arm])}" for arm, n in rows.items())


def _find_lopsided(rows: Mapping[str, int], read: Mapping[str, int]) -> list[str]:
    """Candidates whose share of rows of this kind differs from the baseline's by more than chance."""
    baseline, *candidates = rows or [""]
    return [
        arm
        for arm in candidates
        if min(
            _p_more_failures(read[arm], rows[arm], read[baseline], rows[baseline]),
            _p_more_failures(read[baseline], rows[baseline], read[arm], rows[arm]),
        )
        < SURE
    ]


def check_cut_off(context: RequestContext) -> Iterable[Finding]:
    """Requests without an answer at the end of a load: old ones count as failed; are the rest as many on each arm?"""
    failed = {arm: sum(request.arm == arm for request in context.settled.failed) for arm in context.cells.arms}
    if any(failed.values()):
        each = ", ".join(f"{arm} {format_count(n)}" for arm, n in failed.items())
        patience = format_number(context.settled.patience_s)
        text = f"requests that had waited more than {patience} s when the load ended count as failed: {each}"
        yield warn("in_flight", text)
    late = {arm: context.settled.late.get(arm, 0) for arm in context.cells.arms}
    users = {arm: sum(run.facts.users.get(arm, 0) for run in context.runs) for arm in context.cells.arms}
    usual = f"{format_number(context.settled.usual_s * 1000)} ms, the baseline's p99,"
    baseline, *candidates = context.cells.arms
    for arm in candidates:
        if not any(part.arm in {arm, baseline} for part in context.settled.cut_off):
            continue
        # Users of one arm may act in step, so requests in flight depend on the moment; users are the trials.
        trials = [max(users[name], late[name]) for name in (arm, baseline)]
        text = f"requests that had waited for more than {usual} when the load ended: {baseline} {late[baseline]} of "
        text += f"{trials[1]} users, {arm} {late[arm]} of {trials[0]}"
        if _p_more_failures(trials[0], late[arm], trials[1], late[baseline]) < SURE:
            remedy = f"check whether {arm} had stopped answering at the end, then load again"
            yield fail("in_flight", text, remedy)
        elif _p_more_failures(trials[1], late[baseline], trials[0], late[arm]) < SURE:
            yield warn("in_flight", text)
        else:
            yield ok("in_flight", text)
