"""Where the metrics server is, how to tell the arms apart, and how to prove who asks. Secrets are named, not held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

REPLICA_LABELS = ("replica", "prometheus_replica", "__replica__")
"""Labels by which the same sample is told twice where servers run in pairs."""


@dataclass(frozen=True, slots=True)
class PrometheusOptions:
    """The policy's `sources: prometheus`."""

    url: str
    """Address with the path prefix, if any."""
    selectors: Mapping[str, str]
    """Arm → label matchers that stand for `$selector`: `version="1.5"`."""
    step_s: int = 15
    """Distance of scrapes, and of the samples of a query that is more than a series' name."""
    instance_label: str = "instance"
    endpoint_label: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    tenant: str | None = None
    """Sent as X-Scope-OrgID (Mimir, Cortex, Thanos)."""
    bearer: str | None = None
    username: str | None = None
    password: str | None = None
    ca: str | None = None
    """File of certificates to trust."""
    cert: str | None = None
    """File of our own certificate, and of its key below."""
    key: str | None = None
    verify: bool = True
    timeout_s: float = 30.0
    max_series: int = 10_000
    replica_labels: tuple[str, ...] = REPLICA_LABELS

    @property
    def shown_url(self) -> str:
        """The address without what may be secret in it."""
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        return urlunsplit((parts.scheme, f"{host}:{parts.port}" if parts.port else host, parts.path, "", ""))
