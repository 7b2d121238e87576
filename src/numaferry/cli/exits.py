"""What the exit codes mean: one table for `--help`, docs/cli.md, and the test over both."""

from __future__ import annotations

from typing import Final

OK: Final = 0
#: The command did what it was asked to, and what it found is not well.
FOUND: Final = 1
#: Ctrl-C, as shells have it: 128 + SIGINT.
INTERRUPTED: Final = 130

EXIT_CODES: Final[dict[int, str]] = {
    OK: "done",
    FOUND: "the command ran and found something wrong, or failed in a way that has no code of its own",
    2: "what was asked makes no sense or names nothing",
    3: "understood, and not done, by rule",
    4: "the resources are not there",
    5: "a check said no before anything moved",
    6: "the move was started and rolled back; the guest runs on the source",
    7: "the evidence needs a person",
    8: "a host can't be reached, or its libvirt refused",
    9: "the ledger's database",
    69: "this machine lacks something that the command needs",
    INTERRUPTED: "interrupted by Ctrl-C",
}
