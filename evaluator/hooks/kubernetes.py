"""Patch a Kubernetes API: promote, abort or retry an Argo Rollout, or set weights of a Gateway API HTTPRoute.

What is patched is what `kubectl argo rollouts` patches (argoproj/argo-rollouts, pkg/kubectl-argo-rollouts/cmd), and the
schema `gateway.networking.k8s.io/v1 HTTPRoute` (kubernetes-sigs/gateway-api, config/crd/standard). Each patch carries
the version that was read: the API answers 409 when the object was changed in between.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
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
    def _one_thing(self) -> Self:
        if (self.rollout is None) == (self.route is None):
            raise ValueError("needs rollout or route, one of them")
        return self


class Kubernetes(BaseHook[KubernetesOptions]):
    """One patch of one object."""

    kind = "kubernetes"
    Options = KubernetesOptions

    def __init__(self, options: KubernetesOptions, environment: Mapping[str, str] | None = None) -> None:
        super().__init__(options, environment)
        # Promoting twice goes two steps further.
        self.idempotent = options.rollout is None or options.rollout.do != "promote"

    def _describe(self) -> str:
        if self.options.rollout:
            return f"{self.options.rollout.do} of the Argo Rollout {self._where}"
        return f"sets the weights of the HTTPRoute {self._where} to {show_weights(self._weights)}"

    def _test(self) -> Outcome:
        resource = self._get()
        if self.options.route:
            _with_weights(resource, self._weights)
        return Outcome("acknowledged", f"{self._where} exists, at version {resource['metadata']['resourceVersion']}")

    def _read(self) -> Any:
        resource = self._get()
        return _rollout_state(resource) if self.options.rollout else _weights_by_rule(resource, self._weights)

    def _execute(self, context: HookContext) -> Outcome:  # noqa: ARG002 - the patch does not depend on it
        resource = self._get()
        if self.options.rollout:
            return self._act(resource, self.options.rollout.do)
        return self._set_weights(resource, _with_weights(resource, self._weights))

    def can_undo(self) -> bool:
        """All but a promotion of an Argo Rollout, which is aborted instead."""
        return self.options.rollout is None or self.options.rollout.do in ("abort", "retry")

    def _undo(self, context: HookContext, earlier: Any) -> Outcome:
        if not isinstance(earlier, dict):
            raise HookError("there is no earlier state to restore", hint="it is kept when the hook is executed")
        resource = self._get()
        if self.options.route:
            return self._set_weights(resource, _with_rules(resource, earlier))
        if self.options.rollout and self.options.rollout.do in ("abort", "retry"):
            return self._act(resource, "abort" if earlier.get("aborted") else "retry")
        return super()._undo(context, earlier)

    @property
    def _weights(self) -> dict[str, int]:
        return dict(self.options.route.weights) if self.options.route else {}

    @property
    def _where(self) -> str:
        named = self.options.rollout or self.options.route
        return f"{self.options.namespace}/{named.name if named else ''}"

    @property
    def _path(self) -> str:
        api, plural = ("argoproj.io/v1alpha1", "rollouts")
        if self.options.route:
            api, plural = "gateway.networking.k8s.io/v1", "httproutes"
        return f"/apis/{api}/namespaces/{self.options.namespace}/{plural}/{self._where.partition('/')[2]}"

    # -------------------------------------------------------------- Argo Rollouts

    def _act(self, resource: Json, do: str) -> Outcome:
        earlier, status = _rollout_state(resource), resource.get("status") or {}
        if do in ("abort", "retry"):
            if earlier["aborted"] == (do == "abort"):
                return Outcome(
                    "acknowledged", f"{self._where} is {'already' if do == 'abort' else 'not'} aborted", earlier
                )
            self._patch(resource, {"status": {"abort": do == "abort"}}, "/status")
        elif status.get("currentPodHash") == status.get("stableRS"):
            return Outcome("acknowledged", f"{self._where} is fully promoted already", earlier)
        elif do == "promote_full":
            self._patch(resource, {"status": {"promoteFull": True}}, "/status")
        else:
            self._go_on(resource)
        return Outcome("acknowledged", f"the API accepted {do} of {self._where}", earlier)

    def _go_on(self, resource: Json) -> None:
        paused, waits = (
            (resource.get("spec") or {}).get("paused"),
            (resource.get("status") or {}).get("pauseConditions"),
        )
        if not paused and not waits:
            raise HookError(
                f"{self._where} does not wait at a pause", hint="promote it at a pause step, or use promote_full"
            )
        if waits:
            # After an inconclusive analysis, the analysis step is skipped as well.
            status: Json = resource["status"]
            past: Json = {"pauseConditions": None}
            analysis = (status.get("canary") or {}).get("currentStepAnalysisRunStatus") or {}
            if analysis.get("status") == "Inconclusive" and status.get("currentStepIndex") is not None:
                past |= {"controllerPause": False, "currentStepIndex": status["currentStepIndex"] + 1}
            resource = self._patch(resource, {"status": past}, "/status")
        if not paused:
            return
        try:
            self._patch(resource, {"spec": {"paused": False}})
        except HookError as error:
            if not waits:
                raise
            raise MaybeSent(f"its pause conditions were cleared, but it is still paused: {error.message}") from None

    # -------------------------------------------------------------- HTTPRoute

    def _set_weights(self, resource: Json, target: Json) -> Outcome:
        earlier = _weights_by_rule(resource, self._weights)
        if target["spec"]["rules"] != resource["spec"]["rules"]:
            now = self._patch(resource, {"spec": {"rules": target["spec"]["rules"]}})
            if _weights_by_rule(now, self._weights) != _weights_by_rule(target, self._weights):
                raise MaybeSent("the API accepted the weights, and answered with others")
        weights_text = "; ".join(
            f"rule {rule}: {show_weights(w)}" for rule, w in _weights_by_rule(target, self._weights).items()
        )
        return Outcome("acknowledged", f"the weights of {self._where} are set ({weights_text})", earlier)

    # -------------------------------------------------------------- the API

    def _get(self) -> Json:
        return self._ask("GET", self._path)

    def _patch(self, resource: Json, change: Json, subresource: str = "") -> Json:
        version = {"metadata": {"resourceVersion": resource["metadata"]["resourceVersion"]}}
        return self._ask("PATCH", self._path + subresource, version | change)

    def _ask(self, method: str, path: str, change: Json | None = None) -> Json:
        """The object that the API answers with. Raises HookError; where it may have been changed, MaybeSent."""
        options = self.options
        headers = {"Authorization": f"Bearer {self._secret(options.token)}", "Accept": "application/json"}
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
        if change is not None and (answer.ok or answer.status in (500, 502, 504)):
            raise MaybeSent(message)
        raise HookError(message, hint=_HINTS.get(answer.status))


def _rollout_state(resource: Json) -> Json:
    status = resource.get("status") or {}
    waits = [condition.get("reason") for condition in status.get("pauseConditions") or []]
    step = status.get("currentStepIndex")
    return {"aborted": bool(status.get("abort")), "step": step, "waits": waits}


def _rules_with(resource: Json, services: Mapping[str, int]) -> dict[str, list[Json]]:
    """Index of each rule that has all of the services → its references to them."""
    rules: dict[str, list[Json]] = {}
    for index, rule in enumerate((resource.get("spec") or {}).get("rules") or []):
        refs = [ref for ref in rule.get("backendRefs") or [] if ref.get("kind", "Service") == "Service"]
        matching = [ref for ref in refs if ref.get("name") in services and not ref.get("group")]
        if {ref["name"] for ref in matching} == set(services):
            rules[str(index)] = matching
    if not rules:
        raise HookError(
            f"no rule of the HTTPRoute has all of {', '.join(services)}", hint="check the names of the services"
        )
    return rules


def _weights_by_rule(resource: Json, services: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Where no weight is written, it is 1."""
    rules = _rules_with(resource, services)
    return {index: {ref["name"]: ref.get("weight", 1) for ref in refs} for index, refs in rules.items()}


def _with_weights(resource: Json, weights: dict[str, int]) -> Json:
    return _with_rules(resource, dict.fromkeys(_rules_with(resource, weights), weights))


def _with_rules(resource: Json, by_rule: Mapping[str, Mapping[str, int]]) -> Json:
    """The object with weights set rule by rule. Raises HookError where a rule has changed its services."""
    target = copy.deepcopy(resource)
    rules = target["spec"]["rules"]
    for index, weights in by_rule.items():
        refs = (
            {ref["name"]: ref for ref in (rules[int(index)].get("backendRefs") or [])}
            if int(index) < len(rules)
            else {}
        )
        if not set(weights) <= set(refs):
            raise HookError(
                f"rule {index} of the HTTPRoute does not have the services that it had", hint="set its weights by hand"
            )
        for name, weight in weights.items():
            refs[name]["weight"] = weight
    return target
