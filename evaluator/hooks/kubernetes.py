"""Patch a Kubernetes API: promote, abort or retry an Argo Rollout, or set weights of a Gateway API HTTPRoute.

What is patched is what `kubectl argo rollouts` patches (argoproj/argo-rollouts, pkg/kubectl-argo-rollouts/cmd), and the
schema `gateway.networking.k8s.io/v1 HTTPRoute` (kubernetes-sigs/gateway-api, config/crd/standard). Each patch carries
the version that was read: the API answers 409 when the object was changed in between.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from evaluator.errors import HookError
from evaluator.fields import Section
from evaluator.hooks.base import BaseHook, HookContext, Outcome
from evaluator.hooks.network import MaybeSent, TlsOptions, send
from evaluator.hooks.options import SecretName, Text
from evaluator.hooks.weights import check_some_traffic, show_weights

K8sName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
Share = Annotated[int, Field(ge=0, le=1_000_000)]
Json = dict[str, Any]
_HINTS = {
    401: "check that the token is of this cluster and has not expired",
    403: "its account needs get and patch on the object (and on rollouts/status)",
    409: "the object was changed in the meantime: check it, and try again",
}
"""Status of an answer → what to do."""


class RolloutPatch(Section):
    """What is done to an Argo Rollout."""

    name: K8sName = Field(description="Its name.")
    do: Literal["promote", "promote_full", "abort", "retry"] = Field(
        description="promote (continue after a pause), promote_full (skip all that is left), abort, retry."
    )


class RoutePatch(Section):
    """Weights of an HTTPRoute's services."""

    name: K8sName = Field(description="Its name.")
    weights: Annotated[dict[K8sName, Share], AfterValidator(check_some_traffic)] = Field(
        description="Service to weight; set in each rule that has all of these services.", min_length=2
    )


class KubernetesOptions(TlsOptions):
    """Where the API is, with which account, and what is patched."""

    url: Text = Field(description="Address of the API server.")
    token: SecretName = Field(description="Where the bearer token is: ${VARIABLE}.")
    namespace: K8sName = Field("default", description="The namespace.")
    rollout: RolloutPatch | None = Field(None, description="An Argo Rollout: {name, do}.")
    route: RoutePatch | None = Field(None, description="A Gateway API HTTPRoute: {name, weights}.")

    @model_validator(mode="after")
    def _check_object(self) -> Self:
        """Check that the options have either a Rollout or an HTTPRoute to patch."""
        if (self.rollout is None) == (self.route is None):
            raise ValueError("needs rollout or route, one of them")
        return self


