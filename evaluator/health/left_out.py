"""Rows that were read and are not judged: are they named, and do they fail no more often than judged rows?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from evaluator.health.base import RequestContext, fail, find_failure_margin, ok, warn
from evaluator.records import ArmRows, Finding, LeftOut, LeftOutKind
from evaluator.stats.inference.score import difference_z
from evaluator.wording import describe_left_out, format_count, format_number, list_left_out

NAME = "left_out"
SURE = 0.001
"""p-value below which a difference between the arms is not chance."""
NOTABLE = 0.05
"""Share of an arm's rows without counterpart above which they are named."""
LARGEST_BURST = 20.0
"""Largest burst that counts as one failure: a few dozen failures are always evidence."""


def check_left_out(context: RequestContext) -> Iterable[Finding]:
    """Are rows lost, do the candidate's rows left out fail more often than the baseline's, and are there many of them?

    A row is left out if it cannot be judged, for example because the other arm has no requests at its endpoint.

    `context.rows` accounts for the rows of each arm, the baseline first.
    """
    findings = []
    for rows_of_arm in context.rows:
        for part in rows_of_arm.left_out:
            if part.kind is LeftOutKind.LOST:
                text = f"{part.arm} has {describe_left_out(part)}"
                findings.append(fail(NAME, text, "record or import the release again under another id"))
    for candidate_rows in context.rows[1:]:
        findings += _judge_failures(context, context.rows[0], candidate_rows)
    for rows_of_arm in context.rows:
        without_counterpart = sum(part.rows for part in rows_of_arm.left_out if part.kind is LeftOutKind.NO_COUNTERPART)
        if rows_of_arm.judged and without_counterpart > NOTABLE * rows_of_arm.read:
            share = format_number(without_counterpart / rows_of_arm.read * 100)
            text = f"{share} % of {rows_of_arm.arm}'s requests are not judged: {list_left_out(rows_of_arm.left_out)}"
            findings.append(warn(NAME, text))
    yield from findings
    if not findings and context.rows:
        judged = " + ".join(format_count(rows_of_arm.judged) for rows_of_arm in context.rows)
        read = " + ".join(format_count(rows_of_arm.read) for rows_of_arm in context.rows)
        yield ok(NAME, f"{judged} of {read} rows are judged, the others are named")


def _judge_failures(context: RequestContext, baseline: ArmRows, candidate: ArmRows) -> Iterable[Finding]:
    """Fail for each part of the candidate's rows left out that fails more often than the baseline's rows explain.

    Such a part is explained by the baseline's judged requests or by its rows left out for the same reason.
    """
    judged = context.count_baseline_failures(candidate.arm)
    for part in candidate.left_out:
        p_value = _p_more_failures(part.rows, part.failures, judged.requests, judged.failures, judged.burst_size)
        if part.kind not in {LeftOutKind.BAD_ROW, LeftOutKind.LONE_REPLICATE}:
            # What affects these rows of both arms, such as cold caches in the warm-up, is not caused by the candidate.
            # There is no such exception for bad rows, which are faults of the data, and for replicates with one arm
            # only, which ran without the other arm.
            for baseline_part in baseline.left_out:
                if (baseline_part.kind, baseline_part.detail) == (part.kind, part.detail):
                    p_value = max(p_value, _p_worse_part(baseline, baseline_part, candidate, part, judged.burst_size))
        if not part.failures or p_value >= context.rulebook.alpha:
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


def _p_worse_part(
    baseline: ArmRows, baseline_part: LeftOut, candidate: ArmRows, part: LeftOut, burst_size: float
) -> float:
    """Return a p-value: small if `part`, of the candidate's rows, fails more often than the baseline's `baseline_part`.

    It is the smaller p-value of two tests: failures as a share of the part, and as a share of all rows that were read.
    The first test cannot show much if the baseline has few such rows, and nothing if all of them failed: so it is with
    the rows of checks, since only a check that fails has a row.
    """
    failures, baseline_failures = part.failures, baseline_part.failures
    return min(
        _p_more_failures(part.rows, failures, baseline_part.rows, baseline_failures, burst_size),
        _p_more_failures(candidate.read, failures, baseline.read, baseline_failures, burst_size),
    )


def _p_more_failures(rows: int, failures: int, other_rows: int, other_failures: int, burst_size: float = 1.0) -> float:
    """Return the one-sided p-value of a score test: small if the rows fail more often than the other rows.

    Without rows on one side it is 0 if the rows have failures, else 1. `burst_size`: mean size of a burst of
    failures; all counts are divided by it (but at most by 20), because a burst is as much evidence as one failure.
    """
    if not rows or not other_rows:
        return 0.0 if failures else 1.0
    burst_size = min(burst_size, LARGEST_BURST)
    # The score statistic of the hypothesis that both failure rates are equal (0.0: their difference).
    z = float(
        difference_z(
            failures / burst_size, rows / burst_size, other_failures / burst_size, other_rows / burst_size, 0.0
        )
    )
    return 0.5 * math.erfc(z / math.sqrt(2))


def check_skipped_rows(context: RequestContext) -> Iterable[Finding]:
    """Are skipped bad rows few, and as frequent in every arm? Are rows of other kinds as frequent in every arm?"""
    rows_read = {rows_of_arm.arm: max(rows_of_arm.read, 1) for rows_of_arm in context.rows}  # at least 1, to divide by
    yield from _judge_bad_rows(context, rows_read)
    for kind, name in ((LeftOutKind.OTHER_KIND, "rows that are not requests"), (LeftOutKind.STREAM, "streams")):
        yield from _judge_other_kind(context, kind, name, rows_read)


