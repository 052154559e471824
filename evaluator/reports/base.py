"""What a format is, and the words and numbers that all of them share."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from evaluator.records import (
    WHOLE,
    Comparison,
    Evidence,
    EvidenceKind,
    Finding,
    LeftOut,
    Level,
    MetricStatus,
    Role,
    Verdict,
    VerdictWord,
)
from evaluator.wording import (
    USERS,
    format_arm_value,
    format_change,
    format_count,
    format_duration,
    format_interval,
    format_margin,
    format_value,
    name_evidence,
    name_left_out,
    name_metric,
    write_check_name,
    write_command,
)


@dataclass(frozen=True, slots=True)
class Page:
    """What the output can show."""

    width: int = 80
    """In columns of a terminal."""
    color: bool = False
    unicode: bool = True
    command_options: Mapping[str, str] = field(default_factory=dict)
    """Options that commands repeat, with their values, such as `--store`: the reader calls the commands from here."""


Render = Callable[[Verdict, Page], str]

VERDICT_WORDS = {
    VerdictWord.GO: "GO ✓",
    VerdictWord.NO_GO: "NO-GO ✗",
    VerdictWord.INCONCLUSIVE: "INCONCLUSIVE ?",
}
STATUS_MARKS = {
    MetricStatus.PASS: "✓ pass",
    MetricStatus.FAIL: "✗ fail",
    MetricStatus.INCONCLUSIVE: "? inconclusive",
    MetricStatus.NO_DATA: "∅ no data",
}
HEALTH_MARKS = {Level.OK: "✓", Level.WARN: "!", Level.FAIL: "✗"}
ASCII = str.maketrans(
    {
        "✓": "+",
        "✗": "x",
        "∅": "0",
        "…": "..",
        "−": "-",
        "–": "-",
        "·": ".",
        "∞": "inf",
        "≤": "<=",
        "≥": ">=",
        "µ": "u",
        "±": "+/-",
    }
)


NBSP = "\N{NO-BREAK SPACE}"
TIED = re.compile(
    r"(?<=\d) (?=(?:%|pp|ms|s|min|h|µs|ns|/s)(?:\W|$))|(?<=\d) (?=…|\.\.)|(?<=min|max) (?=[+−±\-\d])"
    r"|(?<=…) (?=[+−±\-\d∞m])|(?<=\.\.) (?=[+\-\dim])"
)
"""Spaces between a number and its unit, or the dots next to it: no line is broken there."""


# ------------------------------------------------------------------ text


def plain_text(text: str) -> str:
    """Escape characters that would move the cursor, colour the terminal or change the direction of the text."""
    if text.isprintable():
        return text
    # Control, format and surrogate characters, and separators of lines and paragraphs.
    unsafe_categories = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in unsafe_categories
        else character
        for character in text
    )


def to_ascii(text: str) -> str:
    """Write a text in ASCII only: marks and signs become similar ASCII characters, all others become escapes."""
    return text.translate(ASCII).encode("ascii", "backslashreplace").decode()


def write_line(text: str, page: Page) -> str:
    """Make a text fit to be shown on a page: control characters escaped, ASCII only where the page needs that."""
    text = plain_text(text)
    return text if page.unicode else to_ascii(text)


def align_columns(rows: Sequence[Sequence[str]], page: Page, *, indent: str = "  ") -> list[str]:
    """Write a table as lines of text, a line per row; each column is as wide as its longest cell.

    `rows` are all rows with their cells, the first one the heads of the columns.
    """
    printable_rows = [[write_line(cell, page) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in printable_rows) for column in range(len(printable_rows[0]))]
    return [
        indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in printable_rows
    ]


def shorten(text: str, max_characters: int) -> str:
    """Cut a text that is too long in its middle, since the numbers of a sentence are at its end.

    >>> shorten("p95 of GET /a/very/long/path rose 41 %", 24)
    'p95 of GET /a/…rose 41 %'
    """
    if len(text) <= max_characters:
        return text
    # The dots take one character; two fifths of the others are from the end of the text.
    tail_length = (max_characters - 1) * 2 // 5
    head_length = max_characters - 1 - tail_length
    return f"{text[:head_length]}…{text[len(text) - tail_length :]}"


def clean_and_cut(text: str, max_characters: int) -> str:
    """Escape control characters, and cut what is longer than `max_characters`."""
    # Cut before escaping, because a text may be huge, and after it, because escapes are longer than their characters.
    return shorten(plain_text(shorten(text, max_characters)), max_characters)


def escape_formula(text: str) -> str:
    """Put an apostrophe before a cell of a CSV file that a spreadsheet would run as a formula.

    Changes with their sign, such as `+3.1 %`, stay as they are.
    """
    # A number with its sign is harmless, unless it has characters by which a formula calls a program, as in `+1|cmd`.
    is_signed_number = text[1:2].isdigit() and not set(text) & set("|!=\"'")
    is_formula = text.startswith(("=", "@", "\t", "\r")) or (text.startswith(("+", "-")) and not is_signed_number)
    return f"'{text}" if is_formula else text


# ------------------------------------------------------------------ a metric


def format_both(row: Comparison) -> tuple[str, str]:
    """Write the value of the baseline and of the candidate, each with its unit; a dash for a value that is missing."""
    return format_arm_value(row, row.baseline.value), format_arm_value(row, row.candidate.value)


def format_effect(row: Comparison) -> str:
    """Write the change with its interval, always with signs: `+17.8 % (+12.9 … +23)`; a dash without an effect.

    `min` and `max` mark an end that is the furthest change which is possible for a rate.
    """
    if row.effect is None:
        return "–"
    return f"{format_change(row)} ({format_interval(row, mark_clips=True)})"


def format_allowed(row: Comparison) -> str:
    """Write what the rule allows, its margin and its limits: `10 %`, `0.1 pp, ≤ 1 %`; a dash if nothing is set."""
    margin, limit = row.rule.margin, row.rule.limit
    parts = [format_margin(margin, row.unit)] if margin else []
    parts += [f"≥ {format_value(limit.min, row.unit)}"] if limit.min is not None else []
    parts += [f"≤ {format_value(limit.max, row.unit)}"] if limit.max is not None else []
    return ", ".join(parts) or "–"


def is_watched(row: Comparison) -> bool:
    """Is this a metric of the role watch, which is shown and decides nothing?"""
    return row.rule.role is Role.WATCH


def is_only_shown(row: Comparison) -> bool:
    """Is this a watched metric that has data? Without data it is shown by its status, as a gate is."""
    return is_watched(row) and not row.no_data


def mark_status(row: Comparison, watched_mark: str = "· watched") -> str:
    """Write the status of a comparison as mark and word: `✓ pass`; `watched_mark` for a watched metric with data."""
    return watched_mark if is_only_shown(row) else STATUS_MARKS[row.status]


def name_role(row: Comparison) -> str:
    """The role of a row in the verdict: `gate`, `hold`, `watch`, `scan`."""
    return "scan" if row.scan else row.rule.role.value


def count_both(row: Comparison) -> str:
    """Write the number of requests (or units) behind both values, the baseline's first: `9,321 + 9,248`."""
    return f"{format_count(row.baseline.n)} + {format_count(row.candidate.n)}"


