"""Options of commands that record a step of a rollout: its name, and the router's shares in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import click

from evaluator.cli.gathering import Command, gathered
from evaluator.errors import UsageError
from evaluator.quantities import parse_share
from evaluator.records import BASELINE, check_name

SUM_TOLERANCE = 0.002
"""How far the sum of all shares may be from 1: thirds are written as 33.3 %."""


@dataclass(frozen=True, slots=True)
class StepOptions:
    """The step of a rollout to which runs belong, and what the router sends to each arm in it."""

    step: str = ""
    """Empty: none."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Arm → share of the requests, 1 in all; empty: not known."""


def parse_shares(texts: tuple[str, ...]) -> dict[str, float]:
    """Turn texts `ARM=SHARE`, such as `canary=5%` or `canary=0.05`, into shares whose sum is 1; empty without any.

    If the baseline has none, it gets the rest. Raises UsageError for any other text, an arm that is named twice, and
    shares of which the sum is not 100 %.
    """
    shares: dict[str, float] = {}
    for text in texts:
        arm, equals, amount = text.rpartition("=")
        if not (arm and equals):
            raise UsageError(f"--share {text} is not ARM=SHARE", hint="write --share canary=5%")
        try:
            share = parse_share(amount.strip())
        except ValueError as error:
            raise UsageError(f"--share {text}: {error}", hint="write --share canary=5%") from error
        if not 0 <= share <= 1:
            raise UsageError(f"--share {text} is not from 0 % to 100 %", hint="write --share canary=5%")
        if arm in shares:
            raise UsageError(f"--share names {arm} twice", hint="give each arm one share")
        check_name("arm", arm)
        shares[arm] = share
    if not shares:
        return {}
    total = sum(shares.values())
    if BASELINE not in shares:
        if total > 1 + SUM_TOLERANCE:
            raise UsageError(
                f"the shares are {100 * total:.4g} % together, more than 100 %",
                hint="the baseline gets what the candidates leave",
            )
        return {BASELINE: max(1 - total, 0.0), **shares}
    if len(shares) < 2:
        raise UsageError("--share names the baseline alone", hint="name each candidate: --share canary=5%")
    if abs(total - 1) > SUM_TOLERANCE:
        raise UsageError(f"the shares are {100 * total:.4g} % together, not 100 %", hint="name the share of every arm")
    return {arm: share / total for arm, share in shares.items()}


def check_step(step: str) -> str:
    """Return the name of a step, or empty for none. Raises UsageError for a name that cannot be shown or typed."""
    if step:
        check_name("step", step)
    return step


def _make_step_options(step: str, shares: tuple[str, ...]) -> StepOptions:
    """Check the values of the options. Raises UsageError."""
    return StepOptions(check_step(step), parse_shares(shares))


STEP_OPTION = click.option("--step", metavar="NAME", default="", help="Step of a rollout that this belongs to.")
"""`--step` of a command that records no requests."""


def step_options(share_help: str) -> Callable[[Command], Command]:
    """Return a decorator for `--step` and `--share`; the command receives them as one record, its argument `step`.

    `share_help`: the help of `--share`.
    """
    share_option = click.option("--share", "shares", metavar="ARM=SHARE", multiple=True, help=share_help)
    return gathered("step", _make_step_options, STEP_OPTION, share_option)
