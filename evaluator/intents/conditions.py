"""The conditions for a promotion, and which releases wait for a person."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from evaluator.intents.checking import CLOCK
from evaluator.intents.observing import hash_data_now, hash_policy_now
from evaluator.pipeline.runs import is_live, is_stale
from evaluator.policy import Policy
from evaluator.records import ReleaseSummary, Verdict, VerdictWord
from evaluator.records.intents import Action, Intent, IntentState
from evaluator.store import Store
from evaluator.wording import format_duration

NO_HOOKS = "add hooks to the policy, or promote it where it is deployed: docs/promotion.md"


@dataclass(frozen=True, slots=True)
class PromotionCondition:
    """One condition for a promotion: `text` describes it where it is met, `otherwise` where it is not."""

    text: str
    met: bool
    otherwise: str
    remedy: str = ""

    @property
    def description(self) -> str:
        """The one of the two texts that is true now."""
        return self.text if self.met else self.otherwise


def list_conditions(store: Store, policy: Policy, verdict: Verdict) -> tuple[PromotionCondition, ...]:
    """List the conditions for promoting a release now. `verdict`: its newest; `policy`: the one that applies now."""
    release = verdict.release.id
    with store.reading():
        runs = store.data.runs(release)
        judges = verdict.policy_hash == hash_policy_now(store, policy, release)
        same = bool(hash_data_now(store, release, verdict.data_hash))
    rejudge, complete = f"judge it again: `{policy.command(release)}`", not verdict.evidence.incomplete
    word, live, stale = verdict.word, is_live(runs), is_stale(runs, verdict.judged_at)
    now = datetime.now(UTC)
    age_s = (now - verdict.judged_at).total_seconds() if verdict.judged_at else math.inf
    max_age_s = policy.promotion.approvals.max_age
    within, young = (
        f"it was judged within the last {format_duration(max_age_s)}",
        -CLOCK.total_seconds() <= age_s <= max_age_s,
    )
    age = "it is not known when it was judged"
    if math.isfinite(age_s):
        age = f"it was judged {format_duration(round(age_s))} ago"
    if age_s < 0:
        age = f"it was judged {format_duration(round(-age_s))} from now: the clock was set back"
    hooks = bool(policy.promotion.hooks.get(Action.PROMOTE))
    verdict_text = f"the verdict is {word.value.replace('_', '-').upper()}"
    return (
        PromotionCondition("the verdict is GO", word is VerdictWord.GO, verdict_text, verdict.next_action),
        PromotionCondition("nothing landed after the verdict", not stale, "data landed after the verdict", rejudge),
        PromotionCondition(
            "no run is being recorded", not live, "a run is still being recorded", "wait, then judge again"
        ),
        PromotionCondition(
            "the policy is the one that judged", judges, "the policy is not the one that judged", rejudge
        ),
        PromotionCondition("every run was complete", complete, "a run ended early", "load it again"),
        PromotionCondition(
            "its data have not changed since the verdict",
            same,
            "its data have changed, or there are newer data",
            rejudge,
        ),
        PromotionCondition(within, young, age, rejudge),
        PromotionCondition(
            "the policy names hooks that promote", hooks, "the policy names no hooks that promote", NO_HOOKS
        ),
    )


@dataclass(frozen=True, slots=True)
class Waiting:
    """A release that waits for a person: why, and the command that helps, where there is one."""

    release: str
    why: str
    command: str = ""
    promotable: bool = False


_ASKS: Mapping[str | None, str] = {
    None: "has data and was not judged yet",
    VerdictWord.INCONCLUSIVE: "is not decided: see what is missing",
    VerdictWord.NO_GO: "must not be promoted: see what became worse",
    VerdictWord.GO: "is safe to promote",
}


def find_waiting(
    summaries: Sequence[ReleaseSummary], intents: Sequence[Intent], command: Callable[[str], str]
) -> tuple[Waiting, ...]:
    """Find the newest release of each service, unless an action was done on it since its latest verdict.

    `command` returns the command that judges a release.
    """
    judged = {summary.release.id: summary.judged_at for summary in summaries if summary.judged_at}
    settled = {
        intent.release
        for intent in intents
        if intent.state is IntentState.ACKNOWLEDGED
        and intent.release in judged
        and intent.requested_at >= judged[intent.release]
    }
    newest: dict[object, ReleaseSummary] = {}
    for summary in summaries:
        services = frozenset(service.name for service in summary.release.services)
        newest.setdefault(services or summary.release.id, summary)
    waiting = []
    for summary in newest.values():
        if summary.release.id in settled or not (summary.rows or summary.verdict):
            continue
        newer = summary.verdict and summary.last_run and summary.judged_at and summary.last_run > summary.judged_at
        word = None if newer or not summary.verdict else VerdictWord(summary.verdict)
        why = "has newer data than its verdict" if newer else _ASKS[word]
        judge = command(summary.release.id) if word in (None, VerdictWord.INCONCLUSIVE) else ""
        waiting.append(Waiting(summary.release.id, why, judge, promotable=word is VerdictWord.GO))
    return tuple(waiting)
