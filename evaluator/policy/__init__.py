"""evaluator.yaml → validated models → the records that the packages below work with.

No package below this one knows YAML. A policy may be empty: everything has a default, and the defaults together are
the built-in policy. The effective policy is plain JSON and part of every verdict; its hash shows whether two verdicts
were judged by the same rules.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from evaluator.errors import PolicyError, UnknownName
from evaluator.policy.building import build
from evaluator.policy.document import Document, KeyPath, read_document
from evaluator.policy.metrics import to_rule
from evaluator.policy.models import LATER, OF_PROMOTION, InstanceHistorySection, Instances, PolicyFile
from evaluator.policy.promotion import PromotionRules, add_hooks, to_rules
from evaluator.records import InstancePrior, InstanceSpread, Learnt, Monitoring, Rulebook, Scan
from evaluator.sources.prometheus.options import PrometheusSource
from evaluator.stats.variance.history import LEAST_COMPARISONS
from evaluator.wording import write_command

__all__ = ["Policy", "load_policy", "parse_policy", "policy_schema", "with_learnt"]

PRIOR_WEIGHT = 3.0
"""Degrees of freedom of the policy's own assumption about instances, when pooled with history (method B.3, B.3a)."""
_UNION_MEMBERS = ("literal[", "dict[", "function-")
"""How pydantic's names for the members of a union begin; they are not keys in the file."""

PLAIN_WORDS: Mapping[str, str] = {
    "string_type": "be text (put it in quotes)",
    "bool_type": "be true or false",
    "list_type": "be a list",
    "tuple_type": "be a list",
    "too_short": "have at least one entry",
    "int_type": "be a whole number",
    "float_type": "be a number",
    "string_too_short": "have at least one character",
    "string_too_long": "be shorter",
    "string_pattern_mismatch": "have only characters that are allowed and visible",
    "finite_number": "be a finite number",
    "greater_than": "be more than {gt:g}",
    "greater_than_equal": "be at least {ge:g}",
    "less_than": "be less than {lt:g}",
    "less_than_equal": "be at most {le:g}",
    "model_type": "be a mapping of keys to values",
    "model_attributes_type": "be a mapping of keys to values",
}
"""What a value must be, where pydantic's own message names its types."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of a verdict, where they come from, and their canonical form."""

    rulebook: Rulebook
    effective: Mapping[str, Any]
    """The rules of the verdict with every default spelled out, as plain JSON. Read as a policy it judges the same."""
    hash: str
    """`sha256:…` over `effective`: equal when two policies mean the same."""
    origin: str
    """Path of the file, or `built-in`."""
    instance_header: str
    services: tuple[str, ...] = ()
    prometheus: PrometheusSource | None = None
    """Where readings come from."""
    promotion: PromotionRules = field(default_factory=PromotionRules)
    """What happens after a verdict."""
    afterwards: Mapping[str, Any] = field(default_factory=dict)
    """The sections about promotion as plain JSON, every default spelled out."""
    path: str = ""
    """Path of the file, as verdicts name it; empty where commands find it themselves, or for the built-in one."""

    @property
    def service(self) -> str:
        """The service that the policy names; empty where it names none, or several."""
        return self.services[0] if len(self.services) == 1 else ""

    def command(self, release: str, *options: str) -> str:
        """Write the command that judges a release by this policy."""
        return write_command(release, *options, policy=self.path)


def load_policy(path: Path | None = None) -> Policy:
    """Load a policy file; `None` is the built-in policy.

    Raises PolicyError: one `file:line: message` per mistake.
    """
    return _load(Document("built-in", {}, {}) if path is None else read_document(path))


def parse_policy(
    values: Mapping[str, Any], *, origin: str = "policy", lines: Mapping[KeyPath, int] | None = None
) -> Policy:
    """Make a policy of the content of a policy file, such as the effective one of a verdict. Raises PolicyError."""
    return _load(Document(origin, dict(values), lines or {}))


