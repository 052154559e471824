"""What a report says of a release beyond its verdict: its arms and runs, other candidates, and what became of it.

All of it is plain JSON in the data of the figures, which may come from a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evaluator.records import ArmSummary, VerdictWord
from evaluator.reports.base import VERDICT_WORDS
from evaluator.reports.templating import format_moment
from evaluator.wording import USERS, format_count


def describe_arms(arms: Sequence[ArmSummary]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Describe the arms: the heads of the columns that apply, and for each arm its name and values."""
    columns = {
        "requests": [arm.requests for arm in arms],
        "instances": [arm.instances for arm in arms],
        "runs": [arm.runs for arm in arms],
        USERS: [arm.units for arm in arms],
        "production requests": [arm.production.requests if arm.production else 0 for arm in arms],
        "production instances": [arm.production.instances if arm.production else 0 for arm in arms],
    }
    shown = {name: values for name, values in columns.items() if any(values)}
    return list(shown), [
        (arm.name, [format_count(values[place]) for values in shown.values()]) for place, arm in enumerate(arms)
    ]


def describe_runs(figures: Mapping[str, Any]) -> list[dict[str, str]]:
    """Describe the runs that were judged, for the template."""
    return [
        {
            "id": run["id"],
            "source": f"{run['source']}, step {run['step']}" if "step" in run else run["source"],
            "state": f"{run['state']}: {run['stopped_by']}" if run["stopped_by"] else run["state"],
            "started": format_moment(run["started"]),
            "rows": format_count(run["rows"]),
            "users": ", ".join(f"{arm} {count}" for arm, count in run["users"].items()) or "–",
        }
        for run in figures.get("runs", ())
    ]


def describe_candidates(figures: Mapping[str, Any]) -> list[dict[str, str]]:
    """Describe earlier verdicts on other releases of the same services, for the template."""
    return [
        {
            "release": candidate["release"],
            "word": VERDICT_WORDS[VerdictWord(candidate["verdict"])],
            "status": {"go": "pass", "no_go": "fail"}.get(candidate["verdict"], "inconclusive"),
            "judged": format_moment(candidate["judged_at"]),
        }
        for candidate in figures.get("candidates", ())
    ]


def list_happenings(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Describe what became of a release, for the template; `known` is false if that was not read.

    `state`: a sentence on how it stands now, empty if it was only judged.
    """
    life = figures.get("life")
    if life is None:
        return {"known": False, "state": ""}
    return {
        "known": True,
        "state": life["state"],
        "hidden": life["hidden_events"],
        "read_at": format_moment(life["read_at"]),
        "events": [
            {"at": format_moment(event["at"]), "what": event["what"], "by": event["by"] or "–", "why": event["why"]}
            for event in life["events"]
        ],
        "notes": [
            {"at": format_moment(note["at"]), "by": note["by"], "lines": note["text"].splitlines()}
            for note in life["notes"]
        ],
    }
