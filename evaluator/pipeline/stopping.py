"""Judge a load while it runs, and stop it when NO-GO is shown."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from threading import Event, Thread

from evaluator.errors import EvaluatorError
from evaluator.pipeline.base import Say, lower_priority
from evaluator.pipeline.watching import StoredSubject, Watch
from evaluator.policy import Policy
from evaluator.records import Role, Run, Verdict, VerdictWord
from evaluator.stats.inference.sequential import spent_by_first
from evaluator.store import Store
from evaluator.wording import format_duration


@dataclass(frozen=True, slots=True)
class StopRule:
    """When a load of one run, or of `replicates`, is stopped: when its first run is NO-GO by `policy`.

    The first of several runs is only a part of the data, so it may spend only its share of the false-alarm rate.
    """

    policy: Policy
    replicates: int = 1

    @property
    def level(self) -> float:
        """False-alarm rate that stopping early may spend."""
        return spent_by_first(self.policy.rulebook.no_go_level, self.replicates)

    def why_stop(self, verdict: Verdict) -> str:
        """Return why a load is to be stopped after this verdict on its first run; empty if it is not.

        The verdict has to be NO-GO, and a gate has to be worse at `level`, which is below alpha if several runs are
        planned.
        """
        gates = [comparison for comparison in verdict.evidence.comparisons if comparison.rule.role is Role.GATE]
        p_values = [gate.p_value_adjusted for gate in gates if gate.p_value_adjusted is not None]
        if verdict.word is not VerdictWord.NO_GO or not any(p_value < self.level for p_value in p_values):
            return ""
        # Without a time of decision, the load is known only to have run for the whole judged time.
        shown_after_s = verdict.time_to_decision_s or verdict.evidence.window.seconds
        return f"NO-GO was shown after {format_duration(shown_after_s)}: {verdict.reasons[0].text}"

    def subject(self, store: Store, run: Run) -> StoredSubject:
        """Return what a `Watch` waits for: the verdict on this run, which is NO-GO only if this rule stops the load."""
        return _FirstRun(lambda: store, store.path, run.release, self.policy, run.id, rule=self)

    def judge_run(self, store: Store, run: Run) -> str:
        """Judge a run that has ended. Returns why no further replicate is to follow; empty if replicates may follow.

        Only the first of several runs is judged.
        """
        if self.replicates == 1 or run.replicate:
            return ""
        return self.why_stop(self.subject(store, run).judge())


@dataclass(frozen=True, slots=True)
class _FirstRun(StoredSubject):
    """The first run of a series, or the only run: judged without the others, and NO-GO only if it stops the load."""

    rule: StopRule = field(kw_only=True)

    def series_open(self, runs: Sequence[Run]) -> bool:
        """Return that no replicates are to come: this run is judged without them."""
        del runs
        return False

    def judge(self) -> Verdict:
        """Judge the run; a NO-GO that does not stop the load is INCONCLUSIVE, so that the load goes on."""
        verdict = StoredSubject.judge(self)
        if verdict.word is VerdictWord.NO_GO and not self.rule.why_stop(verdict):
            return replace(verdict, word=VerdictWord.INCONCLUSIVE)
        return verdict


@contextmanager
def judging_meanwhile(store: Store, run: Run, rule: StopRule | None, say: Say) -> Iterator[Callable[[], str]]:
    """While the block runs, judge `run` again and again in a thread.

    Yields a function that returns why the load is to be stopped; empty as long as it is not. Only the first replicate
    is judged, and none without a rule.
    """
    if rule is None or run.replicate:
        yield lambda: ""
        return
    block_ended = Event()
    why_stop = ""
    # The watch sleeps by waiting for the end of the block, so that the end interrupts its sleep.
    watch = Watch(rule.subject(store, run), rule.policy, time.monotonic, block_ended.wait, stop=block_ended.is_set)

    def judge() -> None:
        """Judge until there is a verdict or the block ends; an error ends only the judging, not the load."""
        nonlocal why_stop
        lower_priority()
        try:
            verdict = watch.run()
        except (EvaluatorError, OSError) as error:
            say(f"the load continues, but is no longer judged while it runs: {error}")
        else:
            why_stop = rule.why_stop(verdict) if verdict else ""

    thread = Thread(target=judge, daemon=True)
    thread.start()
    try:
        yield lambda: why_stop
    finally:
        block_ended.set()
        thread.join()
