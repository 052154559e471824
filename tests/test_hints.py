"""What hints, remedies and next actions tell people to type exists: commands, their options, keys of the policy.

The sentences are collected from the source by AST: what is given as `hint=`, `remedy=` or `next_action=`, messages of
errors, and all of the modules that only write such sentences. Where a name or a call stands in place of the text, every
text that it may stand for is taken. What is filled in at run time becomes `…`.
"""

import ast
import re
from functools import cache
from pathlib import Path

import click
import pytest

import evaluator
from evaluator import errors
from evaluator.cli import COMMANDS, Session
from evaluator.cli import evaluator as command_line
from evaluator.policy import policy_schema as make_schema

PACKAGE = Path(evaluator.__file__).parent
FILLED = "…"
ROOTS = ("hint", "remedy", "next_action")
ONLY_SENTENCES = ("health", "judges/advice.py", "judges/wording.py", "judges/progress.py")
"""Packages and modules in which every text is read by people."""

OTHER_OPTIONS = {
    "--out": "of k6",
    "--system-tags": "of k6",
    "--help": "every command has it",
    "--output-format": "of oha",
    "--benchmark": "of Google Benchmark",
    "--follow-symlinks": "of GNU sed",
}
OTHER_WORDS = {
    # word -> why it is no key of the policy
    "constant_throughput": "of Locust",
    "constant_pacing": "of Locust",
    "split_clients": "of nginx",
}


# ------------------------------------------------------------------ the sentences


@cache
def trees():
    """Module (`health/gaps.py`) → its source as a tree."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return {path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in paths}


@cache
def functions():
    """Name → what functions of that name return, wherever they are, and their modules."""
    found = {}
    for place, tree in trees().items():
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                said = [node.value for node in ast.walk(function) if isinstance(node, ast.Return | ast.Yield)]
                found.setdefault(function.name, []).extend((value, place) for value in said if value is not None)
    return found


@cache
def assigned(place):
    """Name → the values that it gets anywhere in a module."""
    found = {}
    for node in ast.walk(trees()[place]):
        if not isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr):
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=True))
            for one, value in pairs:
                if isinstance(one, ast.Name) and value is not None:
                    found.setdefault(one.id, []).append(value)
    return found


def texts(node, place, visited):
    """Every text in an expression, and in what its names and calls stand for, with its module; each place once."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node.value, place
        return
    if isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else FILLED for part in node.values), place
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                yield from texts(part.value, place, visited)
        return
    behind = []
    if isinstance(node, ast.Name) and (place, node.id) not in visited:
        visited.add((place, node.id))
        behind = [(value, place) for value in assigned(place).get(node.id, ())]
    if isinstance(node, ast.Call) and (name := name_function(node.func)) not in visited:
        visited.add(name)
        behind += functions().get(name, ())
    for value, where in (*behind, *((child, place) for child in ast.iter_child_nodes(node))):
        yield from texts(value, where, visited)


def name_function(node):
    """`remedy_of` in `remedy_of(…)`, `self.remedy_of(…)` and `wording.remedy_of(…)`; not methods of other things."""
    if isinstance(node, ast.Name):
        return node.id
    known = (
        isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "wording")
    )
    return node.attr if known else ""


