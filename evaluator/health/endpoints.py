"""Do the endpoints that were called represent the service?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from evaluator.health.base import RequestContext, warn
from evaluator.records import Finding
from evaluator.stats.shaping.rare import OTHER_ENDPOINTS
from evaluator.wording import count_of, format_number

NAME = "endpoints"
MANY = 1000
"""More endpoints than a service has routes."""
ALIKE = 0.5
"""Share of the endpoints that must differ only by an id before the finding names the ids."""
SHOWN = 3

_SURELY = r"health|healthz|healthy|health[-_]?checks?|readyz|readiness|livez|liveness|startupz|heartbeat"
_PERHAPS = r"ready|live|alive|ping|status|up"
_METHOD = r"(?:[A-Z]+ )?(?:https?://[^/]+)?/?"
_HEALTH = re.compile(
    rf"{_METHOD}(?:(?:[^/?]+/)*[-_]?(?:{_SURELY})(?:/(?:{_PERHAPS}|{_SURELY}))?|(?:(?:api|-|_|actuator|v\d+)/)*(?:{_PERHAPS}))"
    r"/?(?:\?.*)?",
    re.IGNORECASE,
)
"""`GET /healthz`, `/actuator/health/readiness`, `/ping`. Words that may mean something else (`/orders/status`) count
only at the start of the path."""

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|(?<![A-Za-z])[0-9a-f]*\d[0-9a-f]{7,}(?![A-Za-z])|\d+", re.IGNORECASE)


def is_health_check(endpoint: str) -> bool:
    """Is this the name of a health check, such as `GET /healthz`? A service that is failing may still answer them."""
    return _HEALTH.fullmatch(endpoint) is not None


def check_endpoints(context: RequestContext) -> Iterable[Finding]:
    """Warn if only health checks were called, or if endpoint names seem to contain ids."""
    first_panel = next(iter(context.panels.values()), None)  # the first candidate is enough: all arms are called alike
    if first_panel is not None:
        requests = first_panel.n.sum(axis=2)  # shape (2, endpoints)
        called_on_both = np.flatnonzero((requests > 0).all(axis=0))
        names = [first_panel.endpoints[endpoint_code] for endpoint_code in called_on_both]
        if names and all(is_health_check(name) for name in names):
            text = f"only health checks were called on both arms ({_list_names(names)}): no other endpoint was judged"
            yield warn(NAME, text, "put load on the endpoints that users call")
    endpoints = context.cells.endpoints
    if len(endpoints) <= MANY:
        return
    count = count_of(len(endpoints), "endpoint")
    if OTHER_ENDPOINTS in endpoints:  # the others were pooled when they landed
        count = f"more than {count_of(len(endpoints) - 1, 'endpoint')}"
    examples = _list_names([name for name in endpoints if name != OTHER_ENDPOINTS])
    text = (
        f"{count}, such as {examples}: more than a service has, so names seem to contain parts that differ by request"
    )
    # Names that differ only by an id have the same pattern, such as `/cart/{id}`.
    pattern, same_pattern = Counter(_ID.sub("{id}", name) for name in endpoints).most_common(1)[0]
    if same_pattern >= ALIKE * len(endpoints):
        examples = _list_names([name for name in endpoints if _ID.sub("{id}", name) == pattern])
        share = format_number(100 * same_pattern / len(endpoints))
        text = f"{count}: names seem to contain ids; {share} % are {pattern}, such as {examples}"
    remedy = "name requests by their route: name='/cart/{id}' in Locust, or change the names in a file before importing"
    yield warn(NAME, f"{text}. Endpoints with few requests are judged together", remedy)


def _list_names(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    remaining = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {remaining:,} more" if remaining > 0 else "")
