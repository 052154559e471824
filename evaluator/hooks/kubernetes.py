"""Patch a Kubernetes API: promote, abort or retry an Argo Rollout, or set weights of a Gateway API HTTPRoute.

What is patched is what `kubectl argo rollouts` patches (argoproj/argo-rollouts, pkg/kubectl-argo-rollouts/cmd), and the
schema `gateway.networking.k8s.io/v1 HTTPRoute` (kubernetes-sigs/gateway-api, config/crd/standard). Each patch carries
the version that was read: the API answers 409 when the object was changed in between. A service that is to get traffic
must have a ready endpoint (`discovery.k8s.io/v1 EndpointSlice`).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, urlencode

from pydantic import AfterValidator, Field, model_validator

from evaluator.errors import HookError
from evaluator.fields import Section
from evaluator.hooks.base import BaseHook, HookContext, Outcome
from evaluator.hooks.kubernetes_routes import (
    describe_limits,
    has_ready_endpoint,
    list_services_with_traffic,
    read_weights,
    restore_weights,
    set_weights,
    show_rule_weights,
    sum_weights,
)
from evaluator.hooks.network import MaybeSent, TlsOptions, send
from evaluator.hooks.options import SecretName, Text
from evaluator.hooks.weights import check_some_traffic, moves_back, show_weights
from evaluator.secrecy import OF_HOOKS

K8sName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
ServiceName = Annotated[str, Field(pattern=r"^([a-z0-9-]{1,63}/)?[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
"""NAME, of the route's namespace, or NAMESPACE/NAME."""
Share = Annotated[int, Field(ge=0, le=1_000_000)]
Json = dict[str, Any]
_HINTS = {
    401: "check that the token is of this cluster and has not expired",
    403: "its account needs get and patch on the object (and on rollouts/status), for a route list on endpointslices",
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
    weights: Annotated[dict[ServiceName, Share], AfterValidator(check_some_traffic)] = Field(
        description="Service (NAME or NAMESPACE/NAME) to weight; set in each rule that has all of these services.",
        min_length=2,
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

    def _describe(self, words: Mapping[str, str]) -> str:  # noqa: ARG002 - its options have no words
        if self.options.rollout:
            return f"{self.options.rollout.do} of the Argo Rollout {self._where}"
        return f"sets the weights of the HTTPRoute {self._where} to {show_weights(self._weights)}"

    def _test(self) -> Outcome:
        """Check that the object exists, and that a route has the services; changes nothing."""
        resource = self._get_object()
        description = f"{self._where} exists, at version {resource['metadata']['resourceVersion']}"
        if self.options.route:
            set_weights(resource, self._weights)  # raises HookError if no rule has the services
            description = "; ".join([description, *describe_limits(resource, self._weights)])
        return Outcome("acknowledged", description)

    def _moves_back(self) -> bool:
        """Whether the weights of the route only take traffic from the candidate, in each rule. Raises HookError."""
        if not self.options.route:
            return False
        rules = read_weights(self._get_object(), self._weights).values()
        return bool(rules) and all(
            moves_back(self._weights, sum_weights(rule["weights"], self._weights)) for rule in rules
        )

    def _check_target(self) -> None:
        """Raise HookError for a service without ready endpoints, or a Rollout that cannot be promoted as it is."""
        if self.options.rollout:
            if self.options.rollout.do in ("promote", "promote_full"):
                self._check_rollout(self._get_object(), self.options.rollout.do)
            return
        set_weights(self._get_object(), self._weights)  # raises HookError if no rule has the services
        unready = self._list_unready([service for service, weight in self._weights.items() if weight])
        if unready:
            raise HookError("; ".join(unready), hint="start its pods, and check their readiness")

    def _read(self) -> Any:
        """Read the state of the Rollout, or the route's weights by rule and service."""
        resource = self._get_object()
        if self.options.rollout:
            return _read_rollout_state(resource)
        return read_weights(resource, self._weights)

    def _describe_value(self, value: Any) -> str:
        return super()._describe_value(value) if self.options.rollout else show_rule_weights(value)

    def _execute(self, context: HookContext) -> Outcome:
        """Change the Rollout, or the weights of the route, as the options say. Raises HookError, MaybeSent."""
        is_going_back = self._goes_back(context.action)  # by the weights before the change
        resource = self._get_object()
        if self.options.rollout:
            return self._change_rollout(resource, self.options.rollout.do)
        outcome = self._change_route(resource, set_weights(resource, self._weights))
        return self._report_unready(outcome) if is_going_back else outcome

    def can_undo(self) -> bool:
        """Whether `undo` works: for all but a promotion of an Argo Rollout, which is aborted instead."""
        return self.options.rollout is None or self.options.rollout.do in ("abort", "retry")

    def _undo(self, context: HookContext, earlier: Any) -> Outcome:
        """Restore the state `earlier`, which `_read` returned before the execution. `context` is not needed.

        `earlier`: of a Rollout {"aborted": bool, …}; of a route its `RuleWeights`. What a route does not have any more
        is left out and reported. Raises HookError if the state was not kept, if nothing of it can be restored, or if
        the change cannot be undone; MaybeSent.
        """
        if not isinstance(earlier, dict):
            raise HookError("there is no earlier state to restore", hint="it is kept when the hook is executed")
        resource = self._get_object()
        if self.options.route:
            target, problems = restore_weights(resource, earlier, self._weights)
            if problems and target == resource:
                raise HookError("; ".join(problems), hint="set the weights by hand")
            return self._report_unready(self._change_route(resource, target), problems)
        if self.options.rollout and self.options.rollout.do in ("abort", "retry"):
            return self._change_rollout(resource, "abort" if earlier.get("aborted") else "retry")
        return super()._undo(context, earlier)  # a promotion cannot be undone: this raises HookError

    def write_by_hand(self, context: HookContext) -> list[str]:  # noqa: ARG002 - its options have no words
        """Write lines for a shell that do the same."""
        if self.options.rollout:
            return self._write_rollout_by_hand(self.options.rollout.do)
        return self._write_weights_by_hand([("", dict(self._weights))])

    def write_undo_by_hand(self, context: HookContext, earlier: Any) -> list[str]:  # noqa: ARG002 - as above
        """Write lines for a shell that undo what the hook did."""
        if self.options.rollout:
            return self._write_rollout_by_hand("abort" if earlier.get("aborted") else "retry")
        return self._write_weights_by_hand([(index, entry["weights"]) for index, entry in earlier.items()])

    def _write_rollout_by_hand(self, change: str) -> list[str]:
        """Write the line that changes the Rollout; empty for a change that depends on its state."""
        status = {"abort": {"abort": True}, "retry": {"abort": False}, "promote_full": {"promoteFull": True}}.get(
            change
        )
        if status is None:
            return []
        patch = shlex.quote(json.dumps({"status": status}))
        words = [self._kubectl, "patch", "rollout", self._name, "--subresource=status", "--type=merge", "-p", patch]
        return [" ".join(words)]

    def _write_weights_by_hand(self, rules: Sequence[tuple[str, Mapping[str, int]]]) -> list[str]:
        """Write the line that sets weights of references of the route.

        `rules`: index of a rule (empty: all rules) and weight by label, as `RuleWeights` has it.
        """
        changes = []
        for index, weights in rules:
            for label, weight in weights.items():
                named, _, number = label.partition(" #")
                service, _, port = named.partition(":")
                namespace, _, name = service.rpartition("/")
                conditions = [f".name == {json.dumps(name)}"]
                conditions += [f".namespace == {json.dumps(namespace)}"] if namespace else []
                conditions += [f".port == {int(port)}"] if port else []
                rule = f"[{int(index)}]" if index else "[]"
                references = f".spec.rules{rule}.backendRefs[] | select({' and '.join(conditions)})"
                if not index:
                    changes.append(f"({references} | .weight) = {int(weight)}")
                    continue
                # Of several references that are alike, the one with the number of the label.
                missing = json.dumps(f"rule {index} has no {label}")
                place = f"[path({references})][{int(number) - 1 if number else 0}] // error({missing})"
                changes.append(f'setpath(({place}) + ["weight"]; {int(weight)})')
        jq = shlex.quote(" | ".join(changes))
        return [f"{self._kubectl} get httproute {self._name} -o json | jq {jq} | {self._kubectl} replace -f -"]

    @property
    def _kubectl(self) -> str:
        """The beginning of a line with kubectl: which API, as whom, and the namespace."""
        token = OF_HOOKS.pattern.findall(self.options.token)[0]
        ca = f" --certificate-authority={shlex.quote(self.options.ca)}" if self.options.ca else ""
        server = shlex.quote(self.options.url)
        return f'kubectl --server={server} --token="${token}"{ca} -n {self.options.namespace}'

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

    # -------------------------------------------------------------- HTTPRoute

    def _change_route(self, resource: Json, target: Json) -> Outcome:
        """Patch the weights of a route, unless they are set already; `target` is `resource` with the new weights.

        Raises HookError; MaybeSent if the API answers with other weights.
        """
        earlier = read_weights(resource, self._weights)
        expected = read_weights(target, self._weights)
        if expected != earlier:
            patched = self._patch(resource, {"spec": {"rules": target["spec"]["rules"]}})
            try:
                current = read_weights(patched, self._weights)
            except HookError as error:
                raise MaybeSent(f"the API accepted the weights, and answered with another route: {error}") from None
            if current != expected:
                raise MaybeSent(f"the API accepted the weights, and answered with {show_rule_weights(current)}")
        description = f"the weights of {self._where} are set ({show_rule_weights(expected)})"
        limits = describe_limits(target, self._weights)
        return Outcome("acknowledged", "; ".join([description, *limits]), earlier=earlier)

    def _list_unready(self, services: Sequence[str]) -> list[str]:
        """List those of the services that have no ready endpoint, as sentences. Raises HookError."""
        return [f"the service {service} has no ready endpoint" for service in services if not self._is_ready(service)]

    def _is_ready(self, service: str) -> bool:
        """Has a service (NAME or NAMESPACE/NAME) an endpoint that takes requests? Raises HookError."""
        namespace, _, name = service.rpartition("/")
        path = f"/apis/discovery.k8s.io/v1/namespaces/{namespace or self.options.namespace}/endpointslices"
        query = {"labelSelector": f"kubernetes.io/service-name={name}", "limit": "100"}
        while True:  # a large service has its endpoints on several pages
            page = self._ask("GET", f"{path}?{urlencode(query, quote_via=quote)}")
            if has_ready_endpoint(page):
                return True
            following = (page.get("metadata") or {}).get("continue")
            if not following or following == query.get("continue"):
                return False
            query["continue"] = str(following)

    def _report_unready(self, outcome: Outcome, problems: Sequence[str] = ()) -> Outcome:
        """Return the outcome of going back, failed if something is missing: `problems`, and services without endpoints.

        Going back is not refused because of them: the weights are set.
        """
        try:
            current = read_weights(self._get_object(), self._weights)
            unready = self._list_unready(list_services_with_traffic(current, self._weights))
        except HookError as error:  # the weights are set all the same
            unready = []
            outcome = replace(outcome, did=f"{outcome.did}; not known whether its services can serve: {error.message}")
        missing = [*problems, *unready]
        if not missing:
            return outcome
        return Outcome("failed", f"not everything is as before: {'; '.join(missing)}; {outcome.did}")

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
        if answer.ok and isinstance(content.get("metadata"), dict):
            return content
        text = self._remove_secrets(str(content.get("message") or answer.text))
        message = f"the API answered {answer.status}: {text[:300]}"
        # The server may have acted before these errors, or before an answer without an object; 503: it could not act.
        if change is not None and (answer.ok or answer.status in (500, 502, 504)):
            raise MaybeSent(message)
        raise HookError(message, hint=_HINTS.get(answer.status))


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
