"""Sections of the policy about promotion: hooks by event, approvals, roles. Each hook validates its own options."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, GetJsonSchemaHandler, ValidationError, field_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from evaluator.errors import EvaluatorError, UnknownName, UsageError
from evaluator.fields import PositiveDuration, Section, within
from evaluator.records.intents import ANNOUNCE, NOTIFY, PROMOTING, UNDO, Action, HookEntry, PersonRole

_HOOK_ACTIONS = (Action.PROMOTE, Action.HOLD, Action.ROLLBACK)
"""Actions that have hooks in the policy."""
_MOVE_TRAFFIC = ("dns", "etcd", "haproxy", "kubernetes", "nginx")
"""Kinds of hooks that must not act each time that people are notified."""
MOST_APPROVALS = 6
Count = Annotated[int, within(0, MOST_APPROVALS), Field(json_schema_extra={"minimum": 0, "maximum": MOST_APPROVALS})]
AtLeastTwo = Annotated[
    int, within(2, MOST_APPROVALS), Field(json_schema_extra={"minimum": 2, "maximum": MOST_APPROVALS})
]


class _Entry:
    """`{webhook: {url: …}}`, or `undo`: read into a HookEntry by the hook's own model."""

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: Any) -> CoreSchema:
        """Let pydantic read an entry by `_read_entry`, and write it by `_write_entry`."""
        return core_schema.no_info_plain_validator_function(
            _read_entry, serialization=core_schema.plain_serializer_function_ser_schema(_write_entry)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return a provisional schema of an entry."""
        return {"type": ["string", "object"]}  # `add_hooks` adds the rest, once for all events


Entry = Annotated[HookEntry, _Entry]
Entries = Annotated[list[Entry], Field(max_length=20)]


def _read_entry(raw: Any) -> HookEntry:
    """Read `undo`, or a mapping of the hook's name to its options, which the hook's own model checks.

    Raises ValueError, and PydanticCustomError `hook_options` with the mistakes in the options.
    """
    from evaluator.hooks import HOOKS  # a policy without hooks must not wait for them

    if raw == UNDO:
        return HookEntry(UNDO)
    if not isinstance(raw, dict) or len(raw) != 1:
        raise ValueError("must be one hook with its options, such as {webhook: {url: …}}, or the word undo")
    ((kind, options),) = raw.items()
    if kind not in HOOKS:
        raise ValueError(UnknownName("hook", str(kind), HOOKS).message)
    options = {} if options is None else options
    try:
        HOOKS[kind].Options.model_validate(options)
    except ValidationError as error:
        mistakes = error.errors(include_url=False)
        raise PydanticCustomError("hook_options", "options of {kind}", {"kind": kind, "mistakes": mistakes}) from None
    except EvaluatorError as error:
        raise ValueError(error.message) from None
    return HookEntry(kind, options)


def _write_entry(entry: HookEntry) -> Any:
    """Write an entry as in the policy file: the word `undo`, or the hook's name with its options."""
    return UNDO if entry.kind == UNDO else {entry.kind: dict(entry.options)}


def add_hooks(schema: JsonSchemaValue) -> JsonSchemaValue:
    """Add to the policy's JSON Schema what a hook may be: one with its options, or under `hooks` the word `undo`.

    Only hooks of this package are added, not those of other installed packages. Changes and returns `schema`. Raises
    UsageError if no hook is installed.
    """
    from evaluator.hooks import HOOKS

    built_in_hooks = {kind: hook for kind, hook in HOOKS.items() if hook.__module__.startswith("evaluator.")}
    if not built_in_hooks:
        raise UsageError(
            "the schema would have no hooks: the evaluator runs from a tree that is not installed",
            hint="install it first: .ci/install in a checkout, else pip install .",
        )
    one_hook = {
        "type": "object",
        "minProperties": 1,
        "maxProperties": 1,
        "properties": {
            kind: _replace_references(hook.Options.model_json_schema()) for kind, hook in built_in_hooks.items()
        },
    }
    schema["$defs"]["HookEntry"] = {"anyOf": [{"const": UNDO}, {"$ref": "#/$defs/OneHook"}]}
    schema["$defs"]["OneHook"] = one_hook
    for event in schema["$defs"][HooksSection.__name__]["properties"].values():
        event["items"] = {"$ref": "#/$defs/HookEntry"}
    for hooks in ("hooks", "verify"):
        schema["$defs"]["ActSection"]["properties"][hooks]["items"] = {"$ref": "#/$defs/OneHook"}
    schema["$defs"]["RolloutSection"]["properties"]["router"]["additionalProperties"] = {"$ref": "#/$defs/OneHook"}
    return schema


def _replace_references(schema: Any, definitions: Mapping[str, Any] | None = None) -> Any:
    """Replace each `$ref` of a JSON Schema by its definition, so that the schema can become part of another one.

    `definitions`: name → definition; None at the top level, where they are taken from `schema`.
    """
    if definitions is None:
        definitions = schema.pop("$defs", {})
    if isinstance(schema, list):
        return [_replace_references(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        return _replace_references(dict(definitions[name]), definitions)
    return {key: _replace_references(value, definitions) for key, value in schema.items()}


class HooksSection(Section):
    """What happens once an action is approved: hooks, in order."""

    promote: Entries = Field(default_factory=list, description="Hooks that release the candidate to all users.")
    hold: Entries = Field(default_factory=list, description="Hooks that stop a rollout where it is.")
    rollback: Entries = Field(
        default_factory=lambda: [HookEntry(UNDO)],
        description="Hooks that go back; undo restores what promotions of the release changed, the last hook first.",
    )
    announce: Entries = Field(default_factory=list, description="Hooks that announce the result, after each action.")

    notify: Entries = Field(
        default_factory=list,
        description="Hooks that notify people: of each request that waits for agreement, and of how each one ended.",
    )

    @field_validator("notify")
    @classmethod
    def _refuse_what_moves_traffic(cls, value: list[HookEntry]) -> list[HookEntry]:
        """Refuse hooks that change something, among those that notify people."""
        for index, entry in enumerate(value):
            if entry.kind in _MOVE_TRAFFIC:
                raise PydanticCustomError(
                    "no_action",
                    "{kind} changes something, so it cannot notify people; use notify, webhook, http or command",
                    {"index": index, "kind": entry.kind},
                )
        return value

    @field_validator("promote", "hold", "announce", "notify")
    @classmethod
    def _refuse_undo(cls, value: list[HookEntry]) -> list[HookEntry]:
        """Refuse the entry `undo`, which undoes a promotion, among the hooks of other events than rollback."""
        for index, entry in enumerate(value):
            if entry.kind == UNDO:
                raise PydanticCustomError(
                    "no_undo", "undo is allowed only among the hooks of rollback", {"index": index}
                )
        return value


class ApprovalsSection(Section):
    """How many people have to agree to an action before its hooks are executed."""

    promote: Count = Field(1, description="Approvals that a promotion needs.")
    hold: Count = Field(0, description="Approvals that a hold needs.")
    rollback: Count = Field(0, description="Approvals that a rollback needs.")
    break_glass: AtLeastTwo = Field(
        2, description="Approvals that a promotion against the verdict needs; two at least."
    )
    self_approval: bool = Field(
        default=True,
        description="The requester's own approval counts where one is needed; never where two or more are.",
    )
    expires: PositiveDuration = Field(
        4 * 3600.0, description="Time after which a request that was not executed is void."
    )
    max_age: PositiveDuration = Field(8 * 3600.0, description="Greatest age of a verdict that is acted on.")


def check_link(text: str) -> str:
    """Return an address that people can open, with words of hooks in it. Raises ValueError."""
    from evaluator.hooks.templates import check_template

    parts = urlsplit(text)  # raises ValueError, too
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or not text.isprintable():
        raise ValueError("must be an address with http:// or https://, without a password")
    if " " in text:
        raise ValueError("must not have spaces: write %20")
    return check_template(text)


Link = Annotated[str, Field(max_length=2000), AfterValidator(check_link)]
"""Address that notifications link to."""


def _to_list(raw: Any) -> Any:
    """Make a list of a single text; any other value is returned unchanged."""
    return [raw] if isinstance(raw, str) else raw


People = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]],
    BeforeValidator(_to_list),
]


