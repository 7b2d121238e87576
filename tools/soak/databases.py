"""Where a soak keeps its ledgers: one empty ledger after the other, in a file in memory or in a PostgreSQL."""

from __future__ import annotations

import contextlib
import importlib
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from numaferry.ledger import open_ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numaferry.ledger import Ledger

TESTS = Path(__file__).resolve().parents[2] / "tests"
#: No disk under it: what is tried is not the disk.
MEMORY = next((path for path in ("/dev/shm",) if Path(path).is_dir()), None)  # noqa: S108  (a directory of its own)


@contextlib.contextmanager
def directory() -> Iterator[Path]:
    """Yield a directory for everything that the processes of a soak keep, in memory where there is such a place."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as made:
        Path(made).chmod(0o755)
        yield Path(made)


@contextlib.contextmanager
def sqlite(where: Path) -> Iterator[Callable[[], Ledger]]:
    """Yield a function that returns an empty ledger in a file; the one that it returned before is no more."""
    template, file = where / "template", where / "ledger"
    open_ledger(str(template)).close()
    shutil.copy(template, file)
    ledger = open_ledger(str(file))

    def empty() -> Ledger:
        # the engine stays, and with it the SQL that it has compiled
        ledger.close()
        for path in where.glob("ledger*"):
            path.unlink()
        shutil.copy(template, file)
        return ledger

    yield empty
    ledger.close()


@contextlib.contextmanager
def postgresql(where: Path) -> Iterator[Callable[[], Ledger]]:
    """Yield a function that returns an empty ledger in a server of this process' own, which ends with the process."""
    # the tests' server: only who asks for it needs what it needs
    sys.path.insert(0, str(TESTS))
    server = importlib.import_module("databases").PostgresqlServer(where)
    opened: list[Ledger] = []
    try:
        server.create()

        def empty() -> Ledger:
            for ledger in opened:
                ledger.close()
            opened[:] = [open_ledger(server.empty_ledger())]
            return opened[0]

        yield empty
    finally:
        for ledger in opened:
            ledger.close()
        server.stop("immediate")


KINDS = {"sqlite": sqlite, "postgresql": postgresql}
