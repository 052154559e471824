"""The life of a release in words: its state, and what a person does next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from evaluator.records import VerdictWord
from evaluator.records.life import Life, LifeState
from evaluator.wording import format_number, quote_command


def write_moment(moment: datetime) -> str:
    """Write a moment for a text that stays: `at 2026-11-30 07:06 UTC`."""
    return f"at {moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def name_state(life: Life) -> str:
    """Name the state of a release with its mark, for a list: `● live`, `→ 25 % of users`."""
    text = str(life.state)
    if life.state is LifeState.ROLLING_OUT and life.shares:
        text = f"{format_number(100 * max(life.shares.values()))} % of users"
    if life.state in (LifeState.REQUESTED, LifeState.APPROVED, LifeState.EXECUTING):
        text = f"{life.what.removesuffix(' requested')} {text}"
    return f"{life.state.mark} {text}"


def describe_life(life: Life, write_time: Callable[[datetime], str] = write_moment) -> str:
    """Describe the life of a release in one sentence: `rolled back 15 min ago by root: prices shown twice`.

    `write_time` writes a moment as it stands in that sentence.
    """
    time = f" {write_time(life.at)}" if life.at is not None else ""
    by = f" by {life.by}" if life.by else ""
    sentence = f"{life.what}{time}{by}" + (f": {life.why}" if life.why else "")
    if life.state is LifeState.LIVE:
        sentence = f"live: {sentence}"
    return "; ".join((sentence, *life.notes))


def choose_next(life: Life, word: VerdictWord, next_action: str, judge_command: str) -> str:
    """Choose what to do next with a release: what its life asks for, else what its newest verdict says.

    `next_action`: that of the verdict. `judge_command` judges the release again.
    """
    roll_back = f"`{quote_command('rollback', life.release, '--reason', 'WHY')}`"
    log = f"`{quote_command('hooks', 'log', life.release)}`"
    again = f"`{judge_command}`"
    if life.state in (LifeState.HELD, LifeState.ROLLED_BACK) and life.judged_since:
        return next_action
    if life.state is LifeState.LIVE and word is VerdictWord.NO_GO:
        return f"it is live and its newest verdict is NO-GO: take it back, {roll_back}"
    texts: Mapping[LifeState, str] = {
        LifeState.REQUESTED: f"another person has to agree: `{quote_command('approve', life.intent)}`",
        LifeState.APPROVED: "nothing: the app or `evaluator hooks worker` executes it",
        LifeState.EXECUTING: f"wait until it is executed; {log} shows its hooks",
        LifeState.ROLLING_OUT: f"see how far it is: `{quote_command('rollout', 'status', life.release)}`",
        LifeState.GOING_BACK: f"nothing: it goes back by itself; `{quote_command('rollout', 'status', life.release)}`",
        LifeState.LIVE: f"nothing: it is live; {roll_back} would take it back",
        LifeState.REPLACED: f"nothing: {life.replaced_by} is live in its place",
        LifeState.HELD: f"when the cause of the hold is gone, judge it again: {again}; then it can be promoted",
        LifeState.ROLLED_BACK: "find and fix the cause, and load a new candidate; "
        f"to promote this one all the same, judge it again first: {again}",
        LifeState.FAILED: f"see what was executed: {log}; then request it again",
        LifeState.UNKNOWN: f"check what was changed: {log}; then record it with `evaluator hooks resolve`",
    }
    return texts.get(life.state, next_action)
