"""The options `--evaluator-…` of a Locust that records without `evaluator load`."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import replace

from locust.argument_parser import LocustArgumentParser

from evaluator.errors import UsageError
from evaluator.sources.arm_header import ArmHeader, check_header_name, parse_arm_values

_OPTIONS: Mapping[str, str] = {
    "release": "The release that this run belongs to",
    "arm": "Arm of the requests whose context names none",
    "service": "Name of the service under load",
    "store": "The store; segments go to the folder next to it",
    "header": "Response header that names the instance",
    "arm-header": "Response header that names the arm, where a router chooses it",
    "arm-values": "Values of this header: baseline=b*,canary=c*  [default: the names of the arms]",
}

_FLAGS: Mapping[str, str] = {
    "sensitive": "Keep only the path of a request",
    "no-retries": "The router never tries a request a second time",
}


def add_options(parser: LocustArgumentParser, settings: Mapping[str, str], flags: Mapping[str, bool]) -> None:
    """Add the options to those of Locust. `settings`, `flags`: their default values, by name."""
    for name, text in _OPTIONS.items():
        parser.add_argument(
            f"--evaluator-{name}",
            env_var=f"EVALUATOR_{name.upper().replace('-', '_')}",
            default=settings[name],
            help=text,
            include_in_web_ui=False,
        )
    parser.add_argument(
        "--evaluator-run", default="", help="Id of the run.  [default: generated]", include_in_web_ui=False
    )
    for name, text in _FLAGS.items():
        parser.add_argument(
            f"--evaluator-{name}",
            action="store_true",
            env_var=f"EVALUATOR_{name.upper().replace('-', '_')}",
            default=flags[name],
            help=text,
            include_in_web_ui=False,
        )


def explain_refused_header(options: Namespace) -> str:
    """Say why requests cannot be recorded behind a router by these options; empty if they can, or there is none."""
    try:
        header = make_arm_header(options)
    except UsageError as error:
        return f"{error.message} ({error.hint})" if error.hint else error.message
    if header is None and (options.evaluator_arm_values or options.evaluator_no_retries):
        return "--evaluator-arm-values and --evaluator-no-retries need --evaluator-arm-header NAME"
    if header is not None and options.evaluator_arm:
        return "--evaluator-arm excludes --evaluator-arm-header: the answers of the router name the arm"
    return ""


def make_arm_header(options: Namespace) -> ArmHeader | None:
    """Make the header that names the arm from the options; None if they name none. Raises UsageError."""
    if not options.evaluator_arm_header:
        return None
    check_header_name(options.evaluator_arm_header, "--evaluator-arm-header")
    texts = [text for text in options.evaluator_arm_values.split(",") if text]
    header = ArmHeader(options.evaluator_arm_header, no_retries=options.evaluator_no_retries)
    patterns = parse_arm_values(texts, "--evaluator-arm-values")
    return replace(header, patterns=patterns) if patterns else header
