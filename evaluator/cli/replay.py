"""`evaluator replay`: which stored verdicts would change under another policy, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import click

from evaluator.cli import Session, emit
from evaluator.cli.terminal import make_page
from evaluator.pipeline.replaying import Replayed, replay_releases
from evaluator.policy.selection import list_policies, path_to_name
from evaluator.records import VerdictWord
from evaluator.reports import VERDICT_WORDS, Page
from evaluator.reports.base import align_columns, write_line
from evaluator.wording import write_command

HEAD = ("release", "was", "would be")


@click.command("replay")
@click.argument("releases", metavar="[RELEASE…]", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@click.pass_obj
def command(session: Session, releases: tuple[str, ...], as_json: bool) -> None:
    """Judge stored releases again under the current policy: which verdicts would change, and why.

    Without RELEASE: all releases that have a verdict. Each is judged on the runs of its latest verdict; the new verdict
    is not stored. Give another policy with --policy. The exit code is 0, also if verdicts would change.
    """
    path = session.find_policy()
    list_policies(path)  # reports a mistake in a policy before anything is judged
    replayed = replay_releases(
        session.open_store(), releases, session.load_policy, now=datetime.now(UTC), say=session.say
    )
    if as_json:
        keys = ("release", "old", "new", "changed", "why", "old_why", "same_data")
        emit(json.dumps([{key: getattr(row, key) for key in keys} for row in replayed], indent=2))
    elif replayed:
        emit("\n".join(_write_table(replayed, str(path or "the built-in policy"), make_page())))
    else:
        session.say(f"no release was judged yet; `{write_command('RELEASE', policy=path_to_name(path))}` judges one")


def _write_table(replayed: Sequence[Replayed], origin: str, page: Page) -> Iterator[str]:
    """Write the old and the new verdict of each release, then the reasons of those that change.

    `origin`: the name of the new policy.
    """
    changed = [row for row in replayed if row.changed]
    yield write_line(f"{len(changed)} of {len(replayed)} verdicts would change under {origin}", page)
    yield ""
    rows = [(row.release, _write_word(row.old), _write_word(row.new)) for row in replayed]
    yield from align_columns([HEAD, *rows], page)
    for row in changed:
        yield ""
        yield write_line(f"  {row.release}: {row.why}", page)
        if row.old_why:
            yield write_line(f"    before: {row.old_why}", page)
    for row in replayed:
        if not row.same_data:
            yield write_line(
                f"  {row.release}: the data of its verdict have changed or are gone; its newest runs were judged", page
            )


def _write_word(word: VerdictWord | None) -> str:
    return VERDICT_WORDS[word] if word else "–"