class Kubernetes(BaseHook[KubernetesOptions]):
    """One patch of one object."""

    kind = "kubernetes"
    Options = KubernetesOptions

    def __init__(self, options: KubernetesOptions, environment: Mapping[str, str] | None = None) -> None:
        """Set whether it may be repeated, which depends on what it does."""
        super().__init__(options, environment)
        # All can be repeated without harm, except `promote`: each time, the Rollout goes one step further.
        self.idempotent = options.rollout is None or options.rollout.do != "promote"

    def _describe(self) -> str:
        if self.options.rollout:
            return f"{self.options.rollout.do} of the Argo Rollout {self._where}"
        return f"sets the weights of the HTTPRoute {self._where} to {show_weights(self._weights)}"

    def _test(self) -> Outcome:
        """Check that the object exists, and that a route has the services; changes nothing."""
        resource = self._get_object()
        if self.options.route:
            _set_same_weights(resource, self._weights)  # raises HookError if no rule has the services
        return Outcome("acknowledged", f"{self._where} exists, at version {resource['metadata']['resourceVersion']}")

    def _read(self) -> Any:
        """Read the state of the Rollout, or the route's weights by rule and service."""
        resource = self._get_object()
        if self.options.rollout:
            return _read_rollout_state(resource)
        return _read_weights(resource, self._weights)

    def _execute(self, context: HookContext) -> Outcome:  # noqa: ARG002 - the patch does not depend on it
        """Change the Rollout, or the weights of the route, as the options say. Raises HookError, MaybeSent."""
        resource = self._get_object()
        if self.options.rollout:
            return self._change_rollout(resource, self.options.rollout.do)
        return self._change_route(resource, _set_same_weights(resource, self._weights))

    def can_undo(self) -> bool:
        """Whether `undo` works: for all but a promotion of an Argo Rollout, which is aborted instead."""
        return self.options.rollout is None or self.options.rollout.do in ("abort", "retry")

    def _undo(self, context: HookContext, earlier: Any) -> Outcome:
        """Restore the state `earlier`, which `_read` returned before the execution. `context` is not needed.

        `earlier`: of a Rollout {"aborted": bool, …}; of a route: index of the rule (as text) → service → weight.
        Raises HookError if it was not kept, or if the change cannot be undone; MaybeSent.
        """
        if not isinstance(earlier, dict):
            raise HookError("there is no earlier state to restore", hint="it is kept when the hook is executed")
        resource = self._get_object()
        if self.options.route:
            return self._change_route(resource, _set_weights(resource, earlier))
        if self.options.rollout and self.options.rollout.do in ("abort", "retry"):
            return self._change_rollout(resource, "abort" if earlier.get("aborted") else "retry")
        return super()._undo(context, earlier)  # a promotion cannot be undone: this raises HookError

    @property
    def _weights(self) -> dict[str, int]:
        """Weights to set: service → weight; empty for a Rollout."""
        return dict(self.options.route.weights) if self.options.route else {}

    @property
    def _name(self) -> str:
        """Name of the Rollout or route."""
        patch = self.options.rollout or self.options.route
        return patch.name if patch else ""

    @property
    def _where(self) -> str:
        """The object in messages: `namespace/name`."""
        return f"{self.options.namespace}/{self._name}"

    @property
    def _path(self) -> str:
        """Path of the object in the API."""
        api, plural = "argoproj.io/v1alpha1", "rollouts"
        if self.options.route:
            api, plural = "gateway.networking.k8s.io/v1", "httproutes"
        return f"/apis/{api}/namespaces/{self.options.namespace}/{plural}/{self._name}"

    # -------------------------------------------------------------- Argo Rollouts

    def _change_rollout(self, resource: Json, change: str) -> Outcome:
        """Change a Rollout, unless it is in the state that the change leads to. Raises HookError, MaybeSent.

        `resource`: the Rollout as it was read. `change`: promote, promote_full, abort or retry.
        """
        earlier = _read_rollout_state(resource)
        status = resource.get("status") or {}
        if change in ("abort", "retry"):
            to_abort = change == "abort"  # retry ends the abort
            if earlier["aborted"] == to_abort:
                description = f"{self._where} is {'already' if to_abort else 'not'} aborted"
                return Outcome("acknowledged", description, earlier=earlier)
            self._patch(resource, {"status": {"abort": to_abort}}, "/status")
        elif status.get("currentPodHash") == status.get("stableRS"):  # the current version is the stable one
            return Outcome("acknowledged", f"{self._where} is fully promoted already", earlier=earlier)
        elif change == "promote_full":
            self._patch(resource, {"status": {"promoteFull": True}}, "/status")
        else:
            self._end_pause(resource)
        return Outcome("acknowledged", f"the API accepted {change} of {self._where}", earlier=earlier)

    def _end_pause(self, resource: Json) -> None:
        """Let a Rollout that waits at a pause go on to its next step. Raises HookError if it does not wait, MaybeSent.

        A Rollout can wait for two reasons: conditions in its status, and the field `paused` in its spec. Both are
        cleared, each by a patch of its own, because status and spec cannot be patched together.
        """
        is_paused_by_spec = (resource.get("spec") or {}).get("paused")
        pause_conditions = (resource.get("status") or {}).get("pauseConditions")
        if not is_paused_by_spec and not pause_conditions:
            raise HookError(
                f"{self._where} does not wait at a pause", hint="promote it at a pause step, or use promote_full"
            )
        if pause_conditions:
            status: Json = resource["status"]
            new_status: Json = {"pauseConditions": None}  # null deletes a field of the object
            # After an inconclusive analysis, the analysis step is skipped as well.
            analysis = (status.get("canary") or {}).get("currentStepAnalysisRunStatus") or {}
            if analysis.get("status") == "Inconclusive" and status.get("currentStepIndex") is not None:
                new_status |= {"controllerPause": False, "currentStepIndex": status["currentStepIndex"] + 1}
            resource = self._patch(resource, {"status": new_status}, "/status")
        if not is_paused_by_spec:
            return
        try:
            self._patch(resource, {"spec": {"paused": False}})
        except HookError as error:
            if not pause_conditions:
                raise
            # The patch of the conditions has changed something: so it must not count as failed without effect.
            raise MaybeSent(f"its pause conditions were cleared, but it is still paused: {error.message}") from None

    # -------------------------------------------------------------- HTTPRoute

    def _change_route(self, resource: Json, target: Json) -> Outcome:
        """Patch the weights of a route, unless they are set already; `target` is `resource` with the new weights.

        Raises HookError; MaybeSent if the API answers with other weights.
        """
        # In the rules that have all services whose weights the options set.
        earlier_weights = _read_weights(resource, self._weights)
        target_weights = _read_weights(target, self._weights)
        if target["spec"]["rules"] != resource["spec"]["rules"]:
            patched = self._patch(resource, {"spec": {"rules": target["spec"]["rules"]}})
            if _read_weights(patched, self._weights) != target_weights:
                raise MaybeSent("the API accepted the weights, and answered with others")
        weights_text = "; ".join(f"rule {rule}: {show_weights(weights)}" for rule, weights in target_weights.items())
        description = f"the weights of {self._where} are set ({weights_text})"
        return Outcome("acknowledged", description, earlier=earlier_weights)

    # -------------------------------------------------------------- the API

    def _get_object(self) -> Json:
        """Read the Rollout or HTTPRoute from the API."""
        return self._ask("GET", self._path)

    def _patch(self, resource: Json, change: Json, subresource: str = "") -> Json:
        """Patch the object and return it as it is then. Raises HookError, MaybeSent.

        `resource`: the object as it was read. `subresource`: "/status", or empty for the object itself.
        """
        # With this version the API refuses the patch if the object was changed after it was read.
        version = {"metadata": {"resourceVersion": resource["metadata"]["resourceVersion"]}}
        return self._ask("PATCH", self._path + subresource, version | change)

    def _ask(self, method: str, path: str, change: Json | None = None) -> Json:
        """Send a request to the API, with a patch or without (None), and return the object that it answers.

        Raises HookError; MaybeSent if the object may have been changed.
        """
        options = self.options
        headers = {"Authorization": f"Bearer {self._fill_secrets(options.token)}", "Accept": "application/json"}
        body = b""
        if change is not None:
            headers["Content-Type"] = "application/merge-patch+json"
            body = json.dumps(change).encode()
        url = options.url.rstrip("/") + path
        answer = send(method, url, options, body, headers, changes=change is not None)
        content = answer.parse() or {}
        if answer.ok and "metadata" in content:
            return content
        message = f"the API answered {answer.status}: {str(content.get('message') or answer.text)[:300]}"
        # The server may have acted before these errors, or before an answer without an object; 503: it could not act.
        if change is not None and (answer.ok or answer.status in (500, 502, 504)):
            raise MaybeSent(message)
        raise HookError(message, hint=_HINTS.get(answer.status))


