"""A router shares requests between arms. Give it shares, and it says which ones it has then.

```
arms()                  the arms that it knows
read_shares()           arm → share of the requests that it gets now, as the router reports it
set_shares(shares)      give each arm its share; returns what was realised, as read back afterwards
```

A hook of the policy is the special case of one call: in a promotion the candidate gets all (or what the option
`shares` says), and undo restores what was there before.

A router of your own has `arms`, `_read_state`, `_apply`, `_describe_router` and `_test_router`; its state is then
arm → share. If it has servers with weights instead, it also has `_plan` and `_to_shares` (`ServerRouter`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, cast

from pydantic import AfterValidator, Field

from evaluator.errors import EvaluatorError, HookError
from evaluator.fields import Name, Share
from evaluator.hooks.base import Action, BaseHook, HookContext, Json, O, Outcome, choose_class, make_hook
from evaluator.hooks.network import MaybeSent
from evaluator.hooks.weights import moves_back, sum_shares
from evaluator.quantities import parse_share
from evaluator.records import BASELINE, CANDIDATE

MOST_DIFFERENCE = 0.01
"""A share that differs from the requested one by more than a point is explained, or is not as requested."""
_NOISE = 1e-6
"""Sums of shares differ by this much from 1 without being wrong: 0.1 + 0.2 + 0.7 is not exactly 1."""

ArmName = Name


def check_sum(shares: dict[str, float]) -> dict[str, float]:
    """Return shares that add up to 1. Raises ValueError."""
    total = math.fsum(shares.values())
    if abs(total - 1) > _NOISE:
        raise ValueError(f"must add up to 100%, not {100 * total:g}%; an arm that is not named gets nothing")
    return shares


Shares = Annotated[dict[ArmName, Share], AfterValidator(check_sum)]
ARMS = Field(
    default_factory=lambda: [BASELINE, CANDIDATE],
    description="With set and get: the arms that it shares requests between; by default baseline and canary.",
)
"""The option `arms` of routers that name no servers."""
SHARES = Field(
    None,
    description="Arm to its share, such as {baseline: 95%, canary: 5%}; by default all for canary, "
    "and in a rollback or a hold all for baseline.",
)
"""The option `shares` of each router."""


def check_servers(servers: Mapping[str, Sequence[str]], shares: Mapping[str, float] | None) -> None:
    """Check the names of arms, servers and shares of a router's options. Raises ValueError."""
    names = [name for of_arm in servers.values() for name in of_arm]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"has {', '.join(twice)} more than once: a server belongs to one arm")
    if len(servers) < 2:
        raise ValueError("needs the servers of two arms or more, such as {baseline: [b1, b2], canary: [c1]}")
    check_arms(list(servers), shares)


def check_arms(arms: Sequence[str], shares: Mapping[str, float] | None) -> None:
    """Check the arms of a router that names no servers, and the shares of its options. Raises ValueError."""
    if len(set(arms)) < 2 or len(set(arms)) < len(arms):
        raise ValueError("needs two arms or more, each once, such as arms: [baseline, canary]")
    if unknown := sorted(set(shares or ()) - set(arms)):
        raise ValueError(f"has shares for {', '.join(unknown)}, which is none of its arms: {', '.join(arms)}")


@dataclass(frozen=True, slots=True)
class Applied:
    """How a router was brought into a state."""

    missing: tuple[str, ...] = ()
    """What could not be done on the way back, where as much is set as possible; empty: all was."""
    notes: tuple[str, ...] = ()
    """What was done in addition, or in another way."""
    state: Json = None
    """The state that was set instead, where the router cannot take the requested one; `notes` say why."""


@dataclass(frozen=True, slots=True)
class Realised:
    """How a router shares requests, as read from it."""

    shares: Mapping[str, float]
    """Arm → share of all requests of the router. They add up to 1, unless `notes` say who gets the others.

    Empty after going back to a state of which no shares can be given, as `notes` say.
    """
    notes: tuple[str, ...] = ()
    """Why a share is not as requested, and what the shares do not decide."""
    missing: tuple[str, ...] = ()
    """What could not be done on the way back, where as much is set as possible; empty: all was."""
    earlier: Json = None
    """The state before, as `undo` restores it."""


