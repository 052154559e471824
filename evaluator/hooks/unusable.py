"""A hook that was executed once and cannot be made any more: undoing it fails, and stops no other hook."""

from __future__ import annotations

from evaluator.hooks.base import Action, HookContext, Json, Outcome


class UnusableHook:
    """Stands for a hook whose kind is not installed any more, or whose options this version does not take."""

    idempotent = True

    def __init__(self, kind: str, options: str, why: str) -> None:
        """`options`: of the hook, as JSON. `why`: why it cannot be made."""
        self.kind, self.options, self.why = kind, options, why

    def describe(self, context: HookContext | None = None) -> str:  # noqa: ARG002 - as a hook
        """Name the hook with its options."""
        return f"{self.kind} {self.options}"

    def describe_undo(self, context: HookContext | None = None) -> str:
        """Say what would have to be taken back."""
        return f"takes back: {self.describe(context)}"

    def describe_value(self, value: Json) -> str:
        """Show a value as it was stored; empty for None."""
        return "" if value is None else str(value)

    def can_undo(self) -> bool:
        """Whether something is to be taken back: that is not known, so a person has to look."""
        return True

    def read(self) -> Json:
        """Read nothing."""
        return None

    def execute(self, context: HookContext) -> Outcome:  # noqa: ARG002 - as a hook
        """Fail, and change nothing."""
        return Outcome("failed", f"{self.kind} cannot be used: {self.why}")

    def undo(self, context: HookContext, earlier: Json) -> Outcome:  # noqa: ARG002 - as a hook
        """Fail, and change nothing."""
        return self.execute(context)

    def test(self, action: Action = "promote") -> Outcome:  # noqa: ARG002 - as a hook
        """Fail."""
        return Outcome("failed", self.why)

    def find_obstacle(self, action: Action) -> str:  # noqa: ARG002 - as a hook
        """Say why it cannot be used."""
        return self.why