def is_docstring(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def roots(tree, *, everything):
    """Expressions of a module that people read."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from (keyword.value for keyword in node.keywords if keyword.arg in ROOTS)
            if isinstance(node.func, ast.Name) and isinstance(getattr(errors, node.func.id, None), type):
                yield from node.args
        if everything and isinstance(node, ast.stmt) and not is_docstring(node):
            yield from (child for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr))


def is_sentence(text):
    """Is it for people: several words, and neither SQL nor HTML?"""
    return " " in text.strip() and not re.search(
        r"\b(SELECT .* FROM|CREATE|ALTER|INSERT|read_csv|FROM) |<\w+[ >]", text
    )


@cache
def sentences():
    """Text → the module it is from."""
    found, visited = {}, set()
    for place, tree in trees().items():
        for root in roots(tree, everything=place.startswith(ONLY_SENTENCES)):
            for text, origin in texts(root, place, visited):
                if is_sentence(text):
                    found.setdefault(text, origin)
    return found


# ------------------------------------------------------------------ what exists


@cache
def policy_schema():
    return make_schema()


@cache
def commands():
    """Each command with its words (`hooks log`) → its options."""
    context = click.Context(command_line, obj=Session())
    out = {}

    def walk(name, command):
        out[name] = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        if isinstance(command, click.Group):
            for child in command.list_commands(context):
                walk(f"{name} {child}".strip(), command.get_command(context, child))

    walk("", command_line)
    return out


def branches(schema):
    """The shapes that a value may have."""
    if "$ref" in schema:
        return branches(policy_schema()["$defs"][schema["$ref"].rsplit("/", 1)[1]])
    choices = [choice for kind in ("anyOf", "oneOf", "allOf") for choice in schema.get(kind, ())]
    return [schema, *(branch for choice in choices for branch in branches(choice))]


def step(shapes, key):
    """The shapes of the value of a key; nothing where no shape has such a key."""
    out = []
    for shape in shapes:
        for item in (shape, *(branches(shape["items"]) if isinstance(shape.get("items"), dict) else ())):
            if key in item.get("properties", {}):
                out += branches(item["properties"][key])
            else:  # a mapping whose keys people choose, such as arms
                chosen = [item.get("additionalProperties"), *item.get("patternProperties", {}).values()]
                out += [branch for shape in chosen if isinstance(shape, dict) for branch in branches(shape)]
    return out


@cache
def all_keys():
    """Key → the shapes of its values, wherever in the policy it stands."""
    found = {}

    def walk(node):
        if isinstance(node, dict):
            for key, value in (node.get("properties") or {}).items():
                found.setdefault(key, []).extend(branches(value))
            node = list(node.values())
        for child in node if isinstance(node, list) else ():
            walk(child)

    walk(policy_schema())
    return found


@cache
def values():
    """Words that stand for values in the policy: types of metrics, roles, kinds of hooks."""
    return {
        word
        for text in re.findall(r"'(?:const|enum)': (\[[^]]*\]|'[^']*')", str(policy_schema()))
        for word in re.findall(r"'([^']*)'", text)
    }


# ------------------------------------------------------------------ what is said


def wrong_options(text):
    spans = re.findall(r"`(evaluator [^`]*)`", text)
    for span in spans:
        name = name_command(span)
        if name:
            known = commands()[name] | commands()[""] | {"--help"}
            yield from (f"{option} of `evaluator {name}`" for option in find_options(span) if option not in known)
    known = set().union(*commands().values()) | set(OTHER_OPTIONS)
    yield from (option for option in find_options(text) if option not in known)


def find_options(text):
    return re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text.split(" -- ")[0])


def name_command(text):
    """The command that a text calls: the longest one that exists; `""` where there is none."""
    words = text.split()[1:]
    return next((name for count in (2, 1) if (name := " ".join(words[:count])) in commands()), "")


def wrong_commands(text):
    for called in re.findall(r"(?<!the )(?<!this )(?<!newer )(?<!an )(?<![-.])\bevaluator ([a-z]+)\b", text):
        if called not in COMMANDS:
            yield f"evaluator {called}"
    for span in re.findall(r"`evaluator ([^`]*)`", text):
        words = span.split()
        group = command_line.get_command(click.Context(command_line), words[0]) if words else None
        if isinstance(group, click.Group) and len(words) > 1 and name_command(f"evaluator {span}") == words[0]:
            yield f"evaluator {span}"


def wrong_keys(text):
    top = policy_schema()["properties"]
    for dotted in re.findall(r"\b[a-z_]+(?:\.[a-z_]+)+\b", text):
        shapes, (first, *rest) = [policy_schema()], dotted.split(".")
        if first in top and rest[-1] != "md" and not all(shapes := step(shapes, key) for key in (first, *rest)):
            yield dotted
    yield from wrong_mappings(text)
    for key in re.findall(r"\b(?:set|write|raise|give|add)s? `?([a-z_]+): ", text):
        if key not in all_keys():
            yield f"{key}:"
    named = [*re.findall(r"`([a-z]+(?:_[a-z]+)+)`", text), *re.findall(r"\b(?:set|raise) ([a-z]+(?:_[a-z]+)+)\b", text)]
    yield from (word for word in named if word not in {*all_keys(), *values(), *OTHER_WORDS})


def wrong_mappings(text):
    """Keys in `health: {sample_ratio: {…}}` that are not at their place."""
    for match in re.finditer(r"\b([a-z_]+): \{", text):
        outer = text[: match.start()]
        if outer.count("{") > outer.count("}"):
            continue  # part of a mapping that is looked at already
        shapes = step([policy_schema()], match[1]) or all_keys().get(match[1], [])
        if not shapes:
            yield f"{match[1]}: {{"
        yield from wrong_inside(text[match.end() :], shapes, match[1])


def wrong_inside(text, shapes, place):
    """Walk the keys after an opening brace, down to where it closes."""
    stack = [(shapes, place)]
    for token in re.finditer(r"([A-Za-z_]+): ?(\[?\{)?|(\{)|(\})", text):
        key, opens, brace, closes = token.groups()
        if closes:
            stack.pop()
        elif brace:
            stack.append(stack[-1])
        elif key:
            shapes, place = stack[-1]
            below = step(shapes, key)
            if shapes and not below:
                yield f"{place}.{key}"
            if opens:
                stack.append((below, f"{place}.{key}"))
        if not stack:
            return


def wrongs(text):
    return [*wrong_options(text), *wrong_commands(text), *wrong_keys(text)]


# ------------------------------------------------------------------ tests


def test_hints_name_only_what_exists():
    found = sorted(f"{place}: {wrong}  in: {text}" for text, place in sentences().items() for wrong in wrongs(text))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("correct sources.prometheus.selector", "sources.prometheus.selector"),
        ("look with --all-of-it", "--all-of-it"),
        ("`evaluator verdict … --replicates 5`", "--replicates of `evaluator verdict`"),
        ("judge it: evaluator judge …", "evaluator judge"),
        ("`evaluator policy shew` prints it", "evaluator policy shew"),
        ("write health: {sample_rate: {baseline: 1}}", "health.sample_rate"),
        ("write monitoring: {mode: anytime, units: 5}", "monitoring.units"),
        ("set winsorize: 99.9% for …", "winsorize:"),
        ("raise max_scrapes", "max_scrapes"),
    ],
)
def test_what_does_not_exist_is_found(text, wrong):
    assert wrong in wrongs(text)


def test_what_exists_is_not_complained_of():
    for text in (
        "sources.prometheus.selectors and health.coverage",
        '`evaluator load … --replicates 5 --restart-command "./restart.sh"`',
        "write health: {sample_ratio: {baseline: 2000, undefined: 2}}, or monitoring: {max_units: …}",
        "sources: {prometheus: {queries: [red-http], selectors: {baseline: …}}}",
    ):
        assert wrongs(text) == []


def test_sentences_are_found_wherever_they_are_written():
    """Given directly, by a name, by a function, by a function of another module, in parts."""
    said = sentences()
    assert any(text.startswith("give the address of the API itself") for text in said)
    assert any("--outcomes-query" in text and place == "health/outcomes.py" for text, place in said.items())
    assert any("(--replicates 5)" in text for text in said)
    assert len(said) > 400