MAX_ENDPOINTS = 8


def label_row(row: Comparison) -> str:
    """Name a row of the table of metrics, with its endpoint if there is one; rows of the endpoint scan are indented."""
    endpoint, metric, where = row.rule.slice.endpoint, name_metric(row.rule), name_evidence(row.evidence)
    if row.scan:
        return f"  {endpoint} {metric}{where}"
    # The policy's name of a metric may contain the endpoint already.
    return (f"{metric} {endpoint}" if endpoint and endpoint not in row.rule.name else metric) + where


def choose_endpoints(rows: list[Comparison]) -> tuple[list[Comparison], list[str]]:
    """Choose the rows of the endpoint scan that a report lists: those that failed or look worse, the worst first.

    Returns these rows, and a sentence that counts all other endpoints, in a list that is empty if there are none.
    """

    # The scan compares times and failures only: a positive change is worse.
    def stands_out(row: Comparison) -> bool:
        """Did the endpoint fail, or is it open although its whole interval is worse than no change?"""
        looks_worse = row.effect is not None and row.effect.lower > 0
        return row.status is MetricStatus.FAIL or (row.status is MetricStatus.INCONCLUSIVE and looks_worse)

    def rank(row: Comparison) -> tuple[bool, float]:
        """Return what to sort by, the worst largest: has the endpoint failed, and the share of its margin that is used.

        A change that is negative, an improvement, gives a negative share.
        """
        effect, margin = row.effect, row.rule.margin
        share_of_margin = effect.estimate / margin.value if effect and margin and margin.value else 0.0
        return row.status is MetricStatus.FAIL, 0.0 if math.isnan(share_of_margin) else share_of_margin

    shown = sorted(filter(stands_out, rows), key=rank, reverse=True)[:MAX_ENDPOINTS]
    hidden_endpoints = {row.rule.slice.endpoint for row in rows} - {row.rule.slice.endpoint for row in shown}
    if not hidden_endpoints:
        return shown, []
    count = len(hidden_endpoints)
    plural = "s" if count > 1 else ""
    subject = f"+{count} more endpoint{plural}" if shown else f"{count} endpoint{plural}"
    all_pass = all(row.status is MetricStatus.PASS for row in rows if row.rule.slice.endpoint in hidden_endpoints)
    return shown, [f"{subject} {'within margin' if all_pass else 'not shown to be worse'}"]


