"""Address of the metrics server, label matchers of the arms, and authentication. Secrets are named, not stored."""

from __future__ import annotations

import re
from typing import Annotated
from urllib.parse import urlsplit, urlunsplit

from pydantic import AfterValidator, Field, field_validator

from evaluator.errors import UnknownName
from evaluator.fields import Name, PositiveDuration, Section
from evaluator.secrecy import OF_SOURCES, REDACTED, SECRET_HEADERS
from evaluator.sources.prometheus.sets import QUERY_SETS

Secret = Annotated[str, AfterValidator(OF_SOURCES.check)]
LabelName = Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$")]


class Basic(Section):
    """User and password."""

    username: Annotated[str, Field(min_length=1, description="Name of the user.")]
    password: Secret = Field(description="The password, as ${VARIABLE}.")


class Auth(Section):
    """Authentication."""

    bearer: Secret | None = Field(None, description="The token, as ${VARIABLE}.")
    basic: Basic | None = Field(None, description="User and password, instead of a token.")


class Tls(Section):
    """Certificates."""

    ca: str | None = Field(None, description="File of the certificates to trust.")
    cert: str | None = Field(None, description="File of our own certificate (mTLS).")
    key: str | None = Field(None, description="File of its key.")
    verify: bool = Field(True, description="False accepts any certificate.")  # noqa: FBT003


class PrometheusSource(Section):
    """Prometheus, or a server with its query API: VictoriaMetrics, Thanos, Mimir, Cortex."""

    url: str = Field(description="Address, with a path prefix if there is one.")
    selectors: dict[Name, str] = Field(
        description="Label matchers of each arm: {baseline: 'version=\"1.4\"', canary: 'version=\"1.5\"'}.",
        min_length=2,
    )
    step: PositiveDuration = Field(15.0, description="Interval of scrapes, in whole seconds.")
    queries: list[str] = Field(
        default_factory=list,
        description="Ready-made metrics to add.",
        json_schema_extra={"items": {"enum": list(QUERY_SETS)}},
    )
    instance_label: LabelName = Field("instance", description="Label that names the instance.")
    endpoint_label: LabelName | None = Field(None, description="Label that names the endpoint, such as handler.")
    headers: dict[str, str] = Field(default_factory=dict, description="Sent with each query; secrets as ${VARIABLE}.")
    tenant: str | None = Field(None, description="Sent as X-Scope-OrgID.")
    auth: Auth = Field(default_factory=Auth)
    tls: Tls = Field(default_factory=Tls)
    timeout: PositiveDuration = Field(30.0, description="Longest wait for one answer.")
    max_series: Annotated[int, Field(ge=1)] = Field(10_000, description="Most series that one query may have.")
    replica_labels: list[LabelName] = Field(
        ["replica", "prometheus_replica", "__replica__"],
        description="Labels of servers that run in pairs; series that differ only in these count once.",
    )

    @property
    def step_s(self) -> int:
        """Interval (s) of scrapes, and of the samples of an expression."""
        return int(self.step)

    @property
    def shown_url(self) -> str:
        """The address without the parts that may be secret."""
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        return urlunsplit((parts.scheme, f"{host}:{parts.port}" if parts.port else host, parts.path, "", ""))

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        """Refuse an address without scheme or host, or with a password in it."""
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            shown = re.sub(r"[^/]*@", f"{REDACTED}@", value)  # what is before an @ may be a password
            raise ValueError(f"must be an address such as http://prometheus:9090, not '{shown}'")
        if parts.password:
            raise ValueError("must not hold a password; use auth: {basic: {username: …, password: ${VARIABLE}}}")
        return value

    @field_validator("selectors")
    @classmethod
    def _check_selectors(cls, value: dict[str, str]) -> dict[str, str]:
        """Refuse selectors (arm → label matchers) without baseline, that are no matchers, or equal for two arms.

        The messages continue the name of the key, `selectors`.
        """
        if "baseline" not in value:
            raise ValueError("must have the arm baseline")
        for arm, selector in value.items():
            if not re.search(r"[=!]", selector):
                raise ValueError(f"of {arm} must be label matchers such as version=\"1.5\", not '{selector}'")
        return value

    @field_validator("step")
    @classmethod
    def _check_whole_seconds(cls, value: float) -> float:
        if value != int(value):
            raise ValueError(f"must be whole seconds, not {value:g}s")
        return value

    @field_validator("queries")
    @classmethod
    def _check_set_names(cls, value: list[str]) -> list[str]:
        """Refuse the name of a set of queries that does not exist."""
        for name in value:
            if name not in QUERY_SETS:
                raise ValueError(UnknownName("set of queries", name, QUERY_SETS).message)
        return value

    @field_validator("headers")
    @classmethod
    def _refuse_secrets(cls, value: dict[str, str]) -> dict[str, str]:
        """Refuse a header for secrets (Authorization, …) whose value does not name an environment variable."""
        for name, text in value.items():
            if SECRET_HEADERS.search(name) and not OF_SOURCES.pattern.search(text):
                # The message continues the name of the key, `headers`.
                raise ValueError(f"of {name} must name an environment variable, such as ${{TOKEN}}: no secrets here")
        return value

    @field_validator("auth")
    @classmethod
    def _refuse_two_ways(cls, value: Auth) -> Auth:
        if value.bearer and value.basic:
            raise ValueError("takes bearer or basic, not both")
        return value
