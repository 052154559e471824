"""The generated pages of the documentation: `python -m evaluator.cli.reference commands > docs/reference.md`.

`commands` from `--help`, `policy` (docs/policy.md) and `verdict` (docs/verdict-json.md) from their JSON Schemas.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

import click

from evaluator.cli import COMMANDS, emit, evaluator
from evaluator.policy import load_policy, policy_schema

GENERATED = "Written by `python -m evaluator.cli.reference {}`; do not edit.\n"


# ------------------------------------------------------------------ commands


def write_commands() -> str:
    """Write the reference of the whole command line."""
    with click.Context(evaluator, info_name="evaluator", terminal_width=100, max_content_width=100) as context:
        parts = ["# Commands\n", GENERATED.format("commands"), *_describe(evaluator, context)]
        for name in COMMANDS:
            parts += _describe_below(name, evaluator.get_command(context, name), context)
    return "\n".join(parts).rstrip()


def _describe_below(name: str, command: click.Command | None, parent: click.Context) -> Iterator[str]:
    if command is None:
        return
    with click.Context(command, parent=parent, info_name=name, terminal_width=100, max_content_width=100) as context:
        yield from _describe(command, context)
        if isinstance(command, click.Group):
            for child in command.list_commands(context):
                yield from _describe_below(child, command.get_command(context, child), context)


def _describe(command: click.Command, context: click.Context) -> Iterator[str]:
    formatter = context.make_formatter()
    command.format_help(context, formatter)
    yield f"## {context.command_path}\n\n```\n{formatter.getvalue().rstrip()}\n```\n"


# ------------------------------------------------------------------ schemas


POLICY_TITLE = "# The policy: every key of evaluator.yaml\n"

POLICY_HEAD = """\
An empty file means the defaults. An unknown key is an error that names its line and the key that was probably meant.
`evaluator policy check` checks a policy, `evaluator policy show` prints the one that applies with all defaults, and
`evaluator policy schema` prints the JSON Schema, by which editors complete and check the file. The options of hooks are
in [hooks](hooks.md), what each metric compares in [verdicts](verdicts.md).

## A policy for each service

Several services may each have their own policy, in one folder. Put a folder `evaluator.policies` in the place of
`evaluator.yaml`, or name any folder with `--policy` or `EVALUATOR_POLICY`:

```
evaluator.policies/
    cart.yaml          releases of the service cart
    search.yaml        releases of the service search
    storefront.yaml    has  services: [cart, shop]  for releases of both together, and of shop, which has no other
    default.yaml       releases of any other service; may be missing
```

`evaluator init --service cart` writes the first of them. The services that a file names in `service` or `services`
take precedence over the file's name; a service that cannot be a file name (`team/cart`) has to be named there. Two
files may name the same service: one alone, one together with others. The first applies to releases of this service
alone, the second to releases of these services together. Command line, app, worker and notebook choose by the same
rules:

- a service without a policy is an error if there is no `default.yaml`, and so is a release without a service;
- services that are released together need one policy that names them all, unless the same policy applies to each;
- two policies for one service are an error, and so is a folder with both `evaluator.yaml` and `evaluator.policies`;
- a service whose name differs from that of a policy only in case, spaces or Unicode form never gets `default.yaml`;
- a file that looks like a policy but is not read is an error: `cart.YAML`, `cart.yaml.bak`, `sub/cart.yaml`. Hidden
  files (`.cart.yaml`) and temporary files of editors (`cart.yaml~`, `#cart.yaml#`) are ignored;
- a file that cannot be read, or whose services are not valid, is an error for every service: it may apply to any.

The service of a release is the one it was recorded with (`--service` of `load`, `import` and `collect`). If it is
recorded with another service later, it belongs to both, and a message reports this.
`evaluator data service cart@1.5.0 cart` sets the service instead.

