"""Parts of the report that are the same in every one: how a run, a finding, a moment or a table of numbers is shown."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from markupsafe import Markup

from evaluator.figures import Figure
from evaluator.records import Finding, Level, VerdictWord
from evaluator.reports.base import HEALTH_MARKS, VERDICT_WORDS, harmless_cell
from evaluator.wording import format_count

__all__ = [
    "draw_swatch",
    "put_worst_first",
    "show_candidate",
    "show_finding",
    "show_moment",
    "show_query",
    "show_run",
    "to_csv",
]


def draw_swatch(color: str, *, dashed: bool) -> Markup:
    """The line and mark of an arm, for the legend."""
    dash = ' stroke-dasharray="5 3"' if dashed else ""
    mark = (
        f'<rect x="13" y="2" width="8" height="8" fill="{color}"/>'
        if dashed
        else f'<circle cx="17" cy="6" r="4.5" fill="{color}"/>'
    )
    line = f'<line x1="0" x2="34" y1="6" y2="6" stroke="{color}" stroke-width="2"{dash}/>'
    return Markup(f'<svg viewBox="0 0 34 12" aria-hidden="true">{line}{mark}</svg>')  # noqa: S704 our own colours


def put_worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Failed checks before warnings, and these before what is fine."""
    order = {Level.FAIL: 0, Level.WARN: 1, Level.OK: 2}
    return sorted(findings, key=lambda finding: order[finding.level])


def show_finding(finding: Finding) -> dict[str, str]:
    """A health check: what it saw, what that means for the verdict, what to do."""
    failed = finding.level is Level.FAIL
    effect = "The comparison means nothing." if finding.void and failed else "It forbids GO." if failed else ""
    return {
        "status": finding.level.value,
        "mark": f"{HEALTH_MARKS[finding.level]} {finding.level.value}",
        "check": finding.check.replace("_", " "),
        "text": finding.text,
        "effect": effect,
        "remedy": finding.remedy,
    }


def show_run(run: Mapping[str, Any]) -> dict[str, str]:
    """One run."""
    users = ", ".join(f"{arm} {count}" for arm, count in run["users"].items())
    state = f"{run['state']}: {run['stopped_by']}" if run["stopped_by"] else run["state"]
    return {
        "id": run["id"],
        "source": run["source"],
        "state": state,
        "started": show_moment(run["started"]),
        "rows": format_count(run["rows"]),
        "users": users or "–",
    }


def show_candidate(one: Mapping[str, Any]) -> dict[str, str]:
    """Another candidate of the service."""
    word = VerdictWord(one["verdict"])
    status = {VerdictWord.GO: "pass", VerdictWord.NO_GO: "fail"}.get(word, "inconclusive")
    return {
        "release": one["release"],
        "word": VERDICT_WORDS[word],
        "status": status,
        "judged": show_moment(one["judged_at"]),
    }


def show_query(query: Mapping[str, Any]) -> str:
    """A query as it was sent."""
    return yaml.safe_dump(dict(query), sort_keys=False, allow_unicode=True).strip()


def show_moment(moment: Any) -> str:
    """`2026-11-25 23:50 UTC`; a dash where it is not known."""
    if moment is None:
        return "–"
    text = moment if isinstance(moment, str) else moment.isoformat()
    return f"{text[:10]} {text[11:16]} UTC"


def to_csv(figure: Figure) -> str:
    """The numbers of a figure as a file; what a spreadsheet would take for a formula is text."""
    out = io.StringIO()
    csv.writer(out).writerows([[harmless_cell(cell) for cell in row] for row in (figure.head, *figure.rows)])
    return base64.b64encode(out.getvalue().encode()).decode()