def _count_left_out(context: RequestContext, kind: LeftOutKind) -> dict[str, int]:
    """Count the rows of one kind that are not judged, by arm; the baseline is first."""
    return {
        rows_of_arm.arm: sum(part.rows for part in rows_of_arm.left_out if part.kind is kind)
        for rows_of_arm in context.rows
    }


def _judge_bad_rows(context: RequestContext, rows_read: Mapping[str, int]) -> Iterable[Finding]:
    """Fail if bad rows are more than the policy allows, or their share differs between the arms; else warn.

    `rows_read`: rows read of each arm, at least 1.
    """
    bad_rows = _count_left_out(context, LeftOutKind.BAD_ROW)
    if not any(bad_rows.values()):
        return
    allowed_share = 1 - context.rulebook.coverage
    text = f"rows that could not be read were skipped: {_list_shares(bad_rows, rows_read)}"
    remedy = "correct the files and import them again under another release id"
    if max(count / rows_read[arm] for arm, count in bad_rows.items()) > allowed_share:
        yield fail("coverage", f"{text}; more than {format_number(allowed_share * 100)} % (health.coverage)", remedy)
    elif candidates := _find_lopsided(bad_rows, rows_read):  # names of candidates whose share is not the baseline's
        why = f"{text}; the shares differ, so the rows that remain are no fair sample of {candidates[0]} and baseline"
        yield fail("coverage", why, remedy)
    else:
        yield warn("coverage", text, remedy)


def _judge_other_kind(
    context: RequestContext, kind: LeftOutKind, name: str, rows_read: Mapping[str, int]
) -> Iterable[Finding]:
    """Fail if the share of rows of a kind differs between baseline and a candidate by more than chance.

    The difference must also be larger than the share of rows that may be missing by the policy (`health.coverage`).
    `name`: the rows of this kind, for people.
    """
    counts = _count_left_out(context, kind)
    baseline = next(iter(rows_read), "")  # the first arm
    for arm in _find_lopsided(counts, rows_read):
        difference = counts[arm] / rows_read[arm] - counts[baseline] / rows_read[baseline]
        if abs(difference) > 1 - context.rulebook.coverage:
            text = f"{name} differ in share: {_list_shares(counts, rows_read)}"
            remedy = f"find out what these rows of {arm} are (docs/formats.md): requests may be hidden among them"
            yield fail("coverage", text, remedy)
            break


def _list_shares(rows: Mapping[str, int], read: Mapping[str, int]) -> str:
    """Write how many rows of each arm are affected: `baseline 3 of 1,200, canary 0 of 1,180`; both by arm."""
    return ", ".join(f"{arm} {format_count(n)} of {format_count(read[arm])}" for arm, n in rows.items())


def _find_lopsided(rows: Mapping[str, int], read: Mapping[str, int]) -> list[str]:
    """List the candidates whose share `rows / read` differs from the baseline's by more than chance, in any direction.

    Both arguments have a count for each arm, the baseline first. The test is that of failures, with `rows` as failures.
    """
    baseline, *candidates = rows or [""]  # without arms there are no candidates
    lopsided = []
    for arm in candidates:
        p_more = _p_more_failures(read[arm], rows[arm], read[baseline], rows[baseline])
        p_fewer = _p_more_failures(read[baseline], rows[baseline], read[arm], rows[arm])
        if min(p_more, p_fewer) < SURE:
            lopsided.append(arm)
    return lopsided


def check_aborts(context: RequestContext) -> Iterable[Finding]:
    """Do clients give up on the candidate more often than on the baseline? They may have waited too long.

    An abort is no failure, because users also leave for reasons of their own; but a canary that hangs has no other
    trace. It fails if the share is higher by more than chance and by more than the margin of failures.
    """
    aborts = _count_left_out(context, LeftOutKind.CLIENT_ABORT)
    if not any(aborts.values()):
        return
    rows_read = {rows_of_arm.arm: max(rows_of_arm.read, 1) for rows_of_arm in context.rows}  # at least 1, to divide by
    text = f"requests that their clients gave up: {_list_shares(aborts, rows_read)}"
    baseline = next(iter(rows_read))
    margin = find_failure_margin(context.rulebook)
    for arm in _find_lopsided(aborts, rows_read):
        difference = aborts[arm] / rows_read[arm] - aborts[baseline] / rows_read[baseline]
        if difference > margin:
            why = f"{text}; more on {arm} than chance explains, and its failure rate does not count them"
            yield fail("client_aborts", why, f"check whether answers of {arm} are too slow for its clients")
            return
    yield ok("client_aborts", f"{text}; they are not judged")


def check_cut_off(context: RequestContext) -> Iterable[Finding]:
    """Judge requests without an answer at the end of a load: name those that count as failed, compare late ones.

    Late ones waited longer than the baseline's p99, but not so long that they count as failed.
    """
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
        # Users of one arm may act in step, so the number of requests in flight depends on the moment. The tests
        # therefore ask which share of the users was waiting.
        # A user waits for one request at most, so there are at least as many users as late requests.
        users_of_arm, users_of_baseline = max(users[arm], late[arm]), max(users[baseline], late[baseline])
        text = f"requests that had waited for more than {usual} when the load ended: {baseline} {late[baseline]} of "
        text += f"{users_of_baseline} users, {arm} {late[arm]} of {users_of_arm}"
        if _p_more_failures(users_of_arm, late[arm], users_of_baseline, late[baseline]) < SURE:
            remedy = f"check whether {arm} had stopped answering at the end, then load again"
            yield fail("in_flight", text, remedy)
        elif _p_more_failures(users_of_baseline, late[baseline], users_of_arm, late[arm]) < SURE:
            yield warn("in_flight", text)  # more of the baseline's users were waiting
        else:
            yield ok("in_flight", text)
