"""What the hooks of Kubernetes share: their options, and how objects are read and patched.

Each patch carries the version that was read: the API answers 409 when the object was changed in between.
"""

from __future__ import annotations

import json
import shlex
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from evaluator.errors import HookError
from evaluator.fields import Section
from evaluator.hooks.base import BaseHook
from evaluator.hooks.network import MaybeSent, TlsOptions, send
from evaluator.hooks.options import SecretName, Text, names_of
from evaluator.hooks.router import SHARES, ArmName, Shares, check_servers
from evaluator.secrecy import OF_HOOKS

K8sName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
ServiceName = Annotated[str, Field(pattern=r"^([a-z0-9-]{1,63}/)?[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
"""NAME, of the route's namespace, or NAMESPACE/NAME."""
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
    """Services of an HTTPRoute that share its requests."""

    name: K8sName = Field(description="Its name.")
    services: dict[ArmName, names_of(ServiceName)] = Field(  # type: ignore[valid-type] # a type that a function makes
        description="Arm to its services (NAME or NAMESPACE/NAME); set in each rule that has all of these services."
    )
    shares: Shares | None = SHARES

    @model_validator(mode="after")
    def _check_arms(self) -> Self:
        """Check the names of arms and services."""
        check_servers(self.services, self.shares)
        return self


class KubernetesOptions(TlsOptions):
    """Where the API is, with which account, and what is patched."""

    url: Text = Field(description="Address of the API server.")
    token: SecretName = Field(description="Where the bearer token is: ${VARIABLE}.")
    namespace: K8sName = Field("default", description="The namespace.")
    rollout: RolloutPatch | None = Field(None, description="An Argo Rollout: {name, do}.")
    route: RoutePatch | None = Field(None, description="A Gateway API HTTPRoute: {name, services, shares}.")

    @model_validator(mode="after")
    def _check_object(self) -> Self:
        """Check that the options have either a Rollout or an HTTPRoute to patch."""
        if (self.rollout is None) == (self.route is None):
            raise ValueError("needs rollout or route, one of them")
        return self


class KubernetesHook(BaseHook[KubernetesOptions]):
    """A hook that reads and patches one object."""

    kind = "kubernetes"
    Options = KubernetesOptions

    api: str
    """Of the object, such as `argoproj.io/v1alpha1`."""
    plural: str
    """Its type in paths, such as `rollouts`."""

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
        return f"/apis/{self.api}/namespaces/{self.options.namespace}/{self.plural}/{self._name}"

    @property
    def _kubectl(self) -> str:
        """The beginning of a line with kubectl: which API, as whom, and the namespace."""
        token = OF_HOOKS.pattern.findall(self.options.token)[0]
        ca = f" --certificate-authority={shlex.quote(self.options.ca)}" if self.options.ca else ""
        server = shlex.quote(self.options.url)
        return f'kubectl --server={server} --token="${token}"{ca} -n {self.options.namespace}'

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
