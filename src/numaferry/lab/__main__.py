"""`python -m numaferry.lab`: the lab's commands alone."""

from __future__ import annotations

import sys

import click

from numaferry.errors import NumaferryError
from numaferry.lab.cli import lab


def main() -> None:
    """Run the command line; an error is one line with a hint, and its own exit code."""
    try:
        lab(prog_name="numaferry lab")
    except NumaferryError as error:
        click.echo(f"error: {error.message}" + (f"\n  hint: {error.hint}" if error.hint else ""), err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
