"""`evaluator init`: write a policy and a locustfile to start from."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import click

from evaluator.cli import Session, emit
from evaluator.cli.subject import service_option
from evaluator.errors import InputError, SourceError, UsageError
from evaluator.policy.selection import FILE_NAME, FOLDER_NAME, file_of, path_to_name
from evaluator.wording import write_command

if TYPE_CHECKING:
    from evaluator.records import Outcomes

LOCUSTFILE = "locustfile.py"


@click.command("init")
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path, file_okay=False), default=Path())
@click.option("--prometheus", "url", metavar="URL", default="", help="Judge by metrics of this server.")
@service_option("Write the policy of this service, as one of several in a folder.")
@click.pass_obj
def command(session: Session, folder: Path, url: str, service: str) -> None:
    """Write a commented evaluator.yaml, and a locustfile where there is none, to DIR (default: here).

    If the store has outcomes of an A/B test, the policy judges those. With --prometheus it judges ready-made metrics of
    that server, for the two versions that its labels distinguish. With --service it is written to
    evaluator.policies/SERVICE.yaml. Existing files are never overwritten.
    """
    if service and not file_of(service):
        hint = f"write a file in {folder / FOLDER_NAME} with the line `service: {service}`"
        raise UsageError(f"--service {service} cannot be the name of a file", hint=hint)
    policy_path = folder / FOLDER_NAME / file_of(service) if service else folder / FILE_NAME
    locustfile = folder / LOCUSTFILE
    if os.path.lexists(policy_path):
        raise InputError(
            f"{policy_path} exists already; nothing was written", hint="give another folder: `evaluator init DIR`"
        )
    if url:
        _write_new_files({policy_path: _make_reading_policy(session, url)})
        session.say("next: check selectors and margins, then run `evaluator collect RELEASE --from -1h`")
        return
    outcomes = None
    if session.store_path.exists():
        from evaluator.pipeline.importing import find_outcomes  # usually there is no store yet

        outcomes = find_outcomes(session.open_store())
    if outcomes is not None:
        _write_new_files({policy_path: _make_outcome_policy(outcomes)})
        next_command = write_command("RELEASE", policy=path_to_name(policy_path))
        session.say(f"next: check the margins, then run `{next_command}`")
        return
    texts_by_path = {policy_path: _read_starter(FILE_NAME)}
    if not locustfile.exists():
        texts_by_path[locustfile] = _read_starter("locustfile.py.template")
    _write_new_files(texts_by_path)
    if locustfile not in texts_by_path:
        session.say(f"{locustfile} exists already and was not changed")
    session.say("next: `evaluator load RELEASE --baseline URL --canary URL --locustfile locustfile.py`")


def _write_new_files(texts_by_path: Mapping[Path, str]) -> None:
    """Write each text to its path, and print the path. Raises FileExistsError: no file is overwritten."""
    for path, text in texts_by_path.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        emit(str(path))


def _read_starter(name: str) -> str:
    """Read a file of those to start from, which are part of the package."""
    return (files("evaluator") / "starter" / name).read_text(encoding="utf-8")


def _make_reading_policy(session: Session, url: str) -> str:
    """Return the built-in policy (YAML) with metrics of the server at `url` in place of those of requests.

    Raises SourceError if the server does not answer or has no metrics of a ready-made set, and PolicyError for an
    address that a policy may not contain.
    """
    from evaluator.policy import parse_policy
    from evaluator.sources.prometheus import PrometheusSource, connect, look_around

    placeholders = {"baseline": 'version="1.4"', "canary": 'version="1.5"'}
    # An address with a password, for example, is refused before connecting.
    parse_policy({"sources": {"prometheus": {"url": url, "selectors": placeholders}}}, origin="--prometheus")
    with connect(PrometheusSource(url=url, selectors=placeholders)) as server:
        discovery = look_around(server)
    if not discovery.sets:
        raise SourceError(
            f"{url} has had no metrics of a ready-made set for two versions in the last hour",
            hint="docs/prometheus.md describes how to write metrics of your own",
        )
    session.say(f"found {', '.join(discovery.sets)} at {url}")
    if discovery.selectors:
        session.say(
            "the versions are " + " and ".join(f"{arm} {selector}" for arm, selector in discovery.selectors.items())
        )
    else:
        session.say("no label distinguishes two versions: write the selectors yourself")
    chosen_selectors = discovery.selectors or placeholders
    selectors = "".join(f"      {arm}: {json.dumps(selector)}\n" for arm, selector in chosen_selectors.items())
    sources_section = (
        f"sources:\n  prometheus:\n    url: {json.dumps(url)}\n    step: 15s   # the scrape interval\n"
        f"    selectors:\n{selectors}    queries: [{', '.join(discovery.sets)}]\n"
    )
    # In the starter policy, `sources` is a comment of several lines, and `metrics` a list. Replacements are functions,
    # so that a backslash in the text is not read as an escape.
    policy = _read_starter(FILE_NAME)
    policy = re.sub(r"^# sources:\n(#   .*\n)+", lambda _: sources_section, policy, flags=re.MULTILINE)
    metrics_section = "metrics: []   # those of the queries below\n"
    return re.sub(r"^metrics:\n(  - .*\n)+", lambda _: metrics_section, policy, flags=re.MULTILINE)


def _make_outcome_policy(outcomes: Outcomes) -> str:
    """Return the built-in policy (YAML) with metrics of these outcomes in place of those of requests.

    The policy expects equally many units in every arm.
    """
    from evaluator.pipeline.importing import suggest_metrics

    metric_lines = "".join(f"  - {metric}\n" for metric in suggest_metrics(outcomes))
    policy = _read_starter(FILE_NAME)
    # The list of metrics. The replacement is a function, so that a backslash in a name is not read as an escape.
    policy = re.sub(r"(?<=^metrics:\n)(  - .*\n)+", lambda _: metric_lines, policy, flags=re.MULTILINE)
    expected_parts = ", ".join(f"{arm}: 1" for arm in outcomes.arms)  # such as `baseline: 1, canary: 1`
    return policy.replace("sample_ratio: configured}", f"sample_ratio: {{{expected_parts}}}}}")
