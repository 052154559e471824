"""What the driver of a rollout works with. Each part is passed to it, so that a test can script what happens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from evaluator.records.rollouts import Event, JudgedAt, Observe


class TrafficStatus(Protocol):
    """How the guard says that traffic is shared; `evaluator.guard.setup.GuardStatus` has these attributes."""

    @property
    def is_exposed(self) -> bool:
        """Do users meet the candidate?"""

    @property
    def wanted(self) -> Mapping[str, Mapping[str, float]]:
        """Service → arm → the share that it was given."""

    @property
    def realised(self) -> Mapping[str, Mapping[str, float]]:
        """Service → arm → the share that its router reports."""

    @property
    def is_back(self) -> bool:
        """Does it go back, or did it? Then no share is given to the candidate any more."""

    @property
    def why_back(self) -> str:
        """Why it goes back: a part of a sentence."""

    @property
    def by(self) -> str:
        """Who let it go back: `guard`, `driver`, `lease`, or a person."""

    @property
    def is_returned(self) -> bool:
        """Have all routers said, when they were read back, that all traffic is at the baseline?"""

    @property
    def kept(self) -> str:
        """Why users stay at new instances until these are restored; empty: they return, or that is tried again."""

    @property
    def counted(self) -> str:
        """What routers have counted of the candidates' requests: a part of a sentence; empty if they do not say."""

    @property
    def drift(self) -> str:
        """How the realised shares differ from those that were given; empty if they do not."""


class TrafficControl(Protocol):
    """The guard, which alone sets shares while users are exposed. Raises EvaluatorError where it cannot."""

    def open(self) -> TrafficStatus:
        """Let the guard watch this rollout, or go on with it."""

    def renew(self) -> TrafficStatus:
        """Say that the driver is there; without that, the guard returns the traffic after the lease."""

    def back(self, why: str, by: str) -> TrafficStatus:
        """Return all traffic to the baseline."""

    def explain_not_returned(self) -> str:
        """Say which routers do not give all traffic to the baseline; empty if all do. Changes nothing."""

    def close(self, *, promoted: bool) -> None:
        """End the watch for good: shares stay as they are. `promoted`: it is refused if the traffic went back."""


@dataclass(frozen=True, slots=True)
class ActResult:
    """How an act, or an undo, ended."""

    state: str
    """`done`, `failed`, `unknown`, or `waiting` (it cannot be executed yet)."""
    text: str = ""
    person: str = ""
    """Who said how it ended, if a person did."""


@dataclass(frozen=True, slots=True)
class StepAnswers:
    """What people answered to a question about a step."""

    agreed: tuple[str, ...] = ()
    declined_by: str = ""


class Effects(Protocol):
    """The intents of a rollout: acts, questions, and the rollback."""

    def execute(self, position: int, *, again: bool) -> ActResult:
        """Execute the hooks of a step with its key: those that were acknowledged are not executed again.

        `again`: execute those again that failed; otherwise a step that failed stays so.
        """

    def read_result(self, position: int) -> ActResult:
        """Read how a step ended whose outcome was not known: a person may have said it meanwhile."""

    def ask(self, position: int, why: str) -> str:
        """Ask people about a step; asking twice is one question. Returns the id by which they answer."""

    def read_answers(self, position: int) -> StepAnswers:
        """Read what people answered."""

    def roll_back(self, why: str) -> ActResult:
        """Undo all acts that may have been executed, the newest first."""


class StepFindings(Protocol):
    """What `judge_step` returns."""

    @property
    def word(self) -> str:
        """The verdict: go, no_go or inconclusive."""

    @property
    def no_harm(self) -> bool:
        """Was no harm shown?"""

    @property
    def missing(self) -> tuple[str, ...]:
        """Sentences: what is missing."""

    @property
    def data_hash(self) -> str:
        """Hash of the data."""

    @property
    def note(self) -> str:
        """A sentence on all services together; empty: they are not judged together."""

    @property
    def arm(self) -> str:
        """The arm that won; empty: none has."""

    @property
    def is_sound(self) -> bool:
        """Where an arm is to win: can the data be believed?"""