class Router(BaseHook[O]):
    """A hook that shares requests between arms.

    Its state is what `_read_state` returns and `_apply` brings about: plain JSON, which undo restores. By default it is
    arm → share.
    """

    # -------------------------------------------------------------- what each router has

    def arms(self) -> tuple[str, ...]:
        """Return the names of the arms, in the order of the options. Each router has its own."""
        raise NotImplementedError

    def _list_requested(self) -> Mapping[str, float] | None:
        """Return the shares of the options: arm → share; None: the options have none. Each router has its own."""
        raise NotImplementedError

    def _describe_router(self, words: Mapping[str, str]) -> str:
        """Name the router for people, such as `HAProxy's backend shop`. Each router has its own."""
        raise NotImplementedError

    def _test_router(self) -> list[str]:
        """Check what setting shares needs, without changing anything; return what was found, as sentences.

        Raises HookError.
        """
        raise NotImplementedError

    def _read_state(self, words: Mapping[str, str]) -> Json:
        """Read the state. `words`: values of the words of its templates; empty in a test. Raises HookError."""
        raise NotImplementedError

    def _apply(self, state: Json, words: Mapping[str, str], *, back: bool) -> Applied:
        """Bring the router into a state, and check that it is. Each router has its own.

        Raises HookError if all is as before, and MaybeSent if that is not known. If `back`, nothing is refused because
        a server cannot serve: servers are enabled, as much is set as possible, and what is missing is returned.
        `_confirm` reads the shares afterwards.
        """
        raise NotImplementedError

    def _plan(self, shares: Mapping[str, float], words: Mapping[str, str], *, back: bool) -> Json:  # noqa: ARG002
        """Return the state in which each arm has its share. `shares`: of all arms.

        Raises HookError if an arm that is to get requests cannot serve any, unless `back`.
        """
        return dict(shares)

    def _to_shares(self, state: Json) -> dict[str, float]:
        """Return arm → share in a state."""
        return {arm: float(state[arm]) for arm in self.arms()}

    def _check_state(self, state: Json) -> Json:
        """Return a stored state, after checking its form. Raises HookError."""
        try:
            return dict(self._to_shares(state))
        except (KeyError, TypeError, ValueError):
            raise HookError("there are no earlier shares to restore") from None

    def _measure(self, words: Mapping[str, str]) -> Realised:
        """Read how requests are shared now, also where that differs from the state: for servers that are down."""
        return Realised(self._to_shares(self._read_state(words)))

    def _check_servers(self, shares: Mapping[str, float]) -> None:
        """Raise HookError if a hook should not give these shares, where some servers of an arm cannot serve."""

    def _explain_down(self, arm: str) -> str | None:  # noqa: ARG002 - as those that know
        """Say why no server of an arm can serve; empty if one is known to be up, None if that is not known."""
        return None

    # -------------------------------------------------------------- what it offers

    def read_shares(self, context: HookContext | None = None) -> dict[str, float]:
        """Read the share of the requests that each arm gets now, from the router. Raises HookError."""
        return dict(self._read_safely(lambda: self._measure(_get_words(context))).shares)

    def read_settings(self, context: HookContext | None = None) -> dict[str, float]:
        """Read the shares that the settings give, also where some servers cannot serve now. Raises HookError."""
        return dict(self._read_safely(lambda: self._to_shares(self._read_state(_get_words(context)))))

    def keeps_clients(self) -> bool:
        """Do all requests of a client go to one server? Then the requests are no independent draws from the shares."""
        return False

    def explain_moving_users(self) -> str:
        """Say why a user may meet several arms, as far as that is known; empty: each user keeps one. Raises nothing."""
        return "" if self.keeps_clients() else f"{self.kind} chooses an arm for each request of a user"

    def explain_down(self, arm: str) -> str | None:
        """Say why no server of an arm can serve; empty if one is known to be up, None if the router does not know."""
        try:
            return self._read_safely(lambda: self._explain_down(arm))
        except HookError:
            return None

    def test_router(self) -> Outcome:
        """Check what setting shares needs: secrets, names, rights; whatever the shares are. Changes nothing."""
        return self._attempt(self._test)

    def set_shares(
        self, shares: Mapping[str, float], context: HookContext | None = None, *, back: bool = False
    ) -> Realised:
        """Give each arm its share, and return what was realised, as read back from the router.

        `shares`: arm → share; an arm that is not named gets nothing. `context`: the values of words in templates.
        `back`: this goes back to what served before, so it is not refused because a server cannot serve; what could
        not be done is in `missing`. Raises HookError if all is as before, and MaybeSent if that is not known.
        """
        try:
            return self._call(lambda: self._set(shares, _get_words(context), back=back))
        except MaybeSent as error:
            raise MaybeSent(self._remove_secrets(str(error))) from None
        except EvaluatorError as error:
            message, hint = self._remove_secrets(error.message), self._remove_secrets(error.hint or "")
            raise HookError(message, hint=hint or None) from None

    def _set(self, shares: Mapping[str, float], words: Mapping[str, str], *, back: bool) -> Realised:
        """Do what `set_shares` does; secrets are in its errors."""
        requested = check_shares(shares, self.arms())
        earlier = self._read_state(words) if not back else self._read_if_possible(words)
        target = self._plan(requested, words, back=back)
        applied = self._apply(target, words, back=back)
        realised = self._confirm(target, earlier, applied, words, back=back)
        difference = describe_drift(requested, realised.shares) if realised.shares else ""
        return replace(realised, notes=(*([difference] if difference else []), *realised.notes))

    def _confirm(
        self, target: Json, earlier: Json, applied: Applied, words: Mapping[str, str], *, back: bool
    ) -> Realised:
        """Read back what was set (`target`, a state). A router that answers, and does something else, is an error.

        Raises HookError if it has done nothing, and MaybeSent if it has done something else, or cannot be read. If
        `back`, what it has not done is in `missing`.
        """
        expected = target if applied.state is None else applied.state
        try:
            state = self._read_state(words)
            drift = self._find_drift(expected, state, back=back)
            realised = self._measure_back(words) if back else self._measure(words)
        except HookError as error:
            raise MaybeSent(f"the shares were set, and cannot be read back: {error.message}") from None
        missing = applied.missing
        if drift:
            problem = f"the router accepted the shares, and then reports others: {drift}"
            if not back and state == earlier:
                raise HookError(f"{problem}; they are as before")
            if not back:
                raise MaybeSent(problem)
            missing = missing or (problem,)
        return Realised(realised.shares, (*applied.notes, *realised.notes), missing, earlier)

    def _find_drift(self, expected: Json, state: Json, *, back: bool) -> str:
        """Say how the shares of a state differ from those of the expected one; empty if they do not.

        Going back may restore states of which no shares can be given: rules of a route may differ. Otherwise, that
        raises HookError.
        """
        try:
            return describe_drift(self._to_shares(expected), self._to_shares(state))
        except HookError:
            if back:
                return ""
            raise

    def _measure_back(self, words: Mapping[str, str]) -> Realised:
        """Do what `_measure` does; shares that cannot be given are no error once the state was restored."""
        try:
            return self._measure(words)
        except HookError as error:
            return Realised({}, (error.message,))

    def _read_if_possible(self, words: Mapping[str, str]) -> Json:
        """Read the state before going back; None if it cannot be read, which does not stop going back."""
        try:
            return self._read_state(words)
        except HookError:
            return None

    # -------------------------------------------------------------- as a hook

    def get_shares(self, action: Action) -> dict[str, float]:
        """Return the shares that an action sets: those of the options, else all for the candidate or the baseline.

        Raises HookError if the router has no arm of that name.
        """
        requested = self._list_requested()
        arm = BASELINE if action in ("hold", "rollback") else CANDIDATE
        if requested is None and arm not in self.arms():
            raise HookError(
                f"{self.kind} has no arm {arm}, so it is not known which arm gets the requests in a {action}",
                hint=f"write `shares`, such as {{{self.arms()[0]}: 100%}}",
            )
        return check_shares({arm: 1.0} if requested is None else requested, self.arms())

    def _describe(self, words: Mapping[str, str]) -> str:
        requested, place = self._list_requested(), self._describe_router(words)
        if requested is None and not words:  # no action yet
            return f"gives all requests of {place} to {CANDIDATE}, in a rollback or a hold to {BASELINE}"
        action = words.get("action", "")
        is_back = action in ("hold", "rollback")
        shares = {BASELINE if is_back else CANDIDATE: 1.0} if requested is None else requested
        return f"sets the shares of {place} to {show_shares(shares)}"

    def _describe_undo(self, words: Mapping[str, str]) -> str:
        return f"takes back the shares of {self._describe_router(words)}"

    def test(self, action: Action = "promote") -> Outcome:
        """Check whether the shares of an action could be set; changes nothing."""
        known = self._attempt(lambda: Outcome("acknowledged", show_shares(self.get_shares(action))))
        return super().test(action) if known.state == "acknowledged" else known

    def _describe_value(self, value: Json) -> str:
        return show_shares(self._to_shares(value))

    def _test(self) -> Outcome:
        return Outcome("acknowledged", "\n".join(self._test_router()))

    def _check_target(self, action: Action) -> None:
        """Raise HookError if the shares of an action cannot be set, or one of the servers cannot serve."""
        shares = self.get_shares(action)
        self._plan(shares, {}, back=False)
        self._check_servers(shares)

    def _moves_back(self) -> bool:
        """Whether a hold would only take requests from candidates; False if that is not known."""
        try:
            return moves_back(self.get_shares("hold"), self._to_shares(self._read_state({})))
        except HookError:  # a program that reads the shares may need words of the request
            return False

    def _execute(self, context: HookContext) -> Outcome:
        """Set the shares of the action. Raises HookError, MaybeSent."""
        back = self._goes_back(context.action)
        return _to_outcome(self._set(self.get_shares(context.action), context.words(), back=back))

    def _undo(self, context: HookContext, earlier: Json) -> Outcome:
        """Bring the router into the state that `read` returned before the execution. Raises HookError, MaybeSent."""
        state, words = self._check_state(earlier), context.words()
        current = self._read_if_possible(words)
        applied = self._apply(state, words, back=True)
        return _to_outcome(self._confirm(state, current, applied, words, back=True))

    def write_by_hand(self, context: HookContext) -> list[str]:
        """Write lines for a shell that set the shares of the action. Raises HookError."""
        words = context.words()
        return self._write_state_by_hand(self._plan(self.get_shares(context.action), words, back=True), words)

    def write_undo_by_hand(self, context: HookContext, earlier: Json) -> list[str]:
        """Write lines for a shell that restore a state, as `undo` does. Raises HookError."""
        return self._write_state_by_hand(self._check_state(earlier), context.words())

    def _write_state_by_hand(self, state: Json, words: Mapping[str, str]) -> list[str]:  # noqa: ARG002 - as those that do
        """Write lines for a shell that bring the router into a state; empty if none are known."""
        return []

    def read(self, context: HookContext | None = None) -> Json:
        """Read the state, which undo restores."""
        return self._read_safely(lambda: self._read_state(_get_words(context)))

    def _read(self) -> Json:
        return self._read_state({})


