"""What the makers of both kinds of lab are given: where to build, the journal to write to, and whom to tell."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from attrs import field, frozen

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numaferry.lab.journal import Journal


@frozen
class Site:
    """A place where a lab is being built.

    `directory` exists and is 0700; everything made goes below it or through `journal`. `say(text)` shows a line of
    progress, with the seconds since the beginning.
    """

    name: str
    directory: Path
    lab_id: str
    journal: Journal
    listener: Callable[[str], None]
    began: float = field(factory=time.monotonic)

    def say(self, text: str) -> None:
        """Show one line of progress."""
        self.listener(f"{time.monotonic() - self.began:6.1f} s  {text}")
