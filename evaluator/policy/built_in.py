"""Metrics of the built-in policy, as a policy file would name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BUILT_IN_METRICS: tuple[Mapping[str, Any], ...] = (
    {"name": "failure_rate", "type": "failure_rate", "role": "gate", "margin": "0.1pp"},
    {"name": "latency_p50", "type": "latency_quantile", "quantile": 0.50, "role": "gate", "margin": "5%"},
    {"name": "latency_p95", "type": "latency_quantile", "quantile": 0.95, "role": "gate", "margin": "10%"},
    {"name": "latency_p99", "type": "latency_quantile", "quantile": 0.99, "role": "gate", "margin": "15%"},
    {"name": "redirect_rate", "type": "redirect_rate", "role": "hold", "margin": "2pp"},
    {"name": "client_error_rate", "type": "client_error_rate", "role": "hold", "margin": "2pp"},
    {"name": "latency_mean", "type": "latency_mean", "role": "watch"},
    {"name": "throughput", "type": "throughput", "role": "watch"},
)
