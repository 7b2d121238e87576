"""Who drives a migration, and whether that one is gone: a fact about a process here, a guess by time elsewhere.

A controller calls itself ``HOST:PID:STARTTIME.N``; the start time (jiffies since boot, proc_pid_stat(5)) tells a
process from a later one of the same PID, N the engines of one process from each other.
"""

from __future__ import annotations

import itertools
import os
import socket
from pathlib import Path

#: A controller on another machine writes into its migration at least this often; silent for longer, it counts as gone.
SILENCE_S = 60.0

_numbers = itertools.count(1)


def new_name() -> str:
    """Return a name for one more controller in this process, which none bore before it and none will."""
    return f"{socket.gethostname()}:{os.getpid()}:{start_time(os.getpid())}.{next(_numbers)}"


def start_time(pid: int) -> str:
    """Return when a process of this machine started, in jiffies since boot; "" where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The command's name is in parentheses and may hold anything; the state follows the last one.
    fields = stat.rpartition(")")[2].split()
    return "" if fields[0] in {"Z", "X"} else fields[19]


def is_gone(controller: str, silent_s: float, *, hostname: str | None = None) -> bool:
    """Tell whether nobody drives a migration any more.

    `controller` is what the migration's row names ("": nobody, or who drove it has let go), `silent_s` how long ago it
    was written to. On this machine the process is looked up; on another one only its silence speaks.
    """
    if not controller:
        return True
    match controller.rsplit(":", 2):
        case [host, pid, started] if pid.isdecimal() and host == (hostname or socket.gethostname()):
            return start_time(int(pid)) != started.partition(".")[0]
        case _:
            return silent_s > SILENCE_S
