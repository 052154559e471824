"""The corridor: load, land, judge. Short functions, no SQL, no arithmetic."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from threading import Event, Thread, get_native_id

from evaluator.assess import assess_release
from evaluator.calibration import CalibrationReport, Stored, calibrate
from evaluator.errors import EvaluatorError, LoadError, UnknownName, UsageError
from evaluator.health.history import describe_learnt
from evaluator.judges import JUDGES
from evaluator.metrics.outcome_measure import find_needs
from evaluator.policy import Policy, with_learnt
from evaluator.records import (
    Landed,
    LandingPlan,
    OutcomeFacts,
    OutcomeOptions,
    OutcomePlan,
    Outcomes,
    Release,
    Rulebook,
    Run,
    RunState,
    Service,
    Verdict,
    VerdictWord,
    check_names,
)
from evaluator.reports import to_json
from evaluator.segments import run_folder
from evaluator.sources.load import (
    LoadPlan,
    RunOutcome,
    check_plan,
    fingerprint,
    is_recording,
    read_outcome,
    run_locust,
    wait_for_targets,
)
from evaluator.sources.outcomes import OUTCOME_SOURCE, plan_outcomes
from evaluator.sources.recording import SHEET_NAME, RunSheet, new_run_id, utc
from evaluator.store import Store

__all__ = [
    "Replayed",
    "calibrate_releases",
    "choose_runs",
    "import_outcomes",
    "import_release",
    "judge_release",
    "land_release",
    "load_release",
    "read_history",
    "related_releases",
    "replay_releases",
]

Say = Callable[[str], None]
JUDGE = "native"
TIME_OF_ID = 16

KEEP_UP_S = 3600.0
"""How often a run that lasts is landed and compacted while it is recorded."""


def _say_nothing(_: str) -> None:
    pass


# ------------------------------------------------------------------ load


def load_release(
    store: Store,
    release: Release,
    plan: LoadPlan,
    *,
    replicates: int = 1,
    restart_command: str | None = None,
    say: Say = _say_nothing,
    on_line: Say = _say_nothing,
) -> tuple[Run, ...]:
    """Run a load test against all arms, `replicates` times, and land it. Returns the runs as stored.

    `say` is told what happens, `on_line` each line of Locust's log. Every run is registered before its load starts
    and lands after it, whatever ended it. Raises LoadError where a run is incomplete, KeyboardInterrupt where the user
    ended it; what was recorded stays.
    """
    check_names(release, (arm.name for arm in plan.arms))
    _check_replicates(replicates, restart_command)
    check_plan(plan)
    group = new_run_id()
    for replicate in range(replicates):
        if replicate and restart_command:
            say(f"restarting the targets: {restart_command}")
            restart_targets(restart_command, plan)
        run = _new_run(release, plan, group, replicate)
        store.register_run(release, run)
        say(f"run {replicate + 1} of {replicates}: {run.id}")
        _load_once(store, run, plan, say, on_line)
    return tuple(run for run in store.runs(release.id) if run.group == group)


def _check_replicates(replicates: int, restart_command: str | None) -> None:
    if replicates < 1:
        raise UsageError(f"replicates must be at least 1, not {replicates}")
    if restart_command is None:
        return
    words = _split(restart_command)
    if not words:
        raise UsageError("the restart command is empty")
    if shutil.which(words[0]) is None:
        raise UsageError(f"the restart command '{words[0]}' cannot be found", hint="give the path of a program")


def _new_run(release: Release, plan: LoadPlan, group: str, replicate: int) -> Run:
    now = datetime.now(UTC)
    return Run(
        id=group if replicate == 0 else f"{group}-{replicate + 1}",
        release=release.id,
        group=group,
        source="locust",
        replicate=replicate,
        started=now,
        planned_end=now + timedelta(seconds=plan.run_time_s),
        fingerprint=fingerprint(plan),
    )


def _load_once(store: Store, run: Run, plan: LoadPlan, say: Say, on_line: Say) -> None:
    with _kept_up(store, run, say):
        outcome = run_locust(plan, run, store.segment_folder(run), on_line)
    _finish(store, run, outcome)
    landed = store.land_segments(run.id)
    say(_describe_landing(landed))
    if outcome.interrupted:
        raise KeyboardInterrupt
    if outcome.state is not RunState.COMPLETE:
        raise LoadError(
            f"run {run.id} is incomplete: {outcome.facts.stopped_by}",
            hint=f"the {landed.rows} requests recorded until then are in the store",
        )
    if not landed.rows:
        why = f": {outcome.trouble}" if outcome.trouble else ""
        raise LoadError(
            f"run {run.id} made no request{why}", hint="do the tasks of the locustfile send any? -v shows Locust's log"
        )


@contextmanager
def _kept_up(store: Store, run: Run, say: Say) -> Iterator[None]:
    """Land and compact what a run has recorded every hour while the block lasts, so that its folder stays small."""
    over = Event()
    keeper = Thread(target=_keep_up, args=(store, run, say, over), daemon=True)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()


def _keep_up(store: Store, run: Run, say: Say, over: Event) -> None:
    # The load generator goes first; the threads of a roll-up inherit this.
    os.setpriority(os.PRIO_PROCESS, get_native_id(), 10)
    while not over.wait(KEEP_UP_S):
        try:
            landed = store.land_segments(run.id)
            store.compact(run.id)
            say(_describe_landing(landed))
        except (EvaluatorError, OSError) as error:
            say(f"not landed yet: {error}")


def _finish(store: Store, run: Run, outcome: RunOutcome) -> None:
    store.finish_run(
        run.id,
        state=outcome.state,
        ended=outcome.ended,
        facts=outcome.facts,
        planned_end=outcome.planned_end,
    )


def _describe_landing(landed: Landed) -> str:
    text = f"landed {landed.rows} requests in {landed.segments} segments"
    return text + (f"; {len(landed.quarantined)} could not be read" if landed.quarantined else "")


def restart_targets(command: str, plan: LoadPlan) -> None:
    """Run the user's command and wait until every target accepts connections. Raises LoadError."""
    try:
        done = subprocess.run(_split(command), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        raise LoadError(f"the restart command '{command}' cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise LoadError(f"the restart command '{command}' ended with {done.returncode}: {(said or ['no output'])[-1]}")
    wait_for_targets(plan.targets)


def _split(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise UsageError(f"the restart command '{command}' cannot be split into words: {error}") from error


# ------------------------------------------------------------------ import


def import_release(store: Store, release: Release, plan: LandingPlan) -> Landed:
    """Land the files of a plan as a run group of their own; the same files again change nothing. Raises InputError."""
    check_names(release, {file.arm: None for file in plan.files})
    group = new_run_id()
    replicates = sorted({file.replicate for file in plan.files})
    runs = [_imported_run(release, plan, group, replicate) for replicate in replicates]
    return store.land_files(release, runs, plan)


def _imported_run(release: Release, plan: LandingPlan, group: str, replicate: int) -> Run:
    files = [file for file in plan.files if file.replicate == replicate]
    return Run(
        id=group if replicate == 0 else f"{group}-{replicate + 1}",
        release=release.id,
        group=group,
        source="import",
        replicate=replicate,
        fingerprint={"files": {file.arm: file.path for file in files}},
    )


def import_outcomes(
    store: Store,
    release: Release,
    files: Sequence[str],
    options: OutcomeOptions,
    *,
    query: str = "",
    skip_bad_rows: bool = False,
) -> tuple[Landed, OutcomeFacts, OutcomePlan]:
    """Land outcomes of units as a run group of their own; the same files again change nothing. Raises InputError."""
    check_names(release)
    plan = plan_outcomes(files, options, store.describe_outcomes, query=query, skip_bad_rows=skip_bad_rows)
    group = new_run_id()
    run = Run(
        id=group,
        release=release.id,
        group=group,
        source=OUTCOME_SOURCE,
        state=RunState.COMPLETE,
        fingerprint={"files": list(plan.paths)},
    )
    landed, facts = store.land_outcomes(release, run, plan)
    return landed, facts, plan


# ------------------------------------------------------------------ land what nobody landed


def land_release(store: Store, release_id: str) -> tuple[Landed, ...]:
    """Land what a release's recorders left behind, so that a load that was killed loses nothing.

    Runs of recorders that were started by hand are registered; runs whose recorder died are marked incomplete.
    Raises UnknownName for a release of which nothing is known.
    """
    _adopt_recordings(store, release_id)
    return tuple(_settle(store, run) for run in store.runs(release_id) if run.source == "locust")


def _settle(store: Store, run: Run) -> Landed:
    folder = store.segment_folder(run)
    if run.state is RunState.RUNNING and not is_recording(folder):
        planned_s = (run.planned_end - run.started).total_seconds() if run.planned_end and run.started else None
        outcome = read_outcome(folder, run_time_s=planned_s, stopped_by=_reason_of_death(run))
        _finish(store, run, outcome)
    return store.land_segments(run.id)


def _reason_of_death(run: Run) -> str:
    """A recorder started by hand ends its run itself; under `load`, an unfinished run means that `load` was killed."""
    return "" if run.group == run.id and not run.fingerprint.get("targets") else "the load was killed"


def _adopt_recordings(store: Store, release_id: str) -> None:
    known = _known_runs(store, release_id)
    for path in sorted(run_folder(store.data_dir, release_id, "_").parent.glob(f"*/{SHEET_NAME}")):
        sheet = RunSheet.read(path)
        if sheet.release == release_id and sheet.run not in known:
            _adopt(store, sheet)


def _known_runs(store: Store, release_id: str) -> set[str]:
    try:
        return {run.id for run in store.runs(release_id)}
    except UnknownName:
        return set()


def _adopt(store: Store, sheet: RunSheet) -> None:
    services = (Service(sheet.service),) if sheet.service else ()
    started = utc(sheet.started)
    run = Run(
        id=sheet.run,
        release=sheet.release,
        group=sheet.run,
        source="locust",
        started=started,
        planned_end=started + timedelta(seconds=sheet.run_time_s) if sheet.run_time_s else None,
        fingerprint=sheet.fingerprint,
    )
    store.register_run(Release(sheet.release, services), run)


# ------------------------------------------------------------------ judge


def judge_release(
    store: Store, release_id: str, policy: Policy, *, runs: str = "latest", judged_at: datetime, save: bool = True
) -> Verdict:
    """Land what is waiting, assess the chosen runs and judge them; the verdict is kept unless `save` is off.

    `runs`: `latest` (the newest run group), `all`, or the id of a run or group. Raises UnknownName for anything else.
    """
    land_release(store, release_id)
    release = store.release(release_id)
    learnt = store.learnt(service_of(release))
    own, policy = policy, with_learnt(policy, learnt)
    chosen = choose_runs(store.runs(release_id), runs)
    ids = [run.id for run in chosen]
    loads = tuple(run for run in chosen if run.source != OUTCOME_SOURCE)
    outcomes = read_outcomes(store, chosen, policy.rulebook)
    cells = store.read_cells([run.id for run in loads])
    evidence = assess_release(cells, loads, outcomes, policy.rulebook, release_id)
    if learnt is not None and policy is not own:
        evidence = replace(evidence, findings=(*evidence.findings, describe_learnt(learnt, policy.rulebook)))
    judgement = JUDGES[JUDGE](evidence, policy.rulebook, release_id)
    verdict = Verdict(
        release=release,
        word=judgement.word,
        reasons=judgement.reasons,
        next_action=judgement.next_action,
        evidence=replace(evidence, comparisons=judgement.comparisons),
        judge=JUDGE,
        monitoring=evidence.monitoring,
        alpha=policy.rulebook.alpha,
        mode=policy.rulebook.mode,
        time_to_decision_s=judgement.decided_at_s or None,
        policy=policy.effective,
        policy_hash=policy.hash,
        data_hash=store.data_hash(ids),
        evaluator_version=version("release-evaluator"),
        judged_at=judged_at,
    )
    if save:
        store.save_verdict(release_id, to_json(verdict), judged_at, verdict.word.value)
    return verdict


def service_of(release: Release) -> str:
    """Name of a release's service; empty where it has none, or several."""
    return release.services[0].name if len(release.services) == 1 else ""


def read_outcomes(store: Store, runs: tuple[Run, ...], rulebook: Rulebook) -> Outcomes | None:
    """Read the newest outcomes among `runs`: their sums first, which tell what else the metrics need."""
    run = next((run for run in reversed(runs) if run.source == OUTCOME_SOURCE), None)
    sums = store.read_outcomes(run) if run else None
    if run is None or sums is None:
        return None
    needs = find_needs(sums, rulebook)
    if not needs.values and not needs.row_values:
        return sums
    return store.read_outcomes(run, values=needs.values, row_values=needs.row_values)


def choose_runs(runs: tuple[Run, ...], wanted: str) -> tuple[Run, ...]:
    """Pick the runs to judge together: the newest group, all of them, or one run or group by its id.

    The newest group of outcomes stands beside the newest of requests: they answer other metrics.
    """
    if wanted == "all" or not runs:
        return runs
    if wanted == "latest":
        newest = {run.source == OUTCOME_SOURCE: run.group for run in runs}
        return tuple(run for run in runs if run.group in newest.values())
    chosen = tuple(run for run in runs if wanted in {run.id, run.group})
    if not chosen:
        raise UnknownName("run", wanted, ["all", "latest", *(run.id for run in runs)])
    return chosen


# ------------------------------------------------------------------ hindsight: replay, calibrate, plan


@dataclass(frozen=True, slots=True)
class Replayed:
    """A stored release under another policy. `old` is `None` where it was never judged, `new` where it cannot be."""

    release: str
    old: VerdictWord | None
    new: VerdictWord | None
    why: str
    """The first reason of the new verdict, or why there is none."""
    old_why: str = ""
    same_data: bool = True
    """False where the data that the old verdict judged is not there as it was."""


def replay_releases(
    store: Store, release_ids: Sequence[str], policy: Policy, *, now: datetime, say: Say = _say_nothing
) -> tuple[Replayed, ...]:
    """Judge stored releases again under `policy`, on the runs that their latest verdict judged; nothing is kept.

    No names: every release that was ever judged. Raises UnknownName for a release that is not there.
    """
    wanted = release_ids or [summary.release.id for summary in store.releases() if summary.verdict]
    out = []
    for release_id in wanted:
        say(f"judging {release_id}")
        out.append(_replay(store, release_id, policy, now))
    return tuple(out)


def _replay(store: Store, release_id: str, policy: Policy, now: datetime) -> Replayed:
    verdicts = store.verdicts(release_id)
    old = json.loads(verdicts[-1].json) if verdicts else None
    word = VerdictWord(old["verdict"]) if old else None
    old_why = old["reasons"][0]["text"] if old and old["reasons"] else ""
    runs = _runs_behind(store, release_id, old["data_hash"]) if old else "latest"
    try:
        verdict = judge_release(store, release_id, policy, runs=runs or "latest", judged_at=now, save=False)
    except UsageError as error:
        return Replayed(release_id, word, None, error.message, old_why, runs is not None)
    return Replayed(release_id, word, verdict.word, verdict.reasons[0].text, old_why, runs is not None)


def _runs_behind(store: Store, release_id: str, data_hash: str) -> str | None:
    """Find what a verdict judged by the hash of its data: `latest`, `all`, a group or a run; `None`: not there."""
    runs = store.runs(release_id)
    candidates = ["latest", "all", *dict.fromkeys(name for run in runs for name in (run.group, run.id))]
    for name in candidates:
        if store.data_hash([run.id for run in choose_runs(runs, name)]) == data_hash:
            return name
    return None


def read_history(store: Store, release_ids: Sequence[str], *, most: int = 20) -> tuple[Stored, ...]:
    """Read the newest run groups of requests of these releases, the oldest first."""
    groups: dict[str, tuple[str, list[Run]]] = {}
    for release_id in release_ids:
        land_release(store, release_id)
        for run in store.runs(release_id):
            if run.source != OUTCOME_SOURCE and run.landed:
                groups.setdefault(run.group, (release_id, []))[1].append(run)
    # Ids of groups begin with the second in which they were made.
    newest = sorted(groups, key=lambda group: group[:TIME_OF_ID])[-most:]
    return tuple(
        Stored(name, store.read_cells([run.id for run in runs]), tuple(runs), is_one_version(store.release(name)))
        for name, runs in (groups[group] for group in newest)
    )


def is_one_version(release: Release) -> bool:
    """Did both arms of a release run the same versions?"""
    return bool(release.services) and all(one.baseline and one.baseline == one.canary for one in release.services)


def related_releases(store: Store, release_id: str) -> tuple[str, ...]:
    """This release and all others of its service."""
    service = service_of(store.release(release_id))
    others = [s.release.id for s in store.releases() if service and service_of(s.release) == service]
    return tuple(dict.fromkeys((*others, release_id)))


def calibrate_releases(
    store: Store,
    release_ids: Sequence[str],
    policy: Policy,
    *,
    splits: int,
    save: bool = False,
    say: Say = _say_nothing,
) -> CalibrationReport:
    """Calibrate `policy` on the baselines of stored releases (no names: all); with `save` keep what was learnt."""
    wanted = tuple(release_ids) or tuple(summary.release.id for summary in store.releases())
    services = {service_of(store.release(release_id)) for release_id in wanted}
    if save and len(services) > 1:
        named = ", ".join(sorted(service or "none" for service in services))
        raise UsageError(
            f"--save keeps what one service's instances do, and these releases are of several: {named}",
            hint="name the releases of one service",
        )
    report = calibrate(read_history(store, wanted), policy.rulebook, splits=splits, step=say)
    if save and services:
        store.save_learnt(services.pop(), report.learnt)
    return report
