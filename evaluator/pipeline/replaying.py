"""Judge stored releases again under another policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from evaluator.errors import UsageError
from evaluator.pipeline.base import Say, say_nothing
from evaluator.pipeline.judging import judge_release
from evaluator.pipeline.runs import find_judged
from evaluator.policy import Policy
from evaluator.records import VerdictWord
from evaluator.reports import read_stored
from evaluator.store import Store


@dataclass(frozen=True, slots=True)
class Replayed:
    """A stored release under another policy. `old` is `None` if it was never judged, `new` if it cannot be judged."""

    release: str
    old: VerdictWord | None
    new: VerdictWord | None
    why: str
    """The first reason of the new verdict, or why there is none."""
    old_why: str = ""
    same_data: bool = True
    """False if the data of the old verdict have changed or are gone."""

    @property
    def changed(self) -> bool:
        """Does the new verdict differ from the old one?"""
        return self.old is not self.new


def replay_releases(
    store: Store, release_ids: Sequence[str], load: Callable[[str], Policy], *, now: datetime, say: Say = say_nothing
) -> tuple[Replayed, ...]:
    """Judge stored releases again, on the runs of their latest verdict; the new verdicts are not stored.

    Without `release_ids`: every release that has a verdict. `load` returns the policy for the name of a release. A
    release that this policy cannot judge has no new verdict. Raises UnknownName for an unknown release.
    """
    replayed = []
    for name in release_ids or [summary.release.id for summary in store.releases() if summary.verdict]:
        say(f"judging {name}")
        stored_verdicts = store.control.verdicts(name)
        old = read_stored(stored_verdicts[-1]) if stored_verdicts else None
        # `None`: the data of the old verdict have changed or are gone. Then the newest runs are judged.
        judged_runs = find_judged(store, name, old.data_hash) if old else ("latest", "")
        selection, step = judged_runs or ("latest", "")
        new_word: VerdictWord | None
        try:
            new = judge_release(store, name, load(name), runs=selection, step=step, judged_at=now, save=False)
        except UsageError as error:
            new_word, new_why = None, error.message
        else:
            new_word, new_why = new.word, new.reasons[0].text
        replayed.append(
            Replayed(
                release=name,
                old=old.word if old else None,
                new=new_word,
                why=new_why,
                old_why=old.reasons[0].text if old and old.reasons else "",
                same_data=judged_runs is not None,
            )
        )
    return tuple(replayed)
