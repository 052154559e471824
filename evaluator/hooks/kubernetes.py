"""Promote, abort or retry an Argo Rollout, or share the requests of a Gateway API HTTPRoute, by the Kubernetes API.

What is patched is what `kubectl argo rollouts` patches (argoproj/argo-rollouts, pkg/kubectl-argo-rollouts/cmd).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from evaluator.errors import HookError
from evaluator.hooks.base import Action, BaseHook, HookContext, Outcome
from evaluator.hooks.kubernetes_api import Json, KubernetesHook, KubernetesOptions
from evaluator.hooks.kubernetes_router import KubernetesRouter
from evaluator.hooks.network import MaybeSent


class Kubernetes(KubernetesHook):
    """One patch of an Argo Rollout; with the option `route`, a KubernetesRouter is made instead."""

    api, plural = "argoproj.io/v1alpha1", "rollouts"

    @classmethod
    def choose_class(cls, options: KubernetesOptions) -> type[BaseHook[KubernetesOptions]]:
        """Return the class for a Rollout or for a route."""
        return KubernetesRouter if options.route else cls

    def __init__(self, options: KubernetesOptions, environment: Mapping[str, str] | None = None) -> None:
        """Set whether it may be repeated, which depends on what it does."""
        super().__init__(options, environment)
        # All can be repeated without harm, except `promote`: each time, the Rollout goes one step further.
        self.idempotent = self._change != "promote"

    @property
    def _change(self) -> str:
        """What is done: promote, promote_full, abort or retry."""
        return self.options.rollout.do if self.options.rollout else ""

    def _describe(self, words: Mapping[str, str]) -> str:  # noqa: ARG002 - its options have no words
        return f"{self._change} of the Argo Rollout {self._where}"

    def _test(self) -> Outcome:
        """Check that the Rollout exists; changes nothing."""
        version = self._get_object()["metadata"]["resourceVersion"]
        return Outcome("acknowledged", f"{self._where} exists, at version {version}")

    def _check_target(self, action: Action) -> None:  # noqa: ARG002 - the options say what is done
        """Raise HookError for a Rollout that cannot be promoted as it is."""
        if self._change in ("promote", "promote_full"):
            self._check_rollout(self._get_object(), self._change)

    def _read(self) -> Any:
        """Read the state of the Rollout."""
        return _read_rollout_state(self._get_object())

    def _execute(self, context: HookContext) -> Outcome:  # noqa: ARG002 - its options have no words
        """Change the Rollout as the options say. Raises HookError, MaybeSent."""
        return self._change_rollout(self._get_object(), self._change)

    def can_undo(self) -> bool:
        """Whether `undo` works: not for a promotion, which is aborted instead."""
        return self._change in ("abort", "retry")

    def _undo(self, context: HookContext, earlier: Any) -> Outcome:
        """Restore the state `earlier`, which `_read` returned before the execution: {"aborted": bool, …}.

        Raises HookError if the state was not kept, or if the change cannot be undone; MaybeSent.
        """
        if not isinstance(earlier, dict):
            raise HookError("there is no earlier state to restore", hint="it is kept when the hook is executed")
        if not self.can_undo():
            return super()._undo(context, earlier)  # a promotion cannot be undone: this raises HookError
        return self._change_rollout(self._get_object(), "abort" if earlier.get("aborted") else "retry")

    def write_by_hand(self, context: HookContext) -> list[str]:  # noqa: ARG002 - its options have no words
        """Write lines for a shell that do the same."""
        return self._write_change_by_hand(self._change)

    def write_undo_by_hand(self, context: HookContext, earlier: Any) -> list[str]:  # noqa: ARG002 - as above
        """Write lines for a shell that undo what the hook did."""
        return self._write_change_by_hand("abort" if earlier.get("aborted") else "retry")

    def _write_change_by_hand(self, change: str) -> list[str]:
        """Write the line that changes the Rollout; empty for a change that depends on its state."""
        status = {"abort": {"abort": True}, "retry": {"abort": False}, "promote_full": {"promoteFull": True}}.get(
            change
        )
        if status is None:
            return []
        patch = shlex.quote(json.dumps({"status": status}))
        words = [self._kubectl, "patch", "rollout", self._name, "--subresource=status", "--type=merge", "-p", patch]
        return [" ".join(words)]

    def _check_rollout(self, resource: Json, change: str) -> None:
        """Raise HookError if a Rollout cannot be promoted as it is; abort and retry are always possible."""
        status = resource.get("status") or {}
        if change not in ("promote", "promote_full") or _is_fully_promoted(resource):
            return
        if status.get("abort"):
            raise HookError(f"{self._where} is aborted, so a promotion would change nothing", hint="retry it first")
        if status.get("phase") == "Degraded":
            message = self._remove_secrets(str(status.get("message") or "without a message"))[:300]
            raise HookError(f"{self._where} is degraded ({message})", hint="find the cause in its pods")
        if change == "promote" and not _list_pauses(resource):
            raise HookError(
                f"{self._where} does not wait at a pause", hint="promote it at a pause step, or use promote_full"
            )

    def _change_rollout(self, resource: Json, change: str) -> Outcome:
        """Change a Rollout, unless it is in the state that the change leads to. Raises HookError, MaybeSent.

        `resource`: the Rollout as it was read. `change`: promote, promote_full, abort or retry.
        """
        earlier = _read_rollout_state(resource)
        if change in ("abort", "retry"):
            to_abort = change == "abort"  # retry ends the abort
            if earlier["aborted"] == to_abort:
                description = f"{self._where} is {'already' if to_abort else 'not'} aborted"
                return Outcome("acknowledged", description, earlier=earlier)
            self._patch(resource, {"status": {"abort": to_abort}}, "/status")
        elif _is_fully_promoted(resource):
            return Outcome("acknowledged", f"{self._where} is fully promoted already", earlier=earlier)
        elif change == "promote_full":
            self._patch(resource, {"status": {"promoteFull": True}}, "/status")
        else:
            self._check_rollout(resource, change)  # it may have changed since it was checked
            self._end_pause(resource)
        return Outcome("acknowledged", f"the API accepted {change} of {self._where}", earlier=earlier)

    def _end_pause(self, resource: Json) -> None:
        """Let a Rollout that waits at a pause go on to its next step. Raises HookError, MaybeSent.

        A Rollout can wait for two reasons: conditions in its status, and the field `paused` in its spec. Both are
        cleared, each by a patch of its own, because status and spec cannot be patched together.
        """
        is_paused_by_spec = (resource.get("spec") or {}).get("paused")
        status: Json = resource.get("status") or {}
        earlier_status: Json = {}  # of the fields that are changed; None: the field is absent
        if status.get("pauseConditions"):
            new_status: Json = {"pauseConditions": None}  # null deletes a field of the object
            # After an inconclusive analysis, the analysis step is skipped as well.
            analysis = (status.get("canary") or {}).get("currentStepAnalysisRunStatus") or {}
            if analysis.get("status") == "Inconclusive" and status.get("currentStepIndex") is not None:
                new_status |= {"controllerPause": False, "currentStepIndex": status["currentStepIndex"] + 1}
            earlier_status = {name: status.get(name) for name in new_status}
            resource = self._patch(resource, {"status": new_status}, "/status")
        if not is_paused_by_spec:
            return
        try:
            self._patch(resource, {"spec": {"paused": False}})
        except HookError as error:
            if not earlier_status:
                raise
            try:
                self._patch(self._get_object(), {"status": earlier_status}, "/status")
            except (HookError, MaybeSent):
                raise MaybeSent(f"its pause conditions were cleared, but it is still paused: {error.message}") from None
            raise HookError(f"it is still paused: {error.message}; its pause conditions were put back") from None


def _read_rollout_state(resource: Json) -> Json:
    """Return what people are shown of a Rollout: whether it is aborted, the index of its step, and why it waits."""
    status = resource.get("status") or {}
    wait_reasons = [condition.get("reason") for condition in status.get("pauseConditions") or []]
    return {"aborted": bool(status.get("abort")), "step": status.get("currentStepIndex"), "waits": wait_reasons}


def _is_fully_promoted(resource: Json) -> bool:
    """Is the current version of a Rollout its stable one?"""
    status = resource.get("status") or {}
    return bool(status.get("stableRS")) and status.get("currentPodHash") == status["stableRS"]


def _list_pauses(resource: Json) -> list[Any]:
    """List why a Rollout waits at a pause; empty if it does not."""
    is_paused_by_spec = (resource.get("spec") or {}).get("paused")
    return [*((resource.get("status") or {}).get("pauseConditions") or []), *(["paused"] if is_paused_by_spec else [])]