A verdict names the policy that it was judged by (`policy_path` in its JSON), unless that is the `evaluator.yaml` that
applies in the folder where it was judged. Every command that judges again names it, too:
`evaluator verdict cart@1.5.0 --policy /home/ann/shop/evaluator.policies/cart.yaml`. `evaluator policy check` checks the
whole folder and shows the service of each policy; `evaluator policy show --service cart` prints one of them.
"""

VERDICT_TITLE = "# The verdict as JSON\n"

VERDICT_HEAD = """\
`evaluator verdict RELEASE --format json`. The keys are a contract. Relative numbers are shares of 1; other numbers
are in the unit given next to them. The same data under the same policy give the same bytes, apart from `judged_at`.
[The JSON Schema](../evaluator/schemas/verdict.schema.json) describes all of this for programs.
"""

NOT_SHOWN = ("HookEntry", "Direction")
"""Definitions without keys, or with a page of their own."""


def write_policy() -> str:
    """Write the reference of the policy, with the defaults of the built-in one."""
    schema = policy_schema()
    effective = {**load_policy().effective, **load_policy().afterwards}
    parts = [
        POLICY_TITLE,
        GENERATED.format("policy"),
        POLICY_HEAD,
        *_tabulate("evaluator.yaml", schema, schema["$defs"], effective),
    ]
    sections = {str(value.get("$ref", "")).rpartition("/")[2]: key for key, value in schema["properties"].items()}
    for name, definition in schema["$defs"].items():
        if name not in NOT_SHOWN:
            defaults = effective.get(sections.get(name, ""), {})
            parts += [
                *_tabulate(f"`{name}`", definition, schema["$defs"], defaults),
                *_tabulate_types(definition.get("allOf", ())),
            ]
    return "\n".join(parts).rstrip()


def write_verdict() -> str:
    """Write the reference of the verdict's JSON."""
    schema = json.loads((files("evaluator") / "schemas" / "verdict.schema.json").read_text(encoding="utf-8"))
    parts = [VERDICT_TITLE, GENERATED.format("verdict"), VERDICT_HEAD, *_tabulate("The verdict", schema, {}, {})]
    for name, below in schema["properties"].items():
        inner = below.get("items", below)
        if "properties" in inner:
            parts += _tabulate(f"`{name}`" + ("[]" if "items" in below else ""), inner, {}, {})
    return "\n".join(parts).rstrip()


def _tabulate(
    title: str, schema: Mapping[str, Any], defined: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Iterator[str]:
    has_definitions = bool(defined)
    yield f"## {title}\n"
    if schema.get("description"):
        yield f"{schema['description']}\n"
    yield "| key | is | " + ("default | |\n| --- | --- | --- | --- |" if has_definitions else "|\n| --- | --- | --- |")
    for key, value in schema["properties"].items():
        description = value.get("description") or _resolve(value, defined).get("description", "")
        default = f" {_default(value, defaults.get(key))} |" if has_definitions else ""
        yield f"| `{key}` | {_kind(value)} |{default} {_cell(description)} |"
    yield ""


def _tabulate_types(cases: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Write the keys that depend on the type, with equal ones in one row."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for case in cases:
        for key, value in case["then"]["properties"].items():
            row = key, _kind(value), _cell(value["description"])
            rows.setdefault(row, []).append(f"`{case['if']['properties']['type']['const']}`")
    if rows:
        yield "Keys of some types only:\n\n| key | of | is | |\n| --- | --- | --- | --- |"
        yield from (
            f"| `{key}` | {', '.join(types)} | {kind} | {description} |"
            for (key, kind, description), types in rows.items()
        )
        yield ""


def _resolve(value: Mapping[str, Any], defined: Mapping[str, Any]) -> Mapping[str, Any]:
    name = str(value.get("$ref", "")).rpartition("/")[2]
    definition: Mapping[str, Any] = defined.get(name, {})
    return definition


def _kind(value: Mapping[str, Any]) -> str:
    """Describe the type of a value in a few words."""
    if "$ref" in value:
        return f"`{value['$ref'].rpartition('/')[2]}`"
    if "enum" in value or "const" in value:
        return ", ".join(f"`{_plain(constant)}`" for constant in value.get("enum", [value.get("const")]))
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(_kind(variant) for variant in value["anyOf"] if variant.get("type") != "null"))
    kinds = value.get("type", "")
    words = [kinds] if isinstance(kinds, str) else [kind for kind in kinds if kind != "null"]
    if words == ["array"]:
        return f"list of {_kind(value.get('items', {}))}"
    examples = ", ".join(f"`{_plain(example)}`" for example in value.get("examples", []))
    return examples or " or ".join(words) or "any"


def _default(value: Mapping[str, Any], effective: Any) -> str:
    default = value.get("default") if effective is None else effective
    short = isinstance(default, str | int | float | bool) or (isinstance(default, list) and len(str(default)) < 40)
    return f"`{_plain(default)}`" if short else ""


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


PAGES: Mapping[str, Callable[[], str]] = {
    "commands": write_commands,
    "policy": write_policy,
    "verdict": write_verdict,
}

if __name__ == "__main__":
    emit(PAGES[sys.argv[1]]())