class ServerRouter(Router[O]):
    """A router whose arms have servers with weights: its state is server → weight."""

    def _list_servers(self) -> Mapping[str, Sequence[str]]:
        """Return arm → names of its servers. Each router has its own."""
        raise NotImplementedError

    def arms(self) -> tuple[str, ...]:
        """Return the arms that have servers."""
        return tuple(self._list_servers())

    def _list_names(self) -> list[str]:
        """List the servers of all arms."""
        return [name for names in self._list_servers().values() for name in names]

    def _to_shares(self, state: Json) -> dict[str, float]:
        """Return arm → share by the weights of its servers alone."""
        return sum_shares({name: state.get(name, 0) for name in self._list_names()}, self._list_servers())


def make_router(kind: str, options: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Router[Any]:
    """Make a router of a kind, such as `haproxy`, from its options. Raises HookError for a hook that is none.

    `environment`: the variables that hold its secrets; None: those of this process. Raises also what `make_hook` does.
    """
    check_router(kind, options)
    return cast("Router[Any]", make_hook(kind, options, environment))


def check_router(kind: str, options: Mapping[str, Any]) -> None:
    """Raise HookError for a hook that is no router. Its secrets are not needed."""
    hook_class, _ = choose_class(kind, options)
    if not issubclass(hook_class, Router):
        raise HookError(
            f"{kind} with these options does not share requests between arms",
            hint="docs/hooks.md#routers lists the routers, and what each needs",
        )


# ------------------------------------------------------------------ shares


def check_shares(shares: Mapping[str, Any], arms: Sequence[str]) -> dict[str, float]:
    """Return the share of each of the arms; one that is not named gets 0.

    Raises HookError for an unknown arm, for what is no share from 0 to 1, and for shares that do not add up to 1.
    """
    if unknown := [str(arm) for arm in shares if arm not in arms]:
        raise HookError(f"the router has no arm {', '.join(unknown)}", hint=f"its arms are {', '.join(arms)}")
    for arm, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, int | float) or not -_NOISE <= share <= 1 + _NOISE:
            raise HookError(f"the share of {arm} is {share!r}", hint="a share is a number from 0 to 1")
    try:
        check_sum(dict(shares))
    except ValueError as error:
        raise HookError(f"the shares {error}", hint="check the share of each arm") from None
    # Noise would give a whole number too many or too few, and full share is exactly 1.
    return {arm: min(max(round(float(shares.get(arm, 0)), 9), 0.0), 1.0) for arm in arms}


