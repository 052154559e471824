"""What became of the harms for which an earlier candidate of the same service was rejected."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

HarmState = Literal["still", "new", "shown_first", "not_known", "fixed"]
"""`still`: shown in both candidates. `new`: shown now, and the earlier candidate was within. `shown_first`: shown now,
and not known of the earlier candidate. `not_known`: shown in the earlier candidate, and whether it is there now is not
known. `fixed`: shown in the earlier candidate, and now shown to be within."""


@dataclass(frozen=True, slots=True)
class HarmChange:
    """A metric that was or is shown to be worse than allowed, in both candidates."""

    metric: str
    """Short name: `p95`."""
    endpoint: str | None
    """None: all endpoints."""
    arm: str
    state: HarmState
    before: str
    """Change of the earlier candidate against its baseline: `+12.4 %`; a dash if it had none."""
    now: str
    why: str = ""
    """Why a state is not known."""


@dataclass(frozen=True, slots=True)
class Iteration:
    """A candidate that follows a rejected one, and what became of its harms."""

    release: str
    """The rejected candidate."""
    judged_at: datetime | None
    harms: tuple[HarmChange, ...]
    """Harms that are still there or new come first, fixed ones last."""
    other_baseline: bool = False
    """Were the two compared with different versions of the baseline?"""
