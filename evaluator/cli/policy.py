"""`evaluator policy`: check it, print it, and print its schema for an editor."""

from __future__ import annotations

import json
from pathlib import Path

import click

from evaluator.cli import Session, emit
from evaluator.cli.subject import service_option
from evaluator.policy import policy_schema
from evaluator.policy.selection import choose_policy, list_policies
from evaluator.records import Role


@click.group("policy")
def command() -> None:
    """Check the policy, print it, or print its JSON Schema."""


@command.command("check")
@click.argument("files", metavar="[FILE…]", nargs=-1, type=click.Path(path_type=Path))
@click.pass_obj
def check(session: Session, files: tuple[Path, ...]) -> None:
    """Check each FILE, a policy or a folder of policies (default: the policy that applies here)."""
    for file in files or (session.find_policy(),):
        for service, policy in list_policies(file).items():
            parts = ["ok", *([f"for {service}"] if service else [])]  # named if each service has its own policy
            names_by_role = {
                role: ", ".join(rule.name for rule in policy.rulebook.rules if rule.role is role) for role in Role
            }
            parts.append(f"gates: {names_by_role[Role.GATE]}")
            if names_by_role[Role.HOLD]:
                parts.append(f"holds: {names_by_role[Role.HOLD]}")
            if names_by_role[Role.WATCH]:
                parts.append(f"shown only, because of role: watch or without margin: {names_by_role[Role.WATCH]}")
            emit(f"{policy.origin}: {'; '.join(parts)}")


@command.command("show")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option(
    "--format",
    "format_name",
    type=click.Choice(["yaml", "json"]),
    default="yaml",
    show_default=True,
    help="Format of the output.",
)
@service_option("Print the policy of this service, where each service has its own.")
@click.pass_obj
def show(session: Session, file: Path | None, format_name: str, service: str) -> None:
    """Print the policy that applies, with every default. The output is itself a policy."""
    policy = choose_policy(file or session.find_policy(), lambda: [service])
    document = {**policy.effective, **policy.afterwards}
    if format_name == "json":
        emit(json.dumps(document, indent=2, ensure_ascii=False))
        return
    import yaml

    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    emit(f"# from {policy.origin}\n# {policy.hash}\n{text.rstrip()}")


@command.command("schema")
def schema() -> None:
    """Print the JSON Schema of evaluator.yaml."""
    emit(json.dumps(policy_schema(), indent=2, ensure_ascii=False))
