"""The acts, questions and rollback of a rollout, as intents: what a driver asks for is kept before it is done."""

from __future__ import annotations

from collections.abc import Callable

from evaluator.errors import OutcomeNotStored
from evaluator.intents import execute, name_worker, notify_people
from evaluator.intents.executing import LoadPolicy
from evaluator.intents.rollout_steps import (
    Wrap,
    describe_problems,
    execute_step,
    list_answers,
    reopen_step,
    request_rollback_of,
    request_step,
)
from evaluator.records.intents import Intent, IntentState
from evaluator.records.rollouts import Act, Rollout, RolloutPlan
from evaluator.rollout.collaborators import ActResult, StepAnswers
from evaluator.store import Store

LOCK_WAIT_S = 5.0
"""How long another process that executes an intent of the same services is waited for."""

_RESULTS = {
    IntentState.ACKNOWLEDGED: "done",
    IntentState.FAILED: "failed",
    IntentState.EXPIRED: "failed",
    IntentState.CANCELLED: "failed",
    IntentState.UNKNOWN: "unknown",
}
"""How an act has ended by the state of its intent; in any other state it has not."""


class IntentEffects:
    """The intents of one rollout."""

    def __init__(
        self,
        store: Store,
        rollout: Rollout,
        plan: RolloutPlan,
        *,
        load_policy: LoadPolicy,
        load_to_go_back: LoadPolicy,
        wrap: Wrap,
        say: Callable[[str], None],
    ) -> None:
        """`wrap`: makes the hook by which the guard sets the shares of a shift. The rest is as in `execute_step`."""
        self.store, self.rollout, self.plan = store, rollout, plan
        self.load_policy, self.load_to_go_back, self.wrap, self.say = load_policy, load_to_go_back, wrap, say

    def execute(self, position: int, *, again: bool) -> ActResult:
        """Execute the hooks of a step; `again`: also those that failed."""
        intent = request_step(self.store, self.rollout, self.plan, position)
        if again:
            intent = reopen_step(self.store, intent.id, name_worker())
        if intent.state in (IntentState.APPROVED, IntentState.SENT):
            intent = execute_step(
                self.store, self.load_policy, intent.id, name_worker(), wrap=self.wrap, wait_s=LOCK_WAIT_S
            )
        return self._to_result(intent)

    def read_result(self, position: int) -> ActResult:
        """Read how a step ended."""
        return self._to_result(request_step(self.store, self.rollout, self.plan, position))

    def _to_result(self, intent: Intent) -> ActResult:
        """Say how a step ended by its intent."""
        state = _RESULTS.get(intent.state, "waiting")
        text = describe_problems(self.store, intent)
        if state == "waiting" and not text:
            text = f"{intent.id} is {intent.state}"
        return ActResult(state, text)

    def ask(self, position: int, why: str) -> str:
        """Ask people about a step, and let the hooks of the policy notify them; returns the id of the request."""
        request = self._request(position, why)
        notify_people(self.store, self.load_policy, self.say)
        return request.id

    def read_answers(self, position: int) -> StepAnswers:
        """Read what people answered."""
        return StepAnswers(*list_answers(self.store, self._request(position, "it has not shown what it needs")))

    def _request(self, position: int, why: str) -> Intent:
        """Request what people agree to: an act itself, or that an observation ends without what it needs."""
        question = "" if isinstance(self.plan.steps[position], Act) else why
        return request_step(self.store, self.rollout, self.plan, position, question)

    def roll_back(self, why: str) -> ActResult:
        """Undo all acts by one rollback of the release, agreed to by who started the rollout."""
        person = self.rollout.person
        intent = request_rollback_of(self.store, self.load_to_go_back, self.rollout, person, why)
        try:
            intent = execute(
                self.store, self.load_policy, intent.id, name_worker(), wait_s=LOCK_WAIT_S,
                load_to_go_back=self.load_to_go_back,
            )  # fmt: skip
        except OutcomeNotStored as error:
            is_done = error.state == IntentState.ACKNOWLEDGED
            return ActResult("done" if is_done else "failed", f"{error.message}; {'; '.join(error.lines)}")
        return self._to_result(intent)