def parse_shares(text: str, arms: Sequence[str]) -> dict[str, float]:
    """Read what a program or a server reports: a JSON object of arm → share, as a number or a text such as `5%`.

    Raises HookError if an arm is missing, another one gets requests, or the shares do not add up to 1 within a point.
    """
    try:
        answer = json.loads(text)
        shares = {arm: parse_share(share) for arm, share in answer.items()}
    except (ValueError, AttributeError, RecursionError):
        raise HookError(
            f"the answer is no JSON object of arm and share: {text[:200] or '(empty)'}",
            hint='it looks like {"baseline": 0.95, "canary": 0.05}',
        ) from None
    if absent := [arm for arm in arms if arm not in shares]:
        raise HookError(f"the answer has no share of {', '.join(absent)}", hint="it needs each arm, also with 0")
    if unknown := [arm for arm, share in shares.items() if share and arm not in arms]:
        raise HookError(
            f"the answer has shares of {', '.join(unknown)}, which is none of the arms", hint="name it in `arms`"
        )
    if any(not 0 <= share <= 1 for share in shares.values()) or abs(math.fsum(shares.values()) - 1) > MOST_DIFFERENCE:
        raise HookError(f"the shares in the answer do not add up to 100 %: {show_shares(shares)}")
    return {arm: shares[arm] for arm in arms}


