"""Play stories until so many faults have struck: ``python -m soak [--seed N] [--count N] [--ledger postgresql]``."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import TYPE_CHECKING

from soak import databases
from soak.runner import FAULTS, PROCESSES, soak

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the command line and soak."""
    parser = argparse.ArgumentParser(prog="soak", description="faults on a simulated fleet, by the ten thousand")
    parser.add_argument("--seed", type=int, default=1, help="the first seed")
    parser.add_argument("--count", type=int, help=f"how many seeds; without it, until {FAULTS} faults have struck")
    parser.add_argument("--ledger", choices=sorted(databases.KINDS), default="sqlite")
    given = parser.parse_args(arguments)

    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    # what is kept in memory goes with us, however we are ended
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    return soak(given.seed, given.count, given.ledger, 1 if given.count == 1 else PROCESSES, say)


if __name__ == "__main__":
    sys.exit(main())
