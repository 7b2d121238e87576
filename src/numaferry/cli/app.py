"""The root of the command tree, and how a run ends: answers on standard output, errors in one line, exit codes."""

from __future__ import annotations

import importlib
import os
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import click

from numaferry import __version__
from numaferry.cli.exits import EXIT_CODES, INTERRUPTED, OK
from numaferry.cli.kit import Session, tell_error
from numaferry.errors import InputError, NumaferryError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Command → where it is defined; imported when it is called or listed. In the order in which they are first needed.
COMMANDS: Final[dict[str, str]] = {
    "scan": "numaferry.cli.scan:scan",
    "host": "numaferry.cli.hosts:host",
    "topology": "numaferry.cli.topology:topology",
    "instance": "numaferry.cli.instances:instance",
    "migrate": "numaferry.cli.migrate:migrate",
    "migration": "numaferry.cli.migrations:migration",
    "serve": "numaferry.cli.serve:serve",
    "explain": "numaferry.cli.explain:explain",
    "audit": "numaferry.cli.audit:audit",
    "ledger": "numaferry.cli.ledger:ledger",
    "fit": "numaferry.cli.fit:fit",
    "lab": "numaferry.lab.cli:lab",
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature)
        """Return the names, in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  (the same)
        """Import and return the command, or None."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{COMMANDS[cmd_name]} is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List every command with the whole first sentence of its help."""
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first_sentence(command)) for name, command in commands if command])


def _first_sentence(command: click.Command) -> str:
    """Return the first paragraph of a command's help, in one line."""
    return " ".join((command.help or "").split("\n\n", maxsplit=1)[0].split())


_EPILOG = (
    "\b\nFor example:\n"
    "  numaferry scan qemu+ssh://root@host-a/system qemu+ssh://root@host-b/system\n"
    "  numaferry migrate db1 --dest host-b --dry-run\n\n"
    "\b\nExit codes:\n" + "\n".join(f"  {code:<4}{meaning}" for code, meaning in EXIT_CODES.items())
)


@click.group(cls=LazyGroup, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--db",
    metavar="URL",
    envvar="NUMAFERRY_DB",
    show_envvar=True,
    help="The ledger: a file or a database URL; by default a file in the XDG state directory.",
)
@click.option("--debug", is_flag=True, help="Show tracebacks of errors.")
@click.version_option(__version__, "--version", prog_name="numaferry")
@click.pass_context
def root(context: click.Context, db: str | None, *, debug: bool) -> None:
    """Move pinned, NUMA-placed KVM guests live between libvirt hosts.

    The destination's exact CPUs, pages and links are claimed in a ledger before a guest moves.
    """
    session = context.ensure_object(Session)
    session.db = db
    session.debug = debug
    context.call_on_close(session.close)


def run(args: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; nothing is raised but with --debug."""
    session = Session()
    try:
        # Without standalone mode, click returns the code of `ctx.exit` and raises everything else.
        code = root.main(args=args, prog_name="numaferry", standalone_mode=False, obj=session)
    except click.exceptions.NoArgsIsHelpError as asked:
        click.echo(asked.format_message(), err=True)
        return InputError.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output went away; Python must not complain about it when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except SystemExit as leaving:
        # `lab exec` ends with the code of the command that it ran.
        return leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
    except Exception as error:
        if session.debug:
            raise
        told = _as_ours(error)
        tell_error(told, as_json=session.json or _asks_for_json(args))
        return told.exit_code
    return code if isinstance(code, int) else OK


def _asks_for_json(args: Sequence[str] | None) -> bool:
    """Tell whether a command line that could not be read asks for JSON."""
    words = sys.argv[1:] if args is None else args
    return any(pair in {("-f", "json"), ("--format", "json")} for pair in pairwise(words)) or "--format=json" in words


def _as_ours(error: Exception) -> NumaferryError:
    """Return an error of ours for whatever was raised."""
    if isinstance(error, NumaferryError):
        return error
    if isinstance(error, click.UsageError):
        where = error.ctx.command_path if error.ctx else "numaferry"
        return InputError(error.format_message(), hint=f"see {where} --help", code="usage")
    if isinstance(error, click.ClickException):
        return InputError(error.format_message(), code="usage")
    return NumaferryError(
        f"{type(error).__name__}: {error}",
        hint="this is a fault of numaferry: run again with --debug and report what it prints",
        code="internal",
    )
