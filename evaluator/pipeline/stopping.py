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
        return spent_by_first(self.policy.rulebook.alpha, self.replicates)

    def why_stop(self, verdict: Verdict) -> str:
        """Return why a load is to be stopped; empty if it is not."""
        gates = [row for row in verdict.evidence.comparisons if row.rule.role is Role.GATE]
        shown = any(row.p_value_adjusted is not None and row.p_value_adjusted < self.level for row in gates)
        if verdict.word is not VerdictWord.NO_GO or not shown:
            return ""
        after = verdict.time_to_decision_s or verdict.evidence.window.seconds
        return f"NO-GO was shown after {format_duration(after)}: {verdict.reasons[0].text}"

    def subject(self, store: Store, run: Run) -> StoredSubject:
        """The run to watch: it is NO-GO only if this rule stops it."""
        return _FirstRun(lambda: store, store.path, run.release, self.policy, run.id, rule=self)

    def judge_run(self, store: Store, run: Run) -> str:
        """Return why a series is to be stopped after its first run; empty if it is not, or for a single run."""
        if self.replicates == 1 or run.replicate:
            return ""
        return self.why_stop(self.subject(store, run).judge())


@dataclass(frozen=True, slots=True)
class _FirstRun(StoredSubject):
    """The first run of a series, or the only run: judged without the others, and NO-GO only if it stops the load."""

    rule: StopRule = field(kw_only=True)

    def series_open(self, runs: Sequence[Run]) -> bool:
        del runs
        return False

    def judge(self) -> Verdict:
        verdict = StoredSubject.judge(self)
        if verdict.word is VerdictWord.NO_GO and not self.rule.why_stop(verdict):
            return replace(verdict, word=VerdictWord.INCONCLUSIVE)
        return verdict


@contextmanager
def judging_meanwhile(store: Store, run: Run, rule: StopRule | None, say: Say) -> Iterator[Callable[[], str]]:
    """Judge `run` while the block runs; yields a function that returns why to stop it, empty until then."""
    if rule is None or run.replicate:
        yield lambda: ""
        return
    over, why = Event(), [""]
    watch = Watch(rule.subject(store, run), rule.policy, time.monotonic, over.wait, stop=over.is_set)

    def judge() -> None:
        lower_priority()
        try:
            verdict = watch.run()
        except (EvaluatorError, OSError) as error:
            say(f"the load continues, but is no longer judged while it runs: {error}")
        else:
            why[0] = rule.why_stop(verdict) if verdict else ""

    thread = Thread(target=judge, daemon=True)
    thread.start()
    try:
        yield lambda: why[0]
    finally:
        over.set()
        thread.join()
