"""Judge a load while it runs, and tell it to stop when NO-GO is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Event, Thread

from evaluator.errors import EvaluatorError
from evaluator.pipeline.base import Say, lower_priority
from evaluator.pipeline.watching import Signature, StoredSubject, Watch
from evaluator.policy import Policy
from evaluator.records import Comparison, Role, Run, Verdict, VerdictWord
from evaluator.store import Store
from evaluator.wording import format_duration

__all__ = ["StopRule", "judging_meanwhile"]

SPENDING_POWER = 1.5
"""As the calendar spends on NO-GO: `share of the data ** 1.5` of the false-alarm rate."""


@dataclass(frozen=True, slots=True)
class StopRule:
    """When a load of one run, or of `replicates`, is stopped: when its first run is NO-GO by `policy`.

    Of several runs the first is but a part of the data, so it may spend only that part's share of the false-alarm rate.
    """

    policy: Policy
    replicates: int = 1

    @property
    def level(self) -> float:
        """False-alarm rate of stopping early."""
        return float(self.policy.rulebook.alpha * self.replicates**-SPENDING_POWER)

    def why_stop(self, verdict: Verdict) -> str:
        """Say why a load is to be stopped; empty where it is not."""
        broken = [c for c in verdict.evidence.comparisons if c.rule.role is Role.GATE and _p_value(c) < self.level]
        if verdict.word is not VerdictWord.NO_GO or not broken:
            return ""
        after = verdict.time_to_decision_s or verdict.evidence.window.seconds
        return f"NO-GO was shown after {format_duration(after)}: {verdict.reasons[0].text}"

    def judge_run(self, store: Store, run: Run) -> str:
        """Say why a series is to be stopped after its first run; empty where it is not, or is no series."""
        if self.replicates == 1 or run.replicate:
            return ""
        return self.why_stop(_OneRun(_subject(store, run, self.policy), self).judge())


def _p_value(comparison: Comparison) -> float:
    return 1.0 if comparison.p_value_adjusted is None else comparison.p_value_adjusted


def _subject(store: Store, run: Run, policy: Policy) -> StoredSubject:
    return StoredSubject(lambda: store, store.path, run.release, policy, run.id)


@dataclass(frozen=True, slots=True)
class _OneRun:
    """The run that is under way, judged as strictly as the rule says."""

    stored: StoredSubject
    rule: StopRule

    def signature(self) -> Signature:
        return self.stored.signature()

    def land(self) -> tuple[Run, ...]:
        return self.stored.land()

    def peek(self) -> tuple[Run, ...]:
        return self.stored.peek()

    def series_open(self, runs: Sequence[Run]) -> bool:
        del runs
        return False

    def judge(self) -> Verdict:
        verdict = self.stored.judge()
        if verdict.word is VerdictWord.NO_GO and not self.rule.why_stop(verdict):
            return replace(verdict, word=VerdictWord.INCONCLUSIVE)
        return verdict

    def judge_nothing(self) -> Verdict:
        return self.stored.judge_nothing()


@contextmanager
def judging_meanwhile(store: Store, run: Run, rule: StopRule | None, say: Say) -> Iterator[Callable[[], str]]:
    """Judge `run` while the block lasts; yields what tells why it is to be stopped, empty as long as it is not."""
    if rule is None or run.replicate:
        yield lambda: ""
        return
    over, why = Event(), [""]
    judge = Thread(target=_watch, args=(store, run, rule, over, why, say), daemon=True)
    judge.start()
    try:
        yield lambda: why[0]
    finally:
        over.set()
        judge.join()


def _watch(store: Store, run: Run, rule: StopRule, over: Event, why: list[str], say: Say) -> None:
    lower_priority()
    subject = _OneRun(_subject(store, run, rule.policy), rule)
    watch = Watch(subject, rule.policy, time.monotonic, over.wait, stop=over.is_set)
    try:
        verdict = watch.run()
    except (EvaluatorError, OSError) as error:
        say(f"the load goes on, but is no longer judged meanwhile: {error}")
        return
    if verdict is not None:
        why[0] = rule.why_stop(verdict)
