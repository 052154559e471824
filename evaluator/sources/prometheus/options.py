"""Where the metrics server is, how to tell the arms apart, and how to prove who asks. Secrets are named, not held."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from evaluator.errors import UsageError

__all__ = ["REPLICA_LABELS", "SECRET", "PrometheusOptions", "reveal"]

SECRET = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""How the policy names a secret: `${PROMETHEUS_TOKEN}`."""

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


def reveal(text: str) -> str:
    """Put the values of variables in place of their names. Raises UsageError for one that is not set."""

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if not found:
            raise UsageError(
                f"the environment variable {match[1]} is not set, and sources.prometheus needs it",
                hint=f"export {match[1]}=… before you call the evaluator",
            )
        return found

    return SECRET.sub(value, text)
