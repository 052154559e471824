"""Were units assigned to arms as configured, and can their outcomes be compared?"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable

import numpy as np

from evaluator.health.base import OutcomeContext, fail, ok, warn
from evaluator.records import ARM_OF_FILE, Finding, LeftOutKind, OutcomeFacts, Outcomes
from evaluator.stats.outcomes.arms import compare_assignment
from evaluator.wording import USERS, count_of, format_count, format_number

ALPHA = 0.001
"""p-value below which a difference between the arms is not chance."""
MOST_CROSSED = 0.01
"""Largest share of units in several arms with which a GO is possible."""
MOST_STRAY = 0.05
"""An arm with less than this share of its expected units is probably not an arm of the test."""
MOST_NAMED = 5
LEFT_OUT = {
    LeftOutKind.BAD_ROW: ("bad row", "bad rows"),
    LeftOutKind.DUPLICATE: ("duplicate", "duplicates"),
    LeftOutKind.SEVERAL_ARMS: ("row of a user in several arms", "rows of a user in several arms"),
}
"""What a row is that is not judged: singular and plural."""
TAKEN_BY_YAML = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")
ANYTIME = "monitoring: {mode: anytime}"
MAX_UNITS = "monitoring.max_units"
HOW = {"fixed": "one look", "anytime": "intervals that hold at any time", "group_sequential": "group-sequential bounds"}
SKEWED = 355.0
"""Units an arm needs for a mean, per squared skewness (Kohavi, Deng, Longbotham & Xu 2014, rule 7)."""


def check_units_ratio(context: OutcomeContext) -> Iterable[Finding]:
    """Test the units of each arm by χ² against the configured shares (equal unless the policy sets others)."""
    arms, shares = context.outcomes.arms, context.rulebook.sample_ratio
    unnamed = [arm for arm in arms if shares and arm not in shares]
    if unnamed:
        text = f"health.sample_ratio names no share for {', '.join(unnamed)}"
        yield fail("sample_ratio", text, _suggest_ratio(context))
        return
    units_by_arm = [moments_of_arm.n for moments_of_arm in context.outcomes.moments]
    weights = np.array([shares.get(arm, 1.0) for arm in arms])
    p_value = compare_assignment(units_by_arm, weights.tolist())
    text = f"{USERS}: " + ", ".join(f"{arm} {format_count(n)}" for arm, n in zip(arms, units_by_arm, strict=True))
    if p_value >= ALPHA:
        yield ok("sample_ratio", text)
        return
    expected = sum(units_by_arm) * weights / weights.sum()
    text += "; expected: " + ", ".join(f"{arm} {n:,.0f}" for arm, n in zip(arms, expected, strict=True))
    yield fail("sample_ratio", f"{text} (p = {p_value:.1g})", _suggest_ratio(context))


def _suggest_ratio(context: OutcomeContext) -> str:
    """Say what to do about other shares than configured: find lost units, leave stray arms out, or set these shares.

    A stray arm has so few units that it is probably no arm of the test, such as a wrong value in the file.
    """
    arms = context.outcomes.arms
    units = [moments_of_arm.n for moments_of_arm in context.outcomes.moments]
    shares = [context.rulebook.sample_ratio.get(arm, 1.0) for arm in arms]
    expected = [sum(units) * share / sum(shares) for share in shares]
    stray = [arm for arm, n, n_expected in zip(arms, units, expected, strict=True) if n < MOST_STRAY * n_expected]
    # At least 1, because the policy takes positive shares only.
    observed_shares = ", ".join(f"{_quote_yaml(arm)}: {max(n, 1)}" for arm, n in zip(arms, units, strict=True))
    remedies = [f"find out why {USERS} of one arm are lost"]
    # Leaving arms out only helps if the baseline and a candidate remain.
    if stray and arms[0] not in stray and len(arms) - len(stray) > 1:
        query = _write_query_without(context.outcomes, stray)
        # For a shell: double quotes if the query allows them, as it contains single ones.
        needs_escapes = set(query) & set('"$`\\!')
        query = shlex.quote(query) if needs_escapes else f'"{query}"'
        names = " and ".join(stray)
        remedies.append(
            f"if {names} is no arm of the test, leave it out: repeat the import with `--outcomes-query {query}`"
        )
    setting = f"health: {{sample_ratio: {{{observed_shares}}}}}"
    remedies.append(f"if these shares were intended, set `{setting}` in the policy")
    return "; ".join(remedies)


def _write_query_without(outcomes: Outcomes, arms: list[str]) -> str:
    """Write SQL for `--outcomes-query` that leaves arms out.

    It selects from the query of the import, if there was one, else from the table `outcomes`. Names are quoted.
    """
    facts = outcomes.facts
    column = facts.arm_column or "variant"
    is_plain_name = re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", column)
    column_sql = column if is_plain_name else '"' + column.replace('"', '""') + '"'
    arms_sql = ", ".join("'" + arm.replace("'", "''") + "'" for arm in arms)
    source_sql = f"({facts.query.strip().rstrip(';')})" if facts.query else "outcomes"
    return f"SELECT * FROM {source_sql} WHERE {column_sql} NOT IN ({arms_sql})"  # noqa: S608 printed, never run


def _quote_yaml(name: str) -> str:
    """Write a name as a key of YAML: in quotes, unless it is a plain word that YAML reads as text."""
    plain = re.fullmatch("[A-Za-z_][A-Za-z0-9_-]*", name) and name.lower() not in TAKEN_BY_YAML
    return name if plain else json.dumps(name, ensure_ascii=False)


def check_looks(context: OutcomeContext) -> Iterable[Finding]:
    """Were other outcomes of this release judged before, and how much of alpha is left for this look?

    Each look spends a part of alpha, the false-alarm rate. `context.price` has the earlier looks, the share of alpha
    that this look may spend (1: earlier looks took no more than was planned for), or why it is refused, and as `kind`
    how looks share alpha (`fixed`: a single look uses all of it).
    """
    price = context.price
    units = format_count(price.units)
    if not price.earlier:
        planned = f" of {format_count(price.max_units)} planned" if price.max_units else ""
        alpha_left = "it uses all of alpha" if price.kind == "fixed" else "alpha is left for later looks"
        yield ok("outcome_looks", f"first look at outcomes of this release, at {units}{planned} {USERS}; {alpha_left}")
        return
    times = count_of(len(price.earlier), "time")
    earlier_units = ", ".join(format_count(look.units) for look in price.earlier[:MOST_NAMED])
    earlier_units += ", …" if len(price.earlier) > MOST_NAMED else ""
    text = f"other outcomes of this release were judged {times} before (at {earlier_units} {USERS}; now {units})"
    suggested_units = 2 * max(price.units, *(look.units for look in price.earlier))
    suggested = f"monitoring: {{max_units: {suggested_units}}}"
    next_test = f"for the next test, before its first look, set {suggested} (the {USERS} that you plan) or {ANYTIME}"
    if price.refused and price.kind == "fixed":
        remedy = f"set {ANYTIME}: this look then uses what is left of alpha; {next_test}"
        yield fail("outcome_looks", f"{text}; monitoring: {{mode: fixed}} allows one look", remedy)
    elif price.refused:
        remedy = f"judge again with more {USERS}; if {MAX_UNITS} is reached, the earlier verdict was the last"
        yield fail("outcome_looks", f"{text}; {price.refused}", remedy)
    elif price.share < 1:  # earlier looks took a part of alpha that was not planned for
        share = format_number(context.rulebook.alpha * price.share * 100)
        yield warn(
            "outcome_looks",
            f"{text}; they used up alpha except {share} % for this look and all later ones ({HOW[price.kind]})",
            next_test,
        )
    else:
        yield ok("outcome_looks", f"{text}; planned for by {HOW[price.kind]}")


def check_assignment(context: OutcomeContext) -> Iterable[Finding]:
    """Units seen in more than one arm are left out; more than 1 % of them forbid a GO."""
    facts = context.outcomes.facts
    if not facts.crossed:
        yield ok("assignment", "every user was in one arm only")
        return
    share = facts.crossed / (facts.crossed + facts.units)  # `units`: those that were in one arm only
    text = f"{format_count(facts.crossed)} {USERS} ({format_number(share * 100)} %) were seen in several arms; left out"
    if share > MOST_CROSSED:
        remedy = "fix the assignment, then import again"
        if facts.arm_column == ARM_OF_FILE:
            remedy += "; if the ids only number the rows of each file, import with `--unit rows`, or with ids of users"
        yield fail("assignment", text, remedy)
    else:
        yield warn("assignment", text)


def check_duplicates(context: OutcomeContext) -> Iterable[Finding]:
    """Warn of rows that repeat another row in every column."""
    facts = context.outcomes.facts
    if facts.duplicates:
        done = "counted once" if facts.duplicates_dropped else "kept: the file is a log of events"
        yield warn("duplicates", f"{format_count(facts.duplicates)} rows repeat another one in every column; {done}")
    else:
        yield ok("duplicates", "no row repeats another one")


def check_rows(context: OutcomeContext) -> Iterable[Finding]:
    """Compare rows read with rows judged. Bad rows must be few, and as frequent in every arm, else there is no GO."""
    facts = context.outcomes.facts
    read = sum(facts.read.values())
    if not read:
        return
    if not facts.left_out:
        yield ok("coverage", f"all {format_count(read)} rows of outcomes are judged")
        return
    judged = sum(account.judged for account in facts.account())
    text = (
        f"{format_count(judged)} of {format_count(read)} rows of outcomes are judged; not: {describe_left_out(facts)}"
    )
    remedy = "import without --skip-bad-rows, which names file, line and column of the first bad row, and correct them"
    arm_names = [arm for arm in facts.read if arm]  # an empty name: rows of an unknown arm
    bad_rows_by_arm = [facts.count(LeftOutKind.BAD_ROW, arm) for arm in arm_names]
    p_value = 1.0  # of the test that bad rows are as frequent in every arm
    if sum(bad_rows_by_arm) and len(arm_names) > 1:
        p_value = _test_equal_share(bad_rows_by_arm, [facts.read[arm] for arm in arm_names])
    # All bad rows, those of unknown arm included.
    if facts.skipped_rows > (1 - context.rulebook.coverage) * read:
        least = f"{format_number(context.rulebook.coverage * 100)} %"
        why = f"{text}; more bad rows than health.coverage ({least}) allows"
        yield fail("coverage", why, remedy)
    elif p_value < ALPHA:
        why = f"{text}; bad rows are more frequent in one arm (p = {p_value:.1g})"
        yield fail("coverage", why, remedy)
    else:
        yield warn("coverage", text)


def describe_left_out(facts: OutcomeFacts) -> str:
    """Name the rows that were read and are not judged: `3 bad rows (baseline 1, treatment 2), 4 duplicates (…)`."""
    parts = []
    for kind, (singular, plural) in LEFT_OUT.items():
        # There is at most one part of a kind and arm.
        rows_by_arm = {part.arm: part.rows for part in facts.left_out if part.kind is kind}
        if rows_by_arm:
            each_arm = ", ".join(f"{arm or 'no arm known'} {format_count(n)}" for arm, n in rows_by_arm.items())
            total = sum(rows_by_arm.values())
            parts.append(f"{format_count(total)} {singular if total == 1 else plural} ({each_arm})")
    return ", ".join(parts)


def check_missing(context: OutcomeContext) -> Iterable[Finding]:
    """Compare the arms' shares of units that lack the value of an outcome: they must be alike.

    Units without the value are left out of the metrics that use it. Outcomes and covariates without missing values, and
    those that no metric of the policy uses, are not named.
    """
    outcomes = context.outcomes
    metrics = [rule.metric for rule in context.rulebook.rules]
    used = {name for metric in metrics for name in (*metric.outcomes, *metric.covariate_names)}
    for name, missing_by_arm in outcomes.facts.missing.items():
        if name not in used:
            continue
        missing = [missing_by_arm.get(arm, 0) for arm in outcomes.arms]
        units = [moments_of_arm.n for moments_of_arm in outcomes.moments]  # all units of each arm
        p_value = _test_equal_share(missing, units)
        each_arm = ", ".join(f"{arm} {format_count(n)}" for arm, n in zip(outcomes.arms, missing, strict=True))
        text = f"{USERS} without {name}: {each_arm}"
        if p_value < ALPHA:
            why = f"{text}; more often in one arm (p = {p_value:.1g})"
            yield fail("missing_outcomes", why, f"find out why {name} is missing more often in one arm")
        else:
            yield warn("missing_outcomes", f"{text}; as often in every arm")


def _test_equal_share(affected: list[int], total: list[int]) -> float:
    """Return the p-value of the χ² test that the share `affected / total` is the same in every arm.

    Both arguments have a count for each arm: of units or rows that lack something, and of all of them.
    """
    from scipy.special import chdtrc  # the upper tail of the χ² distribution

    # Rows: affected, not affected; columns: arms.
    table = np.array([affected, np.array(total) - np.array(affected)], float)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()  # the counts if all shares are the same
    terms = (table - expected)[expected > 0] ** 2 / expected[expected > 0]
    degrees_of_freedom = len(total) - 1
    return float(chdtrc(degrees_of_freedom, float(terms.sum())))


def check_tails(context: OutcomeContext) -> Iterable[Finding]:
    """Are there enough units for the mean of a skewed outcome to be about normal?"""
    outcomes = context.outcomes
    for rule in context.rulebook.rules:
        outcome = rule.metric.uncut_mean  # the outcome whose mean is compared without cutting large values; else empty
        if outcome not in outcomes.variables:
            continue
        position = outcomes.variables.index(outcome)
        # Of the arm that needs most, by the skewness of its values; compared with the arm that has the fewest units.
        needed = max(SKEWED * float(skewness_of_arm[position]) ** 2 for skewness_of_arm in outcomes.skewness)
        fewest = min(moments_of_arm.n for moments_of_arm in outcomes.moments)
        if fewest < needed:
            text = (
                f"{outcome} is so skewed that a mean needs about {format_count(round(needed))} {USERS} an arm; "
                f"there are {format_count(fewest)}"
            )
            yield warn("heavy_tail", text, remedy=f"import more {USERS}, or set winsorise: 99.9% for {rule.name}")
