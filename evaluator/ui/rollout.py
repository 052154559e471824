"""Rollout: how far a release is on its way to its users, what the guard sees, and what people may do about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import streamlit as st
from markupsafe import Markup

from evaluator.errors import EvaluatorError, StoreError
from evaluator.records.rollouts import Observe, Rollout
from evaluator.reports.rollout import (
    LADDER_NOTE,
    RUNG_MARKS,
    RUNG_WORDS,
    RolloutPage,
    Rung,
    StepRequests,
    differs,
    write_percent,
)
from evaluator.rollout.describing import describe_outcome
from evaluator.rollout.reporting import RolloutFacts, make_report
from evaluator.rollout.status import RolloutStatus, describe_guard, describe_state, find_next_command
from evaluator.ui.acting import read_intents
from evaluator.ui.controls import choose, choose_release
from evaluator.ui.exposed import find_exposed, mark_up_driver
from evaluator.ui.frame import guarded, show_problem
from evaluator.ui.identity import find_reader
from evaluator.ui.pieces import (
    clean,
    escape_markdown,
    link,
    mark_up_code,
    mark_up_time,
    mark_up_verdict,
    name_tab,
    show,
    show_definitions,
    show_empty,
    show_list,
    show_markup,
    show_table,
    write_age,
)
from evaluator.ui.reads import (
    StoredRollouts,
    Workspace,
    find_workspace,
    now,
    read_decided_release,
    read_decided_summaries,
    read_rollout_facts,
    read_rollout_requests,
    read_rollout_status,
    read_rollouts,
)
from evaluator.ui.rollout_acts import show_acts
from evaluator.wording import quote_command

REFRESH_S = 2
MOST_EVENTS = 40
"""Newest events that are shown; the report has all."""


def show_rollout() -> None:
    """Show the page Rollout: how a rollout stands, what people may do about it, and what has happened.

    It needs decisions only, so that a rollout can be held or turned back whatever uses the data.
    """
    workspace = find_workspace()
    rollouts = read_rollouts(workspace)
    release_id = _choose_release(workspace, rollouts)
    if release_id is None:
        st.title("Rollout")
        show_empty("No release was rolled out yet.", "See what a rollout would do:", "evaluator rollout plan RELEASE")
        return
    name_tab("Rollout", release_id, None)
    rollout = _choose_rollout(rollouts.of(release_id))
    if rollout is None:
        st.title(escape_markdown(release_id), anchor=False)
        plan = quote_command("rollout", "plan", release_id)
        show_empty(f"{clean(release_id)} was not rolled out yet.", "See what its rollout would do:", plan)
        return
    reader, status = find_reader(), read_rollout_status(workspace, rollout)
    _show_present(workspace, status)
    guarded(lambda: show_acts(workspace, status, reader))()
    _show_past(status)


def _choose_release(workspace: Workspace, rollouts: StoredRollouts) -> str | None:
    """Let the reader choose a release: at first that of the newest rollout, one that is running before others.

    None while there is nothing to choose. Raises UnknownName if the address names none of them.
    """
    names = [summary.release.id for summary in read_decided_summaries(workspace)] if workspace.store.exists() else []
    newest = (*rollouts.all, *rollouts.running)[-1:]
    names = list(dict.fromkeys([*names, *(rollout.release for rollout in rollouts.all)]))
    if not names or not (newest or st.query_params.get("release")):
        return None
    return choose_release("Rollout", names, newest[0].release if newest else names[0])


def _choose_rollout(rollouts: Sequence[Rollout]) -> Rollout | None:
    """Let the reader choose a rollout of a release if it has several, at first the newest; None if it has none.

    Raises UnknownName if the address names none of them.
    """
    if not rollouts:
        return None
    by_id = {rollout.id: rollout for rollout in reversed(rollouts)}
    if len(by_id) == 1 and "rollout" not in st.query_params:
        return rollouts[0]
    return by_id[choose("Rollout", list(by_id), "rollout", rollouts[-1].id, "rollout")]


# ------------------------------------------------------------------ how it stands


@dataclass(frozen=True, slots=True)
class ShownState:
    """What decides which forms the page has: once it changes, the whole page is shown again."""

    has_ended: bool
    is_held: bool
    is_going_back: bool
    has_driver: bool
    requests: tuple[tuple[str, str], ...]
    """Id and state of the requests of the rollout."""


def _find_state(workspace: Workspace, status: RolloutStatus) -> ShownState:
    """Find what decides which forms the page has."""
    progress, rollout = status.progress, status.rollout
    intents = [record.intent for record in read_intents(workspace, rollout.release)]
    return ShownState(
        has_ended=status.has_ended,
        is_held=progress is not None and progress.held,
        is_going_back=progress is not None and progress.going_back,
        has_driver=status.driver is not None and status.driver.is_there,
        requests=tuple((intent.id, intent.state) for intent in intents if intent.rollout == rollout.id),
    )


def _show_present(workspace: Workspace, status: RolloutStatus) -> None:
    """Show how a rollout stands, its ladder, and what the guard sees; refreshes by itself until the rollout has ended.

    The whole page is shown again once other forms are needed.
    """
    shown_state = _find_state(workspace, status)
    just_read = [status]  # shown first: a guard that hangs is waited for once

    @st.fragment(run_every=None if status.has_ended else REFRESH_S)
    @guarded
    def show_fragment() -> None:
        """Show it; called at each refresh."""
        present_workspace = find_workspace()  # its stamp tells the cache what has changed
        present = just_read.pop() if just_read else read_rollout_status(present_workspace, status.rollout)
        if present.plan is None:
            _show_broken(present)
        else:
            facts = _read_facts(present_workspace, status.rollout)
            report = make_report(replace(facts, events=present.events, driver=""), now())
            show(_make_banner(present, report))
            show(make_ladder(_add_realised(report.ladder, present)))
        _show_guard(present)
        if _find_state(present_workspace, present) != shown_state:
            st.rerun(scope="app")

    show_fragment()


def _read_facts(workspace: Workspace, rollout: Rollout) -> RolloutFacts:
    """Read what the store has of a rollout; what cannot be read is left out, and the page says why.

    While another process uses the data, the requests that were read last are shown.
    """
    key = f"requests-of-{rollout.id}"
    try:
        facts = read_rollout_facts(workspace, rollout)
    except StoreError:
        raise
    except EvaluatorError as error:  # a verdict of another version
        show_problem(error)
        facts = RolloutFacts(rollout)

    def load_requests() -> None:
        """Read the requests of users; if that fails, the page says why, and the rest of it is shown."""
        try:
            st.session_state[key] = read_rollout_requests(workspace, rollout)
        except EvaluatorError as error:
            if key not in st.session_state:
                show_markup('<p class="warn">The requests of users cannot be read now: {}</p>', clean(error.message))

    guarded(load_requests)()
    exposures, late = st.session_state.get(key, ((), 0))
    return replace(facts, exposures=exposures, late=late)


def _make_banner(status: RolloutStatus, report: RolloutPage) -> Markup:
    """Make the box that says how a rollout stands: the word, why, what is missing, the driver, and what to do next."""
    plan, progress = status.plan, status.progress
    lines = [report.why]
    if plan is not None and progress is not None:
        if progress.outcome is not None:
            lines.append(f"{plan.release} is {describe_outcome(progress.outcome, progress.winner)}")
        elif not progress.going_back:  # the reason of the way back says all
            lines = list(describe_state(status, plan, progress))
    items = [Markup("<li>{}</li>").format(mark_up_code(line)) for line in dict.fromkeys(filter(None, lines))]
    if not status.has_ended:
        items.append(Markup("<li>{}</li>").format(mark_up_driver(status)))
    notes = [Markup("{} {}").format(name, clean(value)) for name, value in report.facts]
    notes.append(link("promote", "requests", at="requests", release=report.release))
    notes.append(link("release", "release and its verdicts", release=report.release))
    kind = "no_go" if status.is_driver_gone else report.kind
    against = f"against {clean(report.against)}" if report.against else ""
    return _write_banner(kind, (report.word, report.kind), (report.release, against), items, status, notes)


def _write_banner(
    kind: str,
    word: tuple[str, str],
    names: tuple[str, str],
    items: Iterable[Markup],
    status: RolloutStatus,
    notes: Sequence[Markup],
) -> Markup:
    """Write the box as HTML.

    `kind`: how its edge is coloured. `word`: with its colour. `names`: of the release and its opponent. `items`: what
    it says, in sentences.
    """
    return Markup(
        '<section class="ev-banner is-{}" aria-label="rollout"><h1><span class="word {}">{}</span>'
        '<span class="name">{}</span> <span class="against">{}</span></h1><ul>{}</ul>'
        '<p class="next"><strong>Next:</strong> {}</p><p class="said muted">{}</p></section>'
    ).format(
        kind,
        word[1],
        word[0],
        clean(names[0]),
        names[1],
        Markup("").join(items),
        mark_up_code(find_next_command(status)),
        Markup(" · ").join(notes),
    )


def _show_broken(status: RolloutStatus) -> None:
    """Show a rollout whose plan this version cannot read: why, who drives it, and its events as they are stored."""
    rollout = status.rollout
    items = [Markup("<li>Its plan cannot be used: {}</li>").format(mark_up_code(status.problem))]
    if not status.has_ended:
        items.append(Markup("<li>{}</li>").format(mark_up_driver(status)))
    started = Markup("{} started {} by {}").format(rollout.id, mark_up_time(rollout.started_at), clean(rollout.person))
    notes = [started, link("promote", "requests", at="requests", release=rollout.release)]
    word = ("ENDED", "muted") if status.has_ended else ("NOT READABLE ?", "inconclusive")
    show(_write_banner("no_go", word, (rollout.release, ""), items, status, notes))
    events = [
        " ".join(filter(None, (event.kind.replace("_", " "), event.person, event.text))) for event in status.events
    ]
    show_list(Markup("<li>{}</li>").format(clean(text)) for text in events[: -MOST_EVENTS - 1 : -1])


def _add_realised(ladder: Sequence[Rung], status: RolloutStatus) -> list[Rung]:
    """Add to the stage that is observed the share that the router says, until requests of it are known."""
    plan, progress = status.plan, status.progress
    is_observed = (
        plan is not None
        and progress is not None
        and isinstance(plan.steps[min(progress.position(plan), len(plan.steps) - 1)], Observe)
    )
    shares = find_exposed(status) if is_observed and status.guard is not None else None
    return [
        replace(rung, realised=max(shares.values()))
        if shares and rung.state == "now" and rung.wanted is not None and rung.realised is None
        else rung
        for rung in ladder
    ]


def make_ladder(ladder: Sequence[Rung]) -> Markup:
    """Make the strip of the stages: what each showed, and the share of users it wanted and got."""
    return Markup('<ol class="ev-ladder" aria-label="stages">{}</ol><p class="reason">{}</p>').format(
        Markup("").join(_make_rung(rung) for rung in ladder), LADDER_NOTE
    )


def _make_rung(rung: Rung) -> Markup:
    """Make one stage of the strip."""
    shares = Markup('<p class="muted">no users</p>')
    if rung.wanted is not None:
        realised = "" if rung.realised is None else f"got {write_percent(rung.realised)}"
        shares = Markup(
            '<p><span class="bar" aria-hidden="true"><i class="got" style="width:{:.2f}%"></i>'
            '<i class="mark" style="left:{:.2f}%"></i></span>wanted {}{}<span class="{}">{}</span></p>'
        ).format(
            100 * (rung.realised or 0.0),
            100 * rung.wanted,
            write_percent(rung.wanted),
            ", " if realised else "",
            "fail" if differs(rung.wanted, rung.realised) else "",
            realised,
        )
    return Markup(
        '<li class="{}"{}><p class="state"><span aria-hidden="true">{}</span> {}</p><p class="name">{}</p>'
        '<p class="muted where">{}</p>{}<p>{}</p></li>'
    ).format(
        rung.state,
        Markup(' aria-current="step"') if rung.state == "now" else "",
        RUNG_MARKS[rung.state],
        RUNG_WORDS[rung.state],
        clean(rung.name),
        clean(rung.place),
        shares,
        clean(rung.note),
    )


def _show_guard(status: RolloutStatus) -> None:
    """Show what the guard sees; nothing if the rollout has none, or has ended."""
    lines = [line.strip() for line in describe_guard(status)]
    if not lines:
        return
    guard = status.guard
    st.header("Guard", anchor="guard")
    if guard is None:
        is_exposed = any((find_exposed(status) or {}).values())
        show_markup('<p class="{}">{}</p>', "status fail" if is_exposed else "warn", mark_up_code(lines[0]))
        return
    alarms = tuple(filter(None, (guard.drift, guard.why_back if guard.is_back else "")))
    show_list(
        Markup('<li class="{}">{}</li>').format(
            "fail" if any(alarm in line for alarm in alarms) else "", mark_up_code(line)
        )
        for line in lines
    )
    if guard.looked_at:
        looked = datetime.fromtimestamp(guard.looked_at).astimezone()
        show_markup('<p class="muted reason">It looked {}.</p>', write_age(looked, now()))


# ------------------------------------------------------------------ what has happened


def _show_past(status: RolloutStatus) -> None:
    """Show verdicts, requests of users, events, steps and rules; refreshes by itself until the rollout has ended."""
    rollout = status.rollout
    if status.plan is None:
        return

    @st.fragment(run_every=None if status.has_ended else 2 * REFRESH_S)
    @guarded
    def show_fragment() -> None:
        """Show it; called at each refresh."""
        workspace = find_workspace()
        report = make_report(_read_facts(workspace, rollout), now())
        _show_verdicts(workspace, report)
        _show_requests_of_users(report)
        _show_events(report)
        with st.expander("All steps", key="steps"):
            _show_steps(report)
        with st.expander("Rules", key="rules"):
            show_definitions(report.rules)

    show_fragment()


def _show_verdicts(workspace: Workspace, report: RolloutPage) -> None:
    """Show the newest verdict of each stage, with a link to its evidence."""
    st.header("Verdicts of the stages", anchor="verdicts")
    if not report.verdicts:
        show_empty("No stage was judged yet.", "A stage is judged while it is observed, and at its end.")
        return
    numbers: Mapping[tuple[datetime | None, str], int] = {
        (stored.judged_at, stored.word): number
        for number, stored in enumerate(read_decided_release(workspace, report.release).verdicts, start=1)
    }
    rows = []
    for step in report.verdicts:
        verdict = step.verdict
        number = numbers.get((verdict.judged_at, verdict.word.value))
        evidence = link("release", "evidence", release=report.release, verdict=number) if number else ""
        why = verdict.reasons[0].text if verdict.reasons else "–"
        rows.append(
            (
                step.step,
                Markup("{} {}").format(mark_up_verdict(verdict.word), evidence),
                why,
                mark_up_time(verdict.judged_at),
            )
        )
    show_table(("stage", "verdict", "why", "judged"), rows, caption="verdicts of the stages")


def _show_requests_of_users(report: RolloutPage) -> None:
    """Show how many requests of users each step had, and how many met the candidate; nothing without any."""
    if not report.exposures:
        return
    st.header("Who met the candidate", anchor="exposure")
    head = ("step", "requests of users", "wanted", "met the candidate", "of these failed", "failed on the baseline")
    show_table(head, (_list_exposure(row) for row in report.exposures), caption="who met the candidate")
    show_markup('<p class="reason">{}</p>', clean(report.exposure_note))


def _list_exposure(row: StepRequests) -> tuple[object, ...]:
    """List the cells of a row with the requests of users in one step."""
    css_class = "status fail" if row.requests and differs(row.wanted, row.share) else ""
    met = Markup('<span class="{}">{} ({})</span>').format(css_class, f"{row.candidate:,}", write_percent(row.share))
    failures = (f"{row.candidate_failures:,}", f"{row.baseline_failures:,}")
    return (row.step, f"{row.requests:,}", write_percent(row.wanted), met, *failures)


def _show_events(report: RolloutPage) -> None:
    """Show the newest events, the newest first."""
    st.header("What happened", anchor="events")
    show_table(
        ("at", "what", "step", "who", "reason"),
        (
            (
                mark_up_time(event.at, with_seconds=True),
                event.what,
                event.step,
                event.person,
                mark_up_code(event.text),
            )
            for event in report.happenings[: -MOST_EVENTS - 1 : -1]
        ),
        caption="events",
    )
    hidden = len(report.happenings) - MOST_EVENTS
    if hidden > 0:
        command = quote_command("rollout", "report", report.release)
        show_markup('<p class="reason">and {} earlier ones: {}</p>', hidden, mark_up_code(f"`{command}`"))


def _show_steps(report: RolloutPage) -> None:
    """Show each step of the plan with what became of it."""
    show_table(
        ("step", "state", "where", "users", "needs", "began", "took", "reason"),
        (
            (
                f"{step.number} {step.name}",
                Markup('<span class="status {}">{}</span>').format(step.level, step.state),
                step.where,
                step.share,
                step.needs,
                mark_up_time(step.began, with_seconds=True),
                step.took,
                Markup("<br>").join(mark_up_code(note) for note in step.notes),
            )
            for step in report.steps
        ),
        caption="all steps",
    )