def _load(document: Document) -> Policy:
    try:
        file = PolicyFile.model_validate(document.values)
    except ValidationError as error:
        raise PolicyError(_describe(document, error), hint="`evaluator policy show` prints a whole policy") from None
    return _to_policy(file, document.name)


def policy_schema() -> dict[str, Any]:
    """Build the JSON Schema of evaluator.yaml."""
    schema = add_hooks(PolicyFile.model_json_schema(mode="validation"))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def with_learnt(policy: Policy, learnt: Learnt | None) -> Policy:
    """Take from history how much instances differ, for runs that do not show it; a short history changes nothing.

    The built-in assumption is pooled with history by degrees of freedom; one that the file states is replaced only by
    a larger one. Never below what was learnt. The effective policy and its hash are those that judge.
    """
    if learnt is None or learnt.comparisons < LEAST_COMPARISONS:
        return policy
    prior, built_in = policy.rulebook.prior, InstancePrior()
    latency = _weigh(prior.sd_latency, built_in.sd_latency, learnt.sd_latency, learnt.df)
    failures = _weigh(prior.sd_failures, built_in.sd_failures, learnt.sd_failures, learnt.df)
    file = PolicyFile.model_validate(policy.effective)
    history = file.instances.history or _to_history(learnt)
    update = {"sd_latency": latency, "sd_failures": failures, "history": history}
    instances = file.instances.model_copy(update=update)
    judging = _to_policy(file.model_copy(update={"instances": instances}), policy.origin)
    promotion_rules = {name: getattr(policy, name) for name in ("promotion", "afterwards", "path")}
    return replace(judging, **promotion_rules)


def _to_history(learnt: Learnt) -> InstanceHistorySection | None:
    if learnt.sd_latency is None or learnt.sd_failures is None:
        return None
    return InstanceHistorySection(
        comparisons=learnt.comparisons,
        between_arms_latency=_round(learnt.between_arms_latency or 0.0),
        between_arms_failures=_round(learnt.between_arms_failures or 0.0),
        between_arms_comparisons=learnt.between_arms_comparisons,
    )


def _round(value: float) -> float:
    """As it is written in the effective policy."""
    return float(f"{value:.3g}")


def _weigh(stated: float, built_in: float, learnt: float | None, df: float) -> float:
    if learnt is None:
        return stated
    if stated != built_in:
        return max(stated, learnt)
    pooled = math.sqrt((PRIOR_WEIGHT * stated**2 + df * learnt**2) / (PRIOR_WEIGHT + df))
    return _round(max(pooled, learnt))


# ------------------------------------------------------------------ models → records


