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
from evaluator.policy.models import (
    PLANNED_SECTIONS,
    PROMOTION_SECTIONS,
    InstanceHistorySection,
    Instances,
    PolicyFile,
)
from evaluator.policy.overrides import find_wrong_keys, locate_override, override_policy
from evaluator.policy.promotion import PromotionRules, add_hooks, to_rules
from evaluator.policy.rollout import RolloutSection
from evaluator.records import InstancePrior, InstanceSpread, Learnt, Monitoring, Rulebook, Scan
from evaluator.sources.access_logs.options import AccessLogSource
from evaluator.sources.prometheus.options import PrometheusSource
from evaluator.stats.variance.history import LEAST_COMPARISONS
from evaluator.wording import write_command

__all__ = ["Policy", "load_policy", "parse_policy", "policy_schema", "with_learnt"]

BUILT_IN_DF = 3.0
"""Degrees of freedom that the built-in spread between instances counts for, when it is pooled with history (method B.3,
B.3a)."""
_LONGEST_SENTENCE = 500
"""Most characters of one mistake that are shown."""

_UNION_MEMBER_PREFIXES = ("literal[", "dict[", "function-")
"""How pydantic's names for the members of a union begin; they are not keys in the file."""

PLAIN_WORDS: Mapping[str, str] = {
    "string_type": "be text (put it in quotes)",
    "bool_type": "be true or false",
    "dict_type": "be a mapping of names to values",
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
    arm_header: str
    """Header by which a router names the arm that answered."""
    services: tuple[str, ...] = ()
    prometheus: PrometheusSource | None = None
    """Where readings come from."""
    access_log: AccessLogSource | None = None
    """How access logs of the router are read."""
    promotion: PromotionRules = field(default_factory=PromotionRules)
    """What happens after a verdict."""
    rollout: RolloutSection | None = None
    """How the release is taken to its users; None: the policy does not say."""
    afterwards: Mapping[str, Any] = field(default_factory=dict)
    """The sections about promotion as plain JSON, every default spelled out."""
    path: str = ""
    """Path of the file, as verdicts name it; empty where commands find it themselves, or for the built-in one."""
    lines: Mapping[KeyPath, int] = field(default_factory=dict, compare=False, repr=False)
    """Line of every key and list item of the file; empty if it was read from no file."""

    @property
    def service(self) -> str:
        """The service that the policy names; empty if it names none or several."""
        return self.services[0] if len(self.services) == 1 else ""

    def refuse(self, key_path: KeyPath, sentence: str, *, hint: str | None = None) -> PolicyError:
        """Make the error for a value that cannot be, as `file:line: key: sentence`."""
        line = Document(self.origin, {}, self.lines).line_of(key_path)
        return PolicyError(f"{self.origin}:{line}: {_write_key_path(key_path)}: {sentence}", hint=hint)

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
    """Make a policy of the content of a policy file, such as the effective policy of a verdict.

    `origin` is the file's name and `lines` has its line numbers, both for error messages. Raises PolicyError.
    """
    return _load(Document(origin, dict(values), lines or {}))


def _load(document: Document) -> Policy:
    """Validate the content of a policy file and make a policy of it. Raises PolicyError: one line per mistake."""
    try:
        file = PolicyFile.model_validate(document.values)
    except ValidationError as error:
        message = _describe_mistakes(document, error)
        raise PolicyError(message, hint="`evaluator policy show` prints a whole policy") from None
    policy = replace(_to_policy(file, document.name), lines=document.lines)
    _check_overrides(document, policy)
    return policy


def _check_overrides(document: Document, policy: Policy) -> None:
    """Check that each stage of a rollout can be judged with its overrides. Raises PolicyError with file and line."""
    for number, stage in enumerate(policy.rollout.stages if policy.rollout else ()):
        section: KeyPath = ("rollout", "stages", number, "policy")
        mistakes = find_wrong_keys(policy.effective, stage.policy)
        if not mistakes:
            try:
                PolicyFile.model_validate(override_policy(policy.effective, stage.policy))
            except ValidationError as error:
                mistakes = [
                    (locate_override(policy.effective, stage.policy, key_path), sentence)
                    for key_path, sentence in _list_mistakes(error)
                ]
        if mistakes:
            problems = {
                (document.line_of((*section, *key_path)), _write_key_path((*section, *key_path)), sentence)
                for key_path, sentence in mistakes
            }
            raise PolicyError(_write_mistakes(document, problems), hint="docs/rollouts.md has an example")


def policy_schema() -> dict[str, Any]:
    """Build the JSON Schema of evaluator.yaml."""
    schema = add_hooks(PolicyFile.model_json_schema(mode="validation"))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def with_learnt(policy: Policy, learnt: Learnt | None) -> Policy:
    """Return the policy with the spread between instances that earlier runs of the service showed.

    Runs with too few instances are judged by this spread. It is never below the learnt spread: a spread that the file
    states gives way only to a larger one; the built-in spread is pooled with the learnt one by degrees of freedom.
    Returns the same policy if nothing, or too little, was learnt. Else its effective form and hash include the change.
    """
    if learnt is None or learnt.comparisons < LEAST_COMPARISONS:
        return policy
    prior = policy.rulebook.prior  # the spread that the policy assumes
    built_in = InstancePrior()  # the spread that a policy without the keys assumes
    file = PolicyFile.model_validate(policy.effective)
    learnt_values = {
        "sd_latency": _combine_spreads(prior.sd_latency, built_in.sd_latency, learnt.sd_latency, learnt.df),
        "sd_failures": _combine_spreads(prior.sd_failures, built_in.sd_failures, learnt.sd_failures, learnt.df),
        "history": file.instances.history or _to_history(learnt),
    }
    instances = file.instances.model_copy(update=learnt_values)
    with_learnt_values = _to_policy(file.model_copy(update={"instances": instances}), policy.origin)
    # The effective policy has only the rules that judge; the rest is taken from the original.
    return replace(
        with_learnt_values,
        promotion=policy.promotion,
        rollout=policy.rollout,
        afterwards=policy.afterwards,
        path=policy.path,
        lines=policy.lines,
    )


def _to_history(learnt: Learnt) -> InstanceHistorySection | None:
    """Write what was learnt about pairs of arms as the policy's section `history`.

    None if the spread between instances is not known. That spread is written as `sd_latency` and `sd_failures`.
    """
    if learnt.sd_latency is None or learnt.sd_failures is None:
        return None
    return InstanceHistorySection(
        comparisons=learnt.comparisons,
        between_arms_latency=_round_to_3_digits(learnt.between_arms_latency or 0.0),
        between_arms_failures=_round_to_3_digits(learnt.between_arms_failures or 0.0),
        between_arms_comparisons=learnt.between_arms_comparisons,
    )


def _round_to_3_digits(value: float) -> float:
    """Round to three significant digits, as learnt values are written in the effective policy."""
    return float(f"{value:.3g}")


def _combine_spreads(of_policy: float, built_in: float, learnt: float | None, learnt_df: float) -> float:
    """Combine the policy's spread between instances with the learnt spread; all three are standard deviations.

    If the policy has the built-in spread, this is pooled with the learnt spread: the mean of both variances, weighted
    by degrees of freedom (about the number of independent comparisons that a spread is based on). A spread that the
    file states is kept unless the learnt spread is larger. The result is never below the learnt spread. `learnt` None:
    it is unknown.
    """
    if learnt is None:
        return of_policy
    if of_policy != built_in:
        return max(of_policy, learnt)
    pooled = math.sqrt((BUILT_IN_DF * built_in**2 + learnt_df * learnt**2) / (BUILT_IN_DF + learnt_df))
    return _round_to_3_digits(max(pooled, learnt))


# ------------------------------------------------------------------ models → records


def _to_policy(file: PolicyFile, origin: str) -> Policy:
    """Make the policy of a validated file. `origin`: the file's path, or `built-in`."""
    settings = _without_nulls(file.model_dump(mode="json"))
    # What happens after a verdict does not change the verdict, so it is not part of the effective policy and its hash.
    effective = {key: value for key, value in settings.items() if key not in PROMOTION_SECTIONS}
    # Sorted keys and no spaces: the hash depends on the values only.
    canonical = json.dumps(effective, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    services = [service.name for service in file.services or ()]
    if not services and file.service:
        services = [file.service]
    return Policy(
        rulebook=_to_rulebook(file),
        effective=effective,
        hash="sha256:" + hashlib.sha256(canonical.encode()).hexdigest(),
        origin=origin,
        instance_header=file.instances.header,
        arm_header=file.instances.arm_header,
        services=tuple(services),
        prometheus=file.sources.prometheus if file.sources else None,
        access_log=file.sources.access_log if file.sources else None,
        promotion=to_rules(
            file.hooks,
            file.approvals,
            file.roles,
            sensitive=file.sensitive,
            journal=file.journal or "",
            link=file.link or "",
        ),
        rollout=file.rollout,
        afterwards={key: value for key, value in settings.items() if key in PROMOTION_SECTIONS},
    )


def _without_nulls(value: Any) -> Any:
    """Copy a JSON value without the keys of mappings whose value is null, at every depth."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value


def _to_rulebook(file: PolicyFile) -> Rulebook:
    """Make the rules of the judge; keys of the file with the same name as a field are taken by `build`."""
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
    """Make the assumption about instances from the section `instances`.

    Without `history` nothing was learnt: `latency` and `failures` of the result are None.
    """
    history = section.history
    latency = failures = None
    if history is not None:
        latency = build(InstanceSpread, history, sd=section.sd_latency, between_arms=history.between_arms_latency)
        failures = build(InstanceSpread, history, sd=section.sd_failures, between_arms=history.between_arms_failures)
    turnover_expected = section.turnover == "expected"
    return build(InstancePrior, section, latency=latency, failures=failures, turnover_expected=turnover_expected)


def _to_shares(ratio: str | Mapping[str, float]) -> Mapping[str, float]:
    """Share of each arm, summing to 1, from parts such as {baseline: 9, canary: 1}.

    Empty for the word `configured`: the shares are then those with which the run was configured.
    """
    if isinstance(ratio, str):
        return {}
    total = sum(ratio.values())
    return {arm: part / total for arm, part in ratio.items()}


# ------------------------------------------------------------------ what is wrong, and where


def _describe_mistakes(document: Document, error: ValidationError) -> str:
    """Write one line per mistake, `file:line: key: what is wrong`, in the order of the file."""
    # A set: a union reports a mistake several times.
    problems = {
        (document.line_of(key_path), _write_key_path(key_path), sentence)
        for key_path, sentence in _list_mistakes(error)
    }
    return _write_mistakes(document, problems)


def _list_mistakes(error: ValidationError) -> Iterator[tuple[KeyPath, str]]:
    """List the mistakes of a policy: the path to the value, and a sentence."""
    for mistake in _locate_option_mistakes(error.errors(include_url=False)):
        context = mistake.get("ctx", {})
        key_path: KeyPath = mistake["loc"]
        if "index" in context:  # a check of a whole list names the wrong item by its position
            key_path = (*key_path, context["index"])
        # Where several types are allowed, pydantic names the tried type in the path; it is no key of the file.
        key_path = tuple(
            part for part in key_path if not (isinstance(part, str) and part.startswith(_UNION_MEMBER_PREFIXES))
        )
        sentence = _write_sentence(key_path, mistake, context)
        if len(sentence) > _LONGEST_SENTENCE:  # it quotes a value
            sentence = sentence[:_LONGEST_SENTENCE] + "…"
        yield key_path, sentence


def _write_mistakes(document: Document, problems: set[tuple[int, str, str]]) -> str:
    """Write one line per mistake, in the order of the file. `problems`: line, key, sentence."""
    return "\n".join(
        f"{document.name}:{line}: {key}: {sentence}" if key else f"{document.name}:{line}: {sentence}"
        for line, key, sentence in sorted(problems)
    )


def _locate_option_mistakes(mistakes: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    """Replace each mistake about the options of a metric or hook by the mistakes of its options.

    Mistakes are dictionaries of pydantic; `loc` becomes the path to the option in the file, and `hook` the hook's name.
    All other mistakes are returned as they are.
    """
    for mistake in mistakes:
        if mistake["type"] == "metric_options":
            # A metric's options are keys of the metric itself, not of the field that reads them.
            metric_path = mistake["loc"][:-1]
            for option_mistake in mistake["ctx"]["mistakes"]:
                yield {**option_mistake, "loc": (*metric_path, *option_mistake["loc"])}
        elif mistake["type"] == "hook_options":
            hook = mistake["ctx"]["kind"]
            for option_mistake in mistake["ctx"]["mistakes"]:
                yield {**option_mistake, "loc": (*mistake["loc"], hook, *option_mistake["loc"]), "hook": hook}
        else:
            yield mistake


def _write_key_path(key_path: KeyPath) -> str:
    """Write a path to a value as text, such as `metrics[0].margin`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in key_path]
    return "".join(parts).lstrip(".")


def _write_sentence(key_path: KeyPath, mistake: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    """Say in plain words what is wrong with the value at `key_path`.

    `mistake` is an error of pydantic, and `context` its values for the message (`ctx`).
    """
    kind, value = str(mistake["type"]), mistake["input"]
    if kind == "extra_forbidden":
        return _explain_unknown_key(key_path, mistake.get("hook"))
    if kind in ("literal_error", "enum"):
        return _explain_wrong_choice(value, context["expected"])
    if kind in PLAIN_WORDS:
        return f"must {PLAIN_WORDS[kind].format(**context)}, not {_describe_value(value)}"
    if kind == "missing":
        return "is missing"
    return str(context.get("error", mistake["msg"])).removeprefix("Value error, ")


def _explain_unknown_key(key_path: KeyPath, hook: str | None = None) -> str:
    """Say that the last key of `key_path` does not exist, with those that do. `hook`: its hook, if it is an option."""
    key = str(key_path[-1])
    if len(key_path) == 1 and key in PLANNED_SECTIONS:
        return "is not available in this version; remove it"
    model: type[BaseModel] = PolicyFile
    sections = key_path[:-1]
    if hook is not None:
        from evaluator.hooks import HOOKS  # a policy without hooks must not wait for them

        model = HOOKS[hook].Options
        sections = key_path[key_path.index(hook) + 1 : -1]  # the keys between the hook and the unknown key
    # Descend from section to section to the model that lacks the key; positions in lists have no model.
    for part in sections:
        if isinstance(part, str):
            model = _list_models(model.model_fields[part].annotation)[0]
    return UnknownName("key", key, list(model.model_fields)).message


def _list_models(annotation: Any) -> list[type[BaseModel]]:
    """List the pydantic models in a type annotation, such as [Section] for `list[Section] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _list_models(argument)]


def _explain_wrong_choice(value: Any, expected: str) -> str:
    """Say that a value is none of the `expected` ones ("'gate', 'hold' or 'watch'"), with the most similar of them."""
    options = [option.strip("' ") for option in expected.replace(" or ", ", ").split(",")]
    similar = difflib.get_close_matches(str(value), options, n=1)
    suggestion = f"; did you mean '{similar[0]}'?" if similar else ""
    return f"must be {expected}, not {_describe_value(value)}{suggestion}"


def _describe_value(value: Any) -> str:
    """Name a value of the policy file for an error message: nothing, a mapping, a list, or the value itself."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'"