class RolesSection(Section):
    """Who may do what: accounts, addresses, `group:NAME` from the login, or `*`. Each role includes those before it."""

    viewer: People = Field(default_factory=list, description="Reads.")
    analyst: People = Field(default_factory=list, description="Writes notes, requests actions, holds a release.")
    approver: People = Field(
        default_factory=list, description="Approves or rejects, promotes, rolls back, tries hooks again."
    )
    admin: People = Field(default_factory=list, description="Resolves hooks whose outcome is unknown.")


@dataclass(frozen=True, slots=True)
class PromotionRules:
    """The policy's rules for promotion: hooks by event, approvals, roles."""

    hooks: Mapping[str, tuple[HookEntry, ...]] = field(default_factory=dict)
    approvals: ApprovalsSection = field(default_factory=ApprovalsSection)
    roles: Mapping[str, tuple[str, ...]] | None = None
    """Role → names; `None`: the policy has no `roles`."""
    sensitive: bool = False
    journal: str = ""
    """Path of the journal that rollbacks need in an emergency; empty: the default paths."""
    link: str = ""
    """Address that notifications link to, with words of hooks in it; empty: none."""
    hash: str = ""
    """`sha256:…` over hooks that act, approvals and sensitivity: what was approved is what is executed."""

    def needed(self, action: Action) -> int:
        """How many approvals an action needs; a promotion under a sensitive policy needs two at least."""
        of_action: int = getattr(self.approvals, action.value)
        if self.sensitive and action in PROMOTING:
            return max(of_action, 2)
        return of_action

    def distinct(self, action: Action) -> bool:
        """Whether approvals have to come from people other than the requester: the requester's own does not count."""
        return self.needed(action) > 1 or not self.approvals.self_approval


def to_rules(
    hooks: HooksSection,
    approvals: ApprovalsSection,
    roles: RolesSection | None,
    *,
    sensitive: bool,
    journal: str = "",
    link: str = "",
) -> PromotionRules:
    """Make the rules for promotion of the policy's sections. `roles` None: the policy has no such section.

    The hash covers what an approval is based on: the hooks that act, the rules of approval and the sensitivity; not the
    roles.
    """
    hooks_by_event = {event: tuple(getattr(hooks, event)) for event in (*_HOOK_ACTIONS, ANNOUNCE, NOTIFY)}
    hashed = [hooks.model_dump(mode="json", exclude={NOTIFY}), approvals.model_dump(mode="json"), sensitive]
    # Sorted keys and no spaces: the hash depends on the values only.
    canonical = json.dumps(hashed, sort_keys=True, separators=(",", ":"), default=str)
    return PromotionRules(
        hooks=hooks_by_event,
        approvals=approvals,
        roles=None if roles is None else {role.value: tuple(getattr(roles, role.value)) for role in PersonRole},
        sensitive=sensitive,
        journal=journal,
        link=link,
        hash="sha256:" + hashlib.sha256(canonical.encode()).hexdigest(),
    )
