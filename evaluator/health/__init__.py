"""Whether the comparison is fair: one module for each subject, and the table of the checks.

| check | failed means |
| --- | --- |
| sample_ratio | no GO |
| assignment | no GO |
| missing_outcomes | no GO |
| outcome_looks | no GO |
| overlap | no GO |
| phases | void: neither GO nor NO-GO |
| comparability | no GO |
| complete | no GO |
| coverage | no GO |
| silence | no GO |
| turnover | no GO |
| left_out | no GO |
| in_flight | no GO |
| status_mix, answer_size, client_aborts | no GO |
| without_server, retries, other_servers, grpc_status | no GO if more than is allowed, else warn only |
| unread_lines, log_holes, late | the same |
| single_instance | no GO |
| load_generator | void: neither GO nor NO-GO |
| clock | void: neither GO nor NO-GO |
| endpoints | warn only |
| resolution | no GO if whole microseconds hide an endpoint's geometric mean, else warn only |
| per_instance_load | warn only, and times decide nothing |
| early_warning, history, instance_age, replication, warm_up, pacing | warn only |
| router, pooled_endpoints | warn only |
| duplicates, heavy_tail, outcomes | warn only |
| selectors | void: neither GO nor NO-GO |
| source_clock | void together with a load, else warn only |
| series, partial_answer, scrapes, reading_overlap, silence, targets, turnover, traffic, endpoint_silent | no GO |
| counter_drops, not_a_number, infinite, samples | no GO |
| restarts, instances, late_start, shared_instances, histogram_form, other_times, server_notes | warn only |
| duplicate_series, bucket_bounds, disagreement, readings | warn only |
"""

from __future__ import annotations

from collections.abc import Mapping

from evaluator.health import outcomes, readings
from evaluator.health.answer_size import check_answer_size
from evaluator.health.base import Check, Context, OutcomeContext, ReadingContext, RequestContext, fail, warn
from evaluator.health.comparability import check_comparability
from evaluator.health.completeness import check_completeness, check_coverage
from evaluator.health.early_warning import check_early_warning
from evaluator.health.endpoints import check_endpoints
from evaluator.health.left_out import check_aborts, check_cut_off, check_left_out, check_skipped_rows
from evaluator.health.load_generator import check_clock, check_load_generator, check_pacing
from evaluator.health.overlap import check_overlap, check_windows
from evaluator.health.per_instance_load import check_per_instance_load
from evaluator.health.reading_silence import check_instances, check_silence_of_scrapes, check_targets
from evaluator.health.reading_traffic import check_traffic
from evaluator.health.replication import check_replication
from evaluator.health.resolution import check_resolution
from evaluator.health.router import check_router
from evaluator.health.router_shares import check_phases, check_router_shares
from evaluator.health.sample_ratio import check_sample_ratio
from evaluator.health.silence import check_silence
from evaluator.health.status_mix import check_status_mix
from evaluator.health.turnover import check_instance_age, check_turnover
from evaluator.health.warm_up import check_warm_up
from evaluator.records import EvidenceKind

__all__ = ["CHECKS", "Check", "Context", "OutcomeContext", "ReadingContext", "RequestContext", "fail", "warn"]

CHECKS: Mapping[EvidenceKind, tuple[Check, ...]] = {
    EvidenceKind.REQUESTS: (
        check_clock,
        check_load_generator,
        check_completeness,
        check_coverage,
        check_skipped_rows,
        check_left_out,
        check_cut_off,
        check_aborts,
        check_router,
        check_overlap,
        check_phases,
        check_sample_ratio,
        check_comparability,
        check_status_mix,
        check_answer_size,
        check_silence,
        check_turnover,
        check_instance_age,
        check_per_instance_load,
        check_replication,
        check_early_warning,
        check_warm_up,
        check_pacing,
        check_endpoints,
        check_resolution,
    ),
    EvidenceKind.LIVE: (
        check_completeness,
        check_coverage,
        check_skipped_rows,
        check_left_out,
        check_aborts,
        check_router,
        check_overlap,
        check_phases,
        check_router_shares,
        check_comparability,
        check_status_mix,
        check_answer_size,
        check_silence,
        check_turnover,
        check_instance_age,
        check_per_instance_load,
        check_replication,
        check_early_warning,
        check_endpoints,
        check_resolution,
    ),
    EvidenceKind.READINGS: (
        check_windows,
        readings.check_selectors,
        readings.check_shared_instances,
        readings.check_source_clock,
        readings.check_series,
        readings.check_form,
        readings.check_partial,
        check_silence_of_scrapes,
        check_targets,
        check_instances,
        check_traffic,
        readings.check_scrapes,
        readings.check_single_instance,
        readings.check_restarts,
        readings.check_samples,
        readings.check_bounds,
        readings.check_agreement,
    ),
    EvidenceKind.OUTCOMES: (
        outcomes.check_units_ratio,
        outcomes.check_looks,
        outcomes.check_assignment,
        outcomes.check_duplicates,
        outcomes.check_rows,
        outcomes.check_missing,
        outcomes.check_tails,
    ),
}
"""What is checked of each kind of evidence, in the order of the findings."""