def describe_drift(requested: Mapping[str, float], realised: Mapping[str, float]) -> str:
    """Say which arms get another share than requested, by more than a point; empty if none does.

    Use it with `read_shares` some time after `set_shares`: others may have changed the router, or it was reloaded.
    """
    return ", ".join(
        f"{arm} gets {show_share(realised.get(arm, 0.0))} instead of {show_share(share)}"
        for arm, share in requested.items()
        if not abs(realised.get(arm, 0.0) - share) <= MOST_DIFFERENCE + _NOISE
    )


def show_share(share: float) -> str:
    """Write a share for people: `5 %`."""
    return f"{100 * share:.4g} %"


def show_shares(shares: Mapping[str, float]) -> str:
    """Write shares for people: `baseline 95 %, canary 5 %`."""
    return ", ".join(f"{arm} {show_share(share)}" for arm, share in shares.items())


def add_shares(words: Mapping[str, str], shares: Mapping[str, float]) -> dict[str, str]:
    """Add to the words those that a call which sets shares has: `share` and `percent` of `${arm}`, and all `shares`."""
    added = {"shares": json.dumps({arm: float(f"{share:.9g}") for arm, share in shares.items()})}
    if (arm := words.get("arm", "")) in shares:
        added |= {"share": f"{shares[arm]:.9g}", "percent": f"{100 * shares[arm]:.9g}"}
    return {**words, **added}


def _get_words(context: HookContext | None) -> dict[str, str]:
    """Return the words of a context; none without one."""
    return context.words() if context else {}


def _to_outcome(realised: Realised) -> Outcome:
    """Make the outcome of a hook from what was realised."""
    shares = [f"the shares are {show_shares(realised.shares)}"] if realised.shares else []
    description = "; ".join([*shares, *realised.notes])
    if realised.missing:
        return Outcome("failed", f"not everything is as before: {'; '.join(realised.missing)}; {description}")
    return Outcome("acknowledged", description, earlier=realised.earlier)
