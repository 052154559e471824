"""The shape of evaluator.yaml. Every key has a default; an unknown key is an error.

Validation happens field by field, so that an error has the line of the wrong key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from evaluator.fields import (
    AutoOrDuration,
    AutoOrPercent,
    AutoOrPoints,
    Duration,
    Name,
    Percent,
    Points,
    PositiveDuration,
    Probability,
    Ratio,
    Section,
    Share,
    within,
)
from evaluator.policy.built_in import BUILT_IN_METRICS
from evaluator.policy.metrics import MetricSection
from evaluator.policy.promotion import ApprovalsSection, HooksSection, Link, RolesSection
from evaluator.policy.rollout import RolloutSection
from evaluator.records import EvidenceKind
from evaluator.sources.access_logs.options import AccessLogSource
from evaluator.sources.prometheus.options import PrometheusSource
from evaluator.sources.prometheus.sets import QUERY_SETS


def _describe(metric: Mapping[str, Any]) -> str:
    """Describe a built-in metric in a few words: `latency_p50 (gate 5%)`."""
    role_and_margin = [str(metric[key]) for key in ("role", "margin") if key in metric]
    return f"{metric['name']} ({' '.join(role_and_margin)})"


PLANNED_SECTIONS = ("stages", "strategy")
"""Sections that are planned and not available in this version."""

PROMOTION_SECTIONS = ("sensitive", "hooks", "approvals", "journal", "link", "roles", "rollout")
"""Sections about what happens after a verdict: not part of the rules that judge, nor of their hash."""


class ServiceName(Section):
    """A service that is released; its name alone is enough."""

    name: Name = Field(description="Name of the service, as in the verdict.")


AnyServiceName = Annotated[
    ServiceName,
    BeforeValidator(
        lambda raw: {"name": raw} if isinstance(raw, str) else raw, json_schema_input_type=Name | ServiceName
    ),
]


class MonitoringSection(Section):
    """When the verdict may be given."""

    mode: Literal["auto", "fixed", "group_sequential", "anytime"] = Field(
        "auto",
        description="fixed: once, at the planned end. group_sequential: each minute up to the planned end. "
        "anytime: each minute, without a planned end. auto: group_sequential for load runs of which 5 minutes and more "
        "are judged (without warm-up), "
        "fixed for shorter ones, replicates and imported files. For outcomes, each verdict on other data is a look; "
        "auto: group_sequential where max_units is set, else fixed for the first look and anytime for later ones.",
    )
    max_duration: PositiveDuration = Field(3600.0, description="Time by which all is decided, where no end is planned.")
    burn_in: AutoOrDuration = Field(None, description="No verdict before this; auto: 10 minutes or 40 buckets.")
    early_go: bool = Field(default=False, description="GO may be given before the planned end.")
    max_units: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Units of all arms at which a test of outcomes ends; earlier looks are group-sequential.",
    )


class Sources(Section):
    """Where readings and the requests of production come from."""

    prometheus: PrometheusSource | None = Field(None, description="A server with the HTTP API of Prometheus.")
    access_log: AccessLogSource | None = Field(
        None, description="Access logs of the router, for `evaluator import --access-log` and `evaluator tail`."
    )


class EndpointScan(Section):
    """A veto on single endpoints that are clearly worse."""

    enabled: bool = Field(default=True, description="Off: single endpoints never decide.")
    margin: Percent = Field(0.25, description="Largest rise of an endpoint's response time, geometric mean or mean.")
    failure_margin: Points = Field(0.01, description="Largest rise of an endpoint's failure rate.")
    tolerance: AutoOrPercent = Field(
        None,
        description="An endpoint whose response time is shown to rise by more than this prevents a GO; at most margin. "
        "auto: the widest margin of the latency gates of this endpoint; if it has none, of those over all traffic; if "
        "these have none, margin. Holds count where no gate has a margin.",
        validate_default=True,
    )
    failure_tolerance: AutoOrPoints = Field(
        None,
        description="The same for its failure rate; at most failure_margin. auto: likewise, of the failure gates.",
        validate_default=True,
    )
    alpha_share: Annotated[Probability, within(0, 1, ends=False)] = Field(
        0.2, description="Share of alpha for the scan."
    )

    @field_validator("tolerance", "failure_tolerance")
    @classmethod
    def _check_tolerance(cls, value: float | None, info: ValidationInfo) -> float | None:
        """Check that a tolerance, a share of 1, is between 0 and its margin; None (`auto`) always is."""
        key, unit = ("margin", "%") if info.field_name == "tolerance" else ("failure_margin", "pp")
        margin = info.data.get(key)  # None if the margin has a mistake of its own
        if value is not None and value < 0:
            raise ValueError(f"must not be negative, got {value * 100:g}{unit}")
        if value is not None and margin is not None and value > margin:
            raise ValueError(
                f"must be at most {key} ({margin * 100:g}{unit}), got {value * 100:g}{unit}: beyond {key} it is NO-GO"
            )
        return value


class InstanceHistorySection(Section):
    """What `evaluator calibrate` learnt from earlier runs; filled in from the store where the file does not set it."""

    comparisons: Annotated[int, Field(ge=0)] = Field(0, description="Comparisons of instances it rests on.")
    between_arms_latency: Percent = Field(
        0.0, description="Spread between identical releases beyond what one run shows."
    )
    between_arms_failures: Points = Field(0.0, description="The same for the failure rate.")
    between_arms_comparisons: Annotated[int, Field(ge=0)] = Field(0, description="Identical releases it rests on.")


class Instances(Section):
    """How instances are named, and how much they differ where a run does not show it."""

    header: Annotated[str, Field(min_length=1, pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")] = Field(
        "X-Instance", description="Response header that names the instance."
    )
    arm_header: Annotated[str, Field(min_length=1, pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")] = Field(
        "X-Arm", description="Response header that names the arm, for `evaluator load --router`."
    )
    sd_latency: Percent = Field(0.05, description="Spread of latency between instances of one build.")
    sd_failures: Points = Field(0.0005, description="Spread of the failure rate between instances of one build.")
    turnover: Literal["expected"] | None = Field(
        None, description="expected: instances of the candidate come and go by design; that does not prevent a GO."
    )
    baseline: Annotated[int, Field(ge=1)] | None = Field(None, description="Instances behind one baseline address.")
    canary: Annotated[int, Field(ge=1)] | None = Field(None, description="Instances behind one canary address.")
    history: InstanceHistorySection | None = Field(
        None, description="What was learnt from earlier runs, where there are enough."
    )


class Health(Section):
    """What a fair comparison needs."""

    coverage: Share = Field(0.99, description="Least share of the load generator's own count that must have landed.")
    silence: Share = Field(0.2, description="Largest share of a run in which an arm or endpoint may fall silent.")
    max_clock_offset: Duration = Field(2.0, description="Largest difference of clocks between load generators.")
    sample_ratio: Ratio = Field(
        "configured", description="Expected users per arm: as the run was configured, or {baseline: 9, canary: 1}."
    )


class PolicyFile(Section):
    """evaluator.yaml, version 1."""

    version: Literal[1] = Field(1, description="Version of the file's format.")
    service: Name | None = Field(
        None, description="Name of the service; where the file has none, commands may name it."
    )
    services: list[AnyServiceName] | None = Field(
        None, min_length=1, description="Instead of service, where several are released together: [cart, shop]."
    )
    mode: Literal["block", "shadow"] = Field(
        "block", description="shadow: store the verdict, exit 0 where it would be 1 or 3."
    )
    alpha: Annotated[Probability, within(0, 0.5, ends=False)] = Field(
        0.05, description="False-alarm rate over all gates together."
    )
    alpha_no_go: Annotated[Probability, within(0, 0.5, ends=False)] | None = Field(
        None,
        description="False-alarm rate over all gates together, where it has to be less than alpha, such as for one of "
        "several observations of a release. GO is decided at alpha.  Default: alpha.",
    )
    monitoring: MonitoringSection = Field(default_factory=MonitoringSection)
    warm_up: AutoOrDuration = Field(
        None, description="Time cut from the start: auto (until the user count is constant) or a duration."
    )
    sources: Sources | None = Field(None, description="Where metrics other than those of requests come from.")
    metrics: list[MetricSection] = Field(
        default_factory=lambda: [MetricSection.model_validate(metric) for metric in BUILT_IN_METRICS],
        description="What is compared; this replaces the built-in metrics: "
        + "; ".join(map(_describe, BUILT_IN_METRICS))
        + ". The metrics of sources: {prometheus: {queries: […]}} are added.",
        validate_default=True,
    )
    endpoint_scan: EndpointScan = Field(default_factory=EndpointScan)
    instances: Instances = Field(default_factory=Instances)
    health: Health = Field(default_factory=Health)
    sensitive: bool = Field(
        default=False,
        description="On: two other people approve a promotion, only the path of each request is recorded, and only the "
        "owner can read the store, its requests and the reports.",
    )
    hooks: HooksSection = Field(default_factory=HooksSection)
    approvals: ApprovalsSection = Field(default_factory=ApprovalsSection)
    journal: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="One more copy of the journal, from which a rollback is executed if no database can be used; an "
        "absolute path, best on another disk. Others are next to the store, and on another file system of the machine.",
    )
    link: Link | None = Field(
        None,
        description="Address that notifications and the word ${link} of hooks lead to, of the app or of a CI job; "
        "words such as ${release} are filled in. The environment variable EVALUATOR_LINK replaces it.",
    )
    roles: RolesSection | None = Field(
        None, description="Without it, accounts of this machine may do everything, and people who sign in may read."
    )
    rollout: RolloutSection | None = Field(
        None, description="How a release is taken to its users, stage by stage; `evaluator rollout plan` shows it."
    )

    @field_validator("alpha_no_go")
    @classmethod
    def _check_alpha_no_go(cls, value: float | None, info: ValidationInfo) -> float | None:
        """Check that it is at most alpha. The same as alpha becomes None: both mean the same, so both have one hash."""
        alpha: float | None = info.data.get("alpha")  # None if it has a mistake of its own
        if value is None or alpha is None:
            return value
        if value > alpha:
            raise ValueError(f"must be at most alpha ({alpha:g}), not {value:g}")
        return None if value == alpha else value

    @field_validator("services")
    @classmethod
    def _check_services(cls, value: list[ServiceName] | None, info: ValidationInfo) -> list[ServiceName] | None:
        """Check that the file has only one of the keys `service` and `services`, and each service once."""
        if value and info.data.get("service"):
            raise ValueError("cannot be given together with service")
        _check_distinct("services", [service.name for service in value or ()])
        return value

    @field_validator("metrics")
    @classmethod
    def _complete_metrics(cls, value: list[MetricSection], info: ValidationInfo) -> list[MetricSection]:
        """Add the metrics of the sets that `sources` names, and check all.

        Names are distinct, readings have a source, and at least one metric is a gate. Raises ValueError,
        PydanticCustomError.
        """
        sources: Sources | None = info.data.get("sources")
        for index, section in enumerate(value):
            if section.metric.evidence is EvidenceKind.READINGS and not (sources and sources.prometheus):
                raise PydanticCustomError(
                    "no_source",
                    "{type} needs {source}",
                    {"type": section.type, "index": index, "source": "sources: {prometheus: …}"},
                )
        names = [section.name for section in value]
        _check_distinct("metrics", names)
        sections = [*value, *_build_ready_made(sources, names)]
        if not sections:
            raise ValueError("must have at least one entry, not an empty list")
        if not any(section.role == "gate" for section in sections):
            raise ValueError("no metric is a gate, so nothing could be GO or NO-GO: give one a margin, min or max")
        return sections


def _check_distinct(what: Literal["services", "metrics"], names: list[str]) -> None:
    """Raise PydanticCustomError for the first name that occurs a second time; `index` is its position in the list."""
    for index, name in enumerate(names):
        if name in names[:index]:
            raise PydanticCustomError(
                "same_name", "two {what} have the name '{name}'", {"what": what, "name": name, "index": index}
            )


def _build_ready_made(sources: Sources | None, own_names: list[str]) -> list[MetricSection]:
    """Build the metrics of the query sets that `sources` names, such as `node`.

    A metric of a set is left out if the policy has a metric of that name (`own_names`): its own replaces it.
    """
    set_names = sources.prometheus.queries if sources and sources.prometheus else []
    metrics = [metric for name in set_names for metric in QUERY_SETS[name]]
    return [MetricSection.model_validate(dict(metric)) for metric in metrics if metric["name"] not in own_names]
