"""Ready-made metrics for what is usually scraped, so that users need no PromQL for it.

Names are those that prometheus-client and the exporters of Debian's packages give. `red-http` finds the status of a
response in the label `code`, `red-http-status` in `status`. Failures and times of requests are gates. Resources of an
instance are holds: they prevent a GO where they are shown to be worse, but do not show harm to users.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Metrics = tuple[Mapping[str, Any], ...]


def _make_hold(name: str, metric_type: str, query: str, margin: str, **options: Any) -> dict[str, Any]:
    """Make a metric that can only prevent a GO."""
    return {"name": name, "type": metric_type, "query": query, "role": "hold", "margin": margin, **options}


def _make_watch(name: str, metric_type: str, query: str, **options: Any) -> dict[str, Any]:
    """Make a metric that is only shown."""
    return {"name": name, "type": metric_type, "query": query, "role": "watch", **options}


_SECONDS = "http_request_duration_seconds{$selector}"


def _make_request_metrics(status_label: str) -> Metrics:
    """Make the metrics of rate, errors and duration of requests, whose status is in the label `status_label`."""
    return (
        {
            "name": "http_failures",
            "type": "counter_ratio",
            "failures": f'http_requests_total{{$selector,{status_label}=~"5..|5xx"}}',
            "requests": "http_requests_total{$selector}",
            "role": "gate",
            "margin": "0.1pp",
        },
        {"name": "http_mean", "type": "histogram_mean", "query": _SECONDS, "role": "gate", "margin": "5%"},
        _make_watch("http_p95", "histogram_quantile", _SECONDS, quantile=0.95),
        _make_watch("http_rate", "counter_rate", "http_requests_total{$selector}", direction="higher_is_better"),
        _make_hold("process_cpu", "counter_rate", "process_cpu_seconds_total{$selector}", "20%", unit="s"),
        _make_hold("process_memory", "gauge_mean", "process_resident_memory_bytes{$selector}", "20%", unit="bytes"),
    )


NODE: Metrics = (
    _make_hold("node_cpu_busy", "counter_rate", 'node_cpu_seconds_total{$selector,mode!="idle"}', "20%", unit="s"),
    _make_hold(
        "node_memory_free",
        "gauge_mean",
        "node_memory_MemAvailable_bytes{$selector} / node_memory_MemTotal_bytes{$selector}",
        "20%",
        unit="ratio",
        direction="higher_is_better",
    ),
    _make_watch("node_load", "gauge_mean", "node_load1{$selector}"),
    _make_watch("node_disk_busy", "counter_rate", "node_disk_io_time_seconds_total{$selector}"),
    _make_watch("node_received", "counter_rate", "node_network_receive_bytes_total{$selector}", unit="bytes"),
)

NGINX: Metrics = (
    _make_watch("nginx_requests", "counter_rate", "nginx_http_requests_total{$selector}", direction="higher_is_better"),
    _make_hold("nginx_connections", "gauge_mean", "nginx_connections_active{$selector}", "50%"),
    _make_watch("nginx_waiting", "gauge_mean", "nginx_connections_waiting{$selector}"),
)

POSTGRES: Metrics = (
    _make_hold("pg_rollbacks", "counter_rate", "pg_stat_database_xact_rollback{$selector}", "50%"),
    _make_hold("pg_deadlocks", "counter_rate", "pg_stat_database_deadlocks{$selector}", "50%"),
    _make_watch("pg_commits", "counter_rate", "pg_stat_database_xact_commit{$selector}", direction="higher_is_better"),
    _make_hold("pg_backends", "gauge_mean", "pg_stat_database_numbackends{$selector}", "50%"),
)

REDIS: Metrics = (
    _make_watch(
        "redis_commands", "counter_rate", "redis_commands_processed_total{$selector}", direction="higher_is_better"
    ),
    _make_hold("redis_memory", "gauge_mean", "redis_memory_used_bytes{$selector}", "20%", unit="bytes"),
    _make_hold("redis_evictions", "counter_rate", "redis_evicted_keys_total{$selector}", "50%"),
    _make_watch("redis_clients", "gauge_mean", "redis_connected_clients{$selector}"),
)

QUERY_SETS: Mapping[str, Metrics] = {
    "red-http": _make_request_metrics("code"),
    "red-http-status": _make_request_metrics("status"),
    "node": NODE,
    "nginx": NGINX,
    "postgres": POSTGRES,
    "redis": REDIS,
}
"""Name of a set → its metrics, as a policy has them."""
