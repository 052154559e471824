"""docs/hooks.md describes the options as the models do, and its examples are accepted."""

import re
from pathlib import Path

import pytest
import yaml

from evaluator.hooks import HOOKS, HookOptions, make_hook
from evaluator.hooks.network import TlsOptions

TEXT = (Path(__file__).parent.parent.parent / "docs" / "hooks.md").read_text(encoding="utf-8")
EXAMPLES = [
    (kind, options)
    for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    for kind, options in yaml.safe_load(block).items()
]


def rows(model, without=()):
    """The table of a model's options."""
    lines = ["| option | |", "| --- | --- |"]
    for name, field in model.model_fields.items():
        if name not in without:
            needed = " Needed." if field.is_required() else ""
            lines.append(f"| `{name}` | {field.description}{needed} |")
    return "\n".join(lines)


@pytest.mark.parametrize(("kind", "options"), EXAMPLES, ids=[f"{kind}-{at}" for at, (kind, _) in enumerate(EXAMPLES)])
def test_examples_are_accepted(kind, options):
    assert make_hook(kind, options).describe()


def test_every_hook_has_its_section_with_its_options():
    assert rows(HookOptions) in TEXT
    for kind, hook_class in HOOKS.items():
        _, heading, section = TEXT.partition(f"\n## {kind}\n")
        assert heading, (
            f"docs/hooks.md has no section '## {kind}': say there what it does, with the table of its options"
        )
        section = section.split("\n## ")[0]
        assert rows(hook_class.Options, TlsOptions.model_fields) in section, kind


def test_every_hook_has_an_example():
    assert {kind for kind, _ in EXAMPLES} == set(HOOKS)
