"""What a database's error means to an operator; one table per dialect, one place that raises."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from typing import TYPE_CHECKING, Final

import attrs
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as NoConnection

from numaferry.errors import LedgerUnusable, Overcommitted
from numaferry.ledger.triggers import REFUSALS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numaferry.ledger.location import Location


@attrs.frozen(slots=True)
class Trouble:
    """What is wrong in a few words, what to do, and whether the very call may work a moment later."""

    message: str
    hint: str
    retryable: bool = False
    #: The transaction may be begun again at once by who made it: another one was in its way, or the connection broke.
    again: bool = False


class Interrupted(LedgerUnusable):
    """A transaction that is worth beginning again; whether it was committed has to be looked up by who does."""


NOT_OURS: Final = Trouble(
    "is not a database of numaferry", "name another with --db, or give numaferry an empty one of its own"
)
LOCKED: Final = Trouble(
    "is locked", "another numaferry works on it for long: try again, or look for it with lsof", retryable=True
)
NO_FILE: Final = Trouble(
    "can't be opened", "check that the directory exists and may be written, or name another with --db"
)
READ_ONLY: Final = Trouble("is read-only", "give the user that runs numaferry the right to write it")
FULL: Final = Trouble("can't grow: the disk is full", "free some space; nothing was half-done")
#: SQLite's error names, by their first words; the first that fits counts.
SQLITE_TROUBLES: Final[Mapping[str, Trouble]] = {
    "SQLITE_BUSY": LOCKED,
    "SQLITE_LOCKED": LOCKED,
    "SQLITE_READONLY": READ_ONLY,
    "SQLITE_FULL": FULL,
    "SQLITE_CANTOPEN": NO_FILE,
    "SQLITE_NOTADB": NOT_OURS,
    "SQLITE_CORRUPT": Trouble("is damaged", "stop every numaferry, then restore it from a backup"),
    "SQLITE_IOERR": Trouble("can't be read or written", "look into the kernel's log for errors of the disk"),
}
UNREACHABLE: Final = Trouble(
    "can't be reached",
    "is the server up, and does psql with the same URL work from this machine?",
    retryable=True,
    again=True,
)
_HELD = Trouble(
    "is locked", "another session works on it for long: pg_stat_activity shows which; try again", retryable=True
)
_CONFLICT = Trouble("was changed by another at the same moment", "try again", retryable=True, again=True)
_NOT_ALLOWED = Trouble("lets this user in no further", "check the user, the password and the rights in the database")
#: Beginnings of SQLSTATEs (PostgreSQL, Appendix A); the longest that fits counts, "" is a connection's without one.
POSTGRESQL_TROUBLES: Final[Mapping[str, Trouble]] = {
    "": UNREACHABLE,
    "08": UNREACHABLE,
    "57P": UNREACHABLE,
    "57P04": Trouble("is gone: the database was dropped", "restore it from a backup, or name another with --db"),
    "25P03": UNREACHABLE,  # our own transaction idled too long: the process was stopped
    "40": _CONFLICT,
    "55P03": _HELD,
    "57014": _HELD,
    "53100": FULL,
    "53300": Trouble("has no connection left to give", "raise max_connections, or stop a controller", retryable=True),
    "25006": Trouble("is read-only", "name the primary server, not a standby"),
    "28": _NOT_ALLOWED,
    "42501": _NOT_ALLOWED,
    "3D": Trouble("does not exist", "create it: createdb NAME, owned by the user that runs numaferry"),
}
#: A refused connection comes without an SQLSTATE: what the server says, in English → the SQLSTATE that it meant.
_REFUSED_CONNECTIONS: Final[Mapping[str, str]] = {
    r"authentication failed|no password supplied|no pg_hba\.conf entry|role \".*\" does not exist": "28000",
    r"permission denied": "42501",
    r"database \".*\" does not exist": "3D000",
    r"too many (clients|connections)|connection slots are reserved": "53300",
}
#: Keys in which two who insert the same thing at the same moment meet; SQLite has one writer.
_RACES: Final = frozenset(
    {
        "instance_pkey",
        "host_name_key",
        "host_machine",
        "controller_pkey",
        "migration_uuid_key",
        "migration_one_in_progress",
    }
)
_BUSY = Trouble("has every connection of this process in use", "try again", retryable=True)
_UNKNOWN = Trouble("can't be used", "the message is the database's own")


def trouble_of(error: BaseException) -> Trouble:
    """Return what a DB-API error means."""
    name = getattr(error, "sqlite_errorname", None)
    if isinstance(error, sqlite3.Error):
        return next((known for start, known in SQLITE_TROUBLES.items() if (name or "").startswith(start)), _UNKNOWN)
    state = getattr(error, "sqlstate", None) or _meant(str(error))
    if not state and not _of_connection(error):
        return _UNKNOWN
    fitting = [start for start in POSTGRESQL_TROUBLES if state.startswith(start) and (start or not state)]
    return POSTGRESQL_TROUBLES[max(fitting, key=len)] if fitting else _UNKNOWN


def _of_connection(error: BaseException) -> bool:
    """Tell whether a driver's own error is about the connection, and not about what was to be sent over it."""
    return any(kind.__name__ in {"OperationalError", "InterfaceError"} for kind in type(error).__mro__)


def _meant(said: str) -> str:
    """Return the SQLSTATE of a refused connection, "" where nobody answered."""
    return next((state for words, state in _REFUSED_CONNECTIONS.items() if re.search(words, said)), "")


def _raced(error: BaseException | None) -> bool:
    """Tell whether a key was violated because another transaction inserted the same thing first."""
    return getattr(getattr(error, "diag", None), "constraint_name", None) in _RACES


def refusal_code(error: BaseException) -> str:
    """Return the code with which a trigger refused, or the database's first line."""
    diagnosis = getattr(error, "diag", None)
    return (getattr(diagnosis, "message_primary", None) or str(error)).partition("\n")[0]


def unusable(where: Location, trouble: Trouble, said: object = "") -> LedgerUnusable:
    """Return the error for a trouble; `said` is what the database said itself."""
    kind = Interrupted if trouble.again else LedgerUnusable
    error = kind(f"ledger {where} {trouble.message}" + (f" ({said})" if said else ""), hint=trouble.hint)
    error.retryable = trouble.retryable
    return error


@contextlib.contextmanager
def usable(where: Location) -> Iterator[None]:
    """Turn the database's errors into ours: LedgerUnusable with what to do, Overcommitted for a refused row."""
    try:
        yield
    except IntegrityError as error:
        if _raced(error.orig):
            raise unusable(where, _CONFLICT) from error
        code = refusal_code(error.orig or error)
        raise Overcommitted(
            f"the ledger refused what the solver allowed: {REFUSALS.get(code, code)}",
            hint="nothing was changed; please report it with `numaferry ledger explain` of the hosts concerned",
            code=code if code in REFUSALS else None,
        ) from error
    except DBAPIError as error:
        cause = error.orig or error
        raise unusable(where, trouble_of(cause), refusal_code(cause)) from error
    except sqlite3.Error as error:
        raise unusable(where, trouble_of(error), error) from error
    except NoConnection as error:
        raise unusable(where, _BUSY) from error