# ------------------------------------------------------------------ the head of a report


def name_opponents(verdict: Verdict) -> str:
    """Name the baseline's versions, with their services if there are several: `1.4.1`, `cart 1.4.1, pay 2.0`.

    Empty if no version is known.
    """
    services = verdict.release.services
    has_several = len(services) > 1
    versions = [
        f"{service.name} {service.baseline}" if has_several else service.baseline
        for service in services
        if service.baseline
    ]
    return ", ".join(versions)


def write_title(verdict: Verdict) -> str:
    """Name the release and what it was compared with: `cart@1.5.0 against 1.4.1`."""
    opponents = name_opponents(verdict)
    return f"{verdict.release.id} against {opponents}" if opponents else verdict.release.id


def describe_data(evidence: Evidence) -> str:
    """Say how much data was judged, the arms joined by `+`, baseline first; empty without arms.

    `judged on 5 min, 84,112 + 84,590 requests, 3 + 3 instances`; for outcomes alone `judged on 1,200 + 1,180 users`.
    """
    arms = evidence.arms
    if not arms:
        return ""
    has_units = any(arm.units for arm in arms)
    units = f"{_join_counts(arm.units for arm in arms)} {USERS}"
    if has_units and not any(arm.requests for arm in arms):
        return f"judged on {units}"
    requests = _join_counts(arm.requests for arm in arms)
    instances = " + ".join(str(arm.instances) for arm in arms)
    plural = "" if all(arm.instances == 1 for arm in arms) else "s"
    runs = max(arm.runs for arm in arms)
    replicates = f" in {runs} runs" if runs > 1 else ""
    seconds = evidence.window.seconds
    duration = f"{format_duration(seconds)}, " if math.isfinite(seconds) else ""
    kind = "production requests" if evidence.is_production_alone else "requests"
    text = f"judged on {duration}{requests} {kind}, {instances} instance{plural}{replicates}"
    live = [arm.production for arm in arms if arm.production]
    if live:
        live_requests = _join_counts(arm.requests for arm in live)
        live_instances = " + ".join(str(arm.instances) for arm in live)
        live_duration = format_duration(evidence.production.seconds)
        text += f"; {live_duration} of production, {live_requests} requests, {live_instances} instances"
    return f"{text}, {units}" if has_units else text


NOTABLE_SHARE = 0.001
"""Share of an arm's rows below which rows that were left out are not mentioned."""


def list_what_is_not_judged(verdict: Verdict) -> Iterable[str]:
    """Yield a sentence on the requested period, and a sentence on rows that were read and not judged, if there are any.

    `not judged of 3,600 + 3,588 rows read: 288 + 0 requests of the warm-up` (baseline + candidates). Kinds of rows that
    are few in every arm and contain no failure are not mentioned.
    """
    period = verdict.period
    if period != WHOLE:
        start = f"from {period.start:%Y-%m-%d %H:%M:%S} UTC" if period.start else "from the start"
        end = f"to {period.end:%Y-%m-%d %H:%M:%S} UTC" if period.end else "to the end"
        yield f"only a part is judged: {start} {end}"
    yield from _describe_step(verdict)
    arms = verdict.evidence.arms
    yield from _list_left_out([(arm.read, arm.left_out) for arm in arms if arm.read])
    live = [arm.production for arm in arms if arm.production and arm.production.read]
    yield from _list_left_out([(arm.read, arm.left_out) for arm in live], "of production ")


def _describe_step(verdict: Verdict) -> Iterable[str]:
    """Yield a sentence on which step of a rollout was judged; none without steps."""
    if not verdict.step:
        return
    text = f"only step {verdict.step} is judged" if verdict.only_step else f"judged: step {verdict.step}, the newest"
    if verdict.environment:
        text += f", in {verdict.environment}"
    if verdict.other_steps:
        text += f"; other steps: {', '.join(verdict.other_steps)} (--step)"
    yield text