def _to_policy(file: PolicyFile, origin: str) -> Policy:
    settings = _without_nulls(file.model_dump(mode="json"))
    effective = {key: value for key, value in settings.items() if key not in OF_PROMOTION}
    canonical = json.dumps(effective, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return Policy(
        rulebook=_to_rulebook(file),
        effective=effective,
        hash="sha256:" + hashlib.sha256(canonical.encode()).hexdigest(),
        origin=origin,
        instance_header=file.instances.header,
        services=tuple(s.name for s in file.services or ()) or ((file.service,) if file.service else ()),
        prometheus=file.sources.prometheus if file.sources else None,
        promotion=to_rules(file.hooks, file.approvals, file.roles, sensitive=file.sensitive),
        afterwards={key: value for key, value in settings.items() if key in OF_PROMOTION},
    )


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _to_rulebook(file: PolicyFile) -> Rulebook:
    health = file.health
    return build(
        Rulebook,
        file,
        rules=tuple(to_rule(metric) for metric in file.metrics),
        scan=build(Scan, file.endpoint_scan),
        prior=_to_prior(file.instances),
        coverage=health.coverage,
        silence=health.silence,
        max_clock_offset_s=health.max_clock_offset,
        sample_ratio=_to_shares(health.sample_ratio),
        monitoring=build(Monitoring, file.monitoring),
    )


def _to_prior(section: Instances) -> InstancePrior:
    earlier = section.history
    latency = failures = None
    if earlier is not None:
        latency = build(InstanceSpread, earlier, sd=section.sd_latency, between_arms=earlier.between_arms_latency)
        failures = build(InstanceSpread, earlier, sd=section.sd_failures, between_arms=earlier.between_arms_failures)
    expected = section.turnover == "expected"
    return build(InstancePrior, section, latency=latency, failures=failures, turnover_expected=expected)


def _to_shares(ratio: str | Mapping[str, float]) -> Mapping[str, float]:
    if isinstance(ratio, str):
        return {}
    total = sum(ratio.values())
    return {arm: parts / total for arm, parts in ratio.items()}


# ------------------------------------------------------------------ what is wrong, and where


def _describe(document: Document, error: ValidationError) -> str:
    problems = []
    for mistake in _flatten(error.errors(include_url=False)):
        context = mistake.get("ctx", {})
        key_path: KeyPath = mistake["loc"] + ((context["index"],) if "index" in context else ())
        key_path = tuple(k for k in key_path if not (isinstance(k, str) and k.startswith(_UNION_MEMBERS)))
        problems.append((document.line_of(key_path), _path(key_path), _sentence(key_path, mistake, context)))
    lines = [f"{document.name}:{line}: {f'{path}: ' if path else ''}{text}" for line, path, text in sorted({*problems})]
    return "\n".join(lines)


def _flatten(mistakes: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    """All mistakes, those in the options of a metric or a hook at their place in the file."""
    for mistake in mistakes:
        if mistake["type"] == "metric_options":
            key_path = mistake["loc"][:-1]
            yield from ({**part, "loc": (*key_path, *part["loc"])} for part in mistake["ctx"]["mistakes"])
            continue
        if mistake["type"] != "hook_options":
            yield mistake
            continue
        kind, within = mistake["ctx"]["kind"], mistake["ctx"]["mistakes"]
        yield from ({**part, "loc": (*mistake["loc"], kind, *part["loc"]), "hook": kind} for part in within)


def _path(key_path: KeyPath) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in key_path).lstrip(".")


def _sentence(key_path: KeyPath, mistake: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    kind, value = str(mistake["type"]), mistake["input"]
    if kind == "extra_forbidden":
        return _unknown_key(key_path, mistake.get("hook"))
    if kind in ("literal_error", "enum"):
        return _not_one_of(value, context["expected"])
    if kind in PLAIN_WORDS:
        return f"must {PLAIN_WORDS[kind].format(**context)}, not {_kind_of(value)}"
    if kind == "missing":
        return "is missing"
    return str(context.get("error", mistake["msg"])).removeprefix("Value error, ")


def _unknown_key(key_path: KeyPath, hook: str | None = None) -> str:
    key = str(key_path[-1])
    if len(key_path) == 1 and key in LATER:
        return "is not available in this version; remove it"
    model: type[BaseModel] = PolicyFile
    sections = key_path[:-1]
    if hook is not None:
        from evaluator.hooks import HOOKS  # a policy without hooks must not wait for them

        model, sections = HOOKS[hook].Options, key_path[key_path.index(hook) + 1 : -1]
    for part in sections:
        if isinstance(part, str):
            model = _models_in(model.model_fields[part].annotation)[0]
    return UnknownName("key", key, list(model.model_fields)).message


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]


def _not_one_of(value: Any, expected: str) -> str:
    options = [option.strip("' ") for option in expected.replace(" or ", ", ").split(",")]
    near = difflib.get_close_matches(str(value), options, n=1)
    return f"must be {expected}, not {_kind_of(value)}" + (f"; did you mean '{near[0]}'?" if near else "")


def _kind_of(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return str(value).lower() if isinstance(value, bool) else f"'{value}'"
