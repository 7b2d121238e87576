"""The command line: commands that call `numaferry.service.Ferry` and render what it returns; no decisions here."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with its exit code."""
    from numaferry.cli.app import run  # noqa: PLC0415  (what the console script imports first stays light)

    sys.exit(run(args))