def _list_left_out(arms: Sequence[tuple[int, Sequence[LeftOut]]], of: str = "") -> Iterable[str]:
    """Yield a sentence on rows that were read and not judged, if there are any.

    `arms`: rows read of each arm (at least 1), and what was left out of them; `of`: which rows, if not all.
    """
    # What was left out of any arm, each kind once.
    kinds = dict.fromkeys((part.kind, part.detail) for _, left_out in arms for part in left_out)
    descriptions = []
    for kind, detail in kinds:
        parts_by_arm = [
            [part for part in left_out if (part.kind, part.detail) == (kind, detail)] for _, left_out in arms
        ]
        rows_by_arm = [sum(part.rows for part in parts) for parts in parts_by_arm]
        failures_by_arm = [sum(part.failures for part in parts) for parts in parts_by_arm]
        are_few = all(rows < NOTABLE_SHARE * read for rows, (read, _) in zip(rows_by_arm, arms, strict=True))
        if are_few and not any(failures_by_arm):
            continue
        text = f"{_join_counts(rows_by_arm)} {name_left_out(kind, detail)}"
        descriptions.append(f"{text} ({_join_counts(failures_by_arm)} failed)" if any(failures_by_arm) else text)
    if descriptions:
        yield f"not judged of {_join_counts(read for read, _ in arms)} rows {of}read: {', '.join(descriptions)}"


def _join_counts(counts: Iterable[int]) -> str:
    """Write the counts of the arms: `3,600 + 3,588`."""
    return " + ".join(map(format_count, counts))


def list_restrictions(verdict: Verdict) -> Mapping[str, list[str]]:
    """List the sentences that restrict what a verdict says, by kind: `part`, `incomplete`, `shadow`, `override`.

    A kind that does not apply has an empty list.
    """
    override = ", ".join(f"{key} {value}" for key, value in (verdict.override or {}).items())
    return {
        "part": list(list_what_is_not_judged(verdict)),
        "incomplete": ["incomplete: a run ended early"] if verdict.evidence.incomplete else [],
        "shadow": ["shadow mode: this verdict is stored and blocks nothing"] if verdict.mode == "shadow" else [],
        "override": [f"overridden: {override}"] if verdict.override is not None else [],
    }


def list_notes(verdict: Verdict) -> Iterable[str]:
    """Yield what a reader must know in addition to the reasons: restrictions of the verdict, and what to do next."""
    for restrictions in list_restrictions(verdict).values():
        yield from restrictions
    if verdict.next_action:
        yield f"next: {verdict.next_action}"
    if verdict.policy_path:
        yield f"judged by {verdict.policy_path}; judge again by it: `{write_verdict_command(verdict)}`"


def write_verdict_command(verdict: Verdict, *options: str) -> str:
    """Write the command that judges the release again by the same policy.

    `options` are added to the command, for example `"--run", "20261125-1"`. If the path of the policy is not known,
    the command names `policy.yaml`, the file in which the reader saves the policy.
    """
    step = ("--step", verdict.step) if verdict.only_step else ()
    return write_command(verdict.release.id, *step, *options, policy=verdict.policy_path or "policy.yaml")


# ------------------------------------------------------------------ was it fair


def name_check(finding: Finding) -> str:
    """Name a health check in words; with the kind of its requests if that is not clear (see `fold_findings`)."""
    of_load = " (load)" if finding.evidence is EvidenceKind.REQUESTS else ""
    return write_check_name(finding.check) + (of_load or name_evidence(finding.evidence))


def fold_findings(findings: Sequence[Finding]) -> list[Finding]:
    """Make one finding of two that say the same of a load and of production: both passed, or have the same text.

    It names no kind of evidence, and neither does a finding of the load whose check production does not have. Findings
    on production alone follow those of the load.
    """
    of_production = [finding for finding in findings if finding.evidence is EvidenceKind.LIVE]
    checks_of_production = {finding.check for finding in of_production}
    folded = []
    for finding in findings:
        if finding.evidence is not EvidenceKind.REQUESTS:
            continue
        same = next((other for other in of_production if _say_same(finding, other)), None)
        if same is not None:
            of_production.remove(same)
            text = finding.text if finding.text == same.text else f"{finding.text}; production: {same.text}"
            folded.append(replace(finding, text=text, evidence=None))
        else:
            has_counterpart = finding.check in checks_of_production
            folded.append(finding if has_counterpart else replace(finding, evidence=None))
    others = [finding for finding in findings if finding.evidence is None]
    return [*folded, *of_production, *others]


def _say_same(finding: Finding, other: Finding) -> bool:
    """Do two findings of one check say the same: did both pass, or is what they say equal?"""
    if (finding.check, finding.level, finding.void) != (other.check, other.level, other.void):
        return False
    return finding.level is Level.OK or (finding.text, finding.remedy) == (other.text, other.remedy)


def put_worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """Sort health findings: failed checks first, then warnings, then passed checks."""
    order = (Level.FAIL, Level.WARN, Level.OK)
    return sorted(findings, key=lambda finding: order.index(finding.level))