def _read_rollout_state(resource: Json) -> Json:
    """Return what people are shown of a Rollout: whether it is aborted, the index of its step, and why it waits."""
    status = resource.get("status") or {}
    wait_reasons = [condition.get("reason") for condition in status.get("pauseConditions") or []]
    return {"aborted": bool(status.get("abort")), "step": status.get("currentStepIndex"), "waits": wait_reasons}


def _find_references(resource: Json, services: Collection[str]) -> dict[str, list[Json]]:
    """Map the index of each rule of an HTTPRoute that has all of the services to its references to them.

    The index is text, because JSON keys are. A reference is {name, weight, …}. Raises HookError if no rule has them.
    """
    references_by_rule: dict[str, list[Json]] = {}
    for index, rule in enumerate((resource.get("spec") or {}).get("rules") or []):
        # A reference may also be to another kind of object than a Kubernetes service.
        references = [
            reference
            for reference in rule.get("backendRefs") or []
            if reference.get("kind", "Service") == "Service" and not reference.get("group")
        ]
        matching = [reference for reference in references if reference.get("name") in services]
        if {reference["name"] for reference in matching} == set(services):
            references_by_rule[str(index)] = matching
    if not references_by_rule:
        raise HookError(
            f"no rule of the HTTPRoute has all of {', '.join(services)}", hint="check the names of the services"
        )
    return references_by_rule


def _read_weights(resource: Json, services: Collection[str]) -> dict[str, dict[str, int]]:
    """Read the weights of the services in each rule of an HTTPRoute that has all of them.

    Returns index of the rule (as text) → service → weight; a weight that is not written is 1. Raises HookError if no
    rule has them.
    """
    return {
        index: {reference["name"]: reference.get("weight", 1) for reference in references}
        for index, references in _find_references(resource, services).items()
    }


def _set_same_weights(resource: Json, weights: dict[str, int]) -> Json:
    """Return a copy of an HTTPRoute with the same weights (service → weight) in each rule that has all services."""
    return _set_weights(resource, dict.fromkeys(_find_references(resource, weights), weights))


def _set_weights(resource: Json, weights_by_rule: Mapping[str, Mapping[str, int]]) -> Json:
    """Return a copy of an HTTPRoute with other weights.

    `weights_by_rule`: index of the rule (as text) → service → weight. Raises HookError if a rule does not have these
    services.
    """
    target = copy.deepcopy(resource)
    rules = target["spec"]["rules"]
    for index, weights in weights_by_rule.items():
        references: dict[str, Json] = {}
        if int(index) < len(rules):
            references = {reference["name"]: reference for reference in rules[int(index)].get("backendRefs") or []}
        if not set(weights) <= set(references):
            raise HookError(
                f"rule {index} of the HTTPRoute does not have the services that it had", hint="set its weights by hand"
            )
        for service, weight in weights.items():
            references[service]["weight"] = weight
    return target
