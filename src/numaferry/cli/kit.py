"""What every command shares: the session, `-f table|json`, examples in the help, and errors in one line."""

from __future__ import annotations

import inspect
import json
import os
import sys
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

import attrs
import click

from numaferry.cli.exits import INTERRUPTED
from numaferry.cli.jsonform import dumps, to_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console, RenderableType
    from rich.table import Table

    from numaferry.errors import NumaferryError
    from numaferry.service import Ferry

F = TypeVar("F", bound="Callable[..., Any]")

#: Columns for tables that go to a file or pipe: wide, so that nothing is cut and tools can cut themselves.
_PIPE_WIDTH = 200
#: Columns of a picture where there is no terminal to ask.
PICTURE_WIDTH = 80


@attrs.define
class Session:
    """One run of the command line: global options, and the Ferry once a command needs it."""

    db: str | None = None
    debug: bool = False
    form: str = "table"
    _ferry: Ferry | None = None

    @property
    def json(self) -> bool:
        """Tell whether `-f json` was given."""
        return self.form == "json"

    def ferry(self) -> Ferry:
        """Open the ledger on first use; raises LedgerUnusable."""
        if self._ferry is None:
            from numaferry.service import Ferry  # noqa: PLC0415  (opened when needed: --help stays quick)

            self._ferry = Ferry.open(self.db)
        return self._ferry

    def without_ledger(self) -> Ferry:
        """Return a Ferry for commands that only look at hosts."""
        from numaferry.service import Ferry  # noqa: PLC0415  (the same)

        self._ferry = Ferry()
        return self._ferry

    def close(self) -> None:
        """Close connections and the ledger; safe to repeat."""
        if self._ferry is not None:
            self._ferry.close()

    def show(self, value: object, table: Callable[[], RenderableType | list[RenderableType]]) -> None:
        """Print the command's answer: the value as JSON, or what `table` makes of it."""
        if self.json:
            click.echo(dumps(value))
            return
        made = table()
        before = ""
        for part in made if isinstance(made, list) else [made]:
            # Sentences, XML and commands are never wrapped: they are copied, searched and piped.
            text = part.rstrip("\n") if isinstance(part, str) else drawn(part)
            kind = type(part).__name__
            apart = "\n" if before and "Table" in {before, kind} else ""
            make_console().file.write(f"{apart}{text}\n")
            before = kind
        sys.stdout.flush()

    def say(self, line: str) -> None:
        """Tell something beside the answer, on standard error."""
        click.echo(line, err=True)

    def console(self) -> Console:
        """Return a console as wide as the terminal; plain and wide where the output is no terminal."""
        return make_console()

    def picture_width(self) -> int:
        """Return how wide a picture may be."""
        return min(self.console().width, 160) if _is_terminal() else PICTURE_WIDTH


class _AsciiOut:
    """Standard output of a terminal that can't show box-drawing characters: they are written in ASCII."""

    def write(self, text: str) -> int:
        """Write the text with signs in place of what the terminal lacks."""
        from numaferry.cli.numamap import to_ascii  # noqa: PLC0415  (rich is imported only by what prints with it)

        return sys.stdout.write(to_ascii(text).encode("ascii", "replace").decode("ascii"))

    def flush(self) -> None:
        """Flush standard output."""
        sys.stdout.flush()

    def isatty(self) -> bool:
        """Tell whether standard output is a terminal."""
        return sys.stdout.isatty()


def make_console() -> Console:
    """Return a console on the standard output of this moment."""
    from rich.console import Console  # noqa: PLC0415  (rich is imported only by what prints with it)

    width = None if _is_terminal() or os.environ.get("COLUMNS") else _PIPE_WIDTH
    utf = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "").startswith("utf")
    out = sys.stdout if utf else cast("IO[str]", _AsciiOut())
    return Console(file=out, width=width, highlight=False, markup=False, emoji=False)


def drawn(part: RenderableType) -> str:
    """Return a table or picture as text, coloured on a terminal only, without blanks at the ends of lines elsewhere."""
    console = make_console()
    with console.capture() as got:
        console.print(part)
    lines = got.get().splitlines()
    if not _is_terminal():
        lines = [line.rstrip() for line in lines]
    while lines and not lines[0].strip():
        del lines[0]
    while lines and not lines[-1].strip():
        del lines[-1]
    return "\n".join(lines)


def table(*columns: str, title: str = "") -> Table:
    """Return an empty table; a column that starts with `>` is of numbers, aligned to the right."""
    from rich import box  # noqa: PLC0415  (the same)
    from rich.table import Table  # noqa: PLC0415  (the same)

    made = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False, title_style="bold")
    for column in columns:
        made.add_column(
            column.removeprefix(">"), justify="right" if column.startswith(">") else "left", overflow="fold"
        )
    return made


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _remember_form(context: click.Context, _parameter: click.Parameter, value: str) -> str:
    """Keep the format where errors find it."""
    context.ensure_object(Session).form = value
    return value


def command_options(function: F) -> F:
    """Add `-f table|json`; the command is given the session as its first argument."""
    option = click.option(
        "--format",
        "-f",
        "form",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        is_eager=True,
        expose_value=False,
        callback=_remember_form,
        help="How to print the answer.",
    )
    decorated = option(click.make_pass_decorator(Session, ensure=True)(function))
    return cast("F", decorated)


def examples(*lines: str) -> Callable[[F], F]:
    """Append examples to a command's help, their lines kept as they are."""

    def add(function: F) -> F:
        shown = "\n".join(f"  {line}" for line in lines)
        function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\n\b\nFor example:\n{shown}"
        return function

    return add


def tell_error(error: NumaferryError, *, as_json: bool) -> None:
    """Write an error to standard error: one line and its hint, or a JSON object."""
    if as_json:
        told = error.to_dict() | {"exit_code": error.exit_code}
        misfits = getattr(error, "misfits", None)
        if misfits:
            told["misfits"] = to_json(misfits)
        click.echo(json.dumps({"error": told}, indent=2, ensure_ascii=False), err=True)
        return
    lead = "interrupted" if error.exit_code == INTERRUPTED else "error"
    click.echo(f"{lead}: {one_line(error.message)}", err=True)
    if error.hint:
        click.echo(f"hint: {one_line(error.hint)}", err=True)


def one_line(text: str) -> str:
    """Return the text without line breaks."""
    return " ".join(str(text).split())
