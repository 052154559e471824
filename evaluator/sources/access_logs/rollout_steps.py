"""Steps of a rollout that begin while a log is followed: `evaluator step` writes them, `evaluator tail` reads them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from evaluator.errors import SourceError, UsageError
from evaluator.records.releases import check_name
from evaluator.segments import to_folder_name
from evaluator.sources.access_logs.tail_state import locked_file, replace_file

NOTICE_S = 1.0
"""A step begins at least this long after the command (s), so that no request of it was read before."""


@dataclass(frozen=True, slots=True)
class RolloutStep:
    """A part of a rollout in which the shares of the arms stay the same. Times are epoch seconds."""

    name: str
    started: float
    ends: float | None = None
    """Planned end; `None`: the begin of the next step."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Arm → share of the traffic; empty: not known."""


def check_step(name: str, shares: Mapping[str, float]) -> None:
    """Refuse names of a step or of arms that cannot be shown, and shares that are none. Raises UsageError."""
    check_name("step", name)
    for arm, share in shares.items():
        check_name("arm", arm)
        if not 0 <= share <= 1:
            raise UsageError(f"the share of {arm} is {share:g}, not between 0 and 100 %")
    if sum(shares.values()) > 1 + 1e-9:
        total = 100 * sum(shares.values())
        raise UsageError(f"the shares add up to {total:g} %", hint="all arms together have 100 %")


def begin_step(
    folder: Path, service: str, name: str, *, shares: Mapping[str, float], seconds: float | None, now: float
) -> RolloutStep:
    """Write, durably, that a step begins at the next full second, and return it.

    `folder`: of the release. `seconds`: how long it lasts; `None`: until the next step. `now`: epoch s. Raises
    UsageError, SourceError and OSError.
    """
    check_step(name, shares)
    started = float(math.ceil(now + NOTICE_S))
    step = RolloutStep(name, started, started + seconds if seconds is not None else None, dict(shares))
    path = _find_path(folder, service)
    with locked_file(path.with_suffix(".lock")):
        steps = [*read_steps(folder, service), step]
        replace_file(path, json.dumps([asdict(known) for known in steps], indent=1))
    return step


def read_steps(folder: Path, service: str) -> tuple[RolloutStep, ...]:
    """Read the steps of a service, in the order in which they begin. Raises SourceError for a damaged file."""
    path = _find_path(folder, service)
    try:
        steps = [RolloutStep(**values) for values in json.loads(path.read_text(encoding="utf-8"))]
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError) as error:
        raise SourceError(f"the steps in {path} cannot be read: {error}", hint="delete the file") from error
    return tuple(sorted(steps, key=lambda step: step.started))


def _find_path(folder: Path, service: str) -> Path:
    """File with the steps of a service of the release of a folder."""
    return folder / (f"steps-{to_folder_name(service)}.json" if service else "steps.json")
