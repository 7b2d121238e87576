"""Where a lab lives: its directory, and the lock that one `up` or `down` at a time holds."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from numaferry.errors import Conflict, EnvironmentLacking, InvalidInput
from numaferry.xdg import state_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_NAME = "default"
# how long the tools of a killed `up` may go on before `down` gives up waiting for them
ORPHANS_TIMEOUT_S = 10

_held: set[int] = set()


def lab_directory(name: str = DEFAULT_NAME) -> Path:
    """Return the directory of the lab called `name`: `$XDG_STATE_HOME/numaferry/lab/NAME`.

    Raises InvalidInput for a name that is no plain word, since it becomes part of paths.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", name):
        raise InvalidInput(
            f"lab name {name!r} is not 1 to 31 of a-z, 0-9 and -, beginning with a letter or digit",
            hint="for example: default",
        )
    return state_directory() / "lab" / name


def inherited_lock() -> tuple[int, ...]:
    """Return the descriptors of the locks that this process holds, for a tool to inherit.

    A tool outlives its killed caller for a moment and still makes what it was told to make. As long as it holds the
    lock too, nobody tears down before it has ended.
    """
    return tuple(_held)


def _holder(text: str) -> str:
    with contextlib.suppress(ValueError, TypeError, KeyError):
        told = json.loads(text)
        return f"process {told['pid']} ({told['command']}), since {told['since']}"
    return "another process"


def _holder_lives(text: str) -> bool:
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return Path(f"/proc/{json.loads(text)['pid']}").exists()
    return True


def _open_lock(path: Path) -> int:
    """Open and lock `path`; when its holder removed it meanwhile, the name now means another file: begin again.

    The tools that a killed holder left running still hold it (see `inherited_lock`): their end is waited for.
    """
    deadline = time.monotonic() + ORPHANS_TIMEOUT_S
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except BlockingIOError as error:
            told = os.pread(descriptor, 4096, 0).decode(errors="replace")
            os.close(descriptor)
            if not _holder_lives(told) and time.monotonic() < deadline:
                time.sleep(0.01)
                continue
            raise Conflict(
                f"the lab in {path.parent} is being changed by {_holder(told)}", hint="wait for it, or end it"
            ) from error
        os.close(descriptor)


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold the lab in `directory` (made if missing) for one change; the lock dies with the process that holds it.

    Raises Conflict, saying who holds it, and EnvironmentLacking when the directory can't be made. A directory that is
    empty at the end is removed.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = _open_lock(directory / "lock")
    except OSError as error:
        raise EnvironmentLacking(f"{directory} can't be written: {error.strerror}", hint="run as root") from error
    try:
        told = {"pid": os.getpid(), "command": " ".join(sys.argv)[:200], "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(told).encode(), 0)
        _held.add(descriptor)
        yield
    finally:
        _held.discard(descriptor)
        # still locked: whoever opened it meanwhile finds another file, or none, under its name
        (directory / "lock").unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            directory.rmdir()
        os.close(descriptor)
