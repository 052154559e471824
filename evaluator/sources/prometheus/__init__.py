"""Prometheus and servers with its query API (VictoriaMetrics, Thanos, Mimir, Cortex), as a source of readings."""

from __future__ import annotations

from evaluator.sources.prometheus.client import Prometheus, connect
from evaluator.sources.prometheus.looking import Surroundings, look_around
from evaluator.sources.prometheus.options import PrometheusSource

__all__ = ["Prometheus", "PrometheusSource", "Surroundings", "connect", "look_around"]
