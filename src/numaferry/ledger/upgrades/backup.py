"""A copy of an SQLite ledger beside it, before its schema is changed: whole, or not there."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Final

from numaferry.ledger.trouble import SQLITE_TROUBLES, Trouble, unusable

if TYPE_CHECKING:
    from numaferry.ledger.location import Location

#: What SQLite may leave beside a copy that was cut off.
_BESIDE: Final = ("", "-wal", "-shm", "-journal")
_NO_BACKUP: Final = Trouble(
    "can't be copied, so it was not upgraded", "the copy is made beside it: see to room and to the right to write there"
)


def back_up(where: Location, source: sqlite3.Connection, number: int) -> Path:
    """Copy the ledger that `source` has open to ``PATH.schema-NUMBER`` (mode 0600), and return that file.

    An existing file is never touched: ``PATH.schema-NUMBER.2`` and so on are tried. The copy is made under another
    name, read through, and then given its own, so that what bears it is complete, and is on the disk. Nobody else may
    write the ledger meanwhile. Raises LedgerUnusable (no room, no right to write there, a damaged ledger) and
    sqlite3.Error.
    """
    name = f"{where.path}.schema-{number}"
    part = Path(f"{name}.part")
    try:
        _remove(part)
        try:
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
            _copy(where, source, part)
            _sync(part)
            made = _link(part, name)
        finally:
            _remove(part)
        _sync(part.parent)
    except OSError as error:
        raise unusable(where, _NO_BACKUP, error.strerror) from error
    return made


def _copy(where: Location, source: sqlite3.Connection, part: Path) -> None:
    """Copy page by page, and read the copy through; raises LedgerUnusable for a damaged one."""
    with contextlib.closing(sqlite3.connect(part, isolation_level=None)) as copy:
        # nothing to roll back to: a copy that is cut off is thrown away
        copy.execute("PRAGMA journal_mode = OFF")
        source.backup(copy)
        (said,) = copy.execute("PRAGMA quick_check(1)").fetchone()
        if said != "ok":
            raise unusable(where, SQLITE_TROUBLES["SQLITE_CORRUPT"], said)


def _link(part: Path, name: str) -> Path:
    """Give the finished copy the first of its names that is free; a link, unlike a renaming, overwrites nothing."""
    for count in itertools.count(1):
        made = Path(name if count == 1 else f"{name}.{count}")
        with contextlib.suppress(FileExistsError):
            made.hardlink_to(part)
            return made
    raise AssertionError("there is always one more number")


def _remove(part: Path) -> None:
    """Remove a copy under way and what stands beside it."""
    for beside in _BESIDE:
        Path(f"{part}{beside}").unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Have a file or folder on the disk."""
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
