"""The planned end of an A/B test: outcomes of users are read once, and judged with the sample ratio of each stage.

Stages have other shares, and users who joined in one of them are there in the shares of that stage: pooled over stages,
the arms would have the ratio of no stage. So the rows of each stage are an import of their own. The last stage decides,
and the earlier ones only have to be as they were planned.
"""

from __future__ import annotations

import glob
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from evaluator.errors import EvaluatorError, InputError, SourceError
from evaluator.health.base import fail, ok
from evaluator.hooks.templates import fill_words
from evaluator.pipeline.importing import import_outcomes
from evaluator.pipeline.judging import judge_runs, keep_verdict
from evaluator.policy import Policy, parse_policy
from evaluator.policy.ab_test import OutcomesSection
from evaluator.records import (
    BASELINE,
    Finding,
    Level,
    OutcomeOptions,
    OutcomePlan,
    Release,
    Run,
    Verdict,
    VerdictWord,
)
from evaluator.records.rollouts import EventKind, JudgedAt, Observe, Rollout, RolloutPlan, split_traffic
from evaluator.reports import to_json
from evaluator.reports.overview import find_chosen_arm
from evaluator.rollout.checks import forbids_no_harm
from evaluator.rollout.evidence import OF_OUTCOMES, StepEvidence, hash_texts, narrow_release, read_step_values
from evaluator.sources.outcomes import plan_outcomes
from evaluator.store import Store
from evaluator.store.outcome_files import describe_outcomes
from evaluator.store.outcome_periods import RowTimes, compare_assigned, split_by_time, write_query_result
from evaluator.store.rollouts import Rollouts
from evaluator.wording import format_count

FUTURE_S = 60.0
"""How far the times of rows may be ahead of this machine's clock."""
MOST_GAP = 0.05
"""Time without rows at the begin or the end of a stage, as a share of its time, that chance does not explain."""
CHANCE = 20
"""So many times the mean time between two rows is no chance."""
MOST_LOST = 0.01
"""Largest share of users that were not assigned, or have no outcomes."""
_OF_SAMPLE = ("sample_ratio", "assignment", "coverage", "missing_outcomes")
"""Checks that also an earlier stage has to pass."""


@dataclass(frozen=True, slots=True)
class SplitTime:
    """A stage in which users were split, with the time in which they were."""

    step: Observe
    begin: float
    """Epoch s."""
    end: float

    @property
    def shares(self) -> Mapping[str, float]:
        """Arm → its share, the baseline first."""
        return split_traffic(self.step)


@dataclass(frozen=True, slots=True)
class _Imported:
    """The outcomes of the stages as they were read."""

    runs: tuple[Run, ...]
    """One for each period, in their order."""
    findings: tuple[Finding, ...]
    """What their times say."""


def judge_test(
    store: Store, rollout: Rollout, plan: RolloutPlan, position: int, look: JudgedAt, judged_at: datetime
) -> StepEvidence:
    """Read and judge the outcomes of an A/B test, and find the arm that has won.

    What cannot be read, or is not whole, lets no arm win: the evidence is not sound, and says why. A look that was cut
    off after it had read the outcomes does not read them again.
    """
    periods = list_split_times(store, rollout, plan, position)
    try:
        imported = _find_imported(store, rollout, periods, look) or _import(store, rollout, periods, look)
        return _judge(store, rollout, plan, periods, imported, judged_at)
    except (EvaluatorError, OSError) as error:
        cause = getattr(error, "message", "") or str(error)
        return _show_no_winner(f"the outcomes cannot be used: {cause}")


def _show_no_winner(why: str) -> StepEvidence:
    """Evidence that lets no arm win."""
    return StepEvidence(
        VerdictWord.INCONCLUSIVE, no_harm=False, missing=(why,), data_hash="", verdict_hash="", exposed=0
    )


def list_split_times(store: Store, rollout: Rollout, plan: RolloutPlan, position: int) -> tuple[SplitTime, ...]:
    """List the stages that split users, up to the one that is judged, the oldest first, with their times."""
    begun: dict[int, float] = {}
    done: dict[int, float] = {}
    for event in Rollouts(store.control.file).events(rollout.id):
        if event.kind is EventKind.BEGUN:
            begun.setdefault(event.step, event.at)
        elif event.kind is EventKind.DONE:
            done[event.step] = event.at
    periods = []
    for number, step in enumerate(plan.steps[: position + 1]):
        if isinstance(step, Observe) and step.arm_shares and number in begun:
            end = begun[number] + step.bake_s if number == position else done.get(number, begun[number])
            periods.append(SplitTime(step, begun[number], end))
    return tuple(periods)


# ------------------------------------------------------------------ reading