class StepJudge(Protocol):
    """The verdicts of the steps."""

    def judge(self, position: int, look: JudgedAt) -> StepFindings:
        """Judge a step on the data until now."""

    def find_no_go(self, since: float) -> str:
        """Say which verdict is NO-GO since a time (s since 1970), and since the rollout began; empty if none is."""


class Observing(Protocol):
    """Where the data of a step come from: the access logs that are followed, or a load."""

    def follow(self) -> None:
        """Follow the logs of the routers, because users are exposed. Called again, it changes nothing."""

    def ensure(self, position: int, step: Observe, begun_at: float) -> None:
        """Let the data of a step be recorded that was begun at a time. Called again, it changes nothing.

        Raises EvaluatorError if that is not possible.
        """

    def is_closed(self, position: int, step: Observe, look: JudgedAt, begun_at: float) -> bool:
        """Are all data of a look at a step recorded?"""

    def explain_failure(self, position: int, step: Observe) -> str:
        """Say why a step cannot be observed any more; empty if it can."""

    def find_problem(self) -> str:
        """Say why the data of users are not read; empty if they are."""

    def count_lines(self) -> Mapping[str, int]:
        """Count the lines of each service's log that were read, by the name of the service."""

    def end(self) -> None:
        """End what is recorded, in order."""


class Clock(Protocol):
    """The time."""

    def now(self) -> float:
        """Seconds since 1970 (UTC)."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    def wait(self, seconds: float) -> None:
        """Wait, or less if the driver is to end."""


class EventStore(Protocol):
    """The events of a rollout, and whether it is what was started. Raises StoreError, OSError."""

    def read(self) -> tuple[Event, ...]:
        """Read all events, the oldest first."""

    def add(self, event: Event) -> None:
        """Add an event; it is on the disk when this returns."""

    def find_change(self) -> str:
        """Say what of the plan and the decisions is not what was written; empty if all is."""


class ProgressReport(Protocol):
    """What is shown while a rollout goes on."""

    def say(self, text: str) -> None:
        """Show a sentence about what has happened."""

    def show(self, text: str) -> None:
        """Show how it stands now, in place of what was shown last."""


class PendingCall(Protocol):
    """A call that was started."""

    def has_ended(self, wait_s: float) -> bool:
        """Wait, and say whether the call has ended."""

    def result(self) -> Any:
        """Return the result, or raise the error of the call."""


@dataclass(frozen=True, slots=True)
class Collaborators:
    """All that a driver works with."""

    events: EventStore
    traffic: TrafficControl
    effects: Effects
    judge: StepJudge
    observing: Observing
    clock: Clock
    report: ProgressReport
    start_call: Callable[[Callable[[], Any]], PendingCall]
    """Starts a call that the driver need not wait for: it goes on renewing the lease meanwhile."""


class ThreadCall:
    """A call that is made in a thread while the driver goes on."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call
        self._result: Any = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._make, daemon=True)
        self._thread.start()

    def _make(self) -> None:
        """Make the call."""
        try:
            self._result = self._call()
        except BaseException as error:  # noqa: BLE001 - raised where the result is taken
            self._error = error

    def has_ended(self, wait_s: float) -> bool:
        """Wait, and say whether the call has ended."""
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def result(self) -> Any:
        """Return the result, or raise the error of the call."""
        if self._error is not None:
            raise self._error
        return self._result


class SystemClock:
    """The clock of this machine. `stop`: when it is set, waiting ends."""

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop

    def now(self) -> float:
        """Seconds since 1970 (UTC)."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()

    def wait(self, seconds: float) -> None:
        """Wait, or less if the driver is to end."""
        self.stop.wait(seconds)
