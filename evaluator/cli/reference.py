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
    """Write the reference of the whole command line, from the `--help` of each command."""
    with click.Context(evaluator, info_name="evaluator", terminal_width=100, max_content_width=100) as context:
        parts = ["# Commands\n", GENERATED.format("commands"), _write_help(evaluator, context)]
        for name in COMMANDS:
            parts += _write_command(name, evaluator.get_command(context, name), context)
    return "\n".join(parts).rstrip()


def _write_command(name: str, command: click.Command | None, parent: click.Context) -> Iterator[str]:
    """Write the help of a command, and of all its sub-commands; nothing for `None`."""
    if command is None:
        return
    with click.Context(command, parent=parent, info_name=name, terminal_width=100, max_content_width=100) as context:
        yield _write_help(command, context)
        if isinstance(command, click.Group):
            for child in command.list_commands(context):
                yield from _write_command(child, command.get_command(context, child), context)


def _write_help(command: click.Command, context: click.Context) -> str:
    """Write the help of one command as a section of Markdown."""
    formatter = context.make_formatter()
    command.format_help(context, formatter)
    return f"## {context.command_path}\n\n```\n{formatter.getvalue().rstrip()}\n```\n"


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
    """Write the reference of the policy, from its JSON Schema, with the values of the built-in policy as defaults.

    A table of the keys of the file, then a table for each definition of the schema.
    """
    schema = policy_schema()
    definitions = schema["$defs"]
    built_in_policy = load_policy()
    # The sections that decide the verdict, and those about promotion: key → value.
    built_in = {**built_in_policy.effective, **built_in_policy.afterwards}
    head = [POLICY_TITLE, GENERATED.format("policy"), POLICY_HEAD]
    tables = [*_tabulate_keys("evaluator.yaml", schema, definitions, built_in)]
    key_of_definition = {_name_definition(value): key for key, value in schema["properties"].items()}
    for name, definition in definitions.items():
        if name not in NOT_SHOWN:
            # A definition that no key of the file refers to has the defaults of the schema.
            defaults = built_in.get(key_of_definition.get(name, ""), {})
            tables += _tabulate_keys(f"`{name}`", definition, definitions, defaults)
            tables += _tabulate_keys_of_types(definition.get("allOf", ()))
    return "\n".join([*head, *tables]).rstrip()


def write_verdict() -> str:
    """Write the reference of the verdict's JSON, from its JSON Schema.

    A table of its keys, then a table for each key that holds an object or a list of objects.
    """
    schema = json.loads((files("evaluator") / "schemas" / "verdict.schema.json").read_text(encoding="utf-8"))
    parts = [VERDICT_TITLE, GENERATED.format("verdict"), VERDICT_HEAD, *_tabulate_keys("The verdict", schema)]
    for key, value in schema["properties"].items():
        is_list = "items" in value
        inner = value["items"] if is_list else value
        if "properties" in inner:
            parts += _tabulate_keys(f"`{key}`" + ("[]" if is_list else ""), inner)
    return "\n".join(parts).rstrip()


def _tabulate_keys(
    title: str,
    schema: Mapping[str, Any],
    definitions: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Iterator[str]:
    """Write a section of Markdown with a table of the keys of an object.

    `schema`: the JSON Schema of the object. `definitions`: those that it refers to; without any, the table has no
    column of defaults. `defaults`: key → default value, if it differs from that of the schema.
    """
    definitions, defaults = definitions or {}, defaults or {}
    has_defaults = bool(definitions)
    yield f"## {title}\n"
    if schema.get("description"):
        yield f"{schema['description']}\n"
    yield "| key | is | " + ("default | |\n| --- | --- | --- | --- |" if has_defaults else "|\n| --- | --- | --- |")
    for key, value in schema["properties"].items():
        definition = definitions.get(_name_definition(value), {})
        description = value.get("description") or definition.get("description", "")
        default = f" {_write_default(value, defaults.get(key))} |" if has_defaults else ""
        yield f"| `{key}` | {_describe_type(value)} |{default} {_to_cell(description)} |"
    yield ""


def _tabulate_keys_of_types(cases: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Write a table of the keys that only objects of some types have, such as metrics of the type `latency_quantile`.

    `cases`: the conditions of the schema: if the key `type` has this value, then there are these keys. A key that is
    described equally for several types has one row.
    """
    types_of_row: dict[tuple[str, str, str], list[str]] = {}  # (key, type of its value, description) → types of objects
    for case in cases:
        type_name = case["if"]["properties"]["type"]["const"]
        for key, value in case["then"]["properties"].items():
            row = key, _describe_type(value), _to_cell(value["description"])
            types_of_row.setdefault(row, []).append(f"`{type_name}`")
    if types_of_row:
        yield "Keys of some types only:\n\n| key | of | is | |\n| --- | --- | --- | --- |"
        for (key, value_type, description), types in types_of_row.items():
            yield f"| `{key}` | {', '.join(types)} | {value_type} | {description} |"
        yield ""


def _name_definition(value: Mapping[str, Any]) -> str:
    """Return the name of the definition that a value of the schema refers to; empty if it refers to none."""
    return str(value.get("$ref", "")).rpartition("/")[2]


def _describe_type(value: Mapping[str, Any]) -> str:
    """Describe the type of a value of the schema in a few words, or by its examples."""
    if "$ref" in value:
        return f"`{_name_definition(value)}`"
    if "enum" in value or "const" in value:
        constants = value.get("enum", [value.get("const")])
        return ", ".join(f"`{_to_text(constant)}`" for constant in constants)
    if "anyOf" in value:
        variants = [_describe_type(variant) for variant in value["anyOf"] if variant.get("type") != "null"]
        return " or ".join(dict.fromkeys(variants))
    type_names = value.get("type", "")  # of JSON: a name, or a list of names
    types = [type_names] if isinstance(type_names, str) else [name for name in type_names if name != "null"]
    if types == ["array"]:
        return f"list of {_describe_type(value.get('items', {}))}"
    examples = ", ".join(f"`{_to_text(example)}`" for example in value.get("examples", []))
    # Examples tell more than the type; without a type, any value is allowed.
    return examples or " or ".join(types) or "any"


def _write_default(value: Mapping[str, Any], built_in: Any) -> str:
    """Write the default of a key: the value of the built-in policy, or that of the schema if this is `None`.

    Empty for objects and long lists, which do not fit in a cell.
    """
    default = value.get("default") if built_in is None else built_in
    is_short = isinstance(default, str | int | float | bool) or (isinstance(default, list) and len(str(default)) < 40)
    return f"`{_to_text(default)}`" if is_short else ""


def _to_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _to_cell(text: str) -> str:
    """Write a text in one line that fits into a cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").split())


PAGES: Mapping[str, Callable[[], str]] = {
    "commands": write_commands,
    "policy": write_policy,
    "verdict": write_verdict,
}

if __name__ == "__main__":
    emit(PAGES[sys.argv[1]]())