def _read_section(rollout: Rollout) -> OutcomesSection:
    """Read where the outcomes come from, as the policy of the start says. Raises InputError."""
    try:
        return OutcomesSection.model_validate(rollout.policy["rollout"]["outcomes"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the policy of {rollout.id} does not say where outcomes come from") from error


def _name_look(rollout: Rollout, look: JudgedAt) -> str:
    """Name a look of a rollout: by it, a run of outcomes is found again."""
    return f"{rollout.id} {rollout.plan_hash} {look}"


def _find_imported(store: Store, rollout: Rollout, periods: Sequence[SplitTime], look: JudgedAt) -> _Imported | None:
    """Find the outcomes that an earlier process has read for this look; None: not all of them are there.

    With times or assigned users, they are read again, because what these say was not stored; the rows are not imported
    again.
    """
    section = _read_section(rollout)
    if section.time or section.assigned:
        return None
    name = _name_look(rollout, look)
    runs = [run for run in store.data.runs(rollout.release) if run.fingerprint.get("look") == name]
    return _Imported(tuple(runs), ()) if len(runs) == len(periods) else None


def _import(store: Store, rollout: Rollout, periods: Sequence[SplitTime], look: JudgedAt) -> _Imported:
    """Read the outcomes, and import the rows of each stage. Raises EvaluatorError, OSError."""
    section = _read_section(rollout)
    options = OutcomeOptions(
        section.unit, section.arm, section.baseline, tuple(section.outcomes), tuple(section.covariates)
    )
    with tempfile.TemporaryDirectory(prefix="evaluator-outcomes-") as name:
        folder = Path(name)
        files, query = _fetch(section, rollout, periods, folder)
        findings: tuple[Finding, ...] = ()
        paths = [tuple(files)] * len(periods)
        if section.time:
            plan = plan_outcomes(files, options, describe_outcomes, query=query)
            times = split_by_time(
                plan, section.time, section.time_zone, [(each.begin, each.end) for each in periods], folder
            )
            findings = tuple(_check_times(times, periods, section))
            paths, query = [(str(part.path),) for part in times.periods], ""
            for part, period in zip(times.periods, periods, strict=True):
                if not part.rows:
                    unread = ""
                    if times.without_zone:
                        unread = f"; {format_count(times.without_zone)} have no time in {section.time} with its zone"
                    raise InputError(
                        f"none of the {format_count(times.rows)} rows of outcomes is of {period.step.name} "
                        f"({_write_period(period)}){unread}",
                        hint=f"compare {section.time} with these times, and their zone",
                    )
        runs = []
        for period, files_of_period in zip(periods, paths, strict=True):
            release = Release(rollout.release)
            try:
                landed, _, imported = import_outcomes(
                    store, release, files_of_period, options, query=query, step=period.step.name,
                    fingerprint={"look": _name_look(rollout, look)},
                )  # fmt: skip
            except InputError as error:
                raise _name_rows(error, folder, period.step.name) from error
            (run_id,) = landed.runs
            runs.append(next(run for run in store.data.runs(rollout.release) if run.id == run_id))
        if section.assigned:
            findings += tuple(_check_assigned(imported, periods[-1], section))
    return _Imported(tuple(runs), findings)


def _name_rows(error: InputError, folder: Path, stage: str) -> InputError:
    """Name the rows of a stage in place of the file that had them for a moment in `folder`."""
    place = re.compile(rf"{re.escape(str(folder))}/outcomes[\w.-]*(?::(row )?(\d+))?")

    def name(found: re.Match[str]) -> str:
        is_row, number = found.groups()
        row = f"row {int(number) - (not is_row)} of " if number else ""  # the first line is the header
        return f"{row}the outcomes of {stage}"

    return InputError(place.sub(name, error.message), hint=error.hint)


def _fetch(
    section: OutcomesSection, rollout: Rollout, periods: Sequence[SplitTime], folder: Path
) -> tuple[list[str], str]:
    """Fetch the outcomes as files; returns them, and SQL over them (empty: all). Raises EvaluatorError, OSError."""
    times = {"begin": periods[0].begin, "end": periods[-1].end}
    if section.command:
        path = folder / "outcomes.csv"
        _run_command(section, rollout, times, path)
        return [str(path)], ""
    if not section.files:
        path = folder / "outcomes.parquet"
        write_query_result(section.query, section.database, times, path)
        return [str(path)], ""
    return _list_files(section.files), section.query


def _list_files(patterns: Sequence[str]) -> list[str]:
    """List the files that match patterns. Raises InputError if none matches one of them."""
    files: list[str] = []
    for pattern in patterns:
        found = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207 - also absolute
        if not found:
            raise InputError(f"no file matches {pattern}", hint="the policy names it in rollout.outcomes")
        files += found
    return files


def _run_command(section: OutcomesSection, rollout: Rollout, times: Mapping[str, float], path: Path) -> None:
    """Run the program that writes outcomes. Raises SourceError if it fails, writes nothing, or takes too long."""
    words = {name: f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}" for name, seconds in times.items()}
    words["release"] = rollout.release
    command = [_fill(argument, words) for argument in section.command]
    with path.open("wb") as output, tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True
            )
        except OSError as error:
            raise SourceError(
                f"{command[0]}, which writes the outcomes, cannot be started: {error.strerror}"
            ) from error
        try:
            code = process.wait(section.timeout)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise SourceError(
                f"{command[0]} has not written the outcomes within {section.timeout:g} s",
                hint="rollout: {outcomes: {timeout: 30m}} gives it longer",
            ) from None
        if code:
            errors.seek(0)
            lines = errors.read().decode("utf-8", "replace").strip().splitlines() or ["it wrote no error"]
            raise SourceError(f"{command[0]}, which writes the outcomes, ended with {code}: {lines[-1][:300]}")
    if not path.stat().st_size:
        raise SourceError(f"{command[0]} wrote no outcomes")


def _fill(argument: str, words: Mapping[str, str]) -> str:
    """Fill words into an argument; one that begins with a word cannot become an option of the program."""
    filled = fill_words(argument, words)
    if filled.startswith("-") and not argument.startswith("-"):
        raise SourceError(f"the argument {argument} would be {filled}, which the program takes for an option")
    return filled


def _write_period(period: SplitTime) -> str:
    """Write the time of a stage."""
    begin, end = (datetime.fromtimestamp(seconds, UTC) for seconds in (period.begin, period.end))
    return f"{begin:%Y-%m-%d %H:%M:%S} to {end:%Y-%m-%d %H:%M:%S} UTC"


# ------------------------------------------------------------------ checking


def _check_times(times: RowTimes, periods: Sequence[SplitTime], section: OutcomesSection) -> Iterator[Finding]:
    """Check that all times can be read, that none is in the future, and that rows are there from begin to end."""
    remedy = "compare the column with the times of the stages, and name its zone: outcomes: {time_zone: Europe/Berlin}"
    if times.without_zone:
        text = (
            f"{format_count(times.without_zone)} of {format_count(times.rows)} rows of outcomes have no time in "
            f"{section.time} that names its zone, so it is not known to which stage they belong"
        )
        yield fail("step_window", text, remedy)
    now = datetime.now(UTC)
    if times.newest is not None and (times.newest - now).total_seconds() > FUTURE_S:
        yield fail("step_window", f"a row of outcomes is of {times.newest:%Y-%m-%d %H:%M} UTC, after now", remedy)
    for part, period in zip(times.periods, periods, strict=True):
        seconds = max(period.end - period.begin, 1.0)
        allowed = max(MOST_GAP * seconds, CHANCE * seconds / max(part.rows, 1))
        if part.first is None or part.last is None:
            continue
        for gap, where in (
            (part.first.timestamp() - period.begin, f"before {part.first:%Y-%m-%d %H:%M:%S}"),
            (period.end - part.last.timestamp(), f"after {part.last:%Y-%m-%d %H:%M:%S}"),
        ):
            if gap > allowed:
                yield fail("step_window", f"{period.step.name} has no rows of outcomes {where} UTC", remedy)


def _check_assigned(plan: OutcomePlan, period: SplitTime, section: OutcomesSection) -> Iterator[Finding]:
    """Check that the outcomes are those of the users that were assigned, and of all of them."""
    found = compare_assigned(
        plan, _list_files(section.assigned), section.time, section.time_zone, (period.begin, period.end)
    )
    if found.strangers + found.elsewhere > MOST_LOST * found.units:
        text = (
            f"of {format_count(found.units)} users with outcomes, {format_count(found.strangers)} were not assigned, "
            f"and {format_count(found.elsewhere)} were assigned to another arm"
        )
        yield fail("assignment", text, "are these the outcomes of this test?")
    if not found.assigned or found.missing > MOST_LOST * found.assigned:
        text = (
            f"{format_count(found.missing)} of {format_count(found.assigned)} users that were assigned in "
            f"{period.step.name} have no outcomes"
        )
        yield fail("coverage", text, "let the outcomes have a row for each user, also for those that did nothing")


def _check_units(runs: Sequence[Run], store: Store, periods: Sequence[SplitTime], least: int) -> Iterator[Finding]:
    """Check that each arm of each stage has users, in the last stage at least so many."""
    for run, period in zip(runs, periods, strict=True):
        outcomes = store.data.read_outcomes(run)
        if outcomes is None:
            yield fail("sample_ratio", f"{period.step.name} has no outcomes")
            continue
        units = dict(zip(outcomes.arms, (moments.n for moments in outcomes.moments), strict=True))
        needed = least if period is periods[-1] else 1
        counts = ", ".join(
            f"{arm} {format_count(units.get(arm, 0))}" for arm in dict.fromkeys((*period.shares, *units))
        )
        few = [arm for arm in period.shares if units.get(arm, 0) < needed]
        unknown = [arm for arm in units if arm not in period.shares]
        if few or unknown:
            why = f"fewer than {format_count(needed)} of {', '.join(few)}" if few else ""
            why = "; ".join(filter(None, (why, f"{', '.join(unknown)} is no arm of the test" if unknown else "")))
            yield fail(
                "sample_ratio", f"users of {period.step.name}: {counts}: {why}", "look at the source of outcomes"
            )
        else:
            yield ok("sample_ratio", f"users of {period.step.name}: {counts}")


# ------------------------------------------------------------------ judging


def make_outcome_policy(rollout: Rollout, plan: RolloutPlan, period: SplitTime) -> Policy:
    """Make the policy that judges the outcomes of a stage: that of the start, with the shares of the stage."""
    values = read_step_values(rollout.policy, period.step, f"policy of rollout {rollout.id}")
    health = {**values.get("health", {}), "sample_ratio": dict(period.shares)}
    values |= {
        "metrics": [metric for metric in values["metrics"] if metric["type"] in OF_OUTCOMES],
        "health": health,
        "alpha_no_go": min(plan.alpha_no_go, float(values["alpha"])),
    }
    return parse_policy(values, origin=f"policy of rollout {rollout.id}")


def _judge(
    store: Store,
    rollout: Rollout,
    plan: RolloutPlan,
    periods: Sequence[SplitTime],
    imported: _Imported,
    judged_at: datetime,
) -> StepEvidence:
    """Judge the outcomes of the last stage, and check those of the earlier ones."""
    last, section = periods[-1], _read_section(rollout)
    findings = [*imported.findings, *_check_units(imported.runs, store, periods, section.least)]
    release = narrow_release(store.control.release(plan.release), plan.services[0])
    for period, run in zip(periods[:-1], imported.runs, strict=False):
        policy = make_outcome_policy(rollout, plan, period)
        earlier, _ = judge_runs(store, release, (run,), policy, judged_at=judged_at)
        findings += [
            replace(finding, text=f"in {period.step.name}: {finding.text}")
            for finding in earlier.evidence.findings
            if finding.check in _OF_SAMPLE and finding.level is Level.FAIL
        ]
    policy = make_outcome_policy(rollout, plan, last)
    verdict, _ = judge_runs(
        store, release, (imported.runs[-1],), policy, judged_at=judged_at, check=lambda _: tuple(findings)
    )
    verdict = replace(verdict, step=last.step.name, environment=last.step.environment, only_step=True)
    doubts = [finding.text for finding in verdict.evidence.findings if forbids_no_harm(finding)]
    doubts += [
        f"{each.arm}: {each.rule.name} has no result: {each.no_data}"
        for each in verdict.evidence.comparisons
        if each.no_data is not None and each.rule.role != "watch"
    ]
    is_sound = not doubts
    winner = _find_winner(verdict) if is_sound else ""
    next_action = "a person is asked: find out why these data cannot be believed"
    if winner:
        next_action = f"{winner} has won: the rollout gives it to all users"
    elif is_sound:
        next_action = "no arm has won: the rollout goes back to the baseline"
    named = _name_version(verdict.release, winner)
    verdict = replace(verdict, next_action=next_action, release=named)
    keep_verdict(store, verdict)
    if named != release:
        store.control.add_release(Release(plan.release, named.services))
    return StepEvidence(
        word=verdict.word,
        no_harm=False,
        missing=() if winner else tuple(dict.fromkeys(doubts or (reason.text for reason in verdict.reasons))),
        data_hash=verdict.data_hash,
        verdict_hash=hash_texts(to_json(replace(verdict, figures=None))),
        exposed=sum(arm.units or 0 for arm in verdict.evidence.arms if arm.name != BASELINE),
        arm=winner,
        is_sound=is_sound,
    )


def _find_winner(verdict: Verdict) -> str:
    """Find the arm that a GO is about; empty for another verdict."""
    if verdict.word is not VerdictWord.GO:
        return ""
    arms = {comparison.arm for comparison in verdict.evidence.comparisons}
    return find_chosen_arm(verdict) or (next(iter(arms)) if len(arms) == 1 else "")


def _name_version(release: Release, winner: str) -> Release:
    """Make the version of the arm that won that of the release: users of the service get it from now on.

    `winner`: empty: no arm has won, and the release stays as it is.
    """
    services = (replace(known, canary=known.find_version(winner) or known.canary) for known in release.services)
    return replace(release, services=tuple(services)) if winner else release
