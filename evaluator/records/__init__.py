"""The nouns: frozen, slotted records that rooms hand to each other.

Times are UTC. Durations carry their unit in the name (`_s`, `_ms`, `_us`). Columns of cells are numpy arrays of equal
length; text is stored once in a tuple of names and referred to by integer codes, so that a release of any number of
requests is a few small arrays.
"""

from __future__ import annotations

from evaluator.records.cells import (
    BLOCK_BUCKETS,
    Bins,
    Cells,
    FailureKinds,
    InstanceBins,
    LoadLevels,
    Moments,
    bin_edges_us,
    choose_bucket_s,
)
from evaluator.records.landing import (
    ColumnMap,
    FileLayout,
    FilePlan,
    Landed,
    LandingPlan,
    ReleaseSummary,
    StoredVerdict,
)
from evaluator.records.outcomes import (
    OutcomeColumn,
    OutcomeFacts,
    OutcomeOptions,
    OutcomePlan,
    Outcomes,
    SourceColumn,
    UnitMoments,
)
from evaluator.records.releases import Arm, Release, Run, RunFacts, Service, check_names
from evaluator.records.rules import InstancePrior, Learnt, Limit, Margin, Monitoring, Rule, Rulebook, Scan, Slice
from evaluator.records.verdicts import (
    ArmSummary,
    ArmValue,
    Comparison,
    Drift,
    Effect,
    Evidence,
    Finding,
    Look,
    Question,
    Reason,
    Verdict,
    View,
    Window,
)
from evaluator.records.words import BASELINE, Direction, Level, MetricStatus, Role, RunState, VerdictWord

__all__ = [
    "BASELINE",
    "BLOCK_BUCKETS",
    "Arm",
    "ArmSummary",
    "ArmValue",
    "Bins",
    "Cells",
    "ColumnMap",
    "Comparison",
    "Direction",
    "Drift",
    "Effect",
    "Evidence",
    "FailureKinds",
    "FileLayout",
    "FilePlan",
    "Finding",
    "InstanceBins",
    "InstancePrior",
    "Landed",
    "LandingPlan",
    "Learnt",
    "Level",
    "Limit",
    "LoadLevels",
    "Look",
    "Margin",
    "MetricStatus",
    "Moments",
    "Monitoring",
    "OutcomeColumn",
    "OutcomeFacts",
    "OutcomeOptions",
    "OutcomePlan",
    "Outcomes",
    "Question",
    "Reason",
    "Release",
    "ReleaseSummary",
    "Role",
    "Rule",
    "Rulebook",
    "Run",
    "RunFacts",
    "RunState",
    "Scan",
    "Service",
    "Slice",
    "SourceColumn",
    "StoredVerdict",
    "UnitMoments",
    "Verdict",
    "VerdictWord",
    "View",
    "Window",
    "bin_edges_us",
    "check_names",
    "choose_bucket_s",
]
