"""What a controller calls itself, and whether it is known to have ended.

A controller calls itself ``HOST:PID:STARTTIME.N``; the start time (jiffies since boot, proc_pid_stat(5)) tells a
process from a later one of the same PID, N the engines of one process from each other.
"""

from __future__ import annotations

import itertools
import os
import socket
from pathlib import Path

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


def is_dead(controller: str, *, hostname: str | None = None) -> bool:
    """Tell whether a controller is known to have ended: a process of this machine that is not there any more.

    Of one on another machine nothing is known here: its lease says when it may be taken over.
    """
    match controller.rsplit(":", 2):
        case [host, pid, started] if pid.isdecimal() and host == (hostname or socket.gethostname()):
            return start_time(int(pid)) != started.partition(".")[0]
        case _:
            return False
