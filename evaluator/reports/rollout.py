"""The report of a rollout: one HTML file that needs no network, runs no script, and can be printed and passed on.

It shows a rollout that runs, was turned back, or came to its end: the ladder of its stages, each step with what it
needed and what it got, who met the candidate, and what happened in between.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from evaluator.records import Verdict
from evaluator.reports.base import VERDICT_WORDS, fold_findings, put_worst_first
from evaluator.reports.templating import make_environment, read_template
from evaluator.wording import format_number

RUNG_MARKS = {"done": "✓", "now": "●", "later": "○", "skipped": "–", "turned": "✗", "undone": "↩"}
RUNG_WORDS = {
    "done": "done",
    "now": "now",
    "later": "to come",
    "skipped": "not reached",
    "turned": "turned back here",
    "undone": "passed, then undone",
}
"""State of a stage on the ladder → its mark, and its words."""

LADDER_NOTE = (
    "The bar is the share of the users' requests that the candidate got, the mark the share that it was to get."
)

LARGEST_DIFFERENCE = 0.01
"""Difference of the wanted and the realised share from which it is marked."""


@dataclass(frozen=True, slots=True)
class Rung:
    """One stage on the ladder."""

    name: str
    place: str
    """Environment, and the services if the others have stages of their own."""
    state: str
    """`done`, `now`, `later` (it has not begun), `skipped` (nor will it begin), `turned` (here it went back), `undone`
    (passed, then undone)."""
    needs: str
    note: str = ""
    """What it showed, or needs: a few words."""
    wanted: float | None = None
    """Share of the users' requests that the candidate was to get; None: no user meets it there."""
    realised: float | None = None
    """Share of them that it got; None: not known."""


@dataclass(frozen=True, slots=True)
class StepRow:
    """One step of the plan."""

    number: int
    name: str
    where: str
    needs: str
    """Empty: nothing."""
    state: str
    """In words for people: `done`, `failed`, `undone` …"""
    level: str
    """How the state is coloured: `pass`, `fail`, `inconclusive` or `no_data`."""
    share: str
    began: datetime | None
    took: str
    """Empty: it did not begin, or has not ended."""
    notes: tuple[str, ...] = ()
    """Sentences: why it failed, what is missing, what the hooks answered."""
    anchor: str = ""
    """Of the verdict on it; empty: there is none."""


@dataclass(frozen=True, slots=True)
class StepRequests:
    """Requests of users in one step, by the access log."""

    step: str
    wanted: float | None
    """Share that the candidate was to get; None: it changed meanwhile."""
    requests: int
    """Of both arms."""
    candidate: int
    candidate_failures: int
    baseline_failures: int

    @property
    def share(self) -> float:
        """Share of the requests that the candidate got; 0 without requests."""
        return self.candidate / self.requests if self.requests else 0.0


@dataclass(frozen=True, slots=True)
class ReportedEvent:
    """One event of the rollout."""

    at: datetime
    what: str
    step: str
    person: str
    """Empty: no person, but the rollout by itself."""
    text: str


@dataclass(frozen=True, slots=True)
class StepVerdict:
    """The newest verdict on a step."""

    step: str
    anchor: str
    verdict: Verdict
    command: str
    """Judges the step again; empty: no command does."""


@dataclass(frozen=True, slots=True)
class RolloutPage:
    """All that the report shows."""

    release: str
    id: str
    word: str
    """Such as PROMOTED or ROLLED BACK."""
    kind: str
    """How the word is coloured: `go`, `no_go` or `inconclusive`."""
    against: str
    """Versions of the baseline; empty: not known."""
    why: str
    """One sentence."""
    next_action: str
    facts: tuple[tuple[str, str], ...]
    ladder: tuple[Rung, ...]
    steps: tuple[StepRow, ...]
    exposures: tuple[StepRequests, ...]
    exposure_note: str
    happenings: tuple[ReportedEvent, ...]
    verdicts: tuple[StepVerdict, ...]
    rules: tuple[tuple[str, str], ...]
    """Limits that held while users met the candidate."""
    written_at: datetime
    version: str


def to_html(report: RolloutPage) -> str:
    """Return the report as HTML. Raises UsageError if a package that it needs is not installed."""
    environment = make_environment()
    environment.filters |= {
        "moment": _write_moment,
        "percent": write_percent,
        "word": VERDICT_WORDS.get,
        "findings": lambda verdict: put_worst_first(fold_findings(verdict.evidence.findings)),
    }
    css = read_template("report.css") + read_template("rollout.css")
    template = environment.from_string(read_template("rollout.html.j2"))
    return template.render(
        css=Markup(css),  # noqa: S704 our own files
        report=report,
        sections=list(_list_sections(report)),
        total=_add_up(report.exposures),
        marks=RUNG_MARKS,
        words=RUNG_WORDS,
        ladder_note=LADDER_NOTE,
        differs=differs,
    )


def _list_sections(report: RolloutPage) -> list[tuple[str, str]]:
    """List anchor and heading of the sections that the report has."""
    sections = [
        ("ladder", "Ladder", True),
        ("steps", "Steps", True),
        ("exposure", "Who met the candidate", bool(report.exposures)),
        ("verdicts", "Verdicts", bool(report.verdicts)),
        ("events", "What happened", True),
        ("rules", "Rules", True),
    ]
    return [(anchor, heading) for anchor, heading, is_there in sections if is_there]


def _add_up(exposures: Sequence[StepRequests]) -> StepRequests | None:
    """Add up the requests of all steps; None without any, or for one alone."""
    if len(exposures) < 2:
        return None
    counts = [(row.requests, row.candidate, row.candidate_failures, row.baseline_failures) for row in exposures]
    requests, candidate, candidate_failures, baseline_failures = (sum(column) for column in zip(*counts, strict=True))
    return StepRequests("all", None, requests, candidate, candidate_failures, baseline_failures)


def differs(wanted: float | None, realised: float | None) -> bool:
    """Does the realised share differ from the wanted one by more than a percentage point?"""
    return wanted is not None and realised is not None and abs(wanted - realised) > LARGEST_DIFFERENCE


def _write_moment(moment: datetime | None) -> str:
    """Write a UTC time to the second; a dash if it is None."""
    return "–" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"


def write_percent(share: float | None) -> str:
    """Write a share in percent: `5 %`, `0.12 %`; a dash if it is None."""
    return "–" if share is None else f"{format_number(100 * share)} %"
