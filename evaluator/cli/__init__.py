"""The command line: arguments → pipeline → reports → exit code.

stdout carries the result, stderr the log and the progress. A command is a module of this package with a click command
named `command` (or the name that its line gives); its line in `COMMANDS` registers it, and it is imported only when it
is called. A command returns its exit code (`None` is 0) and raises the errors of `evaluator.errors`;
`evaluator.__main__` does the rest.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from evaluator.errors import PolicyError, StoreError, UnknownName
from evaluator.extensions import load_object

if TYPE_CHECKING:
    from evaluator.policy import Policy
    from evaluator.records import Release
    from evaluator.store import Store
    from evaluator.store.journal import Journal

__all__ = ["COMMANDS", "Session", "emit", "evaluator", "flush", "mask_control_characters", "wants_color"]

COMMANDS: Mapping[str, tuple[str, str]] = {
    "demo": ("evaluator.cli.demo", "Load two versions of the sample service and judge them."),
    "init": ("evaluator.cli.init", "Write a commented evaluator.yaml and a locustfile to start from."),
    "load": ("evaluator.cli.load", "Load all arms of a release at once with Locust and record every request."),
    "import": (
        "evaluator.cli.import_files",
        "Import request files of Locust, JMeter or k6, or outcomes of an A/B test.",
    ),
    "collect": ("evaluator.cli.collect", "Collect the policy's metrics of a release from Prometheus."),
    "tail": ("evaluator.cli.tail", "Follow the access log of a router: production traffic is judged."),
    "step": ("evaluator.cli.step", "Begin the next step of a rollout whose access log is followed."),
    "verdict": ("evaluator.cli.verdict", "Judge a release: GO, NO-GO or INCONCLUSIVE."),
    "watch": ("evaluator.cli.watch", "Judge a release repeatedly as data land, until it is decided."),
    "render": ("evaluator.cli.render", "Write a verdict from its JSON in other formats."),
    "app": ("evaluator.cli.app", "Review releases in a browser."),
    "promote": ("evaluator.cli.promote", "Promote a release: execute the policy's hooks, once that is allowed."),
    "hold": ("evaluator.cli.promote:hold", "Hold a release: cancel promotions that wait."),
    "rollback": ("evaluator.cli.promote:rollback", "Take back what a promotion changed."),
    "approve": ("evaluator.cli.approve", "Approve a request, or list the requests that wait."),
    "reject": ("evaluator.cli.approve:reject", "Reject a request, or withdraw your own."),
    "hooks": ("evaluator.cli.hooks", "Test the policy's hooks, and list the results of those that were executed."),
    "plan": ("evaluator.cli.plan", "Plan a test: what it would detect, how long it takes, and how to roll out."),
    "rollout": ("evaluator.cli.rollout", "Take a release to its users step by step, each allowed by evidence."),
    "calibrate": ("evaluator.cli.calibrate", "Measure false alarms and power of the policy on your own stored runs."),
    "replay": ("evaluator.cli.replay", "Judge stored releases again under another policy."),
    "policy": ("evaluator.cli.policy", "Check the policy, print it, or print its JSON Schema."),
    "releases": ("evaluator.cli.releases", "List the releases in the store with their latest verdict."),
    "audit": ("evaluator.cli.audit", "Show who did what, check that the record was not changed, and add notes."),
    "data": ("evaluator.cli.data", "Query, export, purge, back up or restore what is stored."),
}
"""Sub-command → (module, what it does), in the order of the help."""

_ACTION_KINDS = ("began", "recorded")
"""Kinds of records of the journal that show whether an action is not in the audit trail yet."""

DEFAULT_STORE = Path("evaluator.duckdb")


@dataclass(slots=True)
class Session:
    """What every command receives: the paths of store and policy, and the verbosity."""

    store_path: Path = DEFAULT_STORE
    policy_path: Path | None = None
    """A file, or a folder of policies; `None`: the nearest of them upwards, or the built-in policy."""
    verbosity: int = 0
    given_options: dict[str, str] = field(default_factory=dict)
    """`--store` and `--policy` with their values, if they are on the command line: printed commands repeat them."""
    is_sensitive: bool | None = None
    """Whether a policy that applies here says `sensitive: true`; `None`: no policy was read yet."""
    needs_no_data: bool = False
    """Whether the command needs decisions only: then it must not wait for what uses the data."""
    wait_s: float | None = None
    """How long each use of the store waits for another process; `None`: as usual."""
    is_journal_recorded: bool = False
    """Whether what was done without the decisions was added to the audit trail, or need not be by this command."""
    policies_to_go_back: dict[str, Policy] = field(default_factory=dict)
    """Release → its policy for a hold or a rollback."""
    typed: tuple[str, ...] = ()
    """The words of the command line after `evaluator`."""

    def open_store(self, *, create: bool = False, adopt: bool = False, decisions_only: bool = False) -> Store:
        """Open the store; a missing one is made with `create`, or if requests were recorded next to it by hand.

        With `adopt`, recordings by hand that no command has seen yet are added to the store. Otherwise they are added
        when their release is judged. With `decisions_only`, the command needs no data, and waits for nothing that uses
        them, now and when it loads a policy. What was done while the decisions could not be used is added to the audit
        trail. Raises StoreError.
        """
        from evaluator.pipeline.adopting import adopt_recordings, open_store
        from evaluator.store.file import WAIT_S

        self.needs_no_data = decisions_only
        store = open_store(
            self.store_path,
            create=create,
            private=self.has_sensitive_policy(),
            decisions_only=decisions_only,
            wait_s=WAIT_S if self.wait_s is None else self.wait_s,
        )
        self._record_journal(store)
        if adopt:
            adopt_recordings(store, say=self.say)
        return store

    def has_sensitive_policy(self) -> bool:
        """Return whether a policy that applies here, for any service, says `sensitive: true`.

        False if none can be read: what is private already stays so, and commands that use the policy report its
        mistake.
        """
        if self.is_sensitive is None:
            from evaluator.policy.selection import is_any_sensitive

            try:
                self.is_sensitive = is_any_sensitive(self.find_policy())
            except (PolicyError, OSError):
                return False
        return self.is_sensitive

    def find_journal(self) -> Journal:
        """Find the journal of the store: at the default paths, and where a policy that applies here names one."""
        from evaluator.policy.going_back import list_journal_paths
        from evaluator.store.journal import Journal, find_journal

        try:
            named = list_journal_paths(self.find_policy())
        except (PolicyError, OSError):
            named = []
        default = find_journal(self.store_path.absolute())
        return Journal(tuple(dict.fromkeys([*default.paths, *map(Path, named)])))

    def _record_journal(self, store: Store) -> None:
        """Add what was done while the decisions could not be used to the audit trail, where there is any such thing.

        A command goes on if that is not possible; one that holds or goes back adds it itself.
        """
        if self.is_journal_recorded:
            return
        self.is_journal_recorded = True
        try:
            records = self.find_journal().read()
        except StoreError:  # mostly there is none
            return
        ids = {
            kind: {record.get("action_id") for record in records if record.get("kind") == kind}
            for kind in _ACTION_KINDS
        }
        if not ids["began"] - ids["recorded"]:
            return
        from evaluator.intents.journal_trail import record_actions  # a slow import, and rarely needed

        try:
            if count := record_actions(store, self.find_journal()):
                noun = "action" if count == 1 else "actions"
                self.say(f"added to the audit trail what was done without the decisions: {count} {noun}")
        except StoreError as error:
            self.say(f"what was done without the decisions is not in the audit trail yet: {error.message}")

    def load_policy_to_go_back(self, release: str) -> Policy:
        """Load the policy for a hold or a rollback of a stored release: a mistake in a policy does not prevent it."""
        from evaluator.policy.going_back import choose_policy_to_go_back

        def find_services() -> list[str]:
            """List the services of the release."""
            stored = self.open_store(decisions_only=True).control.release(release)
            return [service.name for service in stored.services] or [""]

        if release not in self.policies_to_go_back:  # what is wrong with it is said once
            self.policies_to_go_back[release] = choose_policy_to_go_back(self.find_policy, find_services, self.say)
        return self.policies_to_go_back[release]

    def load_policy(self, release: str | None = None, *, service: str | None = None) -> Policy:
        """Load the policy that applies here; where each service has its own, the one for the release's service.

        `service`: the value of `--service` of a command that records the release; it may be empty, and the release may
        be new. `None`: the release has to be stored. Raises PolicyError, and UnknownName for an unknown release or
        service.
        """
        from evaluator.policy.selection import choose_policy

        def find_services() -> list[str]:
            """List the services that the policy has to be for: the given one ("" for none), and the stored ones."""
            services = [service or ""]
            if release is None:
                return services
            if service is None and not self.needs_no_data:  # it does not record the release, so that has to be stored
                from evaluator.pipeline.landing import land_release

                # A load that the user started by Locust itself is stored, with its service, only when it lands.
                land_release(self.open_store(), release)
            stored = self.find_release(release)
            if stored is not None:
                services += [stored_service.name for stored_service in stored.services]
            return services

        path = self.find_policy()
        policy = choose_policy(path, find_services)
        if path is None or not path.is_dir():  # the policy of all services: it need not be read again
            self.is_sensitive = policy.promotion.sensitive
        return policy

    def find_policy(self) -> Path | None:
        """Find the file or the folder of policies that applies here. Raises PolicyError."""
        from evaluator.policy.selection import find_policy

        return self.policy_path or find_policy(Path.cwd())

    def find_release(self, name: str) -> Release | None:
        """Return a release from the store; `None` if it is not stored, or there is no store."""
        from evaluator.pipeline.adopting import is_store_there
        from evaluator.store.control_file import control_path

        has_decisions = self.needs_no_data and control_path(self.store_path).exists()
        if not (has_decisions or is_store_there(self.store_path)):
            return None
        summaries = self.open_store(decisions_only=self.needs_no_data).control.releases()
        return next((summary.release for summary in summaries if summary.release.id == name), None)

    def say(self, text: str) -> None:
        """Show progress on stderr, unless `-q` was given. Commands in it repeat `--store` and `--policy`."""
        if self.verbosity >= 0:
            click.echo(mask_control_characters(self.complete_commands(text)), err=True)

    def complete_commands(self, text: str) -> str:
        """Add `--store` and `--policy`, as they were given, to each command in a text: it then does what the text says.

        A command begins with `evaluator after a backtick, and is quoted for a shell.
        """
        if not self.given_options:
            return text
        from evaluator.wording import add_options

        return add_options(text, self.given_options)


class LazyGroup(click.Group):
    """A group that imports a sub-command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the sub-commands in the order of the table."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a sub-command and give it the common options; `None` if there is no such sub-command."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        target, _ = COMMANDS[cmd_name]  # a module, or `module:object`
        command: click.Command = load_object(target if ":" in target else f"{target}:command")
        _add_common_options(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the sub-command. Raises UnknownName, which suggests the name that was probably meant."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            raise UnknownName("command", args[0], COMMANDS, hint="`evaluator --help` lists the commands")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the sub-commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _set_path(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    """Store the value of `--store` or `--policy` in the session: its `store_path` or `policy_path`."""
    if value is not None:
        session = ctx.ensure_object(Session)
        setattr(session, f"{param.name}_path", value)
        if param.name and ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE:
            session.given_options[f"--{param.name}"] = str(value)


def _raise_verbosity(ctx: click.Context, _param: click.Parameter, value: int) -> None:
    """Add `value`, the number of `-v`, to the verbosity of the session, and show log messages accordingly.

    1: information, 2: debugging, -1 (`-q`): only errors. Added, because the option may come before and after the
    sub-command.
    """
    session = ctx.ensure_object(Session)
    session.verbosity += value
    logging.getLogger("evaluator").setLevel(logging.WARNING - 10 * session.verbosity)


def _lower_verbosity(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    """Lower the verbosity by 1 if `-q` is given (`value`)."""
    _raise_verbosity(ctx, param, -1 if value else 0)


def _show_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    """Print the version and end, if `--version` is given."""
    if value:
        from evaluator.version import find_version

        emit(f"evaluator {find_version()}")
        ctx.exit()


def _make_common_options(*, environment: bool) -> list[click.Option]:
    """Make the options that may come before or after the sub-command.

    `environment`: an option that is not given takes its value from an environment variable. This is for those before
    the sub-command only: after it, the variable would replace a value that is given before it.
    """

    def option(*names: str, envvar: str | None = None, **settings: Any) -> click.Option:
        """Make an option; `envvar`: its environment variable, if `environment` allows one."""
        # Their values are in the session; the functions of commands do not receive them.
        return click.Option(
            names, expose_value=False, envvar=envvar if environment else None, show_envvar=environment, **settings
        )

    path: dict[str, Any] = {"type": click.Path(path_type=Path), "metavar": "PATH", "callback": _set_path}
    return [
        option("--store", envvar="EVALUATOR_STORE", help="File of the store.  [default: evaluator.duckdb]", **path),
        option(
            "--policy",
            envvar="EVALUATOR_POLICY",
            help="The policy, or a folder with one for each service.  [default: the nearest evaluator.yaml or "
            "evaluator.policies upwards, else the built-in one]",
            **path,
        ),
        option(
            "-v", "--verbose", count=True, callback=_raise_verbosity, help="Show more messages; -vv shows tracebacks."
        ),
        option("-q", "--quiet", is_flag=True, callback=_lower_verbosity, help="Show only the result."),
    ]


def _add_common_options(command: click.Command) -> None:
    """Let `evaluator verdict X --store S` mean the same as `evaluator --store S verdict X`.

    An option of the command itself that has the same name stays.
    """
    if isinstance(command, click.Group):
        for child in command.commands.values():
            _add_common_options(child)
        return
    used_names = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    common_options = _make_common_options(environment=False)
    command.params += [option for option in common_options if not used_names & set(option.opts)]


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
@click.pass_context
def evaluator(ctx: click.Context) -> None:
    """Is this release safe to promote?

    Loads canary and baseline, compares them request by request, and answers GO, NO-GO or INCONCLUSIVE.

    Exit codes: 0 GO or done, 1 NO-GO, 2 wrong usage or policy, 3 INCONCLUSIVE, 4 could not evaluate, 130 interrupted.
    """
    ctx.ensure_object(Session)


evaluator.params[:0] = _make_common_options(environment=True)


def wants_color(stream: IO[str]) -> bool:
    """Return whether to colour the output on `stream`: by NO_COLOR and FORCE_COLOR, else if it is a terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def mask_control_characters(text: str) -> str:
    """Escape what would control a terminal or change the direction of a text: names and values may contain it.

    Lines stay.
    """
    if text.replace("\n", "").isprintable():
        return text
    from evaluator.reports.base import plain_text  # a slow import, and most texts need none

    return "\n".join(plain_text(line) for line in text.split("\n"))


def emit(text: str) -> None:
    """Write a result to stdout; a reader that has closed the pipe (`| head`) is not an error."""
    # Colours are in the text only if they are wanted, so click has nothing to remove.
    _ignore_closed_pipe(lambda: click.echo(text, color=True))


def flush() -> None:
    """Flush stdout; a reader that has closed the pipe is not an error."""
    _ignore_closed_pipe(sys.stdout.flush)


def _ignore_closed_pipe(write: Callable[[], None]) -> None:
    """Call `write`, which writes to stdout. If the reader of stdout has ended, send all further output nowhere."""
    try:
        write()
    except BrokenPipeError:
        # Python flushes stdout again at exit, which would fail on the closed pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
