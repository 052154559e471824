"""What a health check sees, and the one shape of its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from evaluator.records import ArmRows, Cells, Finding, Level, Rulebook, Run
from evaluator.stats.in_flight import Settled
from evaluator.stats.panel import Panel
from evaluator.stats.uncertainty import Design
from evaluator.stats.window import WarmUp

__all__ = ["Check", "JudgedFailures", "Scene", "is_imported", "known", "ok", "warn"]


@dataclass(frozen=True, slots=True)
class JudgedFailures:
    """How often the judged requests of an arm failed."""

    requests: int
    failures: int
    together: float
    """How many failures come together: in bursts, as many say as much as one that comes alone."""


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything around the comparison. `panels` and `designs` by candidate arm; an arm without a panel is missing."""

    release: str
    cells: Cells
    runs: tuple[Run, ...]
    rulebook: Rulebook
    warm_up: WarmUp
    panels: Mapping[str, Panel]
    designs: Mapping[str, Design]
    rows: tuple[ArmRows, ...]
    """The account of every arm, in the order of the arms."""
    judged_failures: Mapping[str, JudgedFailures]
    """By candidate: how often the judged requests of the baseline failed."""
    settled: Settled
    """What became of requests in flight."""
    names_per_arm: Mapping[str, int]
    """Names of instances that were given for arms whose requests they do not tell apart into instances."""
    looks_paid: bool = False
    """Are looks before the planned end paid for?"""


Check = Callable[[Scene], Iterable[Finding]]
"""A check yields what it saw; nothing when it does not apply."""


def ok(check: str, text: str) -> Finding:
    """Looked at and in order."""
    return Finding(check, Level.OK, text)


def warn(check: str, text: str, remedy: str = "") -> Finding:
    """Worth knowing; does not forbid a verdict."""
    return Finding(check, Level.WARN, text, remedy=remedy)


def is_imported(runs: Sequence[Run]) -> bool:
    """Did another tool make the load? Then the cure is another import."""
    return bool(runs) and all(run.source == "import" for run in runs)


def known(scene: Scene, name: str) -> list[float]:
    """The values of one fact in the runs that know it."""
    return [value for run in scene.runs if (value := getattr(run.facts, name)) is not None]
