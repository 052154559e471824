"""`evaluator calibrate`: how many false alarms does this policy raise on our own runs, and what would it detect?"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import click

from evaluator.calibration import CalibrationReport, Injection, Tally, needed_comparisons
from evaluator.cli import Session, emit
from evaluator.cli.terminal import make_page
from evaluator.pipeline.hindsight import calibrate_releases
from evaluator.policy.selection import policy_of
from evaluator.records import Learnt
from evaluator.reports import Page
from evaluator.reports.base import align_columns, write_line
from evaluator.stats.variance.history import LEAST_COMPARISONS
from evaluator.wording import count_of, format_number

HEAD = ("identical halves by", "with", "judged", "NO-GO", "GO", "undecided")
KIND_LABELS = {
    "versions": "nothing: one version",
    "instances": "instances",
    "replicates": "replicates",
    "time": "time (one instance)",
    "between": "past runs, not together",
}


@click.command("calibrate")
@click.argument("releases", metavar="[RELEASE…]", nargs=-1)
@click.option(
    "--splits",
    metavar="N",
    type=click.IntRange(2, 100),
    default=6,
    show_default=True,
    help="Number of comparisons made from each run.",
)
@click.option("--save", is_flag=True, help="Store what was learnt about instances; the judge uses it from then on.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@click.pass_obj
def command(session: Session, releases: tuple[str, ...], splits: int, save: bool, as_json: bool) -> None:
    """Test the policy on identical halves of stored baselines, without and with a regression added.

    Without RELEASE: all stored releases. Shows how often the policy would have stopped a release that changed nothing,
    which regressions it would have detected, and how much instances of one version differ.
    """
    store = session.open_store()
    policy = policy_of(session.find_policy(), store, releases)
    report = calibrate_releases(store, releases, policy, splits=splits, save=save, say=session.say)
    if as_json:
        emit(json.dumps(_to_plain(report), indent=2))
    else:
        emit("\n".join(_write_report(report, make_page(), saved=save)))


def _write_report(report: CalibrationReport, page: Page, *, saved: bool) -> Iterator[str]:
    """Write the lines of the report for people: conclusion, table, notes. `saved`: what was learnt is stored."""
    yield write_line(_conclude(report), page)
    yield ""
    tallies = list(report.tallies)
    if report.between:  # past runs against each other
        tallies.append(report.between)
    if tallies:
        rows = []
        for tally in tallies:
            undecided_count = tally.judged - tally.no_go - tally.go
            undecided = f"{format_number(100 * undecided_count / tally.judged)} %" if tally.judged else "–"
            no_go, go = _write_share(tally, tally.no_go), _write_share(tally, tally.go)
            change = _write_change(tally.change)
            rows.append((KIND_LABELS[tally.kind], change, str(tally.judged), no_go, go, undecided))
        yield from align_columns([HEAD, *rows], page)
        yield ""
    for note in (*_write_notes(report, saved=saved), *(f"left out: {text}" for text in report.left_out)):
        yield write_line(f"  {note}", page)


def _conclude(report: CalibrationReport) -> str:
    """Write whether the policy raises more false alarms than its alpha allows, as far as the history shows it."""
    overall = report.overall
    if not overall.judged:
        return "Too little history to know: no stored baseline can be compared with itself."
    allowed = f"{format_number(100 * report.alpha)} %"
    interval = _write_interval(overall, overall.no_go)
    observed = f"{overall.no_go} of {overall.judged} identical releases were NO-GO ({interval})"
    if report.conclusion == "cries_wolf":
        return f"This policy raises too many false alarms: {observed}, {allowed} are allowed."
    if report.conclusion == "keeps":
        return f"False alarms are within the limit: {observed}, {allowed} are allowed."
    return (
        f"Too little history to know whether false alarms stay within {allowed}: {observed}. "
        f"These count as {format_number(overall.effective)} independent comparisons; "
        f"even without any alarm {needed_comparisons(report.alpha)} are needed."
    )


def _write_change(change: Injection) -> str:
    """Write which regression was added to the candidate."""
    if change.latency:
        return f"latency +{format_number(100 * change.latency)} %"
    if change.failures:
        return f"failures +{format_number(100 * change.failures)} pp"
    return "nothing changed"


def _write_share(tally: Tally, count: int) -> str:
    """Write `count` of the judged verdicts as a share with its interval; a dash if none were judged."""
    if not tally.judged:
        return "–"
    return f"{format_number(100 * count / tally.judged)} % ({_write_interval(tally, count)})"


def _write_interval(tally: Tally, count: int) -> str:
    """Write the 95 % interval of `count` as a share of the judged verdicts."""
    low, high = tally.interval(count)
    return f"{format_number(round(100 * low, 1))} … {format_number(round(100 * high, 1))} %"


def _write_notes(report: CalibrationReport, *, saved: bool) -> Iterator[str]:
    """Write how to read the table, and what was learnt. `saved`: what was learnt is stored."""
    kinds = {tally.kind for tally in report.tallies}
    yield "intervals are 95 % (Wilson) at the number of independent comparisons"
    if "instances" in kinds:
        yield "each half has half of the instances and requests: a whole release is judged more precisely"
    if "time" in kinds:
        yield "one instance against itself: how much instances differ is assumed, not measured, and GO is not possible"
    if report.between:
        yield "past runs also differ by what changed between them: their NO-GO is not a false alarm"
    yield from _describe_learnt(report.learnt)
    if saved:
        yield "saved: the judge uses this for runs that do not show how much instances differ"
    elif report.learnt.comparisons >= LEAST_COMPARISONS:
        yield "--save lets the judge use this for runs that do not show how much instances differ"


def _describe_learnt(learnt: Learnt) -> Iterator[str]:
    """Describe what was learnt about instances, then about whole arms, and whether it is enough for the judge."""
    if learnt.sd_latency is None or learnt.sd_failures is None:
        yield "nothing was learnt about instances: no arm had two of them, and no load was repeated"
    else:
        latency, failures = format_number(100 * learnt.sd_latency), format_number(100 * learnt.sd_failures)
        is_too_little = learnt.comparisons < LEAST_COMPARISONS
        yield (
            f"instances of one version differ by {latency} % in latency and {failures} pp in failures (standard "
            f"deviation; from {count_of(learnt.comparisons, 'comparison')} in {count_of(learnt.runs, 'run')})"
            + (f"; too few for the judge, which needs {LEAST_COMPARISONS}" if is_too_little else "")
        )
    if learnt.between_arms_latency is None or learnt.between_arms_failures is None:
        yield (
            "drift of whole arms that is slower than a run was not measured: this needs runs of one version on both "
            "arms, or repeated runs, with several instances per arm"
        )
        return
    # Three significant digits, as in the policy.
    latency = format_number(float(f"{100 * learnt.between_arms_latency:.3g}"))
    failures = format_number(float(f"{100 * learnt.between_arms_failures:.3g}"))
    is_too_little = learnt.between_arms_comparisons < LEAST_COMPARISONS
    yield (
        f"identical releases differ by {latency} % in latency and {failures} pp in failures beyond what a single "
        f"run shows (standard deviation; from {count_of(learnt.between_arms_comparisons, 'comparison')} in "
        f"{count_of(learnt.between_arms_runs, 'run')})" + ("; too few for the judge" if is_too_little else "")
    )


def _to_plain(report: CalibrationReport) -> dict[str, object]:
    """Return the report as values of JSON, for programs."""
    return {
        "conclusion": report.conclusion,
        "alpha": report.alpha,
        "needed_comparisons": needed_comparisons(report.alpha),
        "overall": _tally_to_plain(report.overall),
        "tallies": [_tally_to_plain(tally) for tally in report.tallies],
        "between": _tally_to_plain(report.between) if report.between else None,
        "learnt": dataclasses.asdict(report.learnt),
        "used": list(report.used),
        "left_out": list(report.left_out),
    }


def _tally_to_plain(tally: Tally) -> dict[str, object]:
    """Return a tally as values of JSON, with the intervals of its shares."""
    return {
        **dataclasses.asdict(tally),
        "no_go_interval": list(tally.interval(tally.no_go)),
        "go_interval": list(tally.interval(tally.go)),
    }
