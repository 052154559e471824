"""What was asked for: whether the endpoints that were called can say anything of the service."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from evaluator.health.base import RequestContext, warn
from evaluator.records import Finding
from evaluator.wording import count_of, format_number

NAME = "endpoints"
MANY = 1000
"""More endpoints than a service has routes."""
ALIKE = 0.5
"""Part of them that differ in an id only from which the ids are named."""
SHOWN = 3

_SURELY = r"health|healthz|healthy|health[-_]?checks?|readyz|readiness|livez|liveness|startupz|heartbeat"
_PERHAPS = r"ready|live|alive|ping|status|up"
_METHOD = r"(?:[A-Z]+ )?(?:https?://[^/]+)?/?"
_HEALTH = re.compile(
    rf"{_METHOD}(?:(?:[^/?]+/)*[-_]?(?:{_SURELY})(?:/(?:{_PERHAPS}|{_SURELY}))?|(?:(?:api|-|_|actuator|v\d+)/)*(?:{_PERHAPS}))"
    r"/?(?:\?.*)?",
    re.IGNORECASE,
)
"""`GET /healthz`, `/actuator/health/readiness`, `/ping`; of words that may mean something else (`/orders/status`) only
where nothing stands before them."""

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|(?<![A-Za-z])[0-9a-f]*\d[0-9a-f]{7,}(?![A-Za-z])|\d+", re.IGNORECASE)


def is_health_check(endpoint: str) -> bool:
    """Tell whether the name of an endpoint is that of a health check: a dying service may go on answering those."""
    return _HEALTH.fullmatch(endpoint) is not None


def check_endpoints(context: RequestContext) -> Iterable[Finding]:
    """Warns where nothing but health checks was asked for, and where names seem to hold ids."""
    for panel in [*context.panels.values()][:1]:
        called = np.flatnonzero((panel.n.sum(axis=2) > 0).all(axis=0))
        names = [panel.endpoints[code] for code in called]
        if names and all(is_health_check(name) for name in names):
            text = (
                f"only health checks were called on both arms ({_list(names)}): nothing else of the service was judged"
            )
            yield warn(NAME, text, "put load on the endpoints that users call")
    endpoints = context.cells.endpoints
    if len(endpoints) <= MANY:
        return
    many = count_of(len(endpoints), "endpoint")
    text = f"{many}: more than a service has, so names seem to hold what differs by request"
    pattern, alike = Counter(_ID.sub("{id}", name) for name in endpoints).most_common(1)[0]
    if alike >= ALIKE * len(endpoints):
        examples = _list([name for name in endpoints if _ID.sub("{id}", name) == pattern])
        share = format_number(100 * alike / len(endpoints))
        text = f"{many}: ids seem to stand in names; {share} % are {pattern}, such as {examples}"
    remedy = "name requests by their route, such as name='/cart/{id}' in Locust; in a file, before it is imported"
    yield warn(NAME, f"{text}. Endpoints with few requests are judged together", remedy)


def _list(names: Sequence[str]) -> str:
    remaining = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {remaining:,} more" if remaining > 0 else "")
